// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package eventlog

import (
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// event is what the tests put in a log.
type event struct {
	name string
	rev  uint64
	size int64
	keys []string
}

// start is when the tests' clocks start. The log only ever subtracts times.
var start = time.Unix(1000, 0)

// harness is a log with a clock that only the test moves, and what the log has told.
type harness struct {
	*Log[string, event]
	now      time.Time
	maxBytes int64
	// allowed is how many bytes others leave to this log.
	allowed int64
	// trimmed are the events that have left the log, in order.
	trimmed []event
}

// newHarness returns a log that is complete from rev on. The function bound may
// change the bounds, which are otherwise out of reach.
func newHarness(rev uint64, bound func(*Config[string, event])) *harness {
	h := &harness{now: start, maxBytes: 1 << 40, allowed: 1 << 40}
	cfg := Config[string, event]{
		MaxBytes:  func() int64 { return h.maxBytes },
		Excess:    func() int64 { return h.bytes - h.allowed },
		MaxEvents: 1 << 30,
		Window:    75 * time.Second,
		Now:       func() time.Time { return h.now },
		Keys: func(e event, yield func(string)) {
			for _, k := range e.keys {
				yield(k)
			}
		},
		Trimmed: func(e event, size int64) {
			if size != e.size {
				panic("an event leaves the log with another size than it came with")
			}
			h.trimmed = append(h.trimmed, e)
		},
	}
	if bound != nil {
		bound(&cfg)
	}
	h.Log = New(rev, cfg)
	return h
}

func (h *harness) append(e event) {
	if err := h.Append(e.rev, e.size, e); err != nil && err != ErrClosed {
		panic(err)
	}
}

// check holds the log's invariants against its fields.
func (h *harness) check(t *testing.T) {
	t.Helper()
	l := h.Log
	l.dispatcher.turn.Lock()
	defer l.dispatcher.turn.Unlock()
	l.dispatcher.mu.Lock()
	defer l.dispatcher.mu.Unlock()
	defer h.lockGroups()()
	l.mu.Lock()
	defer l.mu.Unlock()
	n := uint64(len(l.ring))
	if n == 0 || n&(n-1) != 0 || l.first > l.next || l.next-l.first > n {
		t.Fatalf("events [%d, %d) in a ring of %d", l.first, l.next, n)
	}
	if n > 64 && l.next-l.first <= n/4 {
		t.Fatalf("a ring of %d for %d events", n, l.next-l.first)
	}
	if l.floor > l.head {
		t.Fatalf("floor %d is above head %d", l.floor, l.head)
	}
	h.checkEvents(t)
	refs := map[string]int{}
	for c := range l.cursors {
		h.checkCursor(t, c)
		if c.group.Load() != nil || c.reader != nil {
			t.Fatal("a cursor is parked and is not")
		}
		if c.key != nil {
			refs[*c.key]++
		}
	}
	parked := h.checkParked(t, &l.all)
	for key, c := range l.chains {
		n := h.checkParked(t, c)
		refs[key] += n
		parked += n
	}
	if parked != l.parked {
		t.Fatalf("%d cursors are parked, and %d counted", parked, l.parked)
	}
	if d := &l.dispatcher; d.handed != d.taken || d.taken > l.next || parked > 0 && !l.closed && d.handed < l.first {
		t.Fatalf("the dispatcher has handed over up to %d and taken up to %d of [%d, %d) between two turns", d.handed, d.taken, l.first, l.next)
	}
	h.checkChains(t, refs)
}

// lockGroups locks every group: who unparks takes no other lock before.
func (h *harness) lockGroups() (unlock func()) {
	var groups []*group[string, event]
	h.mu.RLock()
	groups = append(groups, h.all.groups...)
	for _, c := range h.chains {
		groups = append(groups, c.groups...)
	}
	h.mu.RUnlock()
	for _, g := range groups {
		g.mu.Lock()
	}
	return func() {
		for _, g := range groups {
			g.mu.Unlock()
		}
	}
}

// checkEvents holds the events against what is said of them.
func (h *harness) checkEvents(t *testing.T) {
	t.Helper()
	l := h.Log
	var bytes int64
	var before uint64
	for i, r := range l.aged {
		if r.seq >= l.first || i > 0 && r.seq <= before || r.rev > l.floor {
			t.Fatalf("the event at %d, of revision %d, is among the aged; the one before is at %d, the ring begins at %d, behind revision %d", r.seq, r.rev, before, l.first, l.floor)
		}
		before = r.seq
		bytes += r.size
	}
	last := l.floor
	for seq := l.first; seq < l.next; seq++ {
		r := l.at(seq)
		if r.rev < last {
			t.Fatalf("the event at %d has revision %d after %d", seq, r.rev, last)
		}
		last = r.rev
		bytes += r.size
	}
	if last > l.head || bytes != l.bytes {
		t.Fatalf("head is %d and %d bytes are booked, the events say %d and %d", l.head, l.bytes, last, bytes)
	}
	for i := range l.ring {
		// A slot that holds no event must not keep one alive.
		seq := l.first + (uint64(i)-l.first)&uint64(len(l.ring)-1)
		if seq >= l.next && l.ring[i].event.name != "" {
			t.Fatalf("slot %d still holds %q, which has left the log", i, l.ring[i].event.name)
		}
	}
}

// checkChains holds the index of each key against the events. refs are the readers of each.
func (h *harness) checkChains(t *testing.T, refs map[string]int) {
	t.Helper()
	for key, c := range h.chains {
		if c.refs != refs[key] || c.refs == 0 {
			t.Fatalf("the chain of %q counts %d readers and has %d", key, c.refs, refs[key])
		}
		var ring, aged []uint64
		for seq := max(c.from, h.first); seq < h.next; seq++ {
			if slices.Contains(h.at(seq).event.keys, key) {
				ring = append(ring, seq)
			}
		}
		for _, r := range h.aged {
			if r.seq >= c.from && slices.Contains(r.event.keys, key) {
				aged = append(aged, r.seq)
			}
		}
		n := len(c.seqs) - len(ring)
		if n < 0 || !slices.Equal(c.seqs[n:], ring) {
			t.Fatalf("the chain of %q from %d holds %v, the log has %v", key, c.from, c.seqs, ring)
		}
		// Of the aged it has those from the first on that its readers had to read.
		if m := len(aged) - n; m < 0 || !slices.Equal(c.seqs[:n], aged[m:]) {
			t.Fatalf("the chain of %q from %d holds %v, and %v are aged", key, c.from, c.seqs, aged)
		}
	}
	if len(refs) != len(h.chains) {
		t.Fatalf("%d chains are kept for %d keys that are followed", len(h.chains), len(refs))
	}
}

func (h *harness) checkCursor(t *testing.T, c *Cursor[string, event]) {
	t.Helper()
	if c.pos > h.next {
		t.Fatalf("a cursor stands at %d, beyond %d", c.pos, h.next)
	}
	if want := &h.all; c.key == nil && c.chain != want || c.key != nil && c.chain != h.chains[*c.key] {
		t.Fatal("a cursor follows a chain that is not the log's")
	}
}

// checkParked returns how many cursors of a chain are parked.
func (h *harness) checkParked(t *testing.T, chain *chain[string, event]) int {
	t.Helper()
	parked := 0
	for _, g := range chain.groups {
		parked += h.checkGroup(t, chain, g)
	}
	return parked
}

func (h *harness) checkGroup(t *testing.T, chain *chain[string, event], g *group[string, event]) int {
	t.Helper()
	if g.gone || len(g.members) > groupSize {
		t.Fatalf("a group of %d members is gone: %v", len(g.members), g.gone)
	}
	for i, c := range g.members {
		h.checkCursor(t, c)
		if _, too := h.cursors[c]; too || c.reader == nil || c.slot != i || c.chain != chain || c.group.Load() != g {
			t.Fatalf("the cursor in slot %d is in %d, has the reader %v, and is not parked: %v", i, c.slot, c.reader, too)
		}
		for seq := max(c.pos, h.first); seq < h.dispatcher.handed; seq++ {
			if e := h.at(seq).event; e.rev > c.after && (c.key == nil || slices.Contains(e.keys, *c.key)) {
				t.Fatalf("a cursor is parked and was not given %v", e)
			}
		}
	}
	return len(g.members)
}

// dispatched runs the log's dispatcher until the test is over, or closes the log.
func (h *harness) dispatched(t *testing.T) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		h.Dispatch()
	}()
	t.Cleanup(func() {
		h.Close()
		<-done
	})
}

// waiter is a reader that takes nothing: it only waits until there is something.
type waiter chan struct{}

func newWaiter() waiter { return make(waiter, 1) }

func (w waiter) Deliver(event) bool { return false }

func (w waiter) Resume(*Cursor[string, event]) { w <- struct{}{} }

// random returns a source of random numbers. Its seed is printed, and taken from
// WEIR_SEED to repeat a run.
func random(t testing.TB) *rand.Rand {
	seed := rand.Uint64()
	if s := os.Getenv("WEIR_SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatalf("WEIR_SEED=%q is not a number: %v", s, err)
		}
	}
	t.Logf("WEIR_SEED=%d repeats this run", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

// names returns the names of events.
func names(events []event) string {
	var all []string
	for _, e := range events {
		all = append(all, e.name)
	}
	return strings.Join(all, " ")
}
