// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package eventlog

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// twin is the log as a slice that forgets nothing: it says what the log has to do.
type twin struct {
	events []event
	at     []time.Time
	// gone is how many of the events have left the log.
	gone        int
	floor, head uint64
	bytes       int64
	closed      bool
	checked     time.Time
	cursors     []*twinCursor
}

// twinCursor is a reader and, beside it, the log's cursor.
type twinCursor struct {
	*Cursor[string, event]
	name string
	key  string // "": all
	// next is the first event not yet considered.
	next  int
	after uint64
	wake  <-chan struct{}
}

func (c *twinCursor) wants(e event) bool {
	return e.rev > c.after && (c.key == "" || slices.Contains(e.keys, c.key))
}

// pending returns the first event from i on that the reader has to read, or the end.
func (tw *twin) pending(c *twinCursor, i int) int {
	for ; i < len(tw.events); i++ {
		if c.wants(tw.events[i]) {
			break
		}
	}
	return i
}

// lost tells whether an event is gone that the reader had to read.
func (tw *twin) lost(c *twinCursor) bool { return tw.pending(c, c.next) < tw.gone }

func (tw *twin) drop() {
	e := tw.events[tw.gone]
	tw.bytes -= e.size
	tw.floor = e.rev
	tw.gone++
}

func (tw *twin) append(e event, now time.Time, maxBytes int64, cfg *Config[string, event]) {
	tw.events = append(tw.events, e)
	tw.at = append(tw.at, now)
	tw.head = e.rev
	tw.bytes += e.size
	tw.trim(now, maxBytes, cfg)
}

func (tw *twin) trim(now time.Time, maxBytes int64, cfg *Config[string, event]) {
	for tw.gone < len(tw.events) && (tw.bytes > maxBytes || len(tw.events)-tw.gone > cfg.MaxEvents) {
		tw.drop()
	}
	if now.Sub(tw.checked) < time.Second {
		return
	}
	tw.checked = now
	for len(tw.events)-tw.gone > cfg.MinEvents && now.Sub(tw.at[tw.gone]) > cfg.Window {
		for _, c := range tw.cursors {
			if !tw.lost(c) && tw.pending(c, c.next) == tw.gone {
				return
			}
		}
		tw.drop()
	}
}

func (tw *twin) trimTo(rev uint64) {
	for tw.gone < len(tw.events) && tw.events[tw.gone].rev <= rev {
		tw.drop()
	}
	tw.floor = min(max(tw.floor, rev), tw.head)
}

// read compares one Next with what the twin says.
func (tw *twin) read(t *testing.T, c *twinCursor, n int) {
	t.Helper()
	dst := make([]event, n)
	b, err := c.Next(dst)
	switch {
	case tw.closed:
		if !errors.Is(err, ErrClosed) {
			t.Fatalf("%s: Next on a closed log: %v", c.name, err)
		}
		return
	case tw.lost(c):
		lost := tw.events[tw.pending(c, c.next)]
		if !errors.Is(err, ErrTrimmed) {
			t.Fatalf("%s: %v is gone unread, but Next returns %+v, %v", c.name, lost, b, err)
		}
		return
	case err != nil:
		t.Fatalf("%s: nothing is lost, but Next returns %v", c.name, err)
	}
	var want []event
	for len(want) < n {
		i := tw.pending(c, c.next)
		if i == len(tw.events) {
			break
		}
		want = append(want, tw.events[i])
		c.next = i + 1
	}
	if !slices.EqualFunc(dst[:b.N], want, func(a, b event) bool { return a.name == b.name }) {
		t.Fatalf("%s: read %v, want %v", c.name, dst[:b.N], want)
	}
	complete := max(tw.head, c.after)
	left := tw.pending(c, c.next)
	if left < len(tw.events) {
		// Everything before the next one, of which several may share a revision.
		complete = max(tw.events[left].rev-1, c.after)
	}
	if b.Complete != complete {
		t.Fatalf("%s: complete up to %d, want %d", c.name, b.Complete, complete)
	}
	if drained := left == len(tw.events); drained != (b.Wake != nil) {
		t.Fatalf("%s: drained is %v, but the wake-up is %v", c.name, drained, b.Wake)
	}
	c.wake = b.Wake
	if c.wake != nil && rung(c.wake) {
		t.Fatalf("%s: woken with nothing to read", c.name)
	}
}

// TestTwin runs random operations on a log and on its twin.
func TestTwin(t *testing.T) {
	r := random(t)
	for run := range 300 {
		t.Run(fmt.Sprint(run), func(t *testing.T) { twinRun(t, r) })
		if t.Failed() {
			return
		}
	}
}

func twinRun(t *testing.T, r *rand.Rand) {
	var cfg *Config[string, event]
	first := r.Uint64N(10)
	h := newHarness(first, func(c *Config[string, event]) {
		cfg = c
		c.MaxEvents = 1 + r.IntN(200)
		c.MinEvents = r.IntN(20)
		c.Window = time.Duration(r.IntN(20)) * time.Second
	})
	h.maxBytes = r.Int64N(3000)
	tw := &twin{floor: first, head: first, checked: start}
	keys := []string{"a", "b", "c", "rare"}
	count, made := 0, 0

	for range 500 {
		switch op := r.IntN(100); {
		case op < 45:
			e := event{name: fmt.Sprint("e", count), rev: tw.head + r.Uint64N(3), size: r.Int64N(60)}
			count++
			for _, k := range keys[:3] {
				for r.IntN(3) == 0 {
					e.keys = append(e.keys, k) // the same key several times
				}
			}
			if r.IntN(40) == 0 {
				e.keys = append(e.keys, "rare")
			}
			if tw.closed {
				h.append(e)
				break
			}
			tw.append(e, h.now, h.maxBytes, cfg)
			h.append(e)
			for _, c := range tw.cursors {
				if c.wake == nil {
					continue
				}
				hears := c.key == "" || slices.Contains(e.keys, c.key)
				if rung(c.wake) != hears {
					t.Fatalf("%s (%q): woken is %v after %v", c.name, c.key, !hears, e)
				}
				if hears {
					c.wake = nil
				}
			}
		case op < 70:
			if len(tw.cursors) > 0 {
				tw.read(t, tw.cursors[r.IntN(len(tw.cursors))], r.IntN(8))
			}
		case op < 80:
			// From the past, the present or the future.
			ahead := uint64(4)
			if r.IntN(8) == 0 {
				ahead = 200
			}
			rev := tw.head + ahead - min(tw.head+ahead, r.Uint64N(40))
			c := &twinCursor{name: fmt.Sprint("c", made), after: rev}
			made++
			var err error
			if r.IntN(3) == 0 {
				c.Cursor, err = h.Follow(rev)
			} else {
				c.key = keys[r.IntN(len(keys))]
				c.Cursor, err = h.FollowKey(rev, c.key)
			}
			var old *TooOldError
			switch {
			case tw.closed:
				if !errors.Is(err, ErrClosed) {
					t.Fatalf("following a closed log: %v", err)
				}
			case rev < tw.floor:
				if !errors.As(err, &old) || !errors.Is(err, ErrTrimmed) || *old != (TooOldError{Asked: rev, Floor: tw.floor}) {
					t.Fatalf("following from %d with a floor of %d: %v", rev, tw.floor, err)
				}
			case err != nil:
				t.Fatalf("following from %d with a floor of %d: %v", rev, tw.floor, err)
			default:
				c.next = tw.gone
				tw.cursors = append(tw.cursors, c)
			}
		case op < 86:
			if n := len(tw.cursors); n > 0 {
				i := r.IntN(n)
				tw.cursors[i].Close()
				tw.cursors[i].Close() // a second time does nothing
				tw.cursors = slices.Delete(tw.cursors, i, i+1)
			}
		case op < 92:
			h.now = h.now.Add(time.Duration(r.IntN(3000)) * time.Millisecond)
		case op < 95:
			rev := tw.head + r.Uint64N(3)
			h.Advance(rev)
			if !tw.closed {
				tw.head = rev
				tw.trim(h.now, h.maxBytes, cfg)
			}
		case op < 97:
			rev := tw.head + 3 - min(tw.head+3, r.Uint64N(20))
			tw.trimTo(rev)
			h.TrimTo(rev)
		case op < 99:
			h.maxBytes = r.Int64N(3000)
		case r.IntN(8) == 0:
			for tw.gone < len(tw.events) {
				tw.drop()
			}
			tw.closed = true
			h.Close()
			for _, c := range tw.cursors {
				if c.wake != nil && !rung(c.wake) {
					t.Fatalf("%s is not woken by Close", c.name)
				}
				c.wake = nil
			}
		}
		h.check(t)
		if !slices.EqualFunc(h.trimmed, tw.events[:tw.gone], func(a, b event) bool { return a.name == b.name }) {
			t.Fatalf("trimmed %v, want %v", h.trimmed, tw.events[:tw.gone])
		}
		want := Stats{Events: len(tw.events) - tw.gone, Bytes: tw.bytes, Floor: tw.floor, Head: tw.head, Cursors: len(tw.cursors)}
		if got := h.Stats(); got != want {
			t.Fatalf("the log says %+v, want %+v", got, want)
		}
		if got := h.Floor(); got != tw.floor {
			t.Fatalf("floor %d, want %d", got, tw.floor)
		}
	}
	for _, c := range tw.cursors {
		tw.read(t, c, 1000)
		c.Close()
	}
	if got := h.Stats(); got.Cursors != 0 {
		t.Fatalf("%d cursors are left", got.Cursors)
	}
	h.check(t)
}
