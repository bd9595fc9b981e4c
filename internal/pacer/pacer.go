// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package pacer

import (
	"context"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"slices"
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
	// part is how much of what there is to mark the heap may grow by: one part in so many.
	part = 2
	// least is how many bytes the heap may always grow by, as far as Go's default goes: a
	// collection has costs of its own.
	least = 256 << 20
	// memory is for how many periods the pacer remembers what was alive.
	memory = 30
)

// heap is what the percentage is made from, in bytes.
type heap struct {
	// live was alive at the end of the last collection; free of it does not have to be
	// marked, and floating is garbage in it, as far as can be told.
	live, free, floating int64
}

// percent returns the percentage by which the heap may grow. Floating garbage uses up to
// half of the slack: what is allocated while a collection runs counts as alive, and would
// otherwise earn the more room the more is allocated.
func percent(h heap) int {
	if h.live <= 0 {
		return goDefault
	}
	slack := max(least, (h.live-h.free)/part)
	slack = max(slack/2, slack-h.floating)
	return int(max(1, min(goDefault, 100*slack/h.live)))
}

// meter tells garbage from what is alive.
type meter struct {
	// others are the last readings of what was alive and is in no book.
	others [memory]int64
	n      int
}

// read returns the heap as it is, by the books of l.
func (m *meter) read(l *ledger.Ledger) heap {
	h := heap{live: live()}
	var booked int64
	for _, p := range ledger.Purposes() {
		booked += l.Bytes(p)
	}
	// Derived encodings come and go, and making them makes garbage: they earn slack.
	h.free = l.Bytes(ledger.Frames) + l.Bytes(ledger.History)
	other := max(0, h.live-booked)
	m.others[m.n%memory] = other
	m.n++
	h.floating = other - slices.Min(m.others[:min(m.n, memory)])
	return h
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
	for set := goDefault; ; {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		if next := percent(m.read(l)); next >= set+step || next <= set-step {
			debug.SetGCPercent(next)
			set = next
		}
	}
}

// live returns how many bytes were alive at the end of the last collection.
func live() int64 {
	samples := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(samples)
	return int64(samples[0].Value.Uint64())
}
