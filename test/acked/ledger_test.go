// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package acked

import "testing"

// The ledger finds what it is there to find.
func TestLedger(t *testing.T) {
	for _, test := range []struct {
		name string
		do   func(l Ledger)
		mark string
		may  bool
	}{
		{"what was never written is absent", func(Ledger) {}, Absent, true},
		{"what was never written is not there", func(Ledger) {}, "1", false},
		{"what was acknowledged is there", func(l Ledger) { l.Acknowledged("o", "1") }, "1", true},
		{"a lost write", func(l Ledger) { l.Acknowledged("o", "1"); l.Acknowledged("o", "2") }, "1", false},
		{"a lost creation", func(l Ledger) { l.Acknowledged("o", "1") }, Absent, false},
		{"a deletion that did not happen", func(l Ledger) { l.Acknowledged("o", "1"); l.Acknowledged("o", Absent) }, "1", false},
		{"a write without an answer that happened", func(l Ledger) { l.Acknowledged("o", "1"); l.Unanswered("o", "2") }, "2", true},
		{"a write without an answer that did not", func(l Ledger) { l.Acknowledged("o", "1"); l.Unanswered("o", "2") }, "1", true},
		{"a creation without an answer that did not", func(l Ledger) { l.Unanswered("o", "1") }, Absent, true},
		{"a lost write before one without an answer", func(l Ledger) { l.Acknowledged("o", "1"); l.Unanswered("o", "2") }, Absent, false},
	} {
		l := Ledger{}
		test.do(l)
		if err := l.Sees("o", test.mark); (err == nil) != test.may {
			t.Errorf("%s: %v", test.name, err)
		}
		if test.may && l.Sees("o", "other") == nil {
			t.Errorf("%s: after it was seen it may be anything", test.name)
		}
	}
}
