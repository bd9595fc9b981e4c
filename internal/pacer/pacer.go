// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package pacer

import (
	"context"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"time"

	"github.com/weir-project/weir/internal/ledger"
)

const (
	// period is how often the percentage is looked at. Collections are seconds apart in
	// a heap for which this matters.
	period = time.Second
	// lowest and highest bound the percentage: below, collections come too often for
	// what they free; above is Go's default.
	lowest, highest = 25, 100
	// step is the smallest change that is worth a stop of the world.
	step = 5
	// slack is how many bytes the heap may always grow by, Go's default allowing: a
	// collection has costs of its own, whatever there is to mark.
	slack = 256 << 20
)

// percent returns the percentage of live by which the heap may grow when only
// live-free bytes of it have to be marked.
func percent(live, free int64) int {
	if live <= 0 {
		return highest
	}
	return int(min(highest, max(lowest, 100*max(live-free, slack)/live)))
}

// Run paces the collector by the books of l until ctx ends, and then sets Go's
// default again. It does nothing if GOGC or GOMEMLIMIT is set.
func Run(ctx context.Context, l *ledger.Ledger) {
	if os.Getenv("GOGC") != "" || os.Getenv("GOMEMLIMIT") != "" {
		return
	}
	defer debug.SetGCPercent(highest)
	ticker := time.NewTicker(period)
	defer ticker.Stop()
	// What was alive at the end of the last collection: what the next goal is made from.
	sample := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	for set := highest; ; {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		metrics.Read(sample)
		free := l.Bytes(ledger.Frames) + l.Bytes(ledger.History) + l.Bytes(ledger.Derived)
		if next := percent(int64(sample[0].Value.Uint64()), free); next >= set+step || next <= set-step {
			debug.SetGCPercent(next)
			set = next
		}
	}
}
