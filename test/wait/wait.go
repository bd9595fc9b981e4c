// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

// Package wait has tests wait for what happens beside them. It imports nothing of weir's,
// so that the tests inside of any package can use it.
package wait

import (
	"context"
	"testing"
	"time"
)

// Until returns when done returns true. It fails the test if that takes longer than
// patience, so that a failure ends.
func Until(t testing.TB, what string, patience time.Duration, done func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("waiting for %s: not after %v", what, patience)
		}
	}
}
