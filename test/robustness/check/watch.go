// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package check

import (
	"fmt"
	"net/http"
	"slices"

	"github.com/weir-project/weir/test/robustness/history"
)

// Watch checks a watch that has ended. The truth must have reached the last revision in it, and Due. Of events up to the
// truth's floor only the order is checked: a server may have more than the truth has. What is due after the floor has to come.
//
// Events of one revision may come in any order, but all before anything that is later, and before a bookmark at that revision.
//
// What comes before the first bookmark of a watch that begins with initial events is checked by what it adds up to: that is
// the state at the bookmark. All else is compared event by event.
func Watch(t *history.Truth, w *history.Watch) []Violation {
	f := findings{what: fmt.Sprintf("watch %d (%s, %s, %s %d) of %+v at %s", w.ID, w.Role, w.Format, w.Start, w.From, w.Scope, w.Server)}
	from, events := w.From, w.Events
	if w.Start != history.AtRevision {
		n := f.initial(t, w)
		if n == 0 {
			return f.list // it has not said what state it gave
		}
		from, events = events[n-1].Revision, events[n:]
	}
	f.live(t, w, from, events)
	return f.list
}

// initial checks the events up to the first bookmark, and returns their number with it, 0 if there is none.
func (f *findings) initial(t *history.Truth, w *history.Watch) int {
	have := map[history.Key]history.Event{}
	for i, e := range w.Events {
		old, had := have[e.Key]
		switch e.Kind {
		case history.Bookmark:
			if w.Start == history.WatchList && !e.InitialEnd {
				f.add(Initial, "bookmark at revision %d before the one that closes the initial events", e.Revision)
			}
			if e.Revision < w.Known {
				f.add(Stale, "the initial events are those of revision %d, and revision %d was known before", e.Revision, w.Known)
			}
			if want := t.States(w.Scope, e.Revision); t.Floor() <= e.Revision {
				f.state(Initial, want, have, e.Revision)
			}
			return i + 1
		case history.Error:
			// Before anything else it may say that it has not come to the state that initial events have to have.
			if i > 0 || e.Code != http.StatusGatewayTimeout {
				f.end(e)
			}
			return 0
		case history.Deleted:
			if !had {
				f.add(Foreign, "DELETED of %v at revision %d, which was not there", e.Key, e.Revision)
			}
			delete(have, e.Key)
		default:
			if had == (e.Kind == history.Added) {
				f.add(Type, "%s of %v at revision %d; there before: %t", e.Kind, e.Key, e.Revision, had)
			}
			if had && e.Revision <= old.Revision {
				f.add(Order, "%v of revision %d after revision %d", e.Key, e.Revision, old.Revision)
			}
			have[e.Key] = e
			if s := t.At(e.Key, e.Revision); s == nil && t.Floor() > e.Revision {
				continue // it may have been over at the floor
			} else if s == nil || s.Revision != e.Revision || !w.Scope.Selects(e.Key, s) {
				f.add(Foreign, "%s of %v at revision %d did not happen, or is not selected", e.Kind, e.Key, e.Revision)
			} else if !e.Agree(s.Digests) {
				f.add(Content, "%v of revision %d has another content", e.Key, e.Revision)
			}
		}
	}
	return 0
}

// live compares events after revision from with those that had to come.
func (f *findings) live(t *history.Truth, w *history.Watch, from int64, events []history.Event) {
	to := max(from, w.Due)
	for _, e := range events {
		if e.Kind != history.Error {
			to = max(to, e.Revision)
		}
	}
	want, floor := due(t, w.Scope, from, to)
	last := from
	for i, e := range events {
		switch e.Kind {
		case history.Error:
			f.end(e)
			if i < len(events)-1 {
				f.add(End, "%d events after the error", len(events)-1-i)
			}
			return
		case history.Bookmark:
			want = f.passed(want, e.Revision+1, HighMark, fmt.Sprintf("bookmark at revision %d", e.Revision))
			if e.Revision < last {
				f.add(Order, "bookmark at revision %d after revision %d", e.Revision, last)
			}
			last = max(last, e.Revision)
		default:
			switch {
			case e.Revision < last, e.Revision == last && e.Revision > floor && index(want, e) < 0,
				e.Revision == last && (e.Revision == from || came(events[:i], e)):
				f.back(events[:i], e, last)
				continue
			case e.Revision <= floor:
				last = e.Revision
				continue
			}
			want = f.passed(want, e.Revision, Gap, fmt.Sprintf("%s of %v at revision %d", e.Kind, e.Key, e.Revision))
			last = e.Revision
			if len(want) == 0 || want[0].Revision != e.Revision {
				f.add(Foreign, "%s of %v at revision %d did not happen, or is not selected", e.Kind, e.Key, e.Revision)
				continue
			}
			n := max(index(want, e), 0)
			f.same(want[n], e)
			want = slices.Delete(want, n, n+1)
		}
	}
	f.passed(want, w.Due+1, Missing, "end of the run")
}

// due returns the events after a revision, or after the truth's floor if that is later, and that floor.
func due(t *history.Truth, c history.Scope, after, to int64) ([]history.Event, int64) {
	for {
		floor := t.Floor()
		if want := t.Events(c, max(after, floor), to); t.Floor() == floor {
			return want, floor
		}
	}
}

// came tells whether an event is among the last ones, of its revision.
func came(before []history.Event, e history.Event) bool {
	for i := len(before) - 1; i >= 0 && before[i].Revision == e.Revision; i-- {
		if before[i].Kind != history.Bookmark && before[i].Key == e.Key {
			return true
		}
	}
	return false
}

// index returns which of those to come is an event, by its revision and its object; -1 for none.
func index(want []history.Event, e history.Event) int {
	for i := 0; i < len(want) && want[i].Revision <= e.Revision; i++ {
		if want[i].Revision == e.Revision && want[i].Key == e.Key {
			return i
		}
	}
	return -1
}

// passed takes off the events before a revision, which had to come before what is there now, and reports them.
func (f *findings) passed(want []history.Event, rev int64, r Rule, now string) []history.Event {
	for len(want) > 0 && want[0].Revision < rev {
		f.add(r, "%s of %v at revision %d has not come before: %s", want[0].Kind, want[0].Key, want[0].Revision, now)
		want = want[1:]
	}
	return want
}

// back reports an event that is not later than what came before it.
func (f *findings) back(before []history.Event, e history.Event, last int64) {
	for _, b := range before {
		if b.Kind != history.Bookmark && b.Revision == e.Revision && b.Key == e.Key {
			f.add(Double, "%s of %v at revision %d came before", e.Kind, e.Key, e.Revision)
			return
		}
	}
	f.add(Order, "%s of %v at revision %d after revision %d", e.Kind, e.Key, e.Revision, last)
}

func (f *findings) same(want, e history.Event) {
	switch {
	case e.Key != want.Key:
		f.add(Foreign, "revision %d is %v, not %v", e.Revision, want.Key, e.Key)
	case e.Kind != want.Kind:
		f.add(Type, "%v at revision %d is %s, not %s", e.Key, e.Revision, want.Kind, e.Kind)
	case !e.Agree(want.Digests):
		f.add(Content, "%s of %v at revision %d has another content", e.Kind, e.Key, e.Revision)
	}
}

// end checks the error that a watch ended with.
func (f *findings) end(e history.Event) {
	if e.Code != http.StatusGone {
		f.add(End, "error %d: %s", e.Code, e.Message)
	}
}
