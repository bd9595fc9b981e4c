// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package pacer

import "testing"

func TestPercent(t *testing.T) {
	const mb = 1 << 20
	for _, c := range []struct {
		name       string
		live, free int64
		want       int
	}{
		{"nothing is alive yet", 0, 0, 100},
		{"no encoded objects", 300 * mb, 0, 100},
		{"half of the heap", 1000 * mb, 500 * mb, 50},
		{"half of a small heap", 400 * mb, 200 * mb, 64},
		{"nearly all of the heap", 10_000 * mb, 9_900 * mb, 25},
		// The ledger is up to date, what was alive is as of the last collection.
		{"more booked than was alive", 100 * mb, 400 * mb, 100},
		{"much more booked than was alive", 1000 * mb, 4000 * mb, 25},
	} {
		if got := percent(c.live, c.free); got != c.want {
			t.Errorf("%s: %d%%, want %d%%", c.name, got, c.want)
		}
	}
}
