// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package pacer

import (
	"math"

	"github.com/weir-project/weir/internal/ledger"
)

// What is left of a limit, beside what has to be held, is for history (a half), for encodings that can be made again (a
// quarter), and for what requests make and has not been collected yet.
const (
	historyPart = 2
	derivedPart = 4
	// leastHistory is the part of the limit that history has in any case.
	leastHistory = 64
	// headroom is the part of the limit that Go's runtime leaves free (memoryLimitHeapGoalHeadroomPercent of package
	// runtime is 3).
	headroom = 32
)

// Room returns how many bytes are left of the limit beside what has to be held, that is everything but history and the encodings
// that can be made again. It is math.MaxInt64 if there is no limit, and may be less than 0. What the ledger does not have is counted as
// it was at the end of the last collection.
func (p *Pacer) Room() int64 {
	if p.limit.Go == 0 {
		return math.MaxInt64
	}
	l := p.ledger
	return p.limit.Go - p.limit.Go/headroom - p.others.Load() - l.Total() + l.Bytes(ledger.History) + l.Bytes(ledger.Derived) + l.Bytes(ledger.Compressed)
}

// History returns how many bytes of history all resources may keep together; math.MaxInt64 if there is no limit.
func (p *Pacer) History() int64 {
	if p.limit.Go == 0 {
		return math.MaxInt64
	}
	return max(p.Room()/historyPart, p.limit.Go/leastHistory)
}

// Derived returns how many bytes of encodings that can be made again may be kept; math.MaxInt64 if there is no limit. It is 0 when
// nothing is left for them.
func (p *Pacer) Derived() int64 {
	if p.limit.Go == 0 {
		return math.MaxInt64
	}
	return max(0, p.Room()/derivedPart)
}
