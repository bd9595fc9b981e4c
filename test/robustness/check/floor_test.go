// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package check

import (
	"math"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/weir-project/weir/test/robustness/history"
)

// begun is a story of one object that is there, of which all was judged, with the judge.
func begun(t *testing.T, resource string) (*story, *Objects) {
	s := tell(t, resource)
	s.write(http.MethodPost, "1")
	o := NewObjects(s.truth)
	a := o.acts(s.key, s.now)
	a.begin, a.upTo = o.at(s.key, s.revision), s.revision
	s.writes = nil
	s.now = s.now.Add(4 * time.Minute)
	return s, o
}

// swept is an unanswered deletion of the collection that the object is of, which happened.
func (s *story) swept(o *Objects) {
	w := history.Write{Begun: s.now, At: s.after(3000), Verb: history.DeleteCollection, Key: s.key, Outcome: history.Unanswered}
	w.Key.Name = ""
	o.Write(w)
	s.change(nil)
}

// What the truth has let go of before it was judged is no violation. What came after that is judged.
func TestObjectsBehindTheFloor(t *testing.T) {
	for _, c := range []struct {
		name     string
		rule     Rule // empty for none
		unjudged int
		tell     func(s *story, o *Objects) []Violation
	}{
		{"a deletion is let go of before a refusal is judged", "", 0, func(s *story, o *Objects) []Violation {
			s.swept(o)
			gone := s.revision
			s.now = s.now.Add(3 * time.Minute)
			found := o.Write(*s.refused(http.MethodPatch, "2", http.StatusNotFound))
			s.truth.Reach(s.revision)
			s.truth.Trim(gone)
			return append(found, o.End()...)
		}},
		{"it is needed until then", "", 0, func(s *story, o *Objects) []Violation {
			base := s.revision
			s.swept(o)
			s.now = s.now.Add(3 * time.Minute)
			found := o.Write(*s.refused(http.MethodPatch, "2", http.StatusNotFound))
			if o.Needs() != base {
				found = append(found, Violation{Text: "what is needed is another revision"})
			}
			found = append(found, o.End()...)
			if o.Needs() != math.MaxInt64 {
				found = append(found, Violation{Text: "something is needed in the end"})
			}
			return found
		}},
		{"the first step of a deletion is let go of", "", 0, func(s *story, o *Objects) []Violation {
			going := *s.state
			s.writes = append(s.writes, history.Write{Begun: s.now, At: s.after(3000), Verb: http.MethodDelete, Key: s.key, Outcome: history.Unanswered})
			s.change(&going)
			s.truth.Reach(s.revision)
			found := o.Write(s.writes[0])
			s.truth.Trim(s.revision)
			s.now = s.now.Add(4 * time.Minute)
			found = append(found, o.Read(*s.read())...)
			return append(found, o.End()...)
		}},
		{"acts are taken when their time has been let go of", "", 3, func(s *story, o *Objects) []Violation {
			s.write(http.MethodPut, "2")
			s.read()
			s.write(http.MethodDelete, "")
			gone := s.revision
			s.now = s.now.Add(3 * time.Minute)
			s.refused(http.MethodPatch, "3", http.StatusNotFound)
			s.write(http.MethodPost, "4")
			s.truth.Reach(s.revision)
			s.truth.Trim(gone)
			found := o.Read(s.reads[0])
			for _, w := range s.writes {
				found = append(found, o.Write(w)...)
			}
			return append(found, o.End()...)
		}},
		{"a refusal after it, of what is there", Linearizable, 0, func(s *story, o *Objects) []Violation {
			s.write(http.MethodPut, "2")
			s.truth.Reach(s.revision)
			s.truth.Trim(s.revision)
			s.now = s.now.Add(3 * time.Minute)
			found := o.Write(*s.refused(http.MethodPatch, "3", http.StatusNotFound))
			return append(found, o.End()...)
		}},
		{"a change after it, of nobody's", Unasked, 0, func(s *story, o *Objects) []Violation {
			s.write(http.MethodPut, "2")
			s.truth.Reach(s.revision)
			s.truth.Trim(s.revision)
			s.now = s.now.Add(3 * time.Minute)
			s.change(nil)
			s.truth.Reach(s.revision)
			s.next()
			found := o.Read(*s.read())
			return append(found, o.End()...)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			resource := "widgets"
			if c.name == "the first step of a deletion is let go of" {
				resource = graceful
			}
			s, o := begun(t, resource)
			found := c.tell(s, o)
			if c.rule == "" && len(found) > 0 || c.rule != "" && !slices.ContainsFunc(found, func(v Violation) bool { return v.Rule == c.rule }) {
				t.Errorf("found %v, want %q", found, c.rule)
			}
			if o.Unjudged() != c.unjudged {
				t.Errorf("%d acts are not judged, want %d", o.Unjudged(), c.unjudged)
			}
		})
	}
}

// Writes that never happened are not waited for: the truth would be kept for them.
func TestNothingIsNeededForWhatNeverHappened(t *testing.T) {
	s, o := begun(t, "widgets")
	o.Write(history.Write{Begun: s.now, At: s.after(3000), Verb: http.MethodPatch, Key: s.key, Sent: "never", Outcome: history.Unanswered})
	other := history.Key{Resource: "widgets", Namespace: "n", Name: "other"}
	needs := []int64{o.Needs()}
	for range 5 {
		s.now = s.now.Add(2 * time.Minute)
		s.revision += 2
		if err := s.truth.Add(s.revision, s.after(1), other, &history.State{UID: "u", Op: "x", Revision: s.revision}); err != nil {
			t.Fatal(err)
		}
		s.truth.Reach(s.revision)
		o.Write(history.Write{
			Begun: s.now, At: s.after(4), Key: other, Verb: http.MethodPatch, Outcome: history.Acknowledged, Sent: "x", Op: "x", UID: "u", Revision: s.revision,
		})
		o.Read(history.Read{Opened: s.after(5), Closed: s.after(9), Key: other, Mode: history.Consistent, Found: true, UID: "u", Op: "x", Revision: s.revision})
		needs = append(needs, o.Needs())
	}
	if base := needs[0]; needs[len(needs)-1] <= base {
		t.Errorf("for a write that never happened, all after revision %d is needed: %v", base, needs)
	}
}

// A server may have events that the truth has let go of. What is wrong with the others is found, and what goes back or comes
// twice among them.
func TestWatchesFromBehindTheFloor(t *testing.T) {
	scope := history.Scope{Resource: "pods"}
	truth := told(t)
	w := honest(truth, scope, 1)
	var at []int64
	for _, e := range w.Events {
		at = append(at, e.Revision)
	}
	n := len(at) / 2
	truth.Trim(at[n])
	if found := Watch(truth, w); len(found) > 0 {
		t.Errorf("of a watch of revisions %v, floor %d: found %v", at, truth.Floor(), found)
	}
	for name, lie := range map[string]struct {
		tell func(w *history.Watch)
		rule Rule
	}{
		"skipped after it":  {func(w *history.Watch) { w.Events = slices.Delete(w.Events, n+1, n+2) }, Gap},
		"doubled before it": {func(w *history.Watch) { w.Events = slices.Insert(w.Events, 1, w.Events[0]) }, Double},
		"back before it":    {func(w *history.Watch) { w.Events[0], w.Events[1] = w.Events[1], w.Events[0] }, Order},
		"before its start":  {func(w *history.Watch) { w.From = at[0] }, Order},
	} {
		other := *w
		other.Events = slices.Clone(w.Events)
		lie.tell(&other)
		if !slices.Contains(rules(Watch(truth, &other)), lie.rule) {
			t.Errorf("%s: found %v, want %s", name, Watch(truth, &other), lie.rule)
		}
	}
	listing := honest(truth, scope, 1)
	listing.Start, listing.From = history.WatchList, 0
	listing.Events = []history.Event{
		{Kind: history.Added, Revision: 2, Key: history.Key{Resource: "pods", Namespace: "n", Name: "long gone"}},
		{Kind: history.Bookmark, Revision: truth.Floor() - 1, InitialEnd: true},
	}
	if found := Watch(truth, listing); len(found) > 0 {
		t.Errorf("of initial events of before the floor: found %v", found)
	}
}

// Of what the truth has let go of nothing is said of a read, a write or a list.
func TestRecordsBehindTheFloor(t *testing.T) {
	s := tell(t, "widgets")
	s.write(http.MethodPost, "1")
	old := s.read()
	gone := *s.write(http.MethodDelete, "")
	kept := *s.write(http.MethodPost, "2")
	lost := kept
	lost.Revision++
	s.truth.Reach(s.revision + 1)
	s.truth.Trim(s.revision)
	absent := *old
	absent.Found, absent.Mode, absent.Known, absent.Reached = false, history.Consistent, old.Revision, s.revision+1
	list := history.List{Scope: history.Scope{Resource: "widgets"}, Mode: history.Any, Revisions: []int64{old.Revision}}
	list.Items = []history.Item{{Key: s.key, Revision: old.Revision, Digests: old.Digests}}
	for what, found := range map[string][]Violation{
		"a read that found nothing": Read(s.truth, &absent), "a read": Read(s.truth, old), "a write": Write(s.truth, kept),
		"a deletion": Write(s.truth, gone), "a list": List(s.truth, &list),
	} {
		if len(found) > 0 {
			t.Errorf("%s: found %v", what, found)
		}
	}
	absent.Known, old.Known = s.revision, s.revision
	list.Revisions[0] = s.revision
	gone.Known, gone.UID = s.revision, "none"
	for what, found := range map[string][]Violation{
		"a read that found nothing": Read(s.truth, &absent), "a read": Read(s.truth, old), "a write": Write(s.truth, lost),
		"a deletion": Write(s.truth, gone), "a list": List(s.truth, &list),
	} {
		if len(found) == 0 {
			t.Errorf("%s of now: nothing is found", what)
		}
	}
}
