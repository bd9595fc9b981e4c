// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package eventlog

import "sort"

// Cursor is one reader's position in a log. It belongs to one goroutine at a time, and
// while it is parked to none.
type Cursor[K comparable, E any] struct {
	log   *Log[K, E]
	chain *chain[K, E]
	key   *K // nil: all events
	// pos is the lowest position not yet considered: pos <= log.next. It is moved by
	// Next under the log's read lock and by the log itself under its write lock; while
	// the cursor is parked, under the dispatcher's lock only.
	pos uint64
	// after is the revision that the reader started from: events up to it, which a
	// reader that starts in the future will meet, are passed over.
	after uint64
	// reader is nil unless the cursor is parked: then chain.parked[slot] is the cursor,
	// which is not in log.cursors. Both are guarded by the dispatcher's lock.
	reader Parked[E]
	slot   int
}

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
	if l.closed {
		return Batch{}, ErrClosed
	}
	if c.trimmedLocked() {
		return Batch{}, ErrTrimmed
	}
	var b Batch
	seq, more := c.pendingLocked()
	for ; more && b.N < len(dst); seq, more = c.pendingLocked() {
		dst[b.N] = l.at(seq).event
		b.N++
		c.pos = seq + 1
	}
	if more {
		b.Complete = l.at(seq).rev - 1
	} else {
		b.Complete = l.head
		b.Drained = true
	}
	b.Complete = max(b.Complete, c.after)
	return b, nil
}

// Check tells, without reading, whether the next Next will fail, and how.
func (c *Cursor[K, E]) Check() error {
	c.log.mu.RLock()
	defer c.log.mu.RUnlock()
	if c.log.closed {
		return ErrClosed
	}
	if c.trimmedLocked() {
		return ErrTrimmed
	}
	return nil
}

// trimmedLocked tells whether an event is gone that this cursor had to read.
func (c *Cursor[K, E]) trimmedLocked() bool {
	return c.pos < c.chain.lost && c.chain.lostRev > c.after
}

// pendingLocked returns the position of the next event that this cursor has to read,
// if there is one, and moves on to it, or to the end.
func (c *Cursor[K, E]) pendingLocked() (uint64, bool) {
	l := c.log
	// What is gone was not for this cursor, or Next has told.
	c.pos = max(c.pos, l.first)
	for c.pos < l.next {
		seq := c.pos
		if c.key != nil {
			seqs := c.chain.seqs
			i := sort.Search(len(seqs), func(i int) bool { return seqs[i] >= c.pos })
			if i == len(seqs) {
				break
			}
			seq = seqs[i]
		}
		c.pos = seq
		if l.at(seq).rev > c.after {
			return seq, true
		}
		c.pos++
	}
	c.pos = l.next
	return 0, false
}

// Close ends the reader's claim on the log. The cursor must not be parked, nor be used
// again but by an Unpark that comes late.
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
