// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package eventlog

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// fullOfAged returns a log that is full of events which are kept for one slow reader of a
// key only, with the bounds of a resource.
func fullOfAged(t testing.TB) (*harness, *Cursor[string, event]) {
	const events = 100 * 1024
	h := newHarness(0, func(c *Config[string, event]) {
		c.MaxEvents, c.MinEvents = events, 100
		c.Trimmed = nil
	})
	slow, err := h.FollowKey(0, "a")
	if err != nil {
		t.Fatal(err)
	}
	for i := range events {
		h.append(event{rev: uint64(i + 1), size: 1, keys: []string{"a"}})
	}
	h.now = h.now.Add(time.Hour)
	h.Expire()
	if s := h.Stats(); s.Aged < events*9/10 {
		t.Fatalf("%+v", s)
	}
	return h, slow
}

// BenchmarkAppendBesideAged is an Append while a slow reader of another key has the log full
// of aged events, against one where it has not.
func BenchmarkAppendBesideAged(b *testing.B) {
	for _, aged := range []bool{false, true} {
		b.Run(fmt.Sprint("aged=", aged), func(b *testing.B) {
			h, slow := fullOfAged(b)
			if !aged {
				slow.Close()
				h.Expire()
			}
			rev := h.Stats().Head
			for b.Loop() {
				rev++
				h.append(event{rev: rev, size: 1, keys: []string{"b"}})
			}
			b.StopTimer()
			h.aged = nil // Close takes half a minute
		})
	}
}

// BenchmarkExpireBesideAged is what an Append does once a second.
func BenchmarkExpireBesideAged(b *testing.B) {
	h, _ := fullOfAged(b)
	for b.Loop() {
		h.Expire()
	}
	b.StopTimer()
	h.aged = nil
}

// TestCloseOfAged closes a log that is full of aged events: the cache does so under the lock
// that every list and watch takes. The bound is a hundred times what it takes from the ring.
func TestCloseOfAged(t *testing.T) {
	h, _ := fullOfAged(t)
	began := time.Now()
	h.Close()
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("to close the log took %v", took)
	}
}

// TestOvertakenRefusal has a reader that is as quick as can be, but that has to take an event
// as a Cursor: the dispatcher, not the reader, has fallen behind the bound on number.
func TestOvertakenRefusal(t *testing.T) {
	h := newHarness(0, func(c *Config[string, event]) { c.MaxEvents = 1000 })
	c, err := h.Follow(0)
	if err != nil {
		t.Fatal(err)
	}
	w := newWaiter()
	if _, ok := c.Park(w); !ok {
		t.Fatal("not parked")
	}
	for i := range 1001 { // the dispatcher itself has no time for any
		h.append(event{rev: uint64(i + 1)})
		select {
		case <-w: // the reader was given its cursor in this Append, and reads at once
			if _, err := c.Next(make([]event, 10)); err != nil {
				t.Errorf("a reader that has refused one event, and reads at once, is told: %v", err)
			}
		default:
		}
	}
}

// idler is one of thousands of parked readers that always have room.
type idler struct{ n atomic.Int64 }

func (i *idler) Deliver(event) bool            { i.n.Add(1); return true }
func (i *idler) Resume(*Cursor[string, event]) {}

// quick is a reader with room for ten events, and a goroutine that always takes them.
type quick struct {
	events chan event
	back   chan *Cursor[string, event]
}

func (q *quick) Deliver(e event) bool {
	select {
	case q.events <- e:
		return true
	default:
		return false
	}
}
func (q *quick) Resume(c *Cursor[string, event]) { q.back <- c }

// TestOvertakenByMany has a log that is written to faster than thousands of parked readers can
// be handed events. One reader does nothing but read.
func TestOvertakenByMany(t *testing.T) {
	const bound, events = 2000, 12000
	var clock sync.Mutex
	now := start
	l := New(0, Config[string, event]{
		MaxBytes: func() int64 { return 1 << 40 }, MaxEvents: bound, MinEvents: 100, Window: 75 * time.Second,
		Now:  func() time.Time { clock.Lock(); defer clock.Unlock(); return now },
		Keys: func(event, func(string)) {},
	})
	var running sync.WaitGroup
	running.Go(l.Dispatch)
	for range 5000 {
		c, err := l.Follow(0)
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := c.Park(&idler{}); !ok {
			t.Fatal("not parked")
		}
	}
	q := &quick{events: make(chan event, 10), back: make(chan *Cursor[string, event], 1)}
	c, err := l.Follow(0)
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := c.Park(q); !ok {
		t.Fatal("not parked")
	}
	running.Go(func() {
		last, refusals := uint64(0), 0
		see := func(e event) {
			if e.rev != last+1 {
				t.Errorf("event %d after %d", e.rev, last)
			}
			last = e.rev
		}
		for last < events {
			select {
			case e := <-q.events:
				see(e)
			case c := <-q.back:
				for len(q.events) > 0 {
					see(<-q.events)
				}
				refusals++
				for batch := make([]event, 10); ; {
					b, err := c.Next(batch)
					if err != nil {
						if !errors.Is(err, ErrClosed) {
							t.Errorf("after %d events and %d refusals: %v; the log is at %+v", last, refusals, err, l.Stats())
						}
						return
					}
					for _, e := range batch[:b.N] {
						see(e)
					}
					if b.Drained {
						if _, ok := c.Park(q); ok {
							break
						}
					}
				}
			}
		}
		t.Logf("%d events, %d refusals", last, refusals)
	})
	for i := range uint64(events) {
		if err := l.Append(i+1, 1, event{rev: i + 1}); err != nil {
			t.Error(err)
		}
	}
	for l.Stats().Parked < 5000 {
	}
	time.AfterFunc(5*time.Second, l.Close)
	running.Wait()
}

// TestAdvanceIsKept has a reader that was told that it has everything up to a revision.
func TestAdvanceIsKept(t *testing.T) {
	h := newHarness(0, nil)
	c, err := h.Follow(0)
	if err != nil {
		t.Fatal(err)
	}
	h.Advance(10)
	b, err := c.Next(make([]event, 1))
	if err != nil {
		t.Fatal(err)
	}
	err = h.Append(10, 1, event{name: "late", rev: 10})
	b2, _ := c.Next(make([]event, 1))
	if order := new(OrderError); !errors.As(err, &order) {
		t.Errorf("everything up to %d was given; then an event of revision 10 was taken (%v) and given (%d)", b.Complete, err, b2.N)
	}
}

// TestGroupsOfAQuietLog has watches that come and go while nothing happens.
func TestGroupsOfAQuietLog(t *testing.T) {
	h := newHarness(0, nil)
	h.dispatched(t)
	// A hundred thousand watches come and go, up to 600 at a time.
	var open []*Parked[string, event]
	for range 100_000 {
		if len(open) == 600 {
			c, ok := open[0].Unpark()
			if !ok {
				t.Fatal("not parked")
			}
			c.Close()
			open = open[1:]
		}
		c, err := h.Follow(0)
		if err != nil {
			t.Fatal(err)
		}
		p, ok := c.Park(newWaiter())
		if !ok {
			t.Fatal("not parked")
		}
		open = append(open, p)
	}
	if n := len(h.all.groups); n > 20 {
		t.Errorf("%d groups are kept for %d cursors", n, len(open))
	}
}
