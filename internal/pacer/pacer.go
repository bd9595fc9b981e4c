// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package pacer

import (
	"context"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"time"

	"github.com/weir-project/weir/internal/ledger"
)

const (
	// period is how often the percentage is looked at.
	period = time.Second
	// goDefault is the percentage that Go starts with.
	goDefault = 100
	// step is the smallest change of the percentage that is worth a stop of the world.
	step = 3
	// share is the part of the processors that collections may take.
	share = 0.015
	// least is how many bytes the heap may always grow by, as far as Go's default goes: a
	// collection has costs of its own, and the rate of allocation can change before it is
	// looked at again.
	least = 256 << 20
)

// state is what the percentage is made from.
type state struct {
	// live is what was alive at the end of the last collection, in bytes; free is how
	// much of it does not have to be marked.
	live, free int64
	// rate is how fast memory is allocated, in bytes per second.
	rate float64
	// cost is what a collection takes, in seconds of a processor.
	cost float64
	// processors is how many there are.
	processors int
}

// percent returns the percentage of live by which the heap may grow.
func percent(s state) int {
	if s.live <= 0 {
		return goDefault
	}
	// At this slack a collection, every slack/rate seconds, takes its share.
	slack := int64(s.cost * s.rate / (share * float64(s.processors)))
	slack = max(least, min(slack, s.live-s.free))
	return int(max(1, min(goDefault, 100*slack/s.live)))
}

// Run paces the collector by the books of l until ctx ends, and then sets Go's
// default again. It does nothing if GOGC or GOMEMLIMIT is set.
func Run(ctx context.Context, l *ledger.Ledger) {
	if os.Getenv("GOGC") != "" || os.Getenv("GOMEMLIMIT") != "" {
		return
	}
	defer debug.SetGCPercent(goDefault)
	ticker := time.NewTicker(period)
	defer ticker.Stop()
	var m meter
	m.read()
	for set := goDefault; ; {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		s := m.read()
		// Derived encodings come and go, and making them makes garbage: they earn slack.
		s.free = l.Bytes(ledger.Frames) + l.Bytes(ledger.History)
		if next := percent(s); next >= set+step || next <= set-step {
			debug.SetGCPercent(next)
			set = next
		}
	}
}

// meter reads the runtime's counters.
type meter struct {
	at                 time.Time
	allocated          uint64
	cycles             uint64
	seconds, cost, was float64
}

// read returns the state since the last read, without what the ledger knows.
func (m *meter) read() state {
	samples := []metrics.Sample{
		{Name: "/gc/heap/live:bytes"},
		{Name: "/gc/heap/allocs:bytes"},
		{Name: "/gc/cycles/total:gc-cycles"},
		{Name: "/cpu/classes/gc/total:cpu-seconds"},
	}
	metrics.Read(samples)
	now := time.Now()
	allocated, cycles, seconds := samples[1].Value.Uint64(), samples[2].Value.Uint64(), samples[3].Value.Float64()
	// The runtime updates the seconds at the end of a cycle only.
	if n := cycles - m.cycles; n > 0 {
		m.cost = (seconds - m.seconds) / float64(n)
		m.cycles, m.seconds = cycles, seconds
	}
	s := state{live: int64(samples[0].Value.Uint64()), cost: m.cost, processors: runtime.GOMAXPROCS(0)}
	if passed := now.Sub(m.at).Seconds(); !m.at.IsZero() && passed > 0 {
		rate := float64(allocated-m.allocated) / passed
		// Of two seconds the busier one counts, so that a pause between bursts does not.
		s.rate, m.was = max(rate, m.was), rate
	}
	m.at, m.allocated = now, allocated
	return s
}
