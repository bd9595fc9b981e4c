// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package eventlog

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// mailbox is a reader that passes events on through a channel with little room: the
// dispatcher fills it while the cursor is parked, read while it is not.
type mailbox struct {
	parked  atomic.Pointer[Parked[string, event]]
	events  chan event
	reading *sync.WaitGroup
	// given is how many events the dispatcher has handed over, resumed how often it could
	// not, and taken back how often Unpark was the reason to read on.
	given, resumed, takenBack atomic.Int64
}

// Deliver implements Reader.
func (m *mailbox) Deliver(e event) bool {
	select {
	case m.events <- e:
		m.given.Add(1)
		return true
	default:
		return false
	}
}

// Resume implements Reader.
func (m *mailbox) Resume(c *Cursor[string, event]) {
	m.resumed.Add(1)
	m.read(c)
}

// takeBack unparks the cursor, if it is parked, and reads on.
func (m *mailbox) takeBack() {
	if p := m.parked.Load(); p != nil {
		if c, ok := p.Unpark(); ok {
			m.takenBack.Add(1)
			m.read(c)
		}
	}
}

// read passes on, from a goroutine of its own, what the log holds until the cursor can be
// parked or the log ends.
func (m *mailbox) read(c *Cursor[string, event]) {
	m.reading.Go(func() { m.pass(c) })
}

func (m *mailbox) pass(c *Cursor[string, event]) {
	var dst [2]event
	for {
		b, err := c.Next(dst[:])
		if err != nil {
			if !errors.Is(err, ErrClosed) {
				m.events <- event{name: err.Error()}
			}
			c.Close()
			close(m.events)
			return
		}
		for _, e := range dst[:b.N] {
			m.events <- e
		}
		if !b.Drained {
			continue
		}
		if p, ok := c.Park(m); ok {
			m.parked.Store(p)
			return
		}
	}
}

// TestParkedReadersGetEverything has more readers than are given an event under one
// lock, each with little room, and somebody who takes cursors back all the time.
func TestParkedReadersGetEverything(t *testing.T) {
	const last, readers = 600, groupSize + 100
	keys := []string{"", "a", "b", "a", ""}
	h := newHarness(0, nil)
	h.dispatched(t)
	var reading, consuming, complete sync.WaitGroup
	var boxes []*mailbox
	for i := range readers {
		key := keys[i%len(keys)]
		c, err := h.cursor(0, key)
		if err != nil {
			t.Fatal(err)
		}
		m := &mailbox{events: make(chan event, 1+i%4), reading: &reading}
		boxes = append(boxes, m)
		m.read(c)
		complete.Add(1)
		consuming.Go(func() {
			next := uint64(1)
			for e := range m.events {
				if key != "" && next%2 != uint64(key[0])%2 {
					next++
				}
				if e.rev != next {
					t.Errorf("reader %d of key %q is given %+v where %d comes next", i, key, e, next)
				}
				next = e.rev + 1
				if e.rev >= last-1 && (key != "" || e.rev == last) {
					complete.Done()
				}
				if e.rev%8 == uint64(i%8) {
					m.takeBack()
				}
			}
		})
	}
	r, burst := random(t), 0
	for rev := uint64(1); rev <= last; rev++ {
		h.append(event{rev: rev, size: 1, keys: []string{string(rune('a' + (rev+1)%2)), "other"}})
		if burst--; burst <= 0 {
			burst = r.IntN(8)
			runtime.Gosched()
		}
		h.check(t)
	}
	all := make(chan struct{})
	go func() {
		defer close(all)
		complete.Wait()
	}()
	select {
	case <-all:
	case <-time.After(patience):
		t.Error("some readers do not get everything")
	}
	h.check(t)
	h.Close()
	consuming.Wait()
	reading.Wait()
	var given, resumed, takenBack int64
	for _, m := range boxes {
		given += m.given.Load()
		resumed += m.resumed.Load()
		takenBack += m.takenBack.Load()
	}
	t.Logf("%d events were handed over, %d readers resumed and %d cursors taken back", given, resumed, takenBack)
	if given < readers || resumed < 2*readers || takenBack < readers {
		t.Error("which is too few to have tested anything")
	}
	if s := h.Stats(); s.Cursors != 0 {
		t.Errorf("%d cursors are left", s.Cursors)
	}
}

// TestOneTakesTheCursor has several who unpark a cursor and a dispatcher that resumes
// it: it is given back once.
func TestOneTakesTheCursor(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	h := newHarness(0, nil)
	h.dispatched(t)
	c, err := h.Follow(0)
	if err != nil {
		t.Fatal(err)
	}
	w := newWaiter()
	byHand := 0
	for rev := uint64(1); rev <= 2000; rev++ {
		p, ok := c.Park(w)
		if !ok {
			t.Fatalf("a drained cursor cannot be parked before %d", rev)
		}
		var taken atomic.Int64
		var takers sync.WaitGroup
		for range 3 {
			takers.Go(func() {
				if _, ok := p.Unpark(); ok {
					taken.Add(1)
				}
			})
		}
		h.append(event{rev: rev})
		takers.Wait()
		switch n := taken.Load(); n {
		case 0:
			select {
			case <-w:
			case <-ctx.Done():
				t.Fatal("nobody was given the cursor")
			}
		case 1:
			byHand++
		default:
			t.Fatalf("%d were given the cursor", n)
		}
		if len(w) > 0 {
			t.Fatal("the cursor was taken, and its reader resumed")
		}
		dst := make([]event, 2)
		if b, err := c.Next(dst); err != nil || fmt.Sprint(b.N, dst[0].rev, b.Drained) != fmt.Sprint(1, rev, true) {
			t.Fatalf("Next returns %+v with %+v, %v; want event %d", b, dst, err, rev)
		}
	}
	t.Logf("taken %d times by hand", byHand)
	c.Close()
}
