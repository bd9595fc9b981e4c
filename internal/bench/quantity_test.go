// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package bench

import "testing"

func TestQuantity(t *testing.T) {
	for text, want := range map[string]quantity{"2Gi": 2 << 30, "500M": 500e6, "1024": 1024} {
		var q quantity
		if err := q.Set(text); err != nil || q != want {
			t.Errorf("%s: %d, %v; want %d", text, q, err, want)
		}
	}
	for _, text := range []string{"", "0", "-1Gi", "much"} {
		if err := new(quantity).Set(text); err == nil {
			t.Errorf("%q is taken for a number of bytes", text)
		}
	}
}
