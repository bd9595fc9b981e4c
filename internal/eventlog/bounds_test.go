// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package eventlog

import (
	"errors"
	"fmt"
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
		})
	}
}

// BenchmarkExpireBesideAged is what an Append does once a second.
func BenchmarkExpireBesideAged(b *testing.B) {
	h, _ := fullOfAged(b)
	for b.Loop() {
		h.Expire()
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
