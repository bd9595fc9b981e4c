// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package pacer

import (
	"runtime/debug"
	"time"
)

const (
	// worthGiving is how many bytes have to be free to be worth a collection, and worthShare the part of what the
	// process holds.
	worthGiving = 24 << 20
	worthShare  = 32
	// quiet is in what time what is given back must not be asked for again.
	quiet = 20 * time.Second
	// calm is for how many looks in a row there has to be something to give back.
	calm = 3
	// givingGap is the least time between two times of giving back.
	givingGap = 15 * time.Second
)

// giver decides when what is free in the heap is given back to the system. Go does so by itself, but leaves a tenth
// more than the heap may grow to, and what lies between objects that are alive for longer. A heap that has been
// larger, at the start or in a burst, has it all back this way for the price of a collection.
type giver struct {
	// last is when something has been given back, the zero time if nothing has: that is done once after the
	// start, however little it is. calm is for how many looks there has been something to give back.
	last time.Time
	calm int
}

// due tells whether idle bytes of total are to be given back. The collections that this takes have a share of the processors
// of their own, as large as that of the others.
func (g *giver) due(now time.Time, s state, idle, total int64) bool {
	gap := max(givingGap, time.Duration(s.price()/(share*float64(s.processors))*float64(time.Second)))
	worth := max(worthGiving, total/worthShare)
	if g.last.IsZero() {
		idle = max(idle, worth) // after the start in any case
	}
	if idle < worth || s.rate*quiet.Seconds() > float64(idle) || !g.last.IsZero() && now.Sub(g.last) < gap {
		g.calm = 0
		return false
	}
	if g.calm++; g.calm < calm {
		return false
	}
	g.calm, g.last = 0, now
	return true
}

// giveBack gives everything that is free back to the system. It takes as long as a collection, and stops nothing
// for longer than that does.
func (p *Pacer) giveBack() { debug.FreeOSMemory() }
