// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package watchcache

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	clocktesting "k8s.io/utils/clock/testing"
)

// TestRequesterIsThereWhileNeeded: what asks for progress begins with the first who waits, asks at once, and ends when nobody has waited for a while.
func TestRequesterIsThereWhileNeeded(t *testing.T) {
	clock := clocktesting.NewFakeClock(time.Now())
	var running sync.WaitGroup
	var asked, begun atomic.Int64
	r := &requester{clock: clock, rpc: newRPC(), request: func(context.Context) error {
		asked.Add(1)
		return nil
	}, begin: func(f func()) {
		begun.Add(1)
		running.Go(f)
	}}
	asks := func() {
		t.Helper()
		before := asked.Load()
		eventually(t, "progress to be asked for", func() bool {
			clock.Step(0) // time does not go on for that
			return asked.Load() > before
		})
	}
	r.Add()
	r.Add()
	asks()
	r.Remove()
	clock.Step(2 * progressIdle)
	r.sweep()
	if r.now == nil {
		t.Error("it has ended, while somebody waits")
	}
	r.Remove()
	r.sweep()
	r.Add()
	r.Remove()
	if begun.Load() != 1 {
		t.Errorf("it has begun %d times, want once: it has not been idle for long", begun.Load())
	}
	clock.Step(progressIdle)
	r.sweep()
	running.Wait()
	r.Add()
	asks()
	if begun.Load() != 2 {
		t.Errorf("it has begun %d times, want twice", begun.Load())
	}
	r.end()
	running.Wait()
	r.Remove()
	r.Add()
	if r.now != nil || begun.Load() != 2 {
		t.Error("it has begun after its end")
	}
	r.Remove()
}

// TestRPCsAreApart: etcd tells progress to all watches of an RPC, and followers may have one client.
func TestRPCsAreApart(t *testing.T) {
	if a, b := fmt.Sprint(newRPC()), fmt.Sprint(newRPC()); a == b {
		t.Errorf("two followers have one RPC: %s", a)
	}
}
