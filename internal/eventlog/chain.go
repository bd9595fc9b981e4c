// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package eventlog

import "sort"

// chain is the positions of one key's events, or (Log.all) of all of them, and the
// parked cursors that are to get the next. All but groups is guarded by Log.mu.
type chain[K comparable, E any] struct {
	// seqs are the positions, ascending, of the key's events in from <= seq < Log.next that
	// are in the ring, and of those among the aged that a reader of this chain has to read.
	// They are not kept for Log.all, where every position in the ring counts.
	seqs []uint64
	// from is where this index begins: earlier events of the key may be in the log too.
	from uint64
	// lost is one past the last position of this key that is not in seqs any more, and lostRev
	// that event's revision. Revisions ascend, so a reader at pos < lost has lost an
	// event exactly if it wants this one.
	lost, lostRev uint64
	// refs is the number of cursors on the chain, parked or not. Not kept for Log.all.
	refs int
	// groups are the chain's parked cursors. Guarded by dispatcher.mu.
	groups []*group[K, E]
}

// add notes that the event at seq, the log's last, is one of the chain's.
func (c *chain[K, E]) add(seq uint64) {
	if n := len(c.seqs); n == 0 || c.seqs[n-1] != seq {
		c.seqs = append(c.seqs, seq)
	}
}

// lose notes that the chain's event at seq is gone, or that none of its readers has to read
// it or what was before.
func (c *chain[K, E]) lose(seq, rev uint64) {
	for len(c.seqs) > 0 && c.seqs[0] <= seq {
		c.seqs = c.seqs[1:]
	}
	if len(c.seqs) == 0 {
		c.seqs = nil // the array may be that of a burst
	}
	if seq >= c.lost {
		c.lost, c.lostRev = seq+1, rev
	}
}

// eachChainLocked calls yield for the chains of the event's keys that are followed, perhaps
// more than once for each.
func (l *Log[K, E]) eachChainLocked(event E, yield func(*chain[K, E])) {
	if len(l.chains) == 0 {
		return
	}
	l.cfg.Keys(event, func(key K) {
		if c := l.chains[key]; c != nil {
			yield(c)
		}
	})
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
	cursor, from, err := l.register(rev, key)
	if err != nil {
		return nil, err
	}
	for seq, more := from, true; more; {
		seq, more = l.extend(cursor, seq)
	}
	return cursor, nil
}

// register puts a cursor on the key's chain, which indexes what is appended from then on.
// It returns the position from which the chain has to index for the cursor to be used. Until
// it does, nothing from there on leaves the ring for its age.
func (l *Log[K, E]) register(rev uint64, key K) (cursor *Cursor[K, E], from uint64, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := l.chains[key]
	if c == nil {
		c = &chain[K, E]{from: l.next}
	}
	cursor, err = l.followLocked(rev, c, &key)
	if err != nil {
		return nil, 0, err
	}
	l.chains[key] = c
	c.refs++
	return cursor, cursor.pos, nil
}

// extendStep is how many events are looked at under one read lock.
const extendStep = 1024

// extend looks at the events from position seq on for those of the cursor's chain, as far
// back as its index does not reach, and puts them into it in the end. It returns where to go
// on, and whether that is needed. It reads the log beside everybody else: thousands that come
// back at once, each from some time ago, must not keep events from being appended. Who drops
// an event meanwhile, since the log is full, tells the chain.
func (l *Log[K, E]) extend(cursor *Cursor[K, E], seq uint64) (next uint64, more bool) {
	if next, more = l.scan(cursor, seq); more {
		return next, true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	c, found := cursor.chain, cursor.found
	cursor.found = nil
	if cursor.pos >= c.from {
		return next, false
	}
	// Another reader may have extended the index in the meantime, and events may be gone.
	lo := sort.Search(len(found), func(i int) bool { return found[i] >= l.first })
	hi := sort.Search(len(found), func(i int) bool { return found[i] >= c.from })
	if lo < hi {
		c.seqs = append(found[lo:hi:hi], c.seqs...)
	}
	c.from = cursor.pos
	return next, false
}

// scan adds to cursor.found the positions of the chain's events among some from seq on.
func (l *Log[K, E]) scan(cursor *Cursor[K, E], seq uint64) (next uint64, more bool) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	seq = max(seq, l.first)
	yield := func(key K) {
		if n := len(cursor.found); key == *cursor.key && (n == 0 || cursor.found[n-1] != seq) {
			cursor.found = append(cursor.found, seq)
		}
	}
	for end := min(cursor.chain.from, seq+extendStep); seq < end; seq++ {
		l.cfg.Keys(l.slot(seq).event, yield)
	}
	return seq, seq < cursor.chain.from
}
