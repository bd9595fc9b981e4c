// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package eventlog

import (
	"fmt"
	"testing"
	"time"
)

// benchLog is a log without the tests' bookkeeping.
func benchLog() *Log[string, *event] {
	return New(0, Config[string, *event]{
		MaxBytes:  func() int64 { return 1 << 40 },
		MaxEvents: 4096,
		Window:    time.Hour,
		Now:       time.Now,
		Keys: func(e *event, yield func(string)) {
			for _, k := range e.keys {
				yield(k)
			}
		},
	})
}

// BenchmarkFanOut is one event read by every one of 500 cursors: on everything, or
// each on a key of its own of which the event has one.
func BenchmarkFanOut(b *testing.B) {
	const readers = 500
	b.Run("all", func(b *testing.B) {
		l := benchLog()
		cursors := make([]*Cursor[string, *event], readers)
		for i := range cursors {
			cursors[i], _ = l.Follow(0)
		}
		fanOut(b, l, cursors)
	})
	b.Run("keys", func(b *testing.B) {
		l := benchLog()
		cursors := make([]*Cursor[string, *event], readers)
		for i := range cursors {
			cursors[i], _ = l.FollowKey(0, fmt.Sprint(i))
		}
		fanOut(b, l, cursors)
	})
}

func fanOut(b *testing.B, l *Log[string, *event], cursors []*Cursor[string, *event]) {
	events := make([]*event, len(cursors))
	for i := range events {
		events[i] = &event{keys: []string{fmt.Sprint(i)}}
	}
	var dst [16]*event
	rev := uint64(0)
	b.ReportAllocs()
	for b.Loop() {
		rev++
		if err := l.Append(rev, 100, events[rev%uint64(len(events))]); err != nil {
			b.Fatal(err)
		}
		for _, c := range cursors {
			if _, err := c.Next(dst[:]); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(len(cursors)), "ns/read")
}

// BenchmarkAppend is an event that nobody waits for.
func BenchmarkAppend(b *testing.B) {
	l := benchLog()
	e := &event{keys: []string{"a", "b"}}
	rev := uint64(0)
	b.ReportAllocs()
	for b.Loop() {
		rev++
		if err := l.Append(rev, 100, e); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkFollow is a reader of one key that begins where the log begins.
func BenchmarkFollow(b *testing.B) {
	l := benchLog()
	for rev := range uint64(4096) {
		if err := l.Append(rev+1, 100, &event{keys: []string{fmt.Sprint(rev % 100)}}); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportAllocs()
	for b.Loop() {
		c, err := l.FollowKey(0, "7")
		if err != nil {
			b.Fatal(err)
		}
		c.Close()
	}
}
