// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package pacer

import (
	"context"
	"os"
	"runtime"
	"testing"

	"github.com/weir-project/weir/internal/ledger"
)

// TestRunGivesBackWhatIsDue: what is found to be due when a collection has just ended is given back, too.
func TestRunGivesBackWhatIsDue(t *testing.T) {
	t.Setenv("GOGC", "")
	t.Setenv("GOMEMLIMIT", "")
	if os.Getenv("GOGC") != "" {
		t.Fatal("GOGC is set")
	}
	forced := func() uint32 {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.NumForcedGC
	}
	ctx, cancel := context.WithCancel(t.Context())
	p := New(&ledger.Ledger{}, Limit{})
	before := forced()
	done := make(chan struct{})
	go func() {
		defer close(done)
		p.Run(ctx, func() {})
	}()
	for range calm + 2 {
		p.collected <- struct{}{}
	}
	cancel()
	<-done
	if p.giver.last.IsZero() {
		t.Skip("nothing was due")
	}
	if forced() == before {
		t.Error("it was due to give back what is free, and nothing was given back")
	}
}
