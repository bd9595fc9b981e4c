// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"bytes"
	"testing"
	"time"
)

func TestStretchTellsFigures(t *testing.T) {
	var out bytes.Buffer
	v := newView(&out)
	s := v.begin("weir: watchlist x16", func() int64 { return 812e6 })
	if s.bars != nil {
		t.Error("a live line where there is no terminal")
	}
	v.update(counts{Done: 3, Total: 16, Unit: "synced", Bytes: 1e6, Events: 10})
	if got, want := s.figures(), "3/16 synced, RSS 812 MB, 0 s"; got != want {
		t.Errorf("before a rate is known: %q, want %q", got, want)
	}
	// As though the last rate had been taken two seconds ago, when nothing had come.
	s.mu.Lock()
	s.rateBegan = time.Now().Add(-2 * time.Second)
	s.mu.Unlock()
	v.update(counts{Done: 7, Total: 16, Unit: "synced", Bytes: 400e6, Events: 20000})
	s.mu.Lock()
	bytesRate, eventsRate := s.bytesRate, s.eventsRate
	s.mu.Unlock()
	// The time that has passed is two seconds and a little.
	if bytesRate > 200e6 || bytesRate < 1e6 || eventsRate > 10000 || eventsRate < 50 {
		t.Errorf("rates %.0f B/s and %.0f events/s after 400 MB and 20000 events in two seconds", bytesRate, eventsRate)
	}
	inner := v.begin("another", nil)
	v.update(counts{Done: 1, Total: 2, Unit: "objects"})
	if got, want := inner.figures(), "1/2 objects, 0 s"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	inner.finish()
	s.finish()
	s.finish()
	v.update(counts{}) // nothing is shown: no harm
	v.say("done %d", 1)
	if out.String() != "done 1\n" {
		t.Errorf("written: %q", out.String())
	}
}

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

func TestMaxRatios(t *testing.T) {
	results := twoTargets() // weir has 0.2 of stock's processor time in the first phase; stock fails in the second
	for _, test := range []struct {
		limit  string
		broken int
	}{
		{"received MB=1", 0},       // 1.00
		{"received MB=0.9", 1},     // too much
		{"server CPU s=0.5", 1},    // the phase that failed cannot be compared
		{"no such figure=2", 1},    // holds nothing
		{"RSS peak MB=0.43999", 2}, // 0.44, and the phase that failed
	} {
		ratios, err := parseRatios([]string{test.limit})
		if err != nil {
			t.Fatal(err)
		}
		if broken := results.hold(ratios); len(broken) != test.broken {
			t.Errorf("%s: %v, want %d", test.limit, broken, test.broken)
		}
	}
	for _, bad := range []string{"", "x", "x=", "x=-1", "x=y"} {
		if _, err := parseRatios([]string{bad}); err == nil {
			t.Errorf("%q is taken for a limit", bad)
		}
	}
}
