// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

// Package check judges what was recorded in a run against what etcd had. It finds lies, not slowness: what has not
// been delivered yet is no fault, what was passed over is.
package check

import (
	"fmt"

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
	Stale      Rule = "stale"        // a consistent list is older than what was known
	Broken     Rule = "broken"       // what came is no answer, or no watch event
	Unrecorded Rule = "acknowledged" // a write was acknowledged and is not in etcd
)

// Violation is a lie that was found.
type Violation struct {
	Rule Rule   `json:"rule"`
	What string `json:"what"` // which watch, list or write
	Text string `json:"text"`
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
// without one, what it had at the acknowledgement.
func Write(t *history.Truth, w history.Write) []Violation {
	f := findings{what: fmt.Sprintf("%s of %v at %s", w.Verb, w.Key, w.Server)}
	if w.Revision == 0 {
		if !t.DeletedUID(w.Key, w.UID) {
			f.add(Unrecorded, "no deletion of uid %s", w.UID)
		}
		return f.list
	}
	changes := t.Changes(w.Revision-1, w.Revision)
	switch {
	case len(changes) == 0 || changes[0].Key != w.Key:
		f.add(Unrecorded, "revision %d is none of this object's", w.Revision)
	case (changes[0].Next == nil) != w.Deleted:
		f.add(Type, "revision %d is a deletion: %t", w.Revision, changes[0].Next == nil)
	case !w.Deleted && !changes[0].Next.Agree(w.Digests):
		f.add(Content, "revision %d has another content", w.Revision)
	}
	return f.list
}

// List checks that a list is the state at the revision that it names. The truth must have reached that.
func List(t *history.Truth, l *history.List) []Violation {
	f := findings{what: fmt.Sprintf("list %d (%s, %s) of %+v at %s", l.ID, l.Mode, l.Format, l.Scope, l.Server)}
	if len(l.Revisions) == 0 {
		f.add(Revision, "no page names a revision")
		return f.list
	}
	rev := l.Revisions[0]
	for _, other := range l.Revisions {
		if other != rev {
			f.add(Revision, "pages name revisions %v", l.Revisions)
			break
		}
	}
	if l.Mode == history.Exact && rev != l.Asked {
		f.add(Revision, "asked for revision %d, it names %d", l.Asked, rev)
	}
	if l.Mode == history.Consistent && rev < l.Known {
		f.add(Stale, "revision %d, and revision %d was known before", rev, l.Known)
	}
	have := map[history.Key]history.Event{}
	for _, it := range l.Items {
		if _, double := have[it.Key]; double {
			f.add(Double, "%v is in it twice", it.Key)
		}
		have[it.Key] = history.Event{Revision: it.Revision, Digests: it.Digests}
	}
	f.state(State, t.States(l.Scope, rev), have, rev)
	return f.list
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
