// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package check

import (
	"slices"
	"testing"

	"github.com/weir-project/weir/test/robustness/history"
)

// twinsOf are a list at revision 8, two watches that go on from there and two that begin with initial events, of honest servers.
func twinsOf(t *testing.T, scope history.Scope) *history.Twins {
	truth := told(t)
	l := &history.List{Scope: scope, Mode: history.Exact, Revisions: []int64{8}}
	for k, s := range truth.States(scope, 8) {
		l.Items = append(l.Items, history.Item{Key: k, Revision: s.Revision, Digests: s.Digests})
	}
	tw := &history.Twins{List: l, Watches: []*history.Watch{
		honest(truth, scope, 8), honest(truth, scope, 8), listed8(truth, scope), listed8(truth, scope),
	}}
	for i, w := range tw.Watches {
		w.ID = int64(i)
	}
	return tw
}

func listed8(t *history.Truth, scope history.Scope) *history.Watch {
	return listed(t, scope, history.WatchList)
}

func TestHonestTwins(t *testing.T) {
	for _, scope := range []history.Scope{all, left, {Resource: "pods", Name: "one"}, {Resource: "pods", Namespace: "other"}} {
		tw := twinsOf(t, scope)
		got, n := Twins(tw)
		if len(got) > 0 || n == 0 && scope.Namespace == "" {
			t.Errorf("%+v: %v, %d compared", scope, got, n)
		}
		// Each may have come less far than the others, and in a form without a body.
		for i, w := range tw.Watches {
			whole := w.Events
			for n := range whole {
				w.Events = whole[:n]
				if got, _ := Twins(tw); len(got) > 0 {
					t.Errorf("%+v, %d cut off after %d: %v", scope, i, n, got)
				}
			}
			w.Events = slices.Clone(whole)
			for n := range w.Events {
				w.Events[n].Body = 0
			}
		}
		if got, _ := Twins(tw); len(got) > 0 {
			t.Errorf("%+v without bodies: %v", scope, got)
		}
	}
}

// Several changes may have one revision, and a watch may be cut off between them.
func TestTwinsInsideOfARevision(t *testing.T) {
	tw := twinsOf(t, all)
	for _, w := range tw.Watches[:2] {
		w.Events = slices.Insert(w.Events, 1, history.Event{Kind: history.Deleted, Revision: 10, Key: two})
	}
	tw.Watches = tw.Watches[:2]
	other := tw.Watches[1].Events
	other[0], other[1] = other[1], other[0] // in any order
	if got, _ := Twins(tw); len(got) > 0 {
		t.Errorf("found %v", got)
	}
	tw.Watches[1].Events = other[:1]
	if got, _ := Twins(tw); len(got) > 0 {
		t.Errorf("cut off: found %v", got)
	}
}

// A lie of one of them is seen by the others.
func TestLiesOfTwins(t *testing.T) {
	// Of all from 8: 10 12 14 and a bookmark; with initial events 6 8 and a bookmark before.
	lies := map[string]func(w *history.Watch, at int){
		"skipped":            func(w *history.Watch, at int) { w.Events = slices.Delete(w.Events, at+1, at+2) },
		"skipped at the end": func(w *history.Watch, at int) { w.Events = slices.Delete(w.Events, at+2, at+3) },
		"content":            func(w *history.Watch, at int) { w.Events[at+2].Meta++ },
		"body":               func(w *history.Watch, at int) { w.Events[at+2].Body++ },
		"another key":        func(w *history.Watch, at int) { w.Events[at+1].Key = one },
	}
	onlyEvents := map[string]func(w *history.Watch, at int){
		"doubled":   func(w *history.Watch, at int) { w.Events = slices.Insert(w.Events, at+1, w.Events[at+1]) },
		"reordered": func(w *history.Watch, at int) { w.Events[at], w.Events[at+1] = w.Events[at+1], w.Events[at] },
		"type":      func(w *history.Watch, at int) { w.Events[at].Kind = history.Added },
	}
	onlyInitial := map[string]func(w *history.Watch, at int){
		"one is missing": func(w *history.Watch, _ int) {
			i := slices.IndexFunc(w.Events, func(e history.Event) bool { return e.Key == two && e.Kind == history.Added })
			w.Events = slices.Delete(w.Events, i, i+1)
		},
		"one is old": func(w *history.Watch, _ int) {
			for i := range w.Events[:2] {
				w.Events[i].Revision -= 4
			}
		},
		"one too many": func(w *history.Watch, _ int) {
			w.Events = slices.Insert(w.Events, 0, history.Event{Kind: history.Added, Revision: 2, Key: history.Key{Resource: "pods", Name: "x"}})
		},
	}
	try := func(name string, i, at int, lie func(w *history.Watch, at int)) {
		tw := twinsOf(t, all)
		lie(tw.Watches[i], at)
		if got, _ := Twins(tw); !slices.Equal(rules(got), []Rule{Differs}) {
			t.Errorf("%s in %d: found %v", name, i, got)
		}
	}
	for name, lie := range lies {
		for i, at := range []int{0, 0, 3, 3} {
			try(name, i, at, lie)
		}
	}
	for name, lie := range onlyEvents {
		try(name, 0, 0, lie)
		try(name, 1, 0, lie)
	}
	for name, lie := range onlyInitial {
		try(name, 2, 3, lie)
		try(name, 3, 3, lie)
	}
	tw := twinsOf(t, all)
	tw.List.Items = tw.List.Items[1:]
	if got, _ := Twins(tw); !slices.Equal(rules(got), []Rule{Differs}) {
		t.Errorf("one is missing in the list: found %v", got)
	}
}
