// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package eventlog

import (
	"slices"
	"sync"
)

// Reader is what a reader leaves behind that has read everything: who takes the next
// event. Both methods are called under locks of the log, by whoever hands an event over:
// they must not block, nor use the log. What an event costs Deliver is paid by all who wait
// for the same event, so who has much to do with it takes it as a Cursor: false, and Next.
type Reader[K comparable, E any] interface {
	// Deliver takes an event. False means that it cannot be taken now.
	Deliver(event E) bool
	// Resume gives the cursor back: Next returns the event that was not taken, or says why
	// the log cannot be followed.
	Resume(*Cursor[K, E])
}

// Parked is a cursor that is left to Dispatch. It can be unparked, and nothing else.
type Parked[K comparable, E any] Cursor[K, E]

// groupSize is how many cursors are handed an event under one lock, by one processor: who
// wants to park or unpark does not wait for thousands.
const groupSize = 256

// group is up to groupSize parked cursors of a chain. A cursor stays in its group, though
// not in its slot, for as long as it is parked.
type group[K comparable, E any] struct {
	mu sync.Mutex
	// members[i].slot == i and members[i].group is this one. Guarded by mu, as are the pos,
	// slot and reader of each, and the chain.groups that has this group if it is not gone.
	members []*Cursor[K, E]
	// gone says that the group has left its chain, without members.
	gone bool
}

// Park leaves the cursor to Dispatch, which hands each further event to the reader. The
// cursor must not be used again, until it is given back by Resume or Unpark. Park returns
// false, and the cursor stays the caller's, if there is something to tell that Dispatch will
// not: then Next does.
func (c *Cursor[K, E]) Park(reader Reader[K, E]) (*Parked[K, E], bool) {
	l := c.log
	d := &l.dispatcher
	d.mu.Lock()
	defer d.mu.Unlock()
	g := c.roomLocked()
	defer g.mu.Unlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	if c.errLocked() != nil {
		return nil, false
	}
	pos, more := c.peekLocked()
	if !more {
		pos = l.next
	}
	if l.parked == 0 {
		l.catchUpLocked(pos)
	}
	if pos < d.taken {
		return nil, false
	}
	c.pos = pos
	delete(l.cursors, c)
	l.parked++
	c.reader, c.slot = reader, len(g.members)
	c.last = g
	g.members = append(g.members, c)
	c.group.Store(g)
	if l.cfg.Go != nil && !l.dispatching {
		l.dispatching = true
		l.cfg.Go(l.dispatchParked)
	}
	return (*Parked[K, E])(c), true
}

// catchUpLocked has the dispatcher begin where the log does, or at pos, for one that parks there: while nobody is parked, what it
// has not handed over may leave the log, and nobody waits for it. It needs dispatcher.mu.
func (l *Log[K, E]) catchUpLocked(pos uint64) {
	d := &l.dispatcher
	if begin := max(l.first, pos); d.taken < begin {
		if d.handed == d.taken {
			d.handed = begin
		}
		d.taken = begin
	}
}

// roomLocked returns a group of the cursor's chain that has room, locked: the one that it
// was in last, so that who comes and goes leaves no hole behind, or the chain's last.
func (c *Cursor[K, E]) roomLocked() *group[K, E] {
	groups := c.chain.groups
	candidates := [2]*group[K, E]{c.last}
	if len(groups) > 0 {
		candidates[1] = groups[len(groups)-1]
	}
	for _, g := range candidates {
		if g == nil {
			continue
		}
		g.mu.Lock()
		if !g.gone && len(g.members) < groupSize {
			return g
		}
		g.mu.Unlock()
	}
	g := &group[K, E]{}
	g.mu.Lock()
	c.chain.groups = append(slices.DeleteFunc(groups, func(g *group[K, E]) bool { return g.vacate() == 0 }), g)
	return g
}

// Unpark takes a parked cursor back: Next goes on after the last event that its reader
// has taken. It returns false if the cursor is not parked any more: it has been resumed, or
// somebody else has taken it. So of all who race for it one goes on. If it has been parked
// again since, it is that which ends.
func (p *Parked[K, E]) Unpark() (*Cursor[K, E], bool) {
	c := (*Cursor[K, E])(p)
	for {
		g := c.group.Load()
		if g == nil {
			return nil, false
		}
		if c.log.leave(g, c) {
			return c, true
		}
	}
}

// leave takes a cursor out of the group g. It returns false if it is not there.
func (l *Log[K, E]) leave(g *group[K, E], c *Cursor[K, E]) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if c.group.Load() != g {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	g.removeLocked(l, c)
	return true
}

// removeLocked takes a cursor out of the group, with the group's lock and the log's held,
// and returns its reader.
func (g *group[K, E]) removeLocked(l *Log[K, E], c *Cursor[K, E]) Reader[K, E] {
	last := len(g.members) - 1
	g.members[c.slot] = g.members[last]
	g.members[c.slot].slot = c.slot
	g.members[last] = nil
	g.members = g.members[:last]
	if l.parked--; l.parked == 0 {
		l.wake() // dispatchParked ends
	}
	l.cursors[c] = struct{}{}
	reader := c.reader
	c.reader = nil
	c.group.Store(nil)
	return reader
}

// hand gives the event at seq to the members that have to get it, and resumes those that do
// not take it. It returns how many have taken it. A member that has been parked since the
// dispatcher took the event has pos > seq.
func (g *group[K, E]) hand(l *Log[K, E], seq uint64, r *record[E]) (taken int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	var refused []*Cursor[K, E]
	for _, c := range g.members {
		if c.pos > seq || r.rev <= c.after {
			continue
		}
		if !c.reader.Deliver(r.event) {
			refused = append(refused, c)
			continue
		}
		c.pos = seq + 1
		taken++
	}
	g.resumeLocked(l, refused)
	return taken
}

// resumeLocked gives members back to their readers.
func (g *group[K, E]) resumeLocked(l *Log[K, E], members []*Cursor[K, E]) {
	if len(members) == 0 {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range members {
		g.removeLocked(l, c).Resume(c)
	}
}

// resumeAll gives all members back.
func (g *group[K, E]) resumeAll(l *Log[K, E]) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.resumeLocked(l, slices.Clone(g.members)) // who is resumed leaves it
}

// vacate returns how many members the group has. If it has none it is gone: the caller has
// to take it out of its chain, and needs dispatcher.mu for both.
func (g *group[K, E]) vacate() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.gone = len(g.members) == 0
	return len(g.members)
}
