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
		s    state
		want int
	}{
		{"nothing is alive yet", state{processors: 2}, 100},
		{"a small heap", state{live: 100 * mb, rate: 1000 * mb, cost: 1, processors: 2}, 100},
		{"a small heap at rest", state{live: 100 * mb, processors: 2}, 100},
		{"at rest", state{live: 2560 * mb, free: 1280 * mb, processors: 2}, 10},
		{"allocating a little", state{live: 2560 * mb, free: 1280 * mb, rate: 5 * mb, cost: 0.3, processors: 2}, 10},
		// 0.48 s for a collection and 3% of a second: one in 16 s.
		{"allocating", state{live: 2560 * mb, free: 1280 * mb, rate: 40 * mb, cost: 0.48, processors: 2}, 25},
		{"allocating on more processors", state{live: 2560 * mb, free: 1280 * mb, rate: 80 * mb, cost: 0.48, processors: 4}, 25},
		{"allocating fast", state{live: 2560 * mb, free: 1280 * mb, rate: 1000 * mb, cost: 0.4, processors: 2}, 50},
		{"allocating fast, nothing encoded", state{live: 2560 * mb, rate: 1000 * mb, cost: 0.4, processors: 2}, 100},
		{"allocating fast, nearly all encoded", state{live: 2560 * mb, free: 2550 * mb, rate: 1000 * mb, cost: 0.4, processors: 2}, 10},
		// The ledger is up to date, what was alive is as of the last collection.
		{"more booked than was alive", state{live: 2560 * mb, free: 4000 * mb, rate: 1000 * mb, cost: 0.4, processors: 2}, 10},
		{"confined", state{live: 2560 * mb, rate: 1000 * mb, cost: 1, processors: 2, ceiling: 2816 * mb}, 10},
		{"confined, and full already", state{live: 2560 * mb, rate: 1000 * mb, cost: 1, processors: 2, ceiling: 2000 * mb}, 2},
		{"a huge heap at rest", state{live: 1000 * 2560 * mb, processors: 2}, 1},
	} {
		if got := percent(c.s); got != c.want {
			t.Errorf("%s: %d%%, want %d%%", c.name, got, c.want)
		}
	}
}

// TestMeter reads a rate and a cost from the real runtime.
func TestMeter(t *testing.T) {
	var m meter
	if s := m.read(); s.rate != 0 {
		t.Errorf("the first read has a rate of %v", s.rate)
	}
	const size = 64 << 20
	kept := make([]byte, size)
	runtime.GC()
	s := m.read()
	runtime.KeepAlive(kept)
	if s.live < size || s.rate <= 0 || s.cost < 0 || s.processors < 1 {
		t.Errorf("after allocating %d bytes and a collection the state is %+v", size, s)
	}
}

// TestRunEnds: Go's default is back when the pacer has ended, whatever it had set.
func TestRunEnds(t *testing.T) {
	t.Setenv("GOGC", "")
	t.Setenv("GOMEMLIMIT", "")
	before := debug.SetGCPercent(42)
	defer debug.SetGCPercent(before)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	New(&ledger.Ledger{}, Limit{}).Run(ctx)
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
			New(&ledger.Ledger{}, Limit{}).Run(t.Context())
			if got := debug.SetGCPercent(before); got != 42 {
				t.Errorf("with %s set the percentage became %d", name, got)
			}
		})
	}
}

// TestConfine: while somebody confines the heap it may grow by a small part only, and after a
// period in which nobody does, as it did before.
func TestConfine(t *testing.T) {
	t.Setenv("GOGC", "")
	t.Setenv("GOMEMLIMIT", "")
	before := debug.SetGCPercent(42)
	defer debug.SetGCPercent(before)
	p := New(&ledger.Ledger{}, Limit{})
	// Not running, the collector is left alone.
	p.Confine()()
	if got := debug.SetGCPercent(42); got != 42 {
		t.Errorf("not running, the percentage became %d", got)
	}
	p.start()
	defer p.stop()
	kept := make([]byte, 1<<30)
	runtime.GC()
	first, second := p.Confine(), p.Confine()
	for range 2 {
		if p.set > 20 {
			t.Errorf("confined, the heap may grow by %d%%", p.set)
		}
		first()
		first() // counts once
		p.pace()
	}
	second()

	// Lifted and confined again, many times, it may not grow a part each time.
	ceiling := p.ceiling
	for range 5 {
		lift := p.Confine()
		garbage := make([]byte, confinedLeast)
		garbage[0] = 1
		runtime.KeepAlive(garbage)
		lift()
		p.pace()
		if p.set > 20 || p.ceiling > ceiling {
			t.Errorf("confined again and again, the heap may grow by %d%%, to %d (%d at first)", p.set, p.ceiling, ceiling)
		}
	}

	p.pace()
	runtime.KeepAlive(kept)
	if p.set <= 20 {
		t.Errorf("no more confined, the heap may grow by %d%% only", p.set)
	}
}
