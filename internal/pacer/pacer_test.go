// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package pacer

import (
	"context"
	"runtime"
	"runtime/debug"
	"testing"

	"github.com/weir-project/weir/internal/ledger"
)

func TestPercent(t *testing.T) {
	const mb = 1 << 20
	for _, c := range []struct {
		name string
		heap heap
		want int
	}{
		{"nothing is alive yet", heap{}, 100},
		{"a small heap", heap{live: 100 * mb, free: 50 * mb}, 100},
		{"half of it encoded", heap{live: 2560 * mb, free: 1280 * mb}, 25},
		{"nothing encoded", heap{live: 2560 * mb}, 50},
		{"some of it garbage", heap{live: 2560 * mb, free: 1280 * mb, floating: 128 * mb}, 20},
		{"much of it garbage", heap{live: 2560 * mb, free: 1280 * mb, floating: 1000 * mb}, 12},
		{"nearly all encoded", heap{live: 2560 * mb, free: 2550 * mb}, 10},
		// The ledger is up to date, what was alive is as of the last collection.
		{"more booked than was alive", heap{live: 2560 * mb, free: 4000 * mb}, 10},
		{"a huge heap, nearly all encoded", heap{live: 1000 * 2560 * mb, free: 1000 * 2559 * mb}, 1},
	} {
		if got := percent(c.heap); got != c.want {
			t.Errorf("%s: %d%%, want %d%%", c.name, got, c.want)
		}
	}
}

// TestMeter reads the real runtime. What comes on top of what was there is garbage, as far
// as can be told, unless it is in the books, and until it has stayed for long.
func TestMeter(t *testing.T) {
	const size = 64 << 20
	var m meter
	l := &ledger.Ledger{}
	runtime.GC()
	if h := m.read(l); h.floating != 0 || h.live <= 0 {
		t.Errorf("at first: %+v", h)
	}
	kept := make([]byte, size)
	runtime.GC()
	if h := m.read(l); h.live < size || h.floating < size/2 {
		t.Errorf("with %d bytes more: %+v", size, h)
	}
	l.Add(ledger.Frames, size)
	if h := m.read(l); h.free != size || h.floating > size/2 {
		t.Errorf("with %d bytes booked: %+v", size, h)
	}
	l.Add(ledger.Frames, -size)
	for range memory {
		m.read(l)
	}
	if h := m.read(l); h.floating > size/2 {
		t.Errorf("with %d bytes that have stayed: %+v", size, h)
	}
	runtime.KeepAlive(kept)
}

// TestRunEnds: Go's default is back when the pacer has ended, whatever it had set.
func TestRunEnds(t *testing.T) {
	t.Setenv("GOGC", "")
	t.Setenv("GOMEMLIMIT", "")
	before := debug.SetGCPercent(42)
	defer debug.SetGCPercent(before)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	Run(ctx, &ledger.Ledger{})
	if got := debug.SetGCPercent(before); got != goDefault {
		t.Errorf("the percentage is %d when the pacer has ended, want %d", got, goDefault)
	}
}

// TestOperatorsChoice: what the environment says stays.
func TestOperatorsChoice(t *testing.T) {
	for _, name := range []string{"GOGC", "GOMEMLIMIT"} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("GOGC", "")
			t.Setenv("GOMEMLIMIT", "")
			t.Setenv(name, "50")
			before := debug.SetGCPercent(42)
			defer debug.SetGCPercent(before)
			Run(t.Context(), &ledger.Ledger{})
			if got := debug.SetGCPercent(before); got != 42 {
				t.Errorf("with %s set the percentage became %d", name, got)
			}
		})
	}
}
