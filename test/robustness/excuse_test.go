// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package robustness

import (
	"testing"
	"time"

	"github.com/weir-project/weir/test/robustness/check"
	"github.com/weir-project/weir/test/robustness/history"
)

// Only an error that says "not now" is excused, only of what a fault keeps from being read, only while it does, and nothing
// else of the same watch.
func TestExcuses(t *testing.T) {
	const added, failed, gone = 200, 500, 410
	watch := func(resource string, codes ...int) *history.Watch {
		w := &history.Watch{Scope: history.Scope{Resource: resource}, Opened: time.Now()}
		for _, code := range codes {
			e := history.Event{Kind: history.Added}
			if code != added {
				e = history.Event{Kind: history.Error, Code: code}
			}
			w.Events = append(w.Events, e)
		}
		w.Closed = time.Now()
		return w
	}
	var x excuses
	left := func(w *history.Watch) int {
		return len(x.allow(w, []check.Violation{{Rule: check.End}, {Rule: check.Gap}}))
	}
	holds := func(when, what string, w *history.Watch, want int) {
		t.Helper()
		if got := left(w); got != want {
			t.Errorf("%s: %s: %d violations are left, not %d", when, what, got, want)
		}
	}
	before := watch(configMaps, added, failed)
	holds("before", "an error after an event", before, 2)
	holds("before", "nothing but an error", watch(configMaps, failed), 1)
	holds("before", "nothing but another error", watch(configMaps, gone), 2)
	over := x.begin(fault{kind: faultUnreadable})
	during := watch(configMaps, added, failed)
	holds("during", "an error after an event", during, 1)
	holds("during", "one that ended before", before, 2)
	holds("during", "another error", watch(configMaps, added, gone), 2)
	holds("during", "another resource", watch(pods, added, failed), 2)
	over()
	holds("after", "one that was open meanwhile", during, 1)
	holds("after", "an error after an event", watch(configMaps, added, failed), 2)
	x.begin(fault{kind: faultPause})
	holds("during a pause", "an error after an event", watch(configMaps, added, failed), 2)
}
