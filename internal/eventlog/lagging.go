// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package eventlog

import (
	"cmp"
	"slices"
	"sort"
	"time"
)

// Lag is what a reader has yet to read.
type Lag struct {
	// Owner is what SetOwner was given, nil if nothing was.
	Owner any
	// Events are those that the reader has yet to read, and Since is when the first of them came. Of a reader of a
	// key whose events are not indexed that far back, all events count.
	Events int
	Since  time.Time
}

// SetOwner says whose cursor it is, for Lagging. It is called before the first Next.
func (c *Cursor[K, E]) SetOwner(owner any) { c.owner.Store(&owner) }

// Lagging returns the readers that have something to read, at most so many, those first that have waited for longest.
// It looks at all that are not parked, and changes nothing. Parked readers have nothing to read but what is being handed to them.
func (l *Log[K, E]) Lagging(most int) []Lag {
	lags := l.lagging()
	slices.SortFunc(lags, func(a, b Lag) int { return cmp.Or(a.Since.Compare(b.Since), cmp.Compare(b.Events, a.Events)) })
	return lags[:min(len(lags), most)]
}

func (l *Log[K, E]) lagging() []Lag {
	l.mu.Lock() // Next moves positions under a read lock
	defer l.mu.Unlock()
	var lags []Lag
	for c := range l.cursors {
		seq, more := c.peekLocked()
		if !more {
			continue
		}
		lag := Lag{Since: l.at(seq).at}
		if owner := c.owner.Load(); owner != nil {
			lag.Owner = *owner
		}
		if c.key == nil || c.pos < c.chain.from {
			lag.Events = int(l.next - seq)
		} else {
			seqs := c.chain.seqs
			lag.Events = len(seqs) - sort.Search(len(seqs), func(i int) bool { return seqs[i] >= seq })
		}
		lags = append(lags, lag)
	}
	return lags
}
