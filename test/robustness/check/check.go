// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

// Package check judges what was recorded in a run against what etcd had. It finds lies, not slowness: what has not
// been delivered yet is no fault, what was passed over is.
package check

import (
	"fmt"
	"slices"
	"time"

	"github.com/weir-project/weir/test/robustness/history"
)

// Rule is what was violated.
type Rule string

// The rules.
const (
	Gap        Rule = "gap"          // an event was passed over
	Double     Rule = "double"       // an event came twice
	Order      Rule = "order"        // a revision went back
	Type       Rule = "type"         // an event came with another type
	Content    Rule = "content"      // an object came with another content
	Foreign    Rule = "foreign"      // what did not happen, or is not selected
	HighMark   Rule = "bookmark"     // a bookmark says more than was delivered
	Initial    Rule = "initial"      // initial events are not the state that they say
	End        Rule = "end"          // a watch ended with another error than 410
	Missing    Rule = "missing"      // what was waited for never came
	Revision   Rule = "revision"     // a list names another revision than was asked for
	State      Rule = "state"        // a list is not the state at its revision
	Stale      Rule = "stale"        // a list or a read is older than what was known, or asked for
	Broken     Rule = "broken"       // what came is no answer, or no watch event
	Unrecorded Rule = "acknowledged" // a write was acknowledged and is not in etcd

	Linearizable Rule = "linearizable" // reads and writes of one object have no order
	Unasked      Rule = "unasked"      // etcd has a change that nobody asked for
	Died         Rule = "died"         // a process ended by itself, or has panicked
	Differs      Rule = "differs"      // two answers that have to be equal are not
)

// Violation is a lie that was found.
type Violation struct {
	Rule Rule   `json:"rule"`
	What string `json:"what"` // which watch, list or write
	Text string `json:"text"`
	// Key, Revision and At are where and when it was, as far as that is known beside the text.
	Key      history.Key `json:"key,omitzero"`
	Revision int64       `json:"revision,omitempty"`
	At       time.Time   `json:"at,omitzero"`
}

func (v Violation) String() string { return fmt.Sprintf("%s: %s: %s", v.What, v.Rule, v.Text) }

// findings are those about one record.
type findings struct {
	what string
	list []Violation
}

func (f *findings) add(r Rule, format string, args ...any) {
	f.list = append(f.list, Violation{Rule: r, What: f.what, Text: fmt.Sprintf(format, args...)})
}

// Write checks that an acknowledged write is in etcd's history. The truth must have reached its revision; for a write
// without one, Reached. Of what the truth has let go of nothing is said.
func Write(t *history.Truth, w history.Write) []Violation {
	f := findings{what: fmt.Sprintf("%s of %v at %s", w.Verb, w.Key, w.Server)}
	if w.Verb == history.DeleteCollection {
		f.collected(t, w)
		return f.list
	}
	if w.Revision == 0 {
		if !t.DeletedUID(w.Key, w.UID) && t.Floor() <= w.Known {
			f.add(Unrecorded, "no deletion of uid %s", w.UID)
		}
		return f.list
	}
	changes := t.Changes(w.Revision-1, w.Revision)
	i := slices.IndexFunc(changes, func(c history.Change) bool { return c.Key == w.Key })
	switch {
	case i < 0 && t.Floor() >= w.Revision:
	case i < 0:
		f.add(Unrecorded, "revision %d is none of this object's", w.Revision)
	case (changes[i].Next == nil) != w.Deleted:
		f.add(Type, "revision %d is a deletion: %t", w.Revision, changes[i].Next == nil)
	case !w.Deleted && !changes[i].Next.Agree(w.Digests):
		f.add(Content, "revision %d has another content", w.Revision)
	}
	return f.list
}

// collected checks what a DeleteCollection says that it has deleted, and that it has deleted what was selected all the time.
func (f *findings) collected(t *history.Truth, w history.Write) {
	for _, c := range w.Collected {
		if !t.DeletedUID(c.Key, c.UID) && t.Floor() <= w.Known {
			f.add(Unrecorded, "no deletion of %v, uid %s", c.Key, c.UID)
		}
	}
	scope := history.Scope{Resource: w.Key.Resource, Namespace: w.Key.Namespace, LabelKey: w.LabelKey, LabelValue: w.LabelValue}
	for k, s := range t.States(scope, w.Known) {
		for {
			c, more := t.Next(k, s.Revision)
			if t.Floor() > w.Known {
				return
			}
			if !more || c.Revision > w.Reached {
				f.add(Unrecorded, "%v, uid %s, was selected all the time and is not deleted", k, s.UID)
				break
			}
			if s = c.Next; !scope.Selects(k, s) {
				break // deleted, by whomever, or not selected any more, perhaps before it was looked for
			}
		}
	}
}

// List checks that a list is the state at the revision that it names: each part of it, where it went on at another state. The
// truth must have reached that, and what it asked for. Of a state that the truth has let go of nothing is said.
func List(t *history.Truth, l *history.List) []Violation {
	f := findings{what: fmt.Sprintf("list %d (%s, %s) of %+v at %s", l.ID, l.Mode, l.Format, l.Scope, l.Server)}
	if len(l.Revisions) == 0 {
		f.add(Revision, "no page names a revision")
		return f.list
	}
	// One object by its name is no page: a limit does not make it exact.
	legacy := l.Mode == history.Unmatched && l.Limit > 0 && l.Scope.Name == ""
	switch rev := l.Revisions[0]; {
	case (l.Mode == history.Exact || legacy) && rev != l.Asked:
		f.add(Revision, "asked for revision %d, it names %d", l.Asked, rev)
	case (l.Mode == history.NotOlderThan || l.Mode == history.Unmatched) && rev < l.Asked:
		f.add(Stale, "asked for what is not older than revision %d, it names %d", l.Asked, rev)
	case l.Mode == history.Consistent && rev < l.Known:
		f.add(Stale, "revision %d, and revision %d was known before", rev, l.Known)
	}
	seen := map[history.Key]bool{}
	for _, it := range l.Items {
		if seen[it.Key] {
			f.add(Double, "%v is in it twice", it.Key)
		}
		seen[it.Key] = true
	}
	pages, items, after := 0, 0, ""
	for i := 0; i <= len(l.Breaks); i++ {
		to := history.Break{Pages: len(l.Revisions), Items: len(l.Items)}
		if i < len(l.Breaks) {
			to = l.Breaks[i]
		}
		if to.Pages == pages {
			break // it was given up there
		}
		if rev := l.Revisions[pages]; i > 0 && rev < l.Breaks[i-1].Known {
			f.add(Stale, "it goes on at revision %d, and revision %d was known before", rev, l.Breaks[i-1].Known)
		}
		part := l.Items[items:to.Items]
		f.part(t, l, l.Revisions[pages:to.Pages], part, after, i < len(l.Breaks) || l.Partial)
		after = last(part, after)
		pages, items = to.Pages, to.Items
	}
	return f.list
}

// place is where an object is in the order of pages.
func place(k history.Key) string { return k.Namespace + "/" + k.Name }

// last is the last place of some items, or after if there are none.
func last(items []history.Item, after string) string {
	for _, it := range items {
		after = max(after, place(it.Key))
	}
	return after
}

// part checks those pages of a list that are of one state: they have what is behind a place, up to the last of them if they are
// cut off there.
func (f *findings) part(t *history.Truth, l *history.List, revisions []int64, items []history.Item, after string, cut bool) {
	rev := revisions[0]
	for _, other := range revisions {
		if other != rev {
			f.add(Revision, "pages name revisions %v", revisions)
			break
		}
	}
	have := map[history.Key]history.Event{}
	for _, it := range items {
		have[it.Key] = history.Event{Revision: it.Revision, Digests: it.Digests}
	}
	want, end := t.States(l.Scope, rev), last(items, after)
	if t.Floor() > rev {
		return
	}
	for k := range want {
		if at := place(k); after != "" && at <= after || cut && at > end {
			delete(want, k)
		}
	}
	f.state(State, want, have, rev)
}

// state compares objects with those that there were at a revision.
func (f *findings) state(r Rule, want map[history.Key]*history.State, have map[history.Key]history.Event, rev int64) {
	for k, s := range want {
		switch e, ok := have[k]; {
		case !ok:
			f.add(r, "at revision %d there was %v of revision %d, which is missing", rev, k, s.Revision)
		case e.Revision != s.Revision:
			f.add(r, "at revision %d there was %v of revision %d, not of %d", rev, k, s.Revision, e.Revision)
		case !e.Agree(s.Digests):
			f.add(Content, "%v of revision %d has another content", k, s.Revision)
		}
	}
	for k, e := range have {
		if want[k] == nil {
			f.add(r, "at revision %d there was no %v, or it is not selected: it has revision %d", rev, k, e.Revision)
		}
	}
}
