// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package eventlog

import "testing"

// TestFutureReaderSleeps has readers that start in the future and do not read until
// the ring has been used several times over.
func TestFutureReaderSleeps(t *testing.T) {
	for _, key := range []string{"", "a"} {
		h := newHarness(0, func(c *Config[string, event]) { c.MaxEvents = 60 })
		c, err := h.cursor(250, key)
		if err != nil {
			t.Fatal(err)
		}
		for rev := uint64(1); rev <= 300; rev++ {
			h.append(event{name: "e", rev: rev, keys: []string{"a"}})
		}
		dst := make([]event, 100)
		b, err := c.Next(dst)
		if err != nil || b.N != 50 || b.Complete != 300 {
			t.Fatalf("key %q: %+v, %v, want 50 events up to 300", key, b, err)
		}
		for i, e := range dst[:b.N] {
			if e.rev != 251+uint64(i) {
				t.Fatalf("key %q: event %d has revision %d", key, i, e.rev)
			}
		}
		c.Close()
		h.check(t)
	}
}
