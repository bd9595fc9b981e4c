// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package view

import (
	"bytes"
	"testing"
	"time"
)

func TestStretchTellsFigures(t *testing.T) {
	var out bytes.Buffer
	v := New(&out)
	s := v.Begin("weir: watchlist x16", func() int64 { return 812e6 })
	if s.bars != nil {
		t.Error("a live line where there is no terminal")
	}
	v.Update(Counts{Done: 3, Total: 16, Unit: "synced", Bytes: 1e6, Events: 10})
	if got, want := s.figures(), "3/16 synced, RSS 812 MB, 0 s"; got != want {
		t.Errorf("before a rate is known: %q, want %q", got, want)
	}
	// As though the last rate had been taken two seconds ago, when nothing had come.
	s.mu.Lock()
	s.rateBegan = time.Now().Add(-2 * time.Second)
	s.mu.Unlock()
	v.Update(Counts{Done: 7, Total: 16, Unit: "synced", Bytes: 400e6, Events: 20000})
	s.mu.Lock()
	bytesRate, eventsRate := s.bytesRate, s.eventsRate
	s.mu.Unlock()
	// The time that has passed is two seconds and a little.
	if bytesRate > 200e6 || bytesRate < 1e6 || eventsRate > 10000 || eventsRate < 50 {
		t.Errorf("rates %.0f B/s and %.0f events/s after 400 MB and 20000 events in two seconds", bytesRate, eventsRate)
	}
	inner := v.Begin("another", nil)
	v.Update(Counts{Done: 1, Total: 2, Unit: "objects"})
	if got, want := inner.figures(), "1/2 objects, 0 s"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	inner.Finish()
	s.Finish()
	s.Finish()
	v.Update(Counts{}) // nothing is shown: no harm
	v.Say("done %d", 1)
	if out.String() != "done 1\n" {
		t.Errorf("written: %q", out.String())
	}
}
