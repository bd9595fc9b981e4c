// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package check

import (
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/weir-project/weir/test/robustness/history"
)

var (
	one = history.Key{Resource: "pods", Namespace: "n", Name: "one"}
	two = history.Key{Resource: "pods", Namespace: "n", Name: "two"}

	all  = history.Scope{Resource: "pods"}
	left = history.Scope{Resource: "pods", LabelKey: "side", LabelValue: "left"}
)

// told is a short history: every even revision is a change.
func told(t *testing.T) *history.Truth {
	t.Helper()
	truth := history.NewTruth()
	add := func(rev int64, k history.Key, side string) {
		t.Helper()
		var s *history.State
		if side != "" {
			s = &history.State{
				Revision: rev, UID: k.Name, Labels: map[string]string{"side": side}, Node: "node",
				Digests: history.Digests{Meta: uint64(rev), Body: uint64(rev + 1)},
			}
		}
		if err := truth.Add(rev, time.Unix(rev, 0), k, s); err != nil {
			t.Fatal(err)
		}
	}
	add(2, one, "left")
	add(4, two, "left")
	add(6, one, "right")
	add(8, two, "left")
	add(10, one, "left")
	add(12, two, "")
	add(14, one, "right")
	truth.Reach(20)
	return truth
}

// honest is a watch that delivers all that it has to, with a bookmark behind.
func honest(t *history.Truth, scope history.Scope, from int64) *history.Watch {
	w := &history.Watch{Scope: scope, Start: history.AtRevision, From: from, Status: 200}
	w.Events = append(t.Events(scope, from, 16), history.Event{Kind: history.Bookmark, Revision: 16})
	return w
}

// listed is one that begins with the state at revision 8.
func listed(t *history.Truth, scope history.Scope, start history.Start) *history.Watch {
	w := honest(t, scope, 8)
	w.Start, w.From = start, 0
	var first []history.Event
	for k, s := range t.States(scope, 8) {
		first = append(first, history.Event{Kind: history.Added, Revision: s.Revision, Key: k, Digests: s.Digests})
	}
	first = append(first, history.Event{Kind: history.Bookmark, Revision: 8, InitialEnd: start == history.WatchList})
	w.Events = append(first, w.Events...)
	return w
}

func rules(list []Violation) []Rule {
	found := map[Rule]bool{}
	for _, v := range list {
		found[v.Rule] = true
	}
	return slices.Sorted(maps.Keys(found))
}

func TestHonestWatches(t *testing.T) {
	truth := told(t)
	for _, scope := range []history.Scope{all, left, {Resource: "pods", Name: "one"}, {Resource: "pods", Node: "node"}, {Resource: "pods", Namespace: "other"}} {
		for _, w := range []*history.Watch{honest(truth, scope, 0), honest(truth, scope, 7), listed(truth, scope, history.WatchList), listed(truth, scope, history.AtZero)} {
			if got := Watch(truth, w); len(got) > 0 {
				t.Errorf("%+v: %v", w, got)
			}
			// Cut off anywhere, it is as honest.
			for n := range w.Events {
				short := *w
				short.Events = w.Events[:n]
				if got := Watch(truth, &short); len(got) > 0 {
					t.Errorf("%+v: %v", short, got)
				}
			}
		}
	}
	entering := honest(truth, left, 0).Events
	kinds := []history.Kind{}
	for _, e := range entering {
		kinds = append(kinds, e.Kind)
	}
	want := []history.Kind{history.Added, history.Added, history.Deleted, history.Modified, history.Added, history.Deleted, history.Deleted, history.Bookmark}
	if !slices.Equal(kinds, want) || entering[2].Meta != 2 {
		t.Errorf("a selector's events are %v, and the one that leaves has content %d", entering, entering[2].Meta)
	}
}

func TestLiesOfWatches(t *testing.T) {
	truth := told(t)
	// The events of left from 0: 2+ 4+ 6- 8~ 10+ 12- 14- bookmark 16.
	lies := map[string]struct {
		tell func(w *history.Watch)
		want Rule
	}{
		"skipped":                {func(w *history.Watch) { w.Events = slices.Delete(w.Events, 3, 4) }, Gap},
		"skipped at the start":   {func(w *history.Watch) { w.Events = w.Events[1:] }, Gap},
		"skipped at the end":     {func(w *history.Watch) { w.Events = slices.Delete(w.Events, 6, 7) }, HighMark},
		"all skipped":            {func(w *history.Watch) { w.Events = w.Events[7:] }, HighMark},
		"doubled":                {func(w *history.Watch) { w.Events = slices.Insert(w.Events, 4, w.Events[3]) }, Double},
		"doubled later":          {func(w *history.Watch) { w.Events = slices.Insert(w.Events, 6, w.Events[1]) }, Double},
		"reordered":              {func(w *history.Watch) { w.Events[3], w.Events[4] = w.Events[4], w.Events[3] }, Order},
		"before its start":       {func(w *history.Watch) { w.From = 4; w.Events = w.Events[1:] }, Order},
		"bookmark too high":      {func(w *history.Watch) { w.Events = slices.Insert(w.Events, 2, mark(6)) }, HighMark},
		"bookmark one too high":  {func(w *history.Watch) { w.Events = append(w.Events[:6], mark(14)) }, HighMark},
		"bookmark goes back":     {func(w *history.Watch) { w.Events = slices.Insert(w.Events, 2, mark(3)) }, Order},
		"MODIFIED on leaving":    {func(w *history.Watch) { w.Events[2].Kind = history.Modified }, Type},
		"MODIFIED on entering":   {func(w *history.Watch) { w.Events[4].Kind = history.Modified }, Type},
		"content on leaving":     {func(w *history.Watch) { w.Events[2].Digests = history.Digests{Meta: 6, Body: 7} }, Content},
		"body of another object": {func(w *history.Watch) { w.Events[1].Body = 3 }, Content},
		"key of another object":  {func(w *history.Watch) { w.Events[1].Key = one }, Foreign},
		"what did not happen":    {func(w *history.Watch) { w.Events[1].Revision = 5 }, Foreign},
		"ends with 500":          {func(w *history.Watch) { w.Events[7] = history.Event{Kind: history.Error, Code: 500} }, End},
		"goes on after 410":      {func(w *history.Watch) { w.Events[5] = history.Event{Kind: history.Error, Code: 410} }, End},
		"the last never comes":   {func(w *history.Watch) { w.Events = w.Events[:5]; w.Due = 12 }, Missing},
		"never comes":            {func(w *history.Watch) { w.Events = w.Events[:4]; w.Due = 12 }, Missing},
	}
	for name, lie := range lies {
		w := honest(truth, left, 0)
		lie.tell(w)
		if got := Watch(truth, w); !slices.Contains(rules(got), lie.want) {
			t.Errorf("%s: found %v, not %s", name, got, lie.want)
		}
	}
	gone := honest(truth, left, 0)
	gone.Events = append(gone.Events[:3], history.Event{Kind: history.Error, Code: 410})
	if got := Watch(truth, gone); len(got) > 0 {
		t.Errorf("410 is no lie: %v", got)
	}
}

// A server that does not catch up in time says so before it gives anything.
func TestLateWatches(t *testing.T) {
	truth := told(t)
	w := listed(truth, all, history.WatchList)
	w.Events = []history.Event{{Kind: history.Error, Code: 504}}
	if got := Watch(truth, w); len(got) > 0 {
		t.Errorf("504 is no lie: %v", got)
	}
}

func mark(rev int64) history.Event { return history.Event{Kind: history.Bookmark, Revision: rev} }

func TestLiesOfInitialEvents(t *testing.T) {
	truth := told(t)
	for _, start := range []history.Start{history.WatchList, history.AtZero} {
		// The state at 8: one of 6, two of 8; then a bookmark, 10 12 14 and a bookmark.
		lies := map[string]struct {
			tell func(w *history.Watch)
			want Rule
		}{
			"one is missing":    {func(w *history.Watch) { w.Events = w.Events[1:] }, Initial},
			"one is double":     {func(w *history.Watch) { w.Events = slices.Insert(w.Events, 0, w.Events[0]) }, Type},
			"mark of later":     {func(w *history.Watch) { w.Events[2].Revision = 10; w.Events = slices.Delete(w.Events, 3, 4) }, Initial},
			"mark of earlier":   {func(w *history.Watch) { w.Events[2].Revision = 7 }, Initial},
			"content":           {func(w *history.Watch) { w.Events[1].Meta++ }, Content},
			"not ADDED":         {func(w *history.Watch) { w.Events[0].Kind = history.Modified }, Type},
			"a gap behind":      {func(w *history.Watch) { w.Events = slices.Delete(w.Events, 3, 4) }, Gap},
			"not selected":      {func(w *history.Watch) { w.Scope = left }, Foreign},
			"ends with 504":     {func(w *history.Watch) { w.Events[1] = history.Event{Kind: history.Error, Code: 504} }, End},
			"begins with 500":   {func(w *history.Watch) { w.Events[0] = history.Event{Kind: history.Error, Code: 500} }, End},
			"deletes a nothing": {func(w *history.Watch) { w.Events[0].Kind = history.Deleted }, Foreign},
		}
		for name, lie := range lies {
			w := listed(truth, all, start)
			lie.tell(w)
			if got := Watch(truth, w); !slices.Contains(rules(got), lie.want) {
				t.Errorf("%s, %s: found %v, not %s", start, name, got, lie.want)
			}
		}
	}
}

// A watch list is as consistent as a list.
func TestStaleInitialEvents(t *testing.T) {
	truth := told(t)
	w := listed(truth, all, history.WatchList)
	for known, want := range map[int64]bool{8: false, 9: true} {
		w.Known = known
		if got := slices.Contains(rules(Watch(truth, w)), Stale); got != want {
			t.Errorf("the state of revision 8, and %d was known: %t", known, got)
		}
	}
}

func TestLiesOfLists(t *testing.T) {
	truth := told(t)
	list := func(mode history.Mode, rev int64) *history.List {
		l := &history.List{Scope: all, Mode: mode, Asked: rev, Known: rev, Revisions: []int64{rev}}
		for k, s := range truth.States(all, rev) {
			l.Items = append(l.Items, history.Item{Key: k, Revision: s.Revision, Digests: s.Digests})
		}
		return l
	}
	for _, rev := range []int64{0, 3, 8, 12, 20} {
		for _, mode := range []history.Mode{history.Consistent, history.Any, history.Exact} {
			if got := List(truth, list(mode, rev)); len(got) > 0 {
				t.Errorf("%s at %d: %v", mode, rev, got)
			}
		}
	}
	lies := map[string]struct {
		mode history.Mode
		tell func(l *history.List)
		want Rule
	}{
		"of another revision":         {history.Any, func(l *history.List) { l.Revisions[0] = 9; l.Revisions[0]++ }, State},
		"names another revision":      {history.Exact, func(l *history.List) { l.Revisions[0]++ }, Revision},
		"a page of another revision":  {history.Any, func(l *history.List) { l.Revisions = append(l.Revisions, 9) }, Revision},
		"older than what is known":    {history.Consistent, func(l *history.List) { l.Known = 9 }, Stale},
		"one is missing":              {history.Any, func(l *history.List) { l.Items = l.Items[1:] }, State},
		"one is double":               {history.Any, func(l *history.List) { l.Items = append(l.Items, l.Items[0]) }, Double},
		"one is old":                  {history.Any, func(l *history.List) { l.Items[0].Revision -= 4 }, State},
		"one is not selected":         {history.Any, func(l *history.List) { l.Scope = left }, State},
		"a body of another":           {history.Any, func(l *history.List) { l.Items[0].Body++ }, Content},
		"an answer without a version": {history.Any, func(l *history.List) { l.Revisions = nil }, Revision},
	}
	for name, lie := range lies {
		l := list(lie.mode, 8)
		lie.tell(l)
		if got := List(truth, l); !slices.Contains(rules(got), lie.want) {
			t.Errorf("%s: found %v, not %s", name, got, lie.want)
		}
	}
}

func TestLiesOfWrites(t *testing.T) {
	truth := told(t)
	for _, w := range []history.Write{
		{Key: one, Revision: 6, Digests: history.Digests{Meta: 6, Body: 7}},
		{Key: two, Revision: 12, Deleted: true},
		{Key: two, UID: "two", Deleted: true},
	} {
		if got := Write(truth, w); len(got) > 0 {
			t.Errorf("%+v: %v", w, got)
		}
	}
	for want, list := range map[Rule][]history.Write{
		Unrecorded: {{Key: one, Revision: 7}, {Key: two, Revision: 6}, {Key: one, UID: "one", Deleted: true}, {Key: one, Revision: 30}},
		Type:       {{Key: two, Revision: 12}, {Key: one, Revision: 6, Deleted: true}},
		Content:    {{Key: one, Revision: 6, Digests: history.Digests{Meta: 6, Body: 8}}},
	} {
		for _, w := range list {
			if got := Write(truth, w); !slices.Equal(rules(got), []Rule{want}) {
				t.Errorf("%+v: found %v, not %s", w, got, want)
			}
		}
	}
}
