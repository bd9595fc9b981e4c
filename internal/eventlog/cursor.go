// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package eventlog

import "sort"

// Cursor is one reader's position in a log. It belongs to one goroutine.
type Cursor[K comparable, E any] struct {
	log   *Log[K, E]
	chain *chain
	key   *K // nil: all events
	// pos is the lowest position not yet considered. log.first <= pos <= log.next, or
	// the next Next tells ErrTrimmed if an event of this cursor's was among those lost.
	// It is written under the log's read lock and read by others under the write lock.
	pos uint64
	// after is the revision that the reader started from: events up to it, which a
	// reader that starts in the future will meet, are passed over.
	after uint64
}

// Batch is the outcome of one Next.
type Batch struct {
	// N is how many events were read.
	N int
	// Complete is the revision up to which the reader has now been given everything.
	Complete uint64
	// Wake is set when there was nothing (more) to read: it is closed when there may be.
	Wake <-chan struct{}
}

// Next copies the next events into dst, in order, and moves on past them. When
// nothing is left after that, Batch.Wake is set; it was taken before the log was
// seen to be drained, so that no event can come unnoticed in between. The error is
// ErrTrimmed or ErrClosed.
func (c *Cursor[K, E]) Next(dst []E) (Batch, error) {
	l := c.log
	l.mu.RLock()
	defer l.mu.RUnlock()
	if l.closed {
		return Batch{}, ErrClosed
	}
	if c.pos < c.chain.lost {
		return Batch{}, ErrTrimmed
	}
	var b Batch
	for b.N < len(dst) {
		seq, ok := c.nextLocked()
		if !ok {
			// Nothing of this cursor's is left before the end.
			c.pos = l.next
			break
		}
		r := l.at(seq)
		c.pos = seq + 1
		b.Complete = r.rev
		if r.rev > c.after {
			dst[b.N] = r.event
			b.N++
		}
	}
	if _, more := c.nextLocked(); !more {
		c.pos = l.next
		b.Complete = l.head
		b.Wake = c.chain.wake
		c.chain.waited.Store(true)
	}
	b.Complete = max(b.Complete, c.after)
	return b, nil
}

// nextLocked returns the position of the next event at or after pos.
func (c *Cursor[K, E]) nextLocked() (uint64, bool) {
	if c.key == nil {
		return c.pos, c.pos < c.log.next
	}
	seqs := c.chain.seqs
	if n := len(seqs); n == 0 || seqs[n-1] < c.pos {
		return 0, false
	}
	i := sort.Search(len(seqs), func(i int) bool { return seqs[i] >= c.pos })
	return seqs[i], true
}

// pendingLocked returns the position of the oldest event that this cursor still has
// to read, or the log's end.
func (c *Cursor[K, E]) pendingLocked() uint64 {
	if seq, ok := c.nextLocked(); ok {
		return seq
	}
	return c.log.next
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
