// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package budget

import (
	"context"
	"math"
	"runtime/metrics"
	"slices"
	"time"
)

const (
	// period is how often it is looked at what there is.
	period = time.Second
	// slackShare is the part of the limit that is left to garbage, to what a heap loses between objects, and to what
	// requests hold that was not estimated.
	slackShare = 8
	// remembered is how many collections the estimate of what is held besides goes back.
	remembered = 8
)

// Follow keeps the budget at what a process may still take, until ctx ends; it has no bound then. limit is what Go's runtime may take in all, in
// bytes. held tells what is held at present by those who count theirs: counted is all of it, and kept what of it is not
// for requests.
//
// What is held besides, by those who do not count it, is seen by the collector alone: as what is alive after a
// collection and neither counted nor known to come and go. That is the least of the last few collections, since what
// requests hold is alive too. Under a load that never pauses it is counted twice for that reason, as granted and as held, and
// requests then get as little as half of what there is for them. It must not be the other way round: what has been
// granted is often not yet there, and would be granted again.
func (b *Budget) Follow(ctx context.Context, limit int64, held func() (counted, kept int64)) {
	m := meter{held: held}
	ticker := time.NewTicker(period)
	defer ticker.Stop()
	defer b.unbound()
	for {
		b.Resize(sizes(limit, m.read()))
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

func (b *Budget) unbound() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.bounded, b.size, b.alone = false, math.MaxInt64, math.MaxInt64
	b.admit()
}

// sizes returns the size of a budget, and what a request may have that is alone.
func sizes(limit, taken int64) (size, alone int64) {
	return limit - limit/slackShare - taken, limit - taken
}

// meter tells what a process takes without what requests do.
type meter struct {
	held func() (counted, kept int64)
	// was is what was counted when it was read last, cycles how many collections there had been.
	was    int64
	cycles uint64
	// besides is what was alive after the last collections and not held, the latest last.
	besides []int64
}

// read returns it, in bytes.
func (m *meter) read() int64 {
	samples := []metrics.Sample{
		{Name: "/gc/cycles/total:gc-cycles"},
		{Name: "/gc/heap/live:bytes"},
		{Name: "/memory/classes/total:bytes"},
		// The heap's own; what is left of the total are stacks, and what the runtime needs itself.
		{Name: "/memory/classes/heap/objects:bytes"},
		{Name: "/memory/classes/heap/unused:bytes"},
		{Name: "/memory/classes/heap/free:bytes"},
		{Name: "/memory/classes/heap/released:bytes"},
	}
	metrics.Read(samples)
	runtime := int64(samples[2].Value.Uint64())
	for _, s := range samples[3:] {
		runtime -= int64(s.Value.Uint64())
	}
	return runtime + m.heap(samples[0].Value.Uint64(), int64(samples[1].Value.Uint64()))
}

// heap returns what of the heap is not requests'. There have been cycles collections, and live was alive after the last.
func (m *meter) heap(cycles uint64, live int64) int64 {
	counted, kept := m.held()
	if cycles != m.cycles {
		// The collection was somewhere between. The less was counted, the more was besides.
		m.besides = append(m.besides, max(0, live-min(counted, m.was)))
		if len(m.besides) > remembered {
			m.besides = slices.Delete(m.besides, 0, 1)
		}
	}
	m.cycles, m.was = cycles, counted
	if len(m.besides) == 0 {
		return kept
	}
	return kept + slices.Min(m.besides)
}
