// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package robustness

import (
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/weir-project/weir/test/robustness/check"
	"github.com/weir-project/weir/test/robustness/history"
)

// excuses are the times at which a watch may end with an error that says nothing but "not now". It is a violation at any
// other. What was delivered before that error is judged as ever: nothing else is excused.
type excuses struct {
	mu   sync.Mutex
	list []excuse
}

type excuse struct {
	resources  []string
	begin, end time.Time // end is zero while it lasts
}

// begin notes that a fault begins, and returns what is to be called when all are well again.
func (x *excuses) begin(f fault) (over func()) {
	var resources []string
	switch f.kind {
	case faultUnreadable:
		// The cache has given up its state, and a watch that waits for one is told so after its answer has begun.
		resources = []string{brokenResource(f)}
	case faultWebhook:
		resources = []string{gadgets} // the same, for what cannot be converted
	default:
		return func() {}
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	i := len(x.list)
	x.list = append(x.list, excuse{resources: resources, begin: time.Now()})
	return func() {
		x.mu.Lock()
		defer x.mu.Unlock()
		x.list[i].end = time.Now()
	}
}

// allow takes the violations off a watch's that are excused.
func (x *excuses) allow(w *history.Watch, violations []check.Violation) []check.Violation {
	if len(violations) == 0 || !refused(w) && !(notNow(w) && x.apply(w)) {
		return violations
	}
	return slices.DeleteFunc(violations, func(v check.Violation) bool { return v.Rule == check.End })
}

// refused tells whether a watch's only event is an error. That is how one is refused whose request is well: upstream's cache
// does so when it is late, or cannot ask etcd. It is no other than an answer with that status, at any time.
func refused(w *history.Watch) bool { return len(w.Events) == 1 && notNow(w) }

// notNow tells whether a watch ended with an error that says nothing about what it has delivered.
func notNow(w *history.Watch) bool {
	if len(w.Events) == 0 {
		return false
	}
	switch w.Events[len(w.Events)-1].Code {
	case http.StatusTooManyRequests, http.StatusInternalServerError, http.StatusGatewayTimeout:
		return true
	}
	return false
}

// apply tells whether a watch ended at such a time.
func (x *excuses) apply(w *history.Watch) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return slices.ContainsFunc(x.list, func(e excuse) bool {
		return slices.Contains(e.resources, w.Scope.Resource) && w.Closed.After(e.begin) && (e.end.IsZero() || w.Opened.Before(e.end))
	})
}
