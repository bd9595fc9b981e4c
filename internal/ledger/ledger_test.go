// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package ledger_test

import (
	"slices"
	"sync"
	"testing"

	"github.com/weir-project/weir/internal/ledger"
)

// TestPurposes holds the labels that dashboards see.
func TestPurposes(t *testing.T) {
	want := []string{"frames", "history", "derived", "compressed", "streams", "readers", "compressors", "decoded", "informers"}
	all := ledger.Purposes()
	if len(all) != len(want) {
		t.Fatalf("%d purposes, want %d", len(all), len(want))
	}
	for i, p := range all {
		if p.String() != want[i] {
			t.Errorf("purpose %d is %q, want %q", i, p, want[i])
		}
	}
	if s := ledger.Purpose(len(want)).String(); s != "unknown" {
		t.Errorf("a purpose that there is not is called %q", s)
	}
}

// TestBalance books from many goroutines; each purpose has its own counter.
func TestBalance(t *testing.T) {
	var l ledger.Ledger
	var all sync.WaitGroup
	for _, p := range ledger.Purposes() {
		for range 4 {
			all.Go(func() {
				for n := range int64(1000) {
					l.Add(p, n)
					l.Add(p, -n+int64(p))
				}
			})
		}
	}
	all.Wait()
	total := int64(0)
	for _, p := range ledger.Purposes() {
		total += 4000 * int64(p)
		if got, want := l.Bytes(p), 4000*int64(p); got != want {
			t.Errorf("%v: %d bytes, want %d", p, got, want)
		}
	}
	if got := l.Total(); got != total {
		t.Errorf("all together are %d bytes, want %d", got, total)
	}
}

// TestHeap holds Heap against what growing slices get.
func TestHeap(t *testing.T) {
	for n := range 200_000 {
		if n > 2000 && n%97 != 0 {
			continue
		}
		if got, want := ledger.Heap(n), int64(cap(slices.Grow([]byte(nil), n))); got != want {
			t.Fatalf("%d bytes take %d, want %d", n, got, want)
		}
	}
	if n := ledger.Heap(-1); n != 0 {
		t.Errorf("nothing takes %d bytes", n)
	}
}
