// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package check

import (
	"slices"
	"testing"
	"time"

	"github.com/weir-project/weir/test/robustness/history"
)

// expired is a history in which a lease takes three objects at revision 8, and there is a change behind it.
func expired(t *testing.T) (*history.Truth, []history.Key) {
	t.Helper()
	truth := history.NewTruth()
	var keys []history.Key
	add := func(rev int64, k history.Key, there bool) {
		t.Helper()
		var s *history.State
		if there {
			s = &history.State{Revision: rev, UID: k.Name, Labels: map[string]string{"side": "left"}, Digests: history.Digests{Meta: uint64(rev), Body: uint64(rev + 1)}}
		}
		if err := truth.Add(rev, time.Unix(rev, 0), k, s); err != nil {
			t.Fatal(err)
		}
	}
	for i, name := range []string{"a", "b", "c", "d"} {
		keys = append(keys, history.Key{Resource: "pods", Namespace: "n", Name: name})
		add(int64(2+i), keys[i], true)
	}
	for _, k := range keys[:3] {
		add(8, k, false)
	}
	add(10, keys[3], true)
	truth.Reach(12)
	return truth, keys
}

func TestLiesOfOneRevision(t *testing.T) {
	truth, keys := expired(t)
	// From 5: 8a- 8b- 8c- 10d~ bookmark 12.
	watch := func() *history.Watch {
		return &history.Watch{
			Scope: all, Start: history.AtRevision, From: 5, Status: 200,
			Events: append(truth.Events(all, 5, 12), mark(12)),
		}
	}
	honest := map[string]func(w *history.Watch){
		"as etcd":        func(*history.Watch) {},
		"another order":  func(w *history.Watch) { w.Events[0], w.Events[2] = w.Events[2], w.Events[0] },
		"cut off inside": func(w *history.Watch) { w.Events = w.Events[:2] },
		"a mark behind":  func(w *history.Watch) { w.Events = slices.Insert(w.Events, 3, mark(8)) },
		"a mark before":  func(w *history.Watch) { w.Events = slices.Insert(w.Events, 0, mark(7)) },
		"from there":     func(w *history.Watch) { w.From = 8; w.Events = w.Events[3:] },
	}
	for name, tell := range honest {
		w := watch()
		tell(w)
		if got := Watch(truth, w); len(got) > 0 {
			t.Errorf("%s: %v", name, got)
		}
	}
	lies := map[string]struct {
		tell func(w *history.Watch)
		want Rule
	}{
		"one is missing":           {func(w *history.Watch) { w.Events = slices.Delete(w.Events, 1, 2) }, Gap},
		"the last is missing":      {func(w *history.Watch) { w.Events = slices.Delete(w.Events, 2, 3) }, Gap},
		"missing before a mark":    {func(w *history.Watch) { w.Events = append(w.Events[:2], mark(8)) }, HighMark},
		"a mark inside":            {func(w *history.Watch) { w.Events = slices.Insert(w.Events, 2, mark(8)) }, Order},
		"one behind what is later": {func(w *history.Watch) { w.Events[2], w.Events[3] = w.Events[3], w.Events[2] }, Order},
		"one twice":                {func(w *history.Watch) { w.Events = slices.Insert(w.Events, 2, w.Events[0]) }, Double},
		"of another object":        {func(w *history.Watch) { w.Events[0].Key = keys[3] }, Foreign},
		"of another object inside": {func(w *history.Watch) { w.Events[1].Key = keys[3] }, Order},
		"not waited for":           {func(w *history.Watch) { w.Events = w.Events[:2]; w.Due = 8 }, Missing},
		"the rest of where it is":  {func(w *history.Watch) { w.From = 8; w.Events = w.Events[2:] }, Order},
		"content of another":       {func(w *history.Watch) { w.Events[1].Meta++ }, Content},
	}
	for name, lie := range lies {
		w := watch()
		lie.tell(w)
		if got := Watch(truth, w); !slices.Contains(rules(got), lie.want) {
			t.Errorf("%s: found %v, not %s", name, got, lie.want)
		}
	}
	half := &history.List{Scope: all, Mode: history.Any, Revisions: []int64{8}}
	for _, k := range keys[2:] {
		s := truth.At(k, 7)
		half.Items = append(half.Items, history.Item{Key: k, Revision: s.Revision, Digests: s.Digests})
	}
	if got := List(truth, half); !slices.Equal(rules(got), []Rule{State}) {
		t.Errorf("half of revision 8: found %v", got)
	}
	for _, w := range []history.Write{{Key: keys[0], Revision: 8, Deleted: true}, {Key: keys[2], Revision: 8, Deleted: true}} {
		if got := Write(truth, w); len(got) > 0 {
			t.Errorf("%+v: %v", w, got)
		}
	}
}

func TestLiesOfLaterParts(t *testing.T) {
	truth, _ := expired(t)
	item := func(rev int64) []history.Item {
		var items []history.Item
		for _, k := range []string{"a", "b", "c", "d"} {
			key := history.Key{Resource: "pods", Namespace: "n", Name: k}
			if s := truth.At(key, rev); s != nil {
				items = append(items, history.Item{Key: key, Revision: s.Revision, Digests: s.Digests})
			}
		}
		return items
	}
	// The first two at revision 7, the rest at revision 10, where it is one.
	broken := func() *history.List {
		return &history.List{
			Scope: all, Mode: history.Exact, Asked: 7, Known: 7, Limit: 1, Revisions: []int64{7, 7, 10},
			Items: append(item(7)[:2], item(10)...), Breaks: []history.Break{{Pages: 2, Items: 2, Known: 9}},
		}
	}
	if got := List(truth, broken()); len(got) > 0 {
		t.Errorf("a list that goes on at another state: %v", got)
	}
	partial := &history.List{Scope: all, Mode: history.Exact, Asked: 7, Limit: 1, Revisions: []int64{7, 7}, Items: item(7)[:2], Partial: true}
	if got := List(truth, partial); len(got) > 0 {
		t.Errorf("a list that was not read to its end: %v", got)
	}
	lies := map[string]struct {
		tell func(l *history.List)
		want Rule
	}{
		"the first part lacks one":  {func(l *history.List) { l.Items = l.Items[1:]; l.Breaks[0].Items = 1 }, State},
		"the second part lacks one": {func(l *history.List) { l.Items = l.Items[:2] }, State},
		"the second part is old":    {func(l *history.List) { l.Items[2] = item(7)[3] }, State},
		"it goes on too early":      {func(l *history.List) { l.Items = append(l.Items[:2], item(7)[2:]...); l.Revisions[2] = 7 }, Stale},
		"it goes back":              {func(l *history.List) { l.Items = append(l.Items, item(7)[0]); l.Items[3].Key.Namespace = "m" }, State},
		"pages of two states":       {func(l *history.List) { l.Revisions[1] = 6 }, Revision},
		"one twice":                 {func(l *history.List) { l.Items = append(l.Items, l.Items[0]) }, Double},
	}
	for name, lie := range lies {
		l := broken()
		lie.tell(l)
		if got := List(truth, l); !slices.Contains(rules(got), lie.want) {
			t.Errorf("%s: found %v, not %s", name, got, lie.want)
		}
	}
	partial.Items = partial.Items[1:]
	if got := List(truth, partial); !slices.Equal(rules(got), []Rule{State}) {
		t.Errorf("a partial list that lacks one: found %v", got)
	}
}

func TestLiesOfRevisionsAskedFor(t *testing.T) {
	truth := told(t)
	list := func(mode history.Mode, rev int64, limit int) *history.List {
		l := &history.List{Scope: all, Mode: mode, Asked: 8, Limit: limit, Revisions: []int64{rev}}
		for k, s := range truth.States(all, rev) {
			l.Items = append(l.Items, history.Item{Key: k, Revision: s.Revision, Digests: s.Digests})
		}
		return l
	}
	single := list(history.Unmatched, 9, 1)
	single.Scope.Name = "one"
	single.Items = slices.DeleteFunc(single.Items, func(i history.Item) bool { return i.Key != one })
	for _, c := range []struct {
		list *history.List
		want []Rule
	}{
		{single, nil},
		{list(history.NotOlderThan, 8, 0), nil},
		{list(history.NotOlderThan, 12, 1), nil},
		{list(history.NotOlderThan, 7, 0), []Rule{Stale}},
		{list(history.Unmatched, 12, 0), nil},
		{list(history.Unmatched, 7, 0), []Rule{Stale}},
		{list(history.Unmatched, 8, 1), nil},
		{list(history.Unmatched, 9, 1), []Rule{Revision}},
	} {
		if got := rules(List(truth, c.list)); !slices.Equal(got, c.want) {
			t.Errorf("%s of revision %d with limit %d: found %v, not %v", c.list.Mode, c.list.Revisions[0], c.list.Limit, got, c.want)
		}
	}
}

func TestLiesOfReads(t *testing.T) {
	truth := told(t) // one at 2 6 10 14, two at 4 8 and until 12
	read := func(mode history.Mode, since int64, k history.Key, rev int64) *history.Read {
		r := &history.Read{Mode: mode, Asked: since, Known: since, Key: k, Reached: 20}
		if s := truth.At(k, rev); s != nil {
			r.Found, r.Revision, r.UID, r.Digests = true, s.Revision, s.UID, s.Digests
		}
		return r
	}
	with := func(r *history.Read, tell func(r *history.Read)) *history.Read {
		tell(r)
		return r
	}
	for i, c := range []struct {
		read *history.Read
		want []Rule
	}{
		{read(history.Consistent, 9, one, 6), nil},
		{read(history.Consistent, 9, one, 14), nil},
		{read(history.Consistent, 10, one, 6), []Rule{Stale}},
		{read(history.NotOlderThan, 9, one, 6), nil},
		{read(history.NotOlderThan, 14, one, 6), []Rule{Stale}},
		{read(history.Any, 20, one, 2), nil},
		{read(history.Consistent, 11, two, 12), nil},
		{read(history.Consistent, 12, two, 12), nil},
		{read(history.Consistent, 12, two, 8), []Rule{Stale}},
		{read(history.Consistent, 3, two, 3), nil},
		{with(read(history.Consistent, 5, two, 3), func(r *history.Read) { r.Reached = 11 }), []Rule{Stale}},
		{with(read(history.NotOlderThan, 2, one, 1), func(r *history.Read) { r.Reached = 11 }), []Rule{Stale}},
		{read(history.Any, 0, one, 1), nil},
		{with(read(history.Consistent, 5, one, 6), func(r *history.Read) { r.Revision = 7 }), []Rule{Foreign}},
		{with(read(history.Consistent, 5, one, 6), func(r *history.Read) { r.Body++ }), []Rule{Content}},
		{with(read(history.Consistent, 5, one, 6), func(r *history.Read) { r.UID = "two" }), []Rule{Content}},
		{with(read(history.Consistent, 5, one, 6), func(r *history.Read) { r.Op = "1-1" }), []Rule{Content}},
		{with(read(history.Any, 5, two, 8), func(r *history.Read) { r.Key = one }), []Rule{Foreign}},
	} {
		if got := rules(Read(truth, c.read)); !slices.Equal(got, c.want) {
			t.Errorf("%d: %+v: found %v, not %v", i, c.read, got, c.want)
		}
	}
}

func TestLiesOfCollections(t *testing.T) {
	truth, keys := expired(t)
	left := history.Write{
		Verb: history.DeleteCollection, Key: history.Key{Resource: "pods", Namespace: "n"}, LabelKey: "side", LabelValue: "left", Known: 4, Reached: 9,
		Collected: []history.Collected{{Key: keys[0], UID: "a"}, {Key: keys[1], UID: "b"}, {Key: keys[2], UID: "c"}},
	}
	with := func(tell func(w *history.Write)) history.Write {
		w := left
		tell(&w)
		return w
	}
	for name, c := range map[string]struct {
		write history.Write
		want  []Rule
	}{
		"what is made meanwhile is left":   {left, nil},
		"another one deleted some of them": {with(func(w *history.Write) { w.Collected = w.Collected[:1] }), nil},
		"deletes what is still there":      {with(func(w *history.Write) { w.Collected = append(w.Collected, history.Collected{Key: keys[3], UID: "d"}) }), []Rule{Unrecorded}},
		"leaves what was there":            {with(func(w *history.Write) { w.Known = 5 }), []Rule{Unrecorded}},
		"deletes them too late":            {with(func(w *history.Write) { w.Reached = 7 }), []Rule{Unrecorded}},
		"of another label":                 {with(func(w *history.Write) { w.LabelValue, w.Collected, w.Known = "right", nil, 5 }), nil},
	} {
		if got := rules(Write(truth, c.write)); !slices.Equal(got, c.want) {
			t.Errorf("%s: found %v, not %v", name, got, c.want)
		}
	}
}
