// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package pacer

import (
	"context"
	"fmt"
	"math"
	"runtime"
	"runtime/debug"
	"testing"
	"time"

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
		{"a small heap at rest", state{live: 100 * mb, processors: 2}, 16},
		{"a tiny heap at rest", state{live: 10 * mb, processors: 2}, 100},
		{"at rest", state{live: 1600 * mb, free: 800 * mb, processors: 2}, 1},
		// 0.3 s for a collection and 3% of a second: one in 10 s.
		{"allocating a little", state{live: 1600 * mb, free: 800 * mb, rate: 4 * mb, cost: 0.3, processors: 2}, 2},
		{"allocating", state{live: 1600 * mb, free: 800 * mb, rate: 40 * mb, cost: 0.3, processors: 2}, 25},
		{"allocating on more processors", state{live: 1600 * mb, free: 800 * mb, rate: 80 * mb, cost: 0.3, processors: 4}, 25},
		{"allocating fast", state{live: 1600 * mb, free: 800 * mb, rate: 1000 * mb, cost: 0.3, processors: 2}, 50},
		{"allocating fast, nothing encoded", state{live: 1600 * mb, rate: 1000 * mb, cost: 0.3, processors: 2}, 100},
		{"allocating fast, nearly all encoded", state{live: 1600 * mb, free: 1590 * mb, rate: 1000 * mb, cost: 0.3, processors: 2}, 4},
		// The ledger is up to date, what was alive is as of the last collection.
		{"more booked than was alive", state{live: 1600 * mb, free: 4000 * mb, rate: 1000 * mb, cost: 0.3, processors: 2}, 4},
		// 8% of the processors: one in 1.9 s.
		{"starting", state{live: 1600 * mb, free: 800 * mb, rate: 100 * mb, cost: 0.3, processors: 2, starting: true}, 11},
		// A quarter of the processors: one in 0.6 s.
		{"confined", state{live: 1600 * mb, free: 800 * mb, rate: 200 * mb, cost: 0.3, processors: 2, confined: true}, 7},
		{"confined, and cheap", state{live: 1600 * mb, free: 800 * mb, rate: 200 * mb, cost: 0.01, processors: 2, confined: true}, 1},
		{"confined, and dear", state{live: 1600 * mb, free: 800 * mb, rate: 1000 * mb, cost: 1, processors: 2, confined: true}, 50},
		// What is measured cannot be: 0.22 s at most for 100 MB.
		{"waiting for processors", state{live: 1600 * mb, free: 1500 * mb, rate: 5 * mb, cost: 10, processors: 2}, 2},
		{"a huge heap at rest", state{live: 10_000 * mb, processors: 2}, 1},
	} {
		if got := percent(c.s); got != c.want {
			t.Errorf("%s: %d%%, want %d%%", c.name, got, c.want)
		}
	}
}

// TestMeter reads a rate and a cost from the real runtime.
func TestMeter(t *testing.T) {
	var m meter
	now := time.Now()
	if s := m.read(now); s.rate != 0 {
		t.Errorf("the first read has a rate of %v", s.rate)
	}
	const size = 64 << 20
	kept := make([]byte, size)
	runtime.GC()
	if s := m.read(now.Add(window - 1)); s.rate != 0 {
		t.Errorf("in less than a window a rate of %v is measured", s.rate)
	}
	s := m.read(now.Add(window))
	runtime.KeepAlive(kept)
	if m.held() < s.live || m.total < m.held() || m.idle < 0 {
		t.Errorf("%d bytes are held and %d idle, of %d", m.held(), m.idle, m.total)
	}
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
	New(&ledger.Ledger{}, Limit{}).Run(ctx, func() {})
	if got := debug.SetGCPercent(before); got != goDefault {
		t.Errorf("the percentage is %d when the pacer has ended, want %d", got, goDefault)
	}
}

// TestOperatorsChoice: what the environment says stays, and a limit beside it is heeded all the same.
func TestOperatorsChoice(t *testing.T) {
	for _, limit := range []Limit{{}, {Go: 1 << 40}} {
		t.Run(fmt.Sprint(limit.Go), func(t *testing.T) {
			t.Setenv("GOGC", "50")
			before := debug.SetGCPercent(42)
			defer debug.SetGCPercent(before)
			ctx, cancel := context.WithCancel(t.Context())
			relieved := 0
			p := New(&ledger.Ledger{}, limit)
			if limit.Go == 0 {
				cancel()
			}
			p.Run(ctx, func() {
				if relieved++; relieved == 2 {
					cancel()
				}
			})
			cancel()
			if got := debug.SetGCPercent(before); got != 42 {
				t.Errorf("with GOGC set the percentage became %d", got)
			}
			if (relieved > 0) != (limit.Go > 0) {
				t.Errorf("asked %d times to let go of what can be done without", relieved)
			}
		})
	}
}

// TestCollections: after every collection the percentage is looked at.
func TestCollections(t *testing.T) {
	t.Setenv("GOGC", "")
	before := debug.SetGCPercent(goDefault)
	defer debug.SetGCPercent(before)
	p := New(&ledger.Ledger{}, Limit{})
	p.start(true)
	for range 3 {
		runtime.GC()
		<-p.collected
		p.look()
	}
	p.stop()
	if got := debug.SetGCPercent(goDefault); got != goDefault {
		t.Errorf("the percentage is %d in the end", got)
	}
}

// TestConfine: while somebody confines the heap collections may cost more, and after a
// look in which nobody does, as before.
func TestConfine(t *testing.T) {
	p := New(&ledger.Ledger{}, Limit{})
	p.start(false)
	defer p.stop()
	confined := func() bool {
		p.look()
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.confined
	}
	first, second := p.Confine(), p.Confine()
	for range 2 {
		if !confined() {
			t.Error("not confined while somebody confines")
		}
		first()
		first() // counts once
	}
	second()
	p.Confine()() // between two looks
	if !p.confined {
		t.Error("not confined, though somebody has confined since the last look")
	}
	if confined() {
		t.Error("confined by nobody")
	}
}

// TestGiver: what is free goes back when it is much, is not asked for again, and has been so for a while.
func TestGiver(t *testing.T) {
	const mb = 1 << 20
	s := state{live: 1000 * mb, rate: 1 * mb, cost: 0.1, processors: 2}
	for _, c := range []struct {
		name        string
		s           state
		idle, total int64
		want        bool
	}{
		{"much", s, 100 * mb, 1000 * mb, true},
		{"little", s, 20 * mb, 200 * mb, false},
		{"little of much", s, 100 * mb, 10_000 * mb, false},
		{"soon asked for again", state{rate: 10 * mb, cost: 0.1, processors: 2}, 100 * mb, 1000 * mb, false},
	} {
		now := time.Now()
		g := giver{last: now.Add(-time.Hour)}
		for look := range 2 * calm {
			now = now.Add(period)
			if got, want := g.due(now, c.s, c.idle, c.total), c.want && look == calm-1; got != want {
				t.Errorf("%s: at look %d it is %t, want %t", c.name, look, got, want)
			}
		}
	}
	// After the start little is enough, once.
	var g giver
	now, n := time.Now(), 0
	for range 100 {
		now = now.Add(period)
		if g.due(now, state{live: 100 * mb, rate: 0.1 * mb, processors: 2}, mb, 100*mb) {
			n++
		}
	}
	if n != 1 {
		t.Errorf("in 100 s after the start it is due %d times, with little to give back", n)
	}
	g, n = giver{}, 0
	for range 100 {
		now = now.Add(period)
		if g.due(now, state{live: 1000 * mb, rate: mb, cost: 1, processors: 2}, 100*mb, 1000*mb) {
			n++
		}
	}
	// A collection of a second of a processor: one in 33 s.
	if n != 3 {
		t.Errorf("in 100 s with dear collections it is due %d times", n)
	}
}

// TestGiveBack: a heap that has been larger is given back, and the process is smaller.
func TestGiveBack(t *testing.T) {
	var m meter
	garbage := make([][]byte, 64)
	for i := range garbage {
		garbage[i] = make([]byte, 4<<20)
		for at := 0; at < len(garbage[i]); at += 4096 {
			garbage[i][at] = 1
		}
	}
	m.read(time.Now())
	before := m.total
	runtime.KeepAlive(garbage)
	New(&ledger.Ledger{}, Limit{}).giveBack()
	m.read(time.Now())
	if m.idle > worthGiving || m.total > before-128<<20 {
		t.Errorf("%d bytes are idle, and of %d bytes %d are left", m.idle, before, m.total)
	}
}

// TestRoom: what is left of a limit goes to history and to what can be made again, and they do not count against themselves.
func TestRoom(t *testing.T) {
	l := &ledger.Ledger{}
	if p := New(l, Limit{}); p.Room() != math.MaxInt64 || p.History() != math.MaxInt64 || p.Derived() != math.MaxInt64 {
		t.Errorf("without a limit there is room for %d bytes, %d of history, %d derived", p.Room(), p.History(), p.Derived())
	}
	p := New(l, Limit{Go: 1024})
	p.others.Store(92)
	holds := func(room, history, derived int64) {
		t.Helper()
		if p.Room() != room || p.History() != history || p.Derived() != derived {
			t.Errorf("there is room for %d bytes, %d of history, %d derived; want %d, %d, %d", p.Room(), p.History(), p.Derived(), room, history, derived)
		}
	}
	holds(900, 450, 225)
	l.Add(ledger.History, 400)
	l.Add(ledger.Derived, 100)
	l.Add(ledger.Compressed, 100)
	holds(900, 450, 225)
	l.Add(ledger.Frames, 500)
	holds(400, 200, 100)
	l.Add(ledger.Readers, 500)
	holds(-100, 16, 0)
}
