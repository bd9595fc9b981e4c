// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package eventlog

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
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
	// The dispatcher has handed over what is before handed, and taken what is before taken.
	handed, taken int
}

// twinCursor is a reader and, beside it, the log's cursor.
type twinCursor struct {
	*Cursor[string, event]
	name string
	key  string // "": all
	// next is the first event not yet considered.
	next  int
	after uint64

	parked bool
	// room is how many events it takes while it is parked; given are the names of those
	// that it was given since that was last asked, and resumed is how often it was resumed.
	room    int
	given   []string
	resumed int
}

// Deliver implements Parked.
func (c *twinCursor) Deliver(e event) bool {
	if c.room == 0 {
		return false
	}
	c.room--
	c.given = append(c.given, e.name)
	return true
}

// Resume implements Parked.
func (c *twinCursor) Resume() { c.resumed++ }

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
			if c.parked {
				if tw.handed <= tw.gone {
					return
				}
				continue
			}
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
	if drained := left == len(tw.events); drained != b.Drained {
		t.Fatalf("%s: drained is %v, but Next says %v", c.name, drained, b.Drained)
	}
}

// park compares one Park with what the twin says.
func (tw *twin) park(t *testing.T, c *twinCursor, room int) {
	t.Helper()
	can := !tw.closed && !tw.lost(c) && tw.pending(c, c.next) >= tw.taken
	if got := c.Park(c); got != can {
		t.Fatalf("%s: Park returns %v with %d events taken, and the next one is %d", c.name, got, tw.taken, tw.pending(c, c.next))
	}
	c.parked, c.room = can, room
}

func (tw *twin) unpark(t *testing.T, c *twinCursor) {
	t.Helper()
	if got := c.Unpark(); got != c.parked {
		t.Fatalf("%s: Unpark returns %v", c.name, got)
	}
	c.parked = false
}

// dispatch compares one step of the dispatcher with what the twin says.
func (tw *twin) dispatch(t *testing.T, l *Log[string, event]) {
	t.Helper()
	parked := slices.DeleteFunc(slices.Clone(tw.cursors), func(c *twinCursor) bool { return !c.parked })
	wantMore, wantOpen := true, true
	given, resumed := map[*twinCursor]string{}, map[*twinCursor]bool{}
	switch {
	case tw.closed, len(parked) > 0 && tw.taken < tw.gone:
		wantOpen = !tw.closed
		tw.handed, tw.taken = tw.gone, tw.gone
		for _, c := range parked {
			resumed[c] = true
		}
	case len(parked) == 0, tw.taken == len(tw.events):
		wantMore = false
		tw.handed, tw.taken = len(tw.events), len(tw.events)
	default:
		e := tw.events[tw.taken]
		tw.handed = tw.taken
		tw.taken++
		for _, c := range parked {
			switch {
			case c.next >= tw.taken || !c.wants(e):
			case c.room > 0:
				given[c] = e.name
				c.next = tw.taken
			default:
				resumed[c] = true
			}
		}
	}
	if more, open := l.dispatchNext(); more != wantMore || open != wantOpen {
		t.Fatalf("the dispatcher says more: %v, open: %v; want %v, %v", more, open, wantMore, wantOpen)
	}
	for _, c := range tw.cursors {
		if want := given[c]; len(c.given) > 1 || want != strings.Join(c.given, " ") {
			t.Fatalf("%s: given %q, want %q", c.name, c.given, want)
		}
		if resumed[c] != (c.resumed == 1) || c.resumed > 1 {
			t.Fatalf("%s: resumed %d times, want %v", c.name, c.resumed, resumed[c])
		}
		c.parked = c.parked && !resumed[c]
		c.given, c.resumed = nil, 0
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
		case op < 55:
			if len(tw.cursors) > 0 {
				c := tw.cursors[r.IntN(len(tw.cursors))]
				tw.unpark(t, c)
				tw.read(t, c, r.IntN(8))
			}
		case op < 62:
			if len(tw.cursors) > 0 {
				if c := tw.cursors[r.IntN(len(tw.cursors))]; !c.parked {
					tw.read(t, c, r.IntN(100))
					tw.park(t, c, r.IntN(10))
				}
			}
		case op < 75:
			for range 1 + r.IntN(5) {
				tw.dispatch(t, h.Log)
				h.check(t)
			}
		case op < 82:
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
		case op < 87:
			if n := len(tw.cursors); n > 0 {
				i := r.IntN(n)
				tw.unpark(t, tw.cursors[i])
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
		}
		h.check(t)
		if !slices.EqualFunc(h.trimmed, tw.events[:tw.gone], func(a, b event) bool { return a.name == b.name }) {
			t.Fatalf("trimmed %v, want %v", h.trimmed, tw.events[:tw.gone])
		}
		want := Stats{Events: len(tw.events) - tw.gone, Bytes: tw.bytes, Floor: tw.floor, Head: tw.head, Cursors: len(tw.cursors)}
		for _, c := range tw.cursors {
			if c.parked {
				want.Parked++
			}
		}
		if got := h.Stats(); got != want {
			t.Fatalf("the log says %+v, want %+v", got, want)
		}
		if got := h.Floor(); got != tw.floor {
			t.Fatalf("floor %d, want %d", got, tw.floor)
		}
	}
	for _, c := range tw.cursors {
		tw.unpark(t, c)
		tw.read(t, c, 1000)
		c.Close()
	}
	if got := h.Stats(); got.Cursors != 0 {
		t.Fatalf("%d cursors are left", got.Cursors)
	}
	h.check(t)
}
