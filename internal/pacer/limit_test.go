// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package pacer

import (
	"errors"
	"math"
	"runtime/debug"
	"testing"

	"github.com/KimMachineGun/automemlimit/memlimit"
)

func TestFindLimit(t *testing.T) {
	t.Setenv("GOMEMLIMIT", "")
	const mb = 1 << 20
	for _, c := range []struct{ asked, heap int64 }{
		{0, 0}, {256 * mb, 160 * mb}, {128 * mb, 64 * mb}, {1024 * mb, 896 * mb}, {64 * 1024 * mb, (64*1024 - 512) * mb},
	} {
		l, err := FindLimit(c.asked)
		if err != nil || l.Total != c.asked || l.Go != c.heap || (l.Source != "") != (c.asked > 0) {
			t.Errorf("asked for %d the limit is %+v, want %d for Go: %v", c.asked, l, c.heap, err)
		}
	}
	if l, err := FindLimit(Automatic); err != nil || l.Go > l.Total || (l.Total > 0) != (l.Source != "") {
		t.Errorf("the limit of the control group is %+v: %v", l, err)
	}
}

// TestControlGroup: what a control group says of having none is no error.
func TestControlGroup(t *testing.T) {
	odd := errors.New("odd")
	for _, c := range []struct {
		said uint64
		err  error
		want int64
		fail bool
	}{
		{said: 1 << 30, want: 1 << 30},
		{said: math.MaxUint64},
		{err: memlimit.ErrNoLimit}, {err: memlimit.ErrNoCgroup}, {err: memlimit.ErrCgroupsNotSupported},
		{err: odd, fail: true},
	} {
		got, err := ofControlGroup(func() (uint64, error) { return c.said, c.err })
		if got != c.want || (err != nil) != c.fail {
			t.Errorf("%d, %v: the limit is %d, %v", c.said, c.err, got, err)
		}
	}
}

// TestSetLimit: the runtime is told, and told again what it was told before.
func TestSetLimit(t *testing.T) {
	t.Setenv("GOMEMLIMIT", "")
	before := debug.SetMemoryLimit(1 << 40)
	defer debug.SetMemoryLimit(before)
	l, err := FindLimit(1 << 30)
	if err != nil {
		t.Fatal(err)
	}
	undo := l.Set()
	if got := debug.SetMemoryLimit(-1); got != l.Go {
		t.Errorf("the runtime keeps to %d, want %d", got, l.Go)
	}
	undo()
	if got := debug.SetMemoryLimit(-1); got != 1<<40 {
		t.Errorf("the runtime keeps to %d afterwards", got)
	}
}

// TestGOMEMLIMIT: what the environment says stays, and the lower of the two is what counts.
func TestGOMEMLIMIT(t *testing.T) {
	for _, c := range []struct{ environment, asked, want int64 }{
		{1 << 29, 0, 1 << 29}, {1 << 29, 1 << 30, 1 << 29}, {1 << 31, 1 << 30, 1<<30 - 1<<27}, {math.MaxInt64, 1 << 30, 1<<30 - 1<<27}, {math.MaxInt64, 0, 0},
	} {
		t.Setenv("GOMEMLIMIT", "as set below") // the runtime has read the variable when the process began
		before := debug.SetMemoryLimit(c.environment)
		l, err := FindLimit(c.asked)
		undo := l.Set()
		got := debug.SetMemoryLimit(-1)
		undo()
		debug.SetMemoryLimit(before)
		if err != nil || l.Go != c.want || got != c.environment {
			t.Errorf("%+v: the limit is %+v, and the runtime keeps to %d: %v", c, l, got, err)
		}
	}
}
