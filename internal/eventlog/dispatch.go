// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package eventlog

import (
	"math"
	"slices"
	"sync"
)

// Parked is what a reader leaves behind that has read everything: who takes the next
// event. Both methods are called under the log's locks. They must neither block nor
// use the log.
type Parked[E any] interface {
	// Deliver takes an event. False means that it cannot be taken now.
	Deliver(event E) bool
	// Resume says that the cursor is no longer parked and is the reader's again: Next
	// returns the event that was not taken, or says why the log cannot be followed.
	Resume()
}

// dispatcher hands new events to the parked cursors. Its lock comes before the log's,
// and whoever appends does without it: appending does not wait for readers.
type dispatcher[K comparable, E any] struct {
	// mu guards the parked cursors too: chain.parked, and the fields of each that is in it.
	mu sync.Mutex
	// pos <= taken <= Log.next. What is below pos has been handed to every parked cursor,
	// and the event at pos is being handed over if pos < taken; a cursor that is being
	// parked has considered all below taken, so that nobody is given an event twice or
	// none. They are moved under mu and the log's read lock, or its write lock.
	pos, taken uint64
	// chains are those whose followers are to get the event that is being handed over.
	chains []*chain[K, E]
}

// Park leaves the cursor to Dispatch, which hands each further event to the reader.
// It returns false if there is something to tell that Dispatch will not: then Next
// does. A parked cursor must not be used but to Unpark it.
func (c *Cursor[K, E]) Park(reader Parked[E]) bool {
	l := c.log
	l.dispatcher.mu.Lock()
	defer l.dispatcher.mu.Unlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed || c.trimmedLocked() {
		return false
	}
	if c.pendingLocked(); c.pos < l.dispatcher.taken {
		return false
	}
	delete(l.cursors, c)
	l.parked++
	c.reader, c.slot = reader, len(c.chain.parked)
	c.chain.parked = append(c.chain.parked, c)
	return true
}

// Unpark takes a parked cursor back: Next goes on after the last event that its reader
// has taken. It returns false if the cursor is not parked: never was, or has been
// resumed, or somebody else has taken it. So of all who race for it one goes on.
func (c *Cursor[K, E]) Unpark() bool {
	l := c.log
	l.dispatcher.mu.Lock()
	defer l.dispatcher.mu.Unlock()
	if c.reader == nil {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.unparkLocked(c)
	return true
}

// unparkLocked takes a cursor out of its chain's, with both locks held, and returns
// its reader.
func (l *Log[K, E]) unparkLocked(c *Cursor[K, E]) Parked[E] {
	parked := c.chain.parked
	last := len(parked) - 1
	parked[c.slot] = parked[last]
	parked[c.slot].slot = c.slot
	parked[last] = nil
	c.chain.parked = parked[:last]
	l.parked--
	l.cursors[c] = struct{}{}
	reader := c.reader
	c.reader = nil
	return reader
}

// Dispatch hands events to the parked cursors until the log is closed. It is to be run
// by one goroutine, without which nobody may park.
func (l *Log[K, E]) Dispatch() {
	for {
		switch more, open := l.dispatchNext(); {
		case !open:
			return
		case !more:
			<-l.bell
		}
	}
}

// dispatchNext hands over one event. It returns whether there may be more, and
// whether the log is still open.
func (l *Log[K, E]) dispatchNext() (more, open bool) {
	r, more, err := l.take()
	if err != nil {
		l.resumeAll()
		return true, err != ErrClosed
	}
	if !more {
		return false, true
	}
	for _, c := range l.dispatcher.chains {
		for i := math.MaxInt; i > 0; {
			i = l.deliver(c, i, &r)
		}
	}
	return true, true
}

// take returns the next event to hand over, if there is one, and notes who is to get
// it.
func (l *Log[K, E]) take() (r record[E], more bool, err error) {
	d := &l.dispatcher
	d.mu.Lock()
	defer d.mu.Unlock()
	l.mu.RLock()
	defer l.mu.RUnlock()
	if l.closed {
		return r, false, ErrClosed
	}
	if l.parked == 0 {
		d.taken = l.next // nobody is there to be given what has come
	}
	if d.taken < l.first {
		return r, false, ErrTrimmed
	}
	d.pos = d.taken
	if d.pos == l.next {
		return r, false, nil
	}
	d.taken++
	r = *l.at(d.pos)
	d.chains = append(d.chains[:0], &l.all)
	l.cfg.Keys(r.event, func(key K) {
		if c := l.chains[key]; c != nil && !slices.Contains(d.chains, c) {
			d.chains = append(d.chains, c)
		}
	})
	return r, true, nil
}

// handful is to how many an event is handed under one lock: who wants to unpark does
// not wait for thousands.
const handful = 256

// deliver hands the event at dispatcher.pos to parked followers of the chain in slots
// below i, a handful of them, and returns the i to go on with. It goes from the last
// slot to the first, since it is from the last that a slot that falls free is filled,
// now or while the lock is not held: so nobody is moved to where deliver has been
// before its turn. Who has had its turn, or has come since, stands behind the event.
func (l *Log[K, E]) deliver(c *chain[K, E], i int, r *record[E]) int {
	d := &l.dispatcher
	d.mu.Lock()
	defer d.mu.Unlock()
	i = min(i, len(c.parked))
	for end := max(0, i-handful); i > end; {
		i--
		cursor := c.parked[i]
		if cursor.pos > d.pos || r.rev <= cursor.after {
			continue
		}
		if cursor.reader.Deliver(r.event) {
			cursor.pos = d.pos + 1
			continue
		}
		l.resume(cursor)
	}
	return i
}

// resume gives a parked cursor back to its reader.
func (l *Log[K, E]) resume(c *Cursor[K, E]) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.unparkLocked(c).Resume()
}

// resumeAll gives every parked cursor back, since the log is closed or no longer holds
// what is to be handed over next: each reader finds out what that means for it.
func (l *Log[K, E]) resumeAll() {
	d := &l.dispatcher
	d.mu.Lock()
	defer d.mu.Unlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	d.pos, d.taken = l.first, l.first
	l.all.resumeLocked(l)
	for _, c := range l.chains {
		c.resumeLocked(l)
	}
}

func (c *chain[K, E]) resumeLocked(l *Log[K, E]) {
	for n := len(c.parked); n > 0; n-- {
		l.unparkLocked(c.parked[n-1]).Resume()
	}
}
