// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package budget

import (
	"context"
	"math"
	"runtime"
	"testing"
	"time"

	"github.com/weir-project/weir/test/wait"
)

// TestHeap goes through what the collector sees and what is counted, look by look.
func TestHeap(t *testing.T) {
	const mib = 1 << 20
	held := int64(0)
	m := meter{held: func() (int64, int64) { return held, held }}
	for i, look := range []struct {
		cycles           uint64
		live, held, want int64
	}{
		{0, 0, 10, 10},     // nothing is known yet
		{1, 110, 10, 110},  // 100 besides
		{1, 110, 500, 600}, // what is counted counts at once
		{2, 610, 500, 600}, // as it was
		{3, 900, 500, 600}, // requests hold 290, for now
		{4, 605, 500, 600},
		{5, 850, 700, 800}, // 200 more came before or after: what is besides is not less for it
		{6, 805, 700, 800},
		{7, 1000, 700, 800},
		{8, 1000, 700, 800},
		{9, 1000, 700, 805}, // the first collection was eight before
	} {
		held = look.held * mib
		if got := m.heap(look.cycles, look.live*mib) / mib; i > 0 && got != look.want {
			t.Errorf("look %d: %d MiB are not requests', want %d", i, got, look.want)
		}
	}
}

// TestFollow has memory taken and given back, and looks for it in the budget.
func TestFollow(t *testing.T) {
	const limit, much = 4 << 30, 256 << 20
	b := &Budget{}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		b.Follow(ctx, limit, func() (int64, int64) { return 0, 0 })
	}()
	size := func() int64 {
		runtime.GC()
		return b.Usage().Size
	}
	wait.Until(t, "the budget to have a size", time.Minute, func() bool { return size() < limit-limit/slackShare })
	before := size()
	if before < limit/2 {
		t.Fatalf("of %d bytes there are %d for requests, of a process that holds nothing", limit, before)
	}
	taken := make([]byte, much)
	wait.Until(t, "it to be smaller by what was taken", time.Minute, func() bool { return size() < before-much*9/10 })
	runtime.KeepAlive(taken)
	taken = nil
	wait.Until(t, "it to be as large as before", time.Minute, func() bool { return size() > before-much/10 })
	cancel()
	<-done
	if u := b.Usage(); u.Size != math.MaxInt64 {
		t.Errorf("nobody follows any more: %+v", u)
	}
}
