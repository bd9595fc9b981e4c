// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package eventlog

import (
	"fmt"
	"sort"
	"sync/atomic"
)

// Cursor is one reader's position in a log. It belongs to one goroutine at a time.
type Cursor[K comparable, E any] struct {
	log   *Log[K, E]
	chain *chain[K, E]
	key   *K // nil: all events
	// pos is the lowest position that the reader has not considered: pos <= Log.next. Only
	// its owner moves it, and only forward: the reader's goroutine in Next and Park, under
	// Log.mu; the dispatcher while the cursor is parked, under group.mu. Others look at it,
	// under Log.mu and while the cursor is in Log.cursors, with peekLocked.
	pos uint64
	// after is the revision that the reader started from: events up to it, which a
	// reader that starts in the future will meet, are passed over.
	after uint64
	// owner is what SetOwner was given.
	owner atomic.Pointer[any]
	// found are positions for the chain's index while FollowKey extends it, else nil.
	found []uint64

	// group is where the cursor is parked, nil if it is not: then group.members[slot] is
	// the cursor, which is not in Log.cursors. It is written under group.mu.
	group atomic.Pointer[group[K, E]]
	slot  int
	// reader is who takes events meanwhile. Guarded by group.mu.
	reader Reader[K, E]
	// last is the group that the cursor was parked in last. Guarded by dispatcher.mu.
	last *group[K, E]
}

func (l *Log[K, E]) followLocked(rev uint64, c *chain[K, E], key *K) (*Cursor[K, E], error) {
	if l.closed {
		return nil, ErrClosed
	}
	if rev < l.floor {
		return nil, &TooOldError{Asked: rev, Floor: l.floor}
	}
	n := int(l.next - l.first)
	pos := l.first + uint64(sort.Search(n, func(i int) bool { return l.slot(l.first+uint64(i)).rev > rev }))
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

// Batch is the outcome of one Next.
type Batch struct {
	// N is how many events were read.
	N int
	// Complete is the revision up to which the reader has now been given everything. It
	// may be below that of the last event read, if the next one has the same.
	Complete uint64
	// Drained says that nothing was left to read.
	Drained bool
}

// Next copies the next events into dst, in order, and moves on past them. To wait for
// more when nothing is left, Park. The error is ErrTrimmed or ErrClosed.
func (c *Cursor[K, E]) Next(dst []E) (Batch, error) {
	l := c.log
	l.mu.RLock()
	defer l.mu.RUnlock()
	if err := c.errLocked(); err != nil {
		return Batch{}, err
	}
	var b Batch
	seq, more := c.peekLocked()
	for ; more && b.N < len(dst); seq, more = c.peekLocked() {
		dst[b.N] = l.at(seq).event
		b.N++
		c.pos = seq + 1
	}
	if more {
		c.pos = seq
		b.Complete = l.at(seq).rev - 1
	} else {
		c.pos = l.next
		b.Complete = l.completeLocked()
		b.Drained = true
	}
	b.Complete = max(b.Complete, c.after)
	return b, nil
}

// Check tells, without reading, whether the next Next will fail, and how.
func (c *Cursor[K, E]) Check() error {
	c.log.mu.RLock()
	defer c.log.mu.RUnlock()
	return c.errLocked()
}

func (c *Cursor[K, E]) errLocked() error {
	switch {
	case c.log.closed:
		return ErrClosed
	case c.trimmedLocked():
		return ErrTrimmed
	default:
		return nil
	}
}

// trimmedLocked tells whether an event is gone that this cursor had to read.
func (c *Cursor[K, E]) trimmedLocked() bool {
	return c.pos < c.chain.lost && c.chain.lostRev > c.after
}

// peekLocked returns the lowest position that this cursor has to read, if there is one. It
// changes nothing. As long as the chain does not index from pos on, every position may be
// one. The cursor must not be trimmed: then what is gone is not for it.
func (c *Cursor[K, E]) peekLocked() (uint64, bool) {
	l := c.log
	if c.key == nil || c.pos < c.chain.from {
		for seq := max(c.pos, l.first); seq < l.next; seq++ {
			if l.slot(seq).rev > c.after {
				return seq, true
			}
		}
		return 0, false
	}
	seqs := c.chain.seqs
	for i := sort.Search(len(seqs), func(i int) bool { return seqs[i] >= c.pos }); i < len(seqs); i++ {
		if l.at(seqs[i]).rev > c.after {
			return seqs[i], true
		}
	}
	return 0, false
}

// Close ends the reader's claim on the log. The cursor must not be used again.
func (c *Cursor[K, E]) Close() {
	l := c.log
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, open := l.cursors[c]; !open {
		return
	}
	delete(l.cursors, c)
	if c.key == nil {
		return
	}
	if c.chain.refs--; c.chain.refs == 0 {
		delete(l.chains, *c.key)
	}
}
