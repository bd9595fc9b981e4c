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
	// sizes given to Append. It is asked by Append and Advance, under the log's lock.
	MaxBytes func() int64
	// MaxEvents is the number of events that the log may hold.
	MaxEvents int
	// MinEvents are kept however old they are.
	MinEvents int
	// Window is the age after which an event may go if no cursor still needs it.
	Window time.Duration
	// Now is the clock that ages events.
	Now func() time.Time
	// Keys calls yield for each key whose followers must see the event. A key may be
	// given more than once.
	Keys func(event E, yield func(K))
	// Trimmed, if set, is called under the log's lock with each event that leaves the
	// log and its size.
	Trimmed func(event E, size int64)
}

// record is one event in the log.
type record[E any] struct {
	event E
	rev   uint64
	size  int64
	at    time.Time
}

// Log is an append-only log of events ordered by revision. All its methods may be
// called by any goroutine; Append and Advance by one at a time.
type Log[K comparable, E any] struct {
	cfg Config[K, E]

	mu sync.RWMutex
	// ring holds the events first <= seq < next, seq at ring[seq&(len(ring)-1)];
	// len(ring) is a power of two and next-first <= len(ring).
	ring        []record[E]
	first, next uint64
	bytes       int64
	// floor is the revision of which everything later is still in the log:
	// a reader that knows the state at floor or later can be served.
	floor uint64
	// head is the revision up to which the log is complete; floor <= head.
	head   uint64
	closed bool
	all    chain[K, E]
	chains map[K]*chain[K, E]
	// cursors are those that are not parked; parked is the number of those that are.
	cursors map[*Cursor[K, E]]struct{}
	parked  int
	// checked is when events were last dropped for their age.
	checked time.Time

	// bell, with room for one, is rung when Dispatch has to look at the log again.
	bell       chan struct{}
	dispatcher dispatcher[K, E]
}

// chain is the positions of one key's events, or (Log.all) of all of them, and the
// parked cursors that are to get the next.
type chain[K comparable, E any] struct {
	// seqs are the positions of the key's events in from <= seq < Log.next, ascending.
	// They are not kept for Log.all, where every position counts.
	seqs []uint64
	// from is where this index begins: earlier events of the key may be in the log too.
	from uint64
	// lost is one past the last position of this key that has been trimmed, and lostRev
	// that event's revision. Revisions ascend, so a reader at pos < lost has lost an
	// event exactly if it wants this one.
	lost, lostRev uint64
	// refs is the number of cursors on the chain, parked or not. Not kept for Log.all.
	refs int
	// parked[i].slot == i. It is guarded by the dispatcher's lock.
	parked []*Cursor[K, E]
}

// New returns an empty log that is complete from revision rev on.
func New[K comparable, E any](rev uint64, cfg Config[K, E]) *Log[K, E] {
	return &Log[K, E]{
		cfg:     cfg,
		floor:   rev,
		head:    rev,
		ring:    make([]record[E], 64),
		chains:  map[K]*chain[K, E]{},
		cursors: map[*Cursor[K, E]]struct{}{},
		checked: cfg.Now(),
		bell:    make(chan struct{}, 1),
	}
}

func (l *Log[K, E]) at(seq uint64) *record[E] {
	return &l.ring[seq&uint64(len(l.ring)-1)]
}

// Append adds an event with its revision, which must not be below the previous
// one's, and the number of bytes that the log keeps alive by holding it. A closed log
// takes none.
func (l *Log[K, E]) Append(rev uint64, size int64, event E) {
	now := l.cfg.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return
	}
	if rev < l.head {
		// A revision that goes back would be sent to nobody or twice; the source orders them.
		rev = l.head
	}
	if l.next-l.first == uint64(len(l.ring)) {
		l.resizeLocked(2 * len(l.ring))
	}
	*l.at(l.next) = record[E]{event: event, rev: rev, size: size, at: now}
	seq := l.next
	l.next++
	l.head = rev
	l.bytes += size
	if len(l.chains) > 0 {
		l.cfg.Keys(event, func(key K) {
			c := l.chains[key]
			if c == nil || (len(c.seqs) > 0 && c.seqs[len(c.seqs)-1] == seq) {
				return
			}
			c.seqs = append(c.seqs, seq)
		})
	}
	l.trimLocked(now)
	l.wake()
}

// wake has Dispatch look at the log. That is a hint: it is the position that counts.
func (l *Log[K, E]) wake() {
	select {
	case l.bell <- struct{}{}:
	default:
	}
}

// Advance says that nothing happened up to revision rev. Events that have become too
// old go, so that a resource at rest does not keep them.
func (l *Log[K, E]) Advance(rev uint64) {
	now := l.cfg.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return
	}
	l.head = max(l.head, rev)
	l.trimLocked(now)
}

// resizeLocked moves the events into a ring of n slots.
func (l *Log[K, E]) resizeLocked(n int) {
	ring := make([]record[E], n)
	for seq := l.first; seq < l.next; seq++ {
		ring[seq&uint64(n-1)] = *l.at(seq)
	}
	l.ring = ring
}

// trimLocked drops the oldest events until the bounds hold. That may be the one just
// appended, if it alone is larger than the log may be.
func (l *Log[K, E]) trimLocked(now time.Time) {
	maxBytes := l.cfg.MaxBytes()
	for l.first < l.next && (l.bytes > maxBytes || l.next-l.first > uint64(l.cfg.MaxEvents)) {
		l.dropFirstLocked()
	}
	// Looking at every cursor is too much to do at every event, and a second more or
	// less of history is nothing.
	if now.Sub(l.checked) < time.Second {
		return
	}
	l.checked = now
	needed, known := uint64(0), false
	for l.next-l.first > uint64(l.cfg.MinEvents) && now.Sub(l.at(l.first).at) > l.cfg.Window {
		if !known {
			needed, known = l.neededLocked(), true
		}
		if l.first >= needed {
			return
		}
		l.dropFirstLocked()
	}
}

// neededLocked returns the lowest position that a cursor still has to read, or to be
// given.
func (l *Log[K, E]) neededLocked() uint64 {
	needed := l.next
	if l.parked > 0 {
		needed = l.dispatcher.pos
	}
	for c := range l.cursors {
		if c.trimmedLocked() {
			continue // its next read is an error, whatever is kept
		}
		if seq, ok := c.pendingLocked(); ok {
			needed = min(needed, seq)
		}
	}
	return needed
}

func (l *Log[K, E]) dropFirstLocked() {
	r := l.at(l.first)
	if len(l.chains) > 0 {
		l.cfg.Keys(r.event, func(key K) {
			c := l.chains[key]
			if c == nil {
				return
			}
			if len(c.seqs) > 0 && c.seqs[0] == l.first {
				c.seqs = c.seqs[1:]
			}
			c.lost, c.lostRev = l.first+1, r.rev
		})
	}
	l.bytes -= r.size
	l.floor = r.rev
	if l.cfg.Trimmed != nil {
		l.cfg.Trimmed(r.event, r.size)
	}
	*r = record[E]{}
	l.first++
	l.all.lost, l.all.lostRev = l.first, l.floor
	if n := len(l.ring); n > 64 && l.next-l.first <= uint64(n/4) {
		l.resizeLocked(n / 2)
	}
}

// TrimTo drops every event up to and including revision rev, whoever still wants
// them.
func (l *Log[K, E]) TrimTo(rev uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.first < l.next && l.at(l.first).rev <= rev {
		l.dropFirstLocked()
	}
	l.floor = min(max(l.floor, rev), l.head)
}

// Close ends the log: its events are dropped and every reader gets ErrClosed.
func (l *Log[K, E]) Close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return
	}
	for l.first < l.next {
		l.dropFirstLocked()
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
	// Events and Bytes are what it holds.
	Events int
	Bytes  int64
	// Floor and Head are the revisions between which it is complete.
	Floor, Head uint64
	// Cursors is the number of readers, Parked how many of them are parked.
	Cursors, Parked int
}

// Stats returns what the log holds.
func (l *Log[K, E]) Stats() Stats {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return Stats{
		Events: int(l.next - l.first), Bytes: l.bytes,
		Floor: l.floor, Head: l.head,
		Cursors: len(l.cursors) + l.parked, Parked: l.parked,
	}
}

// Follow returns a cursor on all events later than revision rev. If the log no
// longer holds all of them it returns a *TooOldError, which is an ErrTrimmed. The
// cursor must be closed.
func (l *Log[K, E]) Follow(rev uint64) (*Cursor[K, E], error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.followLocked(rev, &l.all, nil)
}

// FollowKey is Follow for the events of one key.
func (l *Log[K, E]) FollowKey(rev uint64, key K) (*Cursor[K, E], error) {
	cursor, c, err := l.followChain(rev, key)
	if err != nil {
		return nil, err
	}
	l.extend(c, key, cursor.pos)
	return cursor, nil
}

// followChain registers a cursor on the key's chain, which indexes what is appended
// from then on.
func (l *Log[K, E]) followChain(rev uint64, key K) (*Cursor[K, E], *chain[K, E], error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := l.chains[key]
	if c == nil {
		c = &chain[K, E]{from: l.next}
	}
	cursor, err := l.followLocked(rev, c, &key)
	if err != nil {
		return nil, nil, err
	}
	l.chains[key] = c
	c.refs++
	return cursor, c, nil
}

// extendStep is how many events are looked at under one read lock.
const extendStep = 1024

// extend makes the chain's index reach back to position pos. It reads the log beside
// everybody else: thousands that come back at once, each from some time ago, must not
// keep events from being appended. An event that is trimmed meanwhile is noted in the
// chain by whoever trims it, since the chain is known to the log.
func (l *Log[K, E]) extend(c *chain[K, E], key K, pos uint64) {
	var earlier []uint64
	for seq, more := pos, true; more; {
		func() {
			l.mu.RLock()
			defer l.mu.RUnlock()
			seq = max(seq, l.first)
			yield := func(k K) {
				if k == key && (len(earlier) == 0 || earlier[len(earlier)-1] != seq) {
					earlier = append(earlier, seq)
				}
			}
			for end := min(c.from, seq+extendStep); seq < end; seq++ {
				l.cfg.Keys(l.at(seq).event, yield)
			}
			more = seq < c.from
		}()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if pos >= c.from {
		return
	}
	// Another follower may have extended the index in the meantime, and events may be gone.
	lo := sort.Search(len(earlier), func(i int) bool { return earlier[i] >= l.first })
	hi := sort.Search(len(earlier), func(i int) bool { return earlier[i] >= c.from })
	if lo < hi {
		c.seqs = append(earlier[lo:hi:hi], c.seqs...)
	}
	c.from = pos
}

func (l *Log[K, E]) followLocked(rev uint64, c *chain[K, E], key *K) (*Cursor[K, E], error) {
	if l.closed {
		return nil, ErrClosed
	}
	if rev < l.floor {
		return nil, &TooOldError{Asked: rev, Floor: l.floor}
	}
	n := int(l.next - l.first)
	pos := l.first + uint64(sort.Search(n, func(i int) bool { return l.at(l.first+uint64(i)).rev > rev }))
	cursor := &Cursor[K, E]{log: l, chain: c, key: key, pos: pos, after: rev}
	l.cursors[cursor] = struct{}{}
	return cursor, nil
}

// TooOldError is the answer to a reader that starts before what the log holds.
type TooOldError struct {
	// Asked is the revision that was asked for, Floor the earliest that can be served.
	Asked, Floor uint64
}

func (e *TooOldError) Error() string {
	return fmt.Sprintf("too old resource version: %d (%d)", e.Asked, e.Floor)
}

// Unwrap makes the error an ErrTrimmed.
func (e *TooOldError) Unwrap() error { return ErrTrimmed }
