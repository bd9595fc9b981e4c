// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package eventlog

import (
	"errors"
	"fmt"
	"sort"
	"sync"
	"time"
)

var (
	// ErrTrimmed means that the log no longer holds an event that the reader has not
	// seen. The reader has to start again from the current state.
	ErrTrimmed = errors.New("the event log has been trimmed past this position")
	// ErrClosed means that the log has ended: no event will follow.
	ErrClosed = errors.New("the event log is closed")
)

// Config bounds a log. Bounds are applied to the oldest events first.
type Config[K comparable, E any] struct {
	// MaxBytes returns the number of bytes that the log may hold, as told by the
	// sizes given to Append. It is asked under the log's lock, by whoever calls Append or Shrink.
	MaxBytes func() int64
	// Excess, if set, returns by how many bytes this log and others together hold more than they
	// may, as far as that is for this one to give up; 0 or less if they do not. It is asked under the log's lock.
	Excess func() int64
	// MaxEvents is the number of events that the log may hold.
	MaxEvents int
	// MinEvents are kept however old they are, as far as they are MinBytes or less; MinBytes 0 is no
	// bound. So many bytes are kept whatever Excess says, too.
	MinEvents int
	MinBytes  int64
	// Window is the age after which an event may go if no cursor still needs it.
	Window time.Duration
	// Now is the clock that ages events.
	Now func() time.Time
	// Keys calls yield for each key whose followers must see the event. A key may be
	// given more than once. It says the same of an event each time.
	Keys func(event E, yield func(K))
	// Trimmed, if set, is called under the log's lock with each event that leaves the
	// log and its size.
	Trimmed func(event E, size int64)
	// Handed, if set, is called when an event has been handed to all parked cursors and
	// n > 0 of them have taken it; not under the log's lock.
	Handed func(event E, n int)
	// Go, if set, runs a function in a goroutine: what Dispatch does, while cursors are parked. It is called under the log's lock.
	Go func(func())
}

// record is one event in the log.
type record[E any] struct {
	event E
	rev   uint64
	size  int64
	// before is the size of all events before this one, of all that there ever were.
	before int64
	at     time.Time
}

// Log is an append-only log of events ordered by revision. All its methods may be
// called by any goroutine; Append and Advance by one at a time.
//
// Locks are taken in this order: dispatcher.turn, dispatcher.mu, group.mu, Log.mu.
type Log[K comparable, E any] struct {
	cfg Config[K, E]

	mu sync.RWMutex
	// ring holds the events first <= seq < next, seq at ring[seq&(len(ring)-1)];
	// len(ring) is a power of two and next-first <= len(ring).
	ring        []record[E]
	first, next uint64
	// aged holds, by ascending seq < first, the events that are too old for the ring but
	// that a reader of one of their keys had yet to read when that was last looked at.
	aged []agedRecord[E]
	// agedAt is where in aged the next look begins, if they are many.
	agedAt int
	// bytes is the size of all events in ring and aged, appended that of all there ever were.
	bytes, appended int64
	// cut is how many events the bounds on bytes and number have dropped.
	cut uint64
	// floor is the revision of which everything later is still in the ring:
	// a reader that knows the state at floor or later can be served.
	floor uint64
	// head is the revision of the last event, or up to which Advance has said that there is
	// none; floor <= head. The log is complete up to head, or head-1 if part: then the last
	// event need not be the only one of its revision. Of events of the revision
	// advanced <= head, or below, readers have been told that they have them all.
	head, advanced uint64
	part           bool

	closed bool
	all    chain[K, E]
	chains map[K]*chain[K, E]
	// cursors are those that are not parked; parked is the number of those that are.
	cursors map[*Cursor[K, E]]struct{}
	parked  int
	// dispatching says that dispatchParked runs; while parked > 0 it does, if Config.Go is set.
	dispatching bool
	// checked is when events were last dropped for their age.
	checked time.Time

	// bell, with room for one, is rung when Dispatch has to look at the log again.
	bell       chan struct{}
	dispatcher dispatcher[K, E]
}

// agedRecord is an event that has left the ring.
type agedRecord[E any] struct {
	seq uint64
	record[E]
}

// New returns an empty log that is complete from revision rev on.
func New[K comparable, E any](rev uint64, cfg Config[K, E]) *Log[K, E] {
	return &Log[K, E]{
		cfg:      cfg,
		floor:    rev,
		head:     rev,
		advanced: rev,
		ring:     make([]record[E], 64),
		chains:   map[K]*chain[K, E]{},
		cursors:  map[*Cursor[K, E]]struct{}{},
		checked:  cfg.Now(),
		bell:     make(chan struct{}, 1),
	}
}

// slot returns where the ring has, or will have, the event at seq.
func (l *Log[K, E]) slot(seq uint64) *record[E] {
	return &l.ring[seq&uint64(len(l.ring)-1)]
}

// at returns the event at seq, which has to be in the ring or among the aged.
func (l *Log[K, E]) at(seq uint64) *record[E] {
	if seq >= l.first {
		return l.slot(seq)
	}
	i := sort.Search(len(l.aged), func(i int) bool { return l.aged[i].seq >= seq })
	return &l.aged[i].record
}

// Append adds an event with its revision and the number of bytes that the log keeps alive
// by holding it. It is an *OrderError if the revision is below that of the last event, or
// not above what Advance or New has said: the event would be sent to nobody, or twice. It is
// ErrClosed if the log is closed.
func (l *Log[K, E]) Append(rev uint64, size int64, event E) error {
	return l.append(rev, size, event, false)
}

// AppendPart is Append for an event that others of its revision may follow. Until a later one
// is added, or Advance has said that there is none, readers are told that they have all up to
// the revision before.
func (l *Log[K, E]) AppendPart(rev uint64, size int64, event E) error {
	return l.append(rev, size, event, true)
}

func (l *Log[K, E]) append(rev uint64, size int64, event E, part bool) error {
	now := l.cfg.Now()
	waits, err := l.add(record[E]{event: event, rev: rev, size: size, at: now}, part)
	for waits {
		// What has to go has not been handed to the parked cursors yet.
		l.dispatchNext()
		waits = l.shrink()
	}
	return err
}

// add appends an event, and tells whether the bounds wait for the dispatcher.
func (l *Log[K, E]) add(r record[E], part bool) (waits bool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return false, ErrClosed
	}
	if r.rev < l.head || r.rev <= l.advanced {
		return false, &OrderError{Revision: r.rev, Head: l.head}
	}
	if l.next-l.first == uint64(len(l.ring)) {
		l.resizeLocked(2 * len(l.ring))
	}
	seq := l.next
	r.before = l.appended
	*l.slot(seq) = r
	l.next++
	l.head, l.part = r.rev, part
	l.bytes += r.size
	l.appended += r.size
	l.eachChainLocked(r.event, func(c *chain[K, E]) { c.add(seq) })
	waits = l.shrinkLocked()
	l.expireLocked(r.at)
	l.wake()
	return waits, nil
}

// OrderError says that a revision went back.
type OrderError struct {
	// Revision is the one that was given, Head the one up to which the log is complete.
	Revision, Head uint64
}

func (e *OrderError) Error() string {
	return fmt.Sprintf("an event of revision %d came after revision %d", e.Revision, e.Head)
}

// wake has Dispatch look at the log. That is a hint: it is the position that counts.
func (l *Log[K, E]) wake() {
	select {
	case l.bell <- struct{}{}:
	default:
	}
}

// Advance says that nothing happened up to revision rev. What it says of the past is known
// already.
func (l *Log[K, E]) Advance(rev uint64) {
	now := l.cfg.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return
	}
	l.advanced = max(l.advanced, rev)
	l.part = l.part && rev < l.head
	l.head = max(l.head, rev)
	l.expireLocked(now)
}

// resizeLocked moves the events into a ring of n slots.
func (l *Log[K, E]) resizeLocked(n int) {
	ring := make([]record[E], n)
	for seq := l.first; seq < l.next; seq++ {
		ring[seq&uint64(n-1)] = *l.slot(seq)
	}
	l.ring = ring
}

// Close ends the log: its events are dropped and every reader gets ErrClosed.
func (l *Log[K, E]) Close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return
	}
	for l.dropOldestLocked() {
	}
	l.closed = true
	l.wake()
}

// Floor returns the earliest revision from which the log can be followed.
func (l *Log[K, E]) Floor() uint64 {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.floor
}

// Stats describes a log at one moment.
type Stats struct {
	// Events and Bytes are what it holds, Aged how many of the events are kept for readers
	// of their keys only.
	Events int
	Bytes  int64
	Aged   int
	// Cut is how many events have been dropped since New because the bounds on bytes and number did not allow more, and not
	// for their age.
	Cut uint64
	// Floor and Head are the revisions between which it is complete, but for what may
	// follow of Head after AppendPart.
	Floor, Head uint64
	// Oldest is when the oldest event of the ring came; the zero time if there is none.
	Oldest time.Time
	// Cursors is the number of readers, Parked how many of them are parked.
	Cursors, Parked int
}

// Stats returns what the log holds.
func (l *Log[K, E]) Stats() Stats {
	l.mu.RLock()
	defer l.mu.RUnlock()
	var oldest time.Time
	if l.first < l.next {
		oldest = l.slot(l.first).at
	}
	return Stats{
		Oldest: oldest,
		Events: l.eventsLocked(), Bytes: l.bytes, Aged: len(l.aged), Cut: l.cut,
		Floor: l.floor, Head: l.head,
		Cursors: len(l.cursors) + l.parked, Parked: l.parked,
	}
}

// completeLocked returns the revision up to which the log is complete.
func (l *Log[K, E]) completeLocked() uint64 {
	if l.part {
		return l.head - 1
	}
	return l.head
}

func (l *Log[K, E]) eventsLocked() int { return len(l.aged) + int(l.next-l.first) }
