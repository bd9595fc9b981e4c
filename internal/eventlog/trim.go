// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package eventlog

import (
	"slices"
	"time"
)

// expirePeriod is how often the log looks for events that are too old. Looking at every
// cursor is too much to do at every event, and a second more or less of history is nothing.
const expirePeriod = time.Second

// Shrink drops what the bounds do not allow any more, where MaxBytes or Excess have changed and nothing is
// appended. What parked cursors have yet to be handed is handed to them before.
func (l *Log[K, E]) Shrink() {
	for l.shrink() {
		l.dispatchNext()
	}
}

// shrink drops the oldest events until the bounds on bytes and number hold. It returns true
// if more than half of what they allow has yet to be handed to parked cursors, or an event
// that has to go: the other half is for those to read that have not taken theirs.
func (l *Log[K, E]) shrink() (waits bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.shrinkLocked()
}

// shrinkLocked may drop the event just appended, if it alone is larger than the log may be.
func (l *Log[K, E]) shrinkLocked() (waits bool) {
	if l.closed {
		return false
	}
	maxBytes, handed := l.maxBytesLocked(), l.dispatcher.handed
	if l.parked > 0 && handed < l.next &&
		(l.next-handed > uint64(l.cfg.MaxEvents/2) || l.appended-l.slot(handed).before > maxBytes/2) {
		return true
	}
	for l.bytes > maxBytes || l.eventsLocked() > l.cfg.MaxEvents {
		if len(l.aged) == 0 && l.parked > 0 && l.first < l.next && l.first >= handed {
			return true
		}
		if !l.dropOldestLocked() {
			return false
		}
		l.cut++
	}
	return false
}

// maxBytesLocked returns how many bytes the log may hold now.
func (l *Log[K, E]) maxBytesLocked() int64 {
	n := l.cfg.MaxBytes()
	if l.cfg.Excess != nil {
		n = min(n, max(l.bytes-l.cfg.Excess(), l.cfg.MinBytes))
	}
	return n
}

// Expire lets go of events that are too old, for a log to which nothing is appended. It
// returns in what time there will be more to let go, or 0 if only an Append can say.
func (l *Log[K, E]) Expire() time.Duration {
	now := l.cfg.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.checked = now.Add(-expirePeriod)
	l.expireLocked(now)
	switch {
	case l.closed:
		return 0
	case len(l.aged) > 0 || l.ripeLocked(now):
		return expirePeriod // a reader holds it
	case l.surplusLocked():
		return l.slot(l.first).at.Add(l.cfg.Window).Sub(now) + expirePeriod
	default:
		return 0
	}
}

// ripeLocked tells whether the first event of the ring is too old.
func (l *Log[K, E]) ripeLocked(now time.Time) bool {
	return l.surplusLocked() && now.Sub(l.slot(l.first).at) > l.cfg.Window
}

// surplusLocked tells whether the ring has more than what is kept however old it is.
func (l *Log[K, E]) surplusLocked() bool {
	if l.first == l.next {
		return false
	}
	return l.next-l.first > uint64(l.cfg.MinEvents) ||
		l.cfg.MinBytes > 0 && l.appended-l.slot(l.first).before > l.cfg.MinBytes
}

func (l *Log[K, E]) expireLocked(now time.Time) {
	if now.Sub(l.checked) < expirePeriod {
		return
	}
	l.checked = now
	if len(l.aged) == 0 && !l.ripeLocked(now) {
		return
	}
	n := l.needsLocked()
	for l.ripeLocked(now) && l.first < n.ring {
		l.ageFirstLocked(n)
	}
	l.reviewAgedLocked(n)
}

// agedStep is how many of the aged are looked at in a second.
const agedStep = 4096

// reviewAgedLocked drops those of the aged that nobody has to read any more: of some, if they
// are many.
func (l *Log[K, E]) reviewAgedLocked(n needs[K, E]) {
	from := l.agedAt
	if len(l.aged) <= agedStep || from >= len(l.aged) {
		from = 0
	}
	to := min(len(l.aged), from+agedStep)
	kept := from
	for _, r := range l.aged[from:to] {
		if l.wantedLocked(n, r.seq, r.event) {
			l.aged[kept] = r
			kept++
		} else {
			l.dropLocked(r.seq, &r.record)
		}
	}
	l.aged = slices.Delete(l.aged, kept, to)
	l.agedAt = kept
	if len(l.aged) == 0 {
		l.aged = nil
	}
}

// needs is what readers have yet to read.
type needs[K comparable, E any] struct {
	// ring is the lowest position in the ring that has to stay there: that a reader of all
	// events, or one whose chain does not reach back to it yet, has to read, or that has
	// to be handed to parked cursors.
	ring uint64
	// chains has, for each chain with a reader that is not parked and has something to
	// read, the lowest such position.
	chains map[*chain[K, E]]uint64
}

// needsLocked looks at every reader, and changes nothing.
func (l *Log[K, E]) needsLocked() needs[K, E] {
	n := needs[K, E]{ring: l.next, chains: map[*chain[K, E]]uint64{}}
	if l.parked > 0 {
		n.ring = l.dispatcher.handed
	}
	for c := range l.cursors {
		if c.trimmedLocked() {
			continue // its next read is an error, whatever is kept
		}
		seq, ok := c.peekLocked()
		switch {
		case !ok:
		case c.key == nil || c.pos < c.chain.from:
			n.ring = min(n.ring, seq)
		default:
			if lowest, known := n.chains[c.chain]; !known || seq < lowest {
				n.chains[c.chain] = seq
			}
		}
	}
	return n
}

// wantedLocked tells whether a reader of one of the event's keys has to read it.
func (l *Log[K, E]) wantedLocked(n needs[K, E], seq uint64, event E) bool {
	wanted := false
	if len(n.chains) > 0 {
		l.eachChainLocked(event, func(c *chain[K, E]) {
			lowest, reads := n.chains[c]
			wanted = wanted || reads && lowest <= seq
		})
	}
	return wanted
}

// ageFirstLocked takes the first event out of the ring, and keeps it among the aged if a
// reader of one of its keys has yet to read it. Chains whose readers have not are told that
// they have lost it.
func (l *Log[K, E]) ageFirstLocked(n needs[K, E]) {
	seq, r := l.first, *l.slot(l.first)
	if !l.wantedLocked(n, seq, r.event) {
		l.dropLocked(seq, &r)
	} else {
		l.eachChainLocked(r.event, func(c *chain[K, E]) {
			if lowest, reads := n.chains[c]; !reads || lowest > seq {
				c.lose(seq, r.rev)
			}
		})
		l.aged = append(l.aged, agedRecord[E]{seq, r})
	}
	l.leaveRingLocked()
}

// leaveRingLocked takes the first event out of the ring.
func (l *Log[K, E]) leaveRingLocked() {
	l.floor = l.slot(l.first).rev
	*l.slot(l.first) = record[E]{}
	l.first++
	l.all.lost, l.all.lostRev = l.first, l.floor
	if n := len(l.ring); n > 64 && l.next-l.first <= uint64(n/4) {
		l.resizeLocked(n / 2)
	}
}

// dropOldestLocked drops the oldest event, whoever still wants it. It returns false if
// there is none.
func (l *Log[K, E]) dropOldestLocked() bool {
	switch {
	case len(l.aged) > 0:
		l.dropLocked(l.aged[0].seq, &l.aged[0].record)
		l.aged[0] = agedRecord[E]{}
		l.aged = l.aged[1:] // not moved: there may be a hundred thousand
	case l.first < l.next:
		r := *l.slot(l.first)
		l.dropLocked(l.first, &r)
		l.leaveRingLocked()
	default:
		return false
	}
	return true
}

// dropLocked books that an event leaves the log, and tells its chains.
func (l *Log[K, E]) dropLocked(seq uint64, r *record[E]) {
	l.eachChainLocked(r.event, func(c *chain[K, E]) { c.lose(seq, r.rev) })
	l.bytes -= r.size
	if l.cfg.Trimmed != nil {
		l.cfg.Trimmed(r.event, r.size)
	}
}
