// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package pacer

import (
	"runtime"
	"runtime/metrics"
	"time"
)

// window is the least time over which a rate is measured.
const window = 100 * time.Millisecond

// meter reads the runtime's counters.
type meter struct {
	at                      time.Time
	allocated               uint64
	cycles                  uint64
	seconds, cost           float64
	rate, before            float64
	live, idle, total, rest int64
	// collected says that a collection has ended between the last two reads.
	collected bool
}

// held returns what the runtime holds that a collection would not free, in bytes: what was alive at the end of the last one,
// the stacks, the runtime's own, and what is lost between objects.
func (m *meter) held() int64 { return m.live + m.rest }

// read returns the state since the last read, without what the ledger knows. Of the runtime's memory idle is what is free in the
// heap and has not been given back, and total all but what has been.
func (m *meter) read(now time.Time) state {
	samples := []metrics.Sample{
		{Name: "/gc/heap/live:bytes"},
		{Name: "/gc/heap/allocs:bytes"},
		{Name: "/gc/cycles/total:gc-cycles"},
		{Name: "/cpu/classes/gc/total:cpu-seconds"},
		{Name: "/memory/classes/total:bytes"},
		{Name: "/memory/classes/heap/released:bytes"},
		{Name: "/memory/classes/heap/free:bytes"},
		{Name: "/memory/classes/heap/objects:bytes"},
	}
	metrics.Read(samples)
	number := func(i int) int64 { return int64(samples[i].Value.Uint64()) }
	m.live = number(0)
	m.idle = number(6)
	m.total = number(4) - number(5)
	m.rest = m.total - m.idle - number(7)
	allocated, cycles, seconds := samples[1].Value.Uint64(), samples[2].Value.Uint64(), samples[3].Value.Float64()
	// The runtime updates the seconds at the end of a cycle only.
	n := cycles - m.cycles
	m.collected = n > 0
	if m.collected {
		m.cost = (seconds - m.seconds) / float64(n)
		m.cycles, m.seconds = cycles, seconds
	}
	passed := now.Sub(m.at)
	switch {
	case m.at.IsZero():
		m.at, m.allocated = now, allocated
	case passed >= window:
		m.before, m.rate = m.rate, float64(allocated-m.allocated)/passed.Seconds()
		m.at, m.allocated = now, allocated
	}
	// Of two windows the busier one counts, so that a pause between bursts does not.
	return state{live: m.live, rate: max(m.rate, m.before), cost: m.cost, processors: runtime.GOMAXPROCS(0)}
}
