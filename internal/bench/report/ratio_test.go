// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package report

import "testing"

func TestMaxRatios(t *testing.T) {
	results := twoTargets() // weir has 0.2 of stock's processor time in the first phase; stock fails in the second
	for _, test := range []struct {
		limit  string
		broken int
	}{
		{"wire MB=1", 0},           // 1.00
		{"wire MB=0.9", 1},         // too much
		{"server CPU s=0.5", 1},    // the phase that failed cannot be compared
		{"no such figure=2", 1},    // holds nothing
		{"RSS peak MB=0.43999", 2}, // 0.44, and the phase that failed
	} {
		ratios, err := ParseRatios([]string{test.limit})
		if err != nil {
			t.Fatal(err)
		}
		if broken := results.Hold(ratios); len(broken) != test.broken {
			t.Errorf("%s: %v, want %d", test.limit, broken, test.broken)
		}
	}
	for _, bad := range []string{"", "x", "x=", "x=-1", "x=y"} {
		if _, err := ParseRatios([]string{bad}); err == nil {
			t.Errorf("%q is taken for a limit", bad)
		}
	}
}
