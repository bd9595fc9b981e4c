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
	cfg    *Config[string, event]
	events []twinEvent
	// ring is where the ring begins; before it an event is aged or gone.
	ring int
	// gone are the events that have left the log, in that order.
	gone        []event
	floor, head uint64
	// advanced is the revision up to which readers have been told that nothing follows.
	advanced uint64
	closed   bool
	checked  time.Time
	cursors  []*twinCursor
	// taken is how many events the dispatcher has handed over, cut how many the bounds have dropped.
	taken int
	cut   uint64
	// from is where the index of each key that is followed begins.
	from map[string]int
}

type twinEvent struct {
	event
	at    time.Time
	where place
}

type place uint8

const (
	inRing place = iota
	aged
	gone
)

// twinCursor is a reader and, beside it, the log's cursor.
type twinCursor struct {
	*Cursor[string, event]
	name string
	key  string // "": all
	// next is the first event not yet considered.
	next  int
	after uint64
	// scanned is where the index of the key is extended next, while following is going on:
	// until then nothing is to be done with the cursor.
	following bool
	scanned   uint64

	// parked is the cursor while it is parked, else nil.
	parked *Parked[string, event]
	// room is how many events it takes meanwhile; given are the names of those
	// that it was given since that was last asked, and resumed is how often it was resumed.
	room    int
	given   []string
	resumed int
	// What given and resumed have to be.
	wantGiven   []string
	wantResumed int
}

// Deliver implements Reader.
func (c *twinCursor) Deliver(e event) bool {
	if c.room == 0 {
		return false
	}
	c.room--
	c.given = append(c.given, e.name)
	return true
}

// Resume implements Reader.
func (c *twinCursor) Resume(*Cursor[string, event]) { c.resumed++ }

func (c *twinCursor) wants(e event) bool {
	return e.rev > c.after && (c.key == "" || slices.Contains(e.keys, c.key))
}

// pending returns the first event that the reader has to read, or the end.
func (tw *twin) pending(c *twinCursor) int {
	i := c.next
	for ; i < len(tw.events); i++ {
		if c.wants(tw.events[i].event) {
			break
		}
	}
	return i
}

// lost tells whether an event is gone that the reader had to read.
func (tw *twin) lost(c *twinCursor) bool {
	for _, e := range tw.events[c.next:] {
		if e.where == gone && c.wants(e.event) {
			return true
		}
	}
	return false
}

func (tw *twin) size() (events int, bytes int64) {
	for _, e := range tw.events {
		if e.where != gone {
			events++
			bytes += e.size
		}
	}
	return events, bytes
}

func (tw *twin) drop(i int) {
	e := &tw.events[i]
	e.where = gone
	tw.gone = append(tw.gone, e.event)
	tw.leave(i)
}

// leave says that the event at i is not in the ring any more.
func (tw *twin) leave(i int) {
	if i == tw.ring {
		tw.ring++
		tw.floor = tw.events[i].rev
	}
}

func (tw *twin) append(e event, now time.Time, maxBytes int64) {
	tw.events = append(tw.events, twinEvent{event: e, at: now})
	tw.head = e.rev
	waits := tw.shrink(maxBytes)
	tw.age(now)
	for waits {
		tw.dispatch()
		waits = tw.shrink(maxBytes)
	}
}

// shrink returns true if an event has to go that has not been handed over, or if those are
// more than half of what there may be.
func (tw *twin) shrink(maxBytes int64) bool {
	var behind int64
	for _, e := range tw.events[tw.taken:] {
		behind += e.size
	}
	if tw.parked() > 0 && (len(tw.events)-tw.taken > tw.cfg.MaxEvents/2 || behind > maxBytes/2) {
		return tw.taken < len(tw.events)
	}
	for oldest := range tw.events {
		if tw.events[oldest].where == gone {
			continue
		}
		events, bytes := tw.size()
		if events <= tw.cfg.MaxEvents && bytes <= maxBytes {
			return false
		}
		if oldest >= tw.taken && tw.parked() > 0 {
			return true
		}
		tw.drop(oldest)
		tw.cut++
	}
	return false
}

func (tw *twin) count(is func(*twinCursor) bool) int {
	n := 0
	for _, c := range tw.cursors {
		if is(c) {
			n++
		}
	}
	return n
}

func (tw *twin) parked() int {
	return tw.count(func(c *twinCursor) bool { return c.parked != nil })
}

func (tw *twin) age(now time.Time) {
	if now.Sub(tw.checked) < time.Second {
		return
	}
	tw.checked = now
	for tw.surplus() && now.Sub(tw.events[tw.ring].at) > tw.cfg.Window && !tw.held(tw.ring) {
		if i := tw.ring; tw.kept(i) {
			tw.events[i].where = aged
			tw.leave(i)
		} else {
			tw.drop(i)
		}
	}
	for i, e := range tw.events {
		if e.where == aged && !tw.kept(i) {
			tw.drop(i)
		}
	}
}

// surplus tells whether more is in the ring than what is kept however old it is.
func (tw *twin) surplus() bool {
	var bytes int64
	for _, e := range tw.events[tw.ring:] {
		bytes += e.size
	}
	n := len(tw.events) - tw.ring
	return n > tw.cfg.MinEvents || n > 0 && tw.cfg.MinBytes > 0 && bytes > tw.cfg.MinBytes
}

// held tells whether an event has to stay in the ring: for a reader of all, for one whose
// index does not reach back to it yet, or since it has not been handed to parked readers.
func (tw *twin) held(i int) bool {
	return tw.count(func(c *twinCursor) bool {
		switch {
		case c.parked != nil:
			return tw.taken <= i
		case tw.lost(c):
			return false
		case c.key == "":
			return tw.pending(c) <= i
		case tw.from[c.key] <= c.next:
			return false
		default: // any event may be one of its key
			for n := c.next; n <= i; n++ {
				if tw.events[n].rev > c.after {
					return true
				}
			}
			return false
		}
	}) > 0
}

// kept tells whether an event is kept for readers of its keys.
func (tw *twin) kept(i int) bool {
	return tw.count(func(c *twinCursor) bool {
		return c.parked == nil && c.key != "" && slices.Contains(tw.events[i].keys, c.key) &&
			tw.from[c.key] <= c.next && !tw.lost(c) && tw.pending(c) <= i
	}) > 0
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
		if !errors.Is(err, ErrTrimmed) {
			t.Fatalf("%s: something is gone unread from event %d on, but Next returns %+v, %v", c.name, c.next, b, err)
		}
		return
	case err != nil:
		t.Fatalf("%s: nothing is lost, but Next returns %v", c.name, err)
	}
	var want []event
	for len(want) < n {
		i := tw.pending(c)
		if i == len(tw.events) {
			break
		}
		want = append(want, tw.events[i].event)
		c.next = i + 1
	}
	if !slices.EqualFunc(dst[:b.N], want, func(a, b event) bool { return a.name == b.name }) {
		t.Fatalf("%s: read %v, want %v", c.name, dst[:b.N], want)
	}
	complete := max(tw.head, c.after)
	left := tw.pending(c)
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
	if tw.parked() == 0 && !tw.closed && !tw.lost(c) {
		tw.taken = max(tw.taken, tw.ring, tw.pending(c)) // what came or left the log while nobody was parked is nobody's
	}
	can := !tw.closed && !tw.lost(c) && tw.pending(c) >= tw.taken
	p, got := c.Park(c)
	if got != can {
		t.Fatalf("%s: Park returns %v with %d events taken, and the next one is %d", c.name, got, tw.taken, tw.pending(c))
	}
	if c.parked, c.room = nil, room; can {
		c.parked = p
	}
}

func (tw *twin) unpark(t *testing.T, c *twinCursor) {
	t.Helper()
	if c.parked == nil {
		return
	}
	if _, got := c.parked.Unpark(); !got {
		t.Fatalf("%s: is parked, and Unpark returns false", c.name)
	}
	if _, got := c.parked.Unpark(); got {
		t.Fatalf("%s: is unparked a second time", c.name)
	}
	c.parked = nil
}

// dispatch says what one step of the dispatcher does.
func (tw *twin) dispatch() (more, open bool) {
	if tw.parked() == 0 && !tw.closed {
		tw.taken = len(tw.events)
	}
	if tw.taken == len(tw.events) && !tw.closed {
		return false, true
	}
	for _, c := range tw.cursors {
		switch {
		case c.parked == nil:
		case !tw.closed && !c.wants(tw.events[tw.taken].event), !tw.closed && c.next > tw.taken:
		case !tw.closed && c.room > len(c.wantGiven):
			c.wantGiven = append(c.wantGiven, tw.events[tw.taken].name)
			c.next = tw.taken + 1
		default:
			c.wantResumed++
			c.parked = nil
		}
	}
	if !tw.closed {
		tw.taken++
	}
	return !tw.closed, !tw.closed
}

// told compares what parked readers have been told with what the twin says.
func (tw *twin) told(t *testing.T) {
	t.Helper()
	for _, c := range tw.cursors {
		if !slices.Equal(c.given, c.wantGiven) {
			t.Fatalf("%s: given %q, want %q", c.name, c.given, c.wantGiven)
		}
		if c.resumed != c.wantResumed {
			t.Fatalf("%s: resumed %d times, want %d", c.name, c.resumed, c.wantResumed)
		}
		c.given, c.resumed, c.wantGiven, c.wantResumed = nil, 0, nil, 0
	}
}

// follow compares one Follow, or the first step of a FollowKey, with what the twin says.
func (tw *twin) follow(t *testing.T, h *harness, c *twinCursor) {
	t.Helper()
	var err error
	if c.key == "" {
		c.Cursor, err = h.Follow(c.after)
	} else {
		c.Cursor, c.scanned, err = h.register(c.after, c.key)
		c.following = err == nil
	}
	var old *TooOldError
	switch {
	case tw.closed:
		if !errors.Is(err, ErrClosed) {
			t.Fatalf("following a closed log: %v", err)
		}
	case c.after < tw.floor:
		if !errors.As(err, &old) || !errors.Is(err, ErrTrimmed) || *old != (TooOldError{Asked: c.after, Floor: tw.floor}) {
			t.Fatalf("following from %d with a floor of %d: %v", c.after, tw.floor, err)
		}
	case err != nil:
		t.Fatalf("following from %d with a floor of %d: %v", c.after, tw.floor, err)
	default:
		for c.next = tw.ring; c.next < len(tw.events) && tw.events[c.next].rev <= c.after; c.next++ {
		}
		if _, followed := tw.from[c.key]; !followed && c.key != "" {
			tw.from[c.key] = len(tw.events)
		}
		tw.cursors = append(tw.cursors, c)
	}
}

// goOn takes the next step of a FollowKey.
func (tw *twin) goOn(h *harness, c *twinCursor) {
	if c.scanned, c.following = h.extend(c.Cursor, c.scanned); !c.following {
		tw.from[c.key] = min(tw.from[c.key], c.next)
	}
}

// finish takes the steps that are left of following, and takes the cursor back from the
// dispatcher.
func (tw *twin) finish(t *testing.T, h *harness, c *twinCursor) {
	t.Helper()
	for c.following {
		tw.goOn(h, c)
	}
	tw.unpark(t, c)
}

func (tw *twin) close(t *testing.T, h *harness, i int) {
	t.Helper()
	c := tw.cursors[i]
	tw.finish(t, h, c)
	c.Close()
	c.Close() // a second time does nothing
	tw.cursors = slices.Delete(tw.cursors, i, i+1)
	if tw.count(func(other *twinCursor) bool { return other.key == c.key }) == 0 {
		delete(tw.from, c.key)
	}
}

// TestTwin runs random operations on a log and on its twin.
func TestTwin(t *testing.T) {
	r := random(t)
	var aged int
	for run := range 300 {
		t.Run(fmt.Sprint(run), func(t *testing.T) { aged += twinRun(t, r) })
		if t.Failed() {
			return
		}
	}
	if t.Logf("%d times there were events that are kept for readers of their keys", aged); aged < 100 {
		t.Error("which is too few to have tested anything")
	}
}

// twinRun returns in how many steps some events were aged.
func twinRun(t *testing.T, r *rand.Rand) (agedSteps int) {
	first := r.Uint64N(10)
	tw := &twin{floor: first, head: first, advanced: first, checked: start, from: map[string]int{}}
	h := newHarness(first, func(c *Config[string, event]) {
		tw.cfg = c
		c.MaxEvents = 1 + r.IntN(200)
		c.MinEvents = r.IntN(20)
		c.MinBytes = r.Int64N(3) * r.Int64N(400)
		c.Window = time.Duration(r.IntN(20)) * time.Second
	})
	bound := func() {
		if h.maxBytes = r.Int64N(3000); r.IntN(2) == 0 {
			h.maxBytes = 1 << 40
		}
		if h.allowed = r.Int64N(4000) - 1000; r.IntN(2) == 0 {
			h.allowed = 1 << 40
		}
	}
	bound()
	maxBytes := func() int64 { return min(h.maxBytes, max(h.allowed, tw.cfg.MinBytes)) }
	keys := []string{"a", "b", "c", "rare"}
	count, made := 0, 0
	some := func() *twinCursor {
		if len(tw.cursors) == 0 {
			return nil
		}
		return tw.cursors[r.IntN(len(tw.cursors))]
	}

	for range 500 {
		switch op := r.IntN(100); {
		case op < 45:
			e := event{name: fmt.Sprint("e", count), rev: max(tw.head+r.Uint64N(3), tw.advanced+1), size: r.Int64N(60)}
			count++
			if order := new(OrderError); tw.advanced > 0 && !tw.closed && !errors.As(h.Append(tw.advanced, 1, e), &order) {
				t.Fatalf("an event of revision %d is taken after that has been told", tw.advanced)
			}
			for _, k := range keys[:3] {
				for r.IntN(3) == 0 {
					e.keys = append(e.keys, k) // the same key several times
				}
			}
			if r.IntN(40) == 0 {
				e.keys = append(e.keys, "rare")
			}
			if !tw.closed {
				tw.append(e, h.now, maxBytes())
			}
			h.append(e)
		case op < 55:
			if c := some(); c != nil {
				tw.finish(t, h, c)
				tw.read(t, c, r.IntN(8))
			}
		case op < 62:
			if c := some(); c != nil && c.parked == nil {
				tw.finish(t, h, c)
				tw.read(t, c, r.IntN(100))
				tw.park(t, c, r.IntN(10))
			}
		case op < 73:
			for range 1 + r.IntN(5) {
				wantMore, wantOpen := tw.dispatch()
				if more, open := h.dispatchNext(); more != wantMore || open != wantOpen {
					t.Fatalf("the dispatcher says more: %v, open: %v; want %v, %v", more, open, wantMore, wantOpen)
				}
				tw.told(t)
				h.check(t)
			}
		case op < 76:
			if c := some(); c != nil && c.following {
				tw.goOn(h, c)
			}
		case op < 83:
			// From the past, the present or the future.
			ahead := uint64(4)
			if r.IntN(8) == 0 {
				ahead = 200
			}
			c := &twinCursor{name: fmt.Sprint("c", made), after: tw.head + ahead - min(tw.head+ahead, r.Uint64N(40))}
			made++
			if r.IntN(3) > 0 {
				c.key = keys[r.IntN(len(keys))]
			}
			tw.follow(t, h, c)
		case op < 87:
			if n := len(tw.cursors); n > 0 {
				tw.close(t, h, r.IntN(n))
			}
		case op < 92:
			h.now = h.now.Add(time.Duration(r.IntN(3000)) * time.Millisecond)
		case op < 95:
			rev := tw.head + r.Uint64N(3)
			h.Advance(rev)
			if !tw.closed {
				tw.head, tw.advanced = rev, rev
				tw.age(h.now)
			}
		case op < 97:
			if !tw.closed {
				tw.checked = h.now.Add(-time.Second)
				tw.age(h.now)
			}
			h.Expire()
		case op < 99:
			bound()
			if r.IntN(2) == 0 {
				for !tw.closed && tw.shrink(maxBytes()) {
					tw.dispatch()
				}
				h.Shrink()
			}
		case r.IntN(8) == 0:
			for i, e := range tw.events {
				if e.where != gone {
					tw.drop(i)
				}
			}
			tw.closed = true
			h.Close()
		}
		h.check(t)
		tw.told(t)
		if !slices.EqualFunc(h.trimmed, tw.gone, func(a, b event) bool { return a.name == b.name }) {
			t.Fatalf("trimmed %v, want %v", names(h.trimmed), names(tw.gone))
		}
		if !tw.closed && tw.parked() > 0 && h.dispatcher.handed != uint64(tw.taken) {
			t.Fatalf("the dispatcher has handed over up to %d, want %d", h.dispatcher.handed, tw.taken)
		}
		want := Stats{Floor: tw.floor, Head: tw.head, Cut: tw.cut, Cursors: len(tw.cursors), Parked: tw.parked()}
		want.Events, want.Bytes = tw.size()
		want.Aged = want.Events - (len(tw.events) - tw.ring)
		if tw.ring < len(tw.events) {
			want.Oldest = tw.events[tw.ring].at
		}
		if got := h.Stats(); got != want {
			t.Fatalf("the log says %+v, want %+v", got, want)
		}
		if got := h.Floor(); got != tw.floor {
			t.Fatalf("floor %d, want %d", got, tw.floor)
		}
		if want.Aged > 0 {
			agedSteps++
		}
	}
	for len(tw.cursors) > 0 {
		c := tw.cursors[0]
		tw.finish(t, h, c)
		tw.read(t, c, 1000)
		tw.close(t, h, 0)
	}
	if got := h.Stats(); got.Cursors != 0 {
		t.Fatalf("%d cursors are left", got.Cursors)
	}
	h.check(t)
	return agedSteps
}
