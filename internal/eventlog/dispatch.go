// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package eventlog

import (
	"maps"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
)

// dispatcher hands new events to the parked cursors, one event after the other.
type dispatcher[K comparable, E any] struct {
	// turn is held while an event is handed over: by Dispatch, or by an Append for which
	// there is no room without.
	turn sync.Mutex
	// mu guards the groups of all chains: who parks takes it, and who looks for the groups
	// that are to get an event.
	mu sync.Mutex
	// handed <= taken <= Log.next. What is below handed has been handed to every parked
	// cursor, and handed < taken while the event at handed is being handed over. A cursor that
	// is being parked has considered all below taken, so that nobody is given an event twice
	// or none. While a cursor is parked, Log.first <= handed. Both are written with mu held
	// and Log.mu, which may be read-locked: mu, or Log.mu locked for writing, is enough to
	// read them.
	handed, taken uint64
	// chains and groups are those that are to get the event that is being handed over, members
	// how many cursors were in them. They belong to whoever has the turn.
	chains  []*chain[K, E]
	groups  []*group[K, E]
	members int
}

// Dispatch hands events to the parked cursors until the log is closed. It is to be run
// by one goroutine, without which nobody may park, unless Config.Go is set: then it must not be run.
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

// dispatchParked is Dispatch that ends when nobody is parked. Park begins it.
func (l *Log[K, E]) dispatchParked() {
	for {
		switch more, open := l.dispatchNext(); {
		case !open:
			return
		case more:
		case l.leaveDispatch():
			return
		default:
			<-l.bell
		}
	}
}

// leaveDispatch tells whether nobody is parked; then whoever parks next has to begin dispatchParked.
func (l *Log[K, E]) leaveDispatch() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dispatching = l.parked > 0 || l.closed
	return !l.dispatching
}

// dispatchNext hands over one event, or gives all cursors back if the log is closed. It
// returns whether there may be more, and whether the log is still open.
func (l *Log[K, E]) dispatchNext() (more, open bool) {
	d := &l.dispatcher
	d.turn.Lock()
	defer d.turn.Unlock()
	r, seq, more, open := l.take()
	switch {
	case !open:
		for _, g := range d.groups {
			g.resumeAll(l)
		}
	case more:
		n := l.handOver(seq, &r)
		l.handedOver()
		if n > 0 && l.cfg.Handed != nil {
			l.cfg.Handed(r.event, n)
		}
	}
	clear(d.groups)
	return more, open
}

// handedOver notes that all who had to get the event at dispatcher.handed have been asked.
func (l *Log[K, E]) handedOver() {
	d := &l.dispatcher
	d.mu.Lock()
	defer d.mu.Unlock()
	l.mu.RLock()
	defer l.mu.RUnlock()
	d.handed = d.taken
}

// take returns the next event to hand over, if there is one, and notes who is to get
// it: all, if the log is closed.
func (l *Log[K, E]) take() (r record[E], seq uint64, more, open bool) {
	d := &l.dispatcher
	d.mu.Lock()
	defer d.mu.Unlock()
	r, seq, more, open = l.takeEvent()
	d.groups, d.members = d.groups[:0], 0
	for _, c := range d.chains {
		d.address(c)
	}
	clear(d.chains)
	return r, seq, more, open
}

// takeEvent is take without the groups, whose locks come before the log's. It needs
// dispatcher.mu.
func (l *Log[K, E]) takeEvent() (r record[E], seq uint64, more, open bool) {
	d := &l.dispatcher
	l.mu.RLock()
	defer l.mu.RUnlock()
	d.chains = d.chains[:0]
	if l.closed {
		d.chains = slices.AppendSeq(append(d.chains, &l.all), maps.Values(l.chains))
		return r, 0, false, false
	}
	if l.parked == 0 {
		d.handed, d.taken = l.next, l.next // nobody is there to be given what has come
	}
	if d.taken == l.next {
		return r, 0, false, true
	}
	seq = d.taken
	d.taken++
	r = *l.slot(seq) // shrinkLocked leaves what has to be handed over, and so does age
	d.chains = append(d.chains, &l.all)
	l.eachChainLocked(r.event, func(c *chain[K, E]) {
		if !slices.Contains(d.chains, c) { // a key may be given twice
			d.chains = append(d.chains, c)
		}
	})
	return r, seq, true, true
}

// address adds the chain's groups to those that are to get the event. The chain lets go of
// groups without members.
func (d *dispatcher[K, E]) address(c *chain[K, E]) {
	c.groups = slices.DeleteFunc(c.groups, func(g *group[K, E]) bool {
		n := g.vacate()
		d.members += n
		return n == 0
	})
	d.groups = append(d.groups, c.groups...)
}

// share is how many cursors it takes for another processor to be worth waking.
const share = 2 * groupSize

// handOver hands the event at seq to dispatcher.groups, where there are many cursors by
// several processors, and returns how many have taken it. A cursor is in one group, so that
// the order in which groups are served does not matter.
func (l *Log[K, E]) handOver(seq uint64, r *record[E]) int {
	groups := l.dispatcher.groups
	var next, taken atomic.Int64
	serve := func() {
		for i := next.Add(1) - 1; i < int64(len(groups)); i = next.Add(1) - 1 {
			taken.Add(int64(groups[i].hand(l, seq, r)))
		}
	}
	var others sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), l.dispatcher.members/share) - 1 {
		others.Go(serve)
	}
	serve()
	others.Wait()
	return int(taken.Load())
}
