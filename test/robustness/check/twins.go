// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package check

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/weir-project/weir/test/robustness/history"
)

// Twins checks that watches of one scope say the same, as far as each has come, and that a list with the events after it is
// the same state as the initial events of a watch with those after them. It needs no truth, and so shares no fault with the
// judgement by it. It returns the number of events and states that were compared, too.
func Twins(t *history.Twins) ([]Violation, int) {
	f := findings{what: fmt.Sprintf("twins of list %d of %+v at %s", t.List.ID, t.List.Scope, t.List.Server)}
	if len(t.List.Revisions) == 0 {
		return nil, 0
	}
	from := t.List.Revisions[0]
	var furthest *history.Watch
	for _, w := range t.Watches {
		if w.Start == history.AtRevision && (furthest == nil || through(w) > through(furthest)) {
			furthest = w
		}
	}
	if furthest == nil {
		return nil, 0
	}
	compared := 0
	for _, w := range t.Watches {
		if w.Start == history.AtRevision {
			compared += f.sameEvents(furthest, w, min(through(furthest), through(w)))
			continue
		}
		begin := max(initialEnd(w), from)
		end := min(through(furthest), through(w))
		if initialEnd(w) == 0 || begin > end {
			continue
		}
		for _, at := range []int64{begin, end} {
			want := held{}
			for _, it := range t.List.Items {
				want[it.Key] = history.Event{Revision: it.Revision, Digests: it.Digests}
			}
			want.apply(furthest.Events, at)
			have := held{}
			have.apply(w.Events, at)
			f.sameState(w, want, have, at)
			compared += len(have)
		}
	}
	return f.list, compared
}

// through is the revision up to which a watch has surely delivered everything, 0 for none. There may be more at the revision
// of its last event.
func through(w *history.Watch) int64 {
	last := w.Last()
	for _, e := range slices.Backward(w.Events) {
		if e.Kind == history.Bookmark && e.Revision == last {
			return last
		}
		if e.Kind != history.Error {
			break
		}
	}
	if last > w.From {
		last--
	}
	return last
}

// initialEnd is the revision of the initial events of a watch, 0 if they have not all come.
func initialEnd(w *history.Watch) int64 {
	for _, e := range w.Events {
		if e.Kind == history.Bookmark {
			return e.Revision
		}
	}
	return 0
}

// objectEvents are those up to a revision. Those of one revision, which may come in any order, are in that of their keys.
func objectEvents(w *history.Watch, to int64) []history.Event {
	var events []history.Event
	for _, e := range w.Events {
		if e.Kind != history.Bookmark && e.Kind != history.Error && e.Revision <= to {
			events = append(events, e)
		}
	}
	for i := 0; i < len(events); {
		n := i + 1
		for n < len(events) && events[n].Revision == events[i].Revision {
			n++
		}
		slices.SortStableFunc(events[i:n], func(a, b history.Event) int { return strings.Compare(a.Key.Path(), b.Key.Path()) })
		i = n
	}
	return events
}

func (f *findings) sameEvents(a, b *history.Watch, to int64) int {
	one, other := objectEvents(a, to), objectEvents(b, to)
	for i := range max(len(one), len(other)) {
		var has, instead string
		var rev int64
		switch {
		case i >= len(one):
			has, instead, rev = "nothing", saying(other[i]), other[i].Revision
		case i >= len(other):
			has, instead, rev = saying(one[i]), "nothing", one[i].Revision
		case one[i].Kind != other[i].Kind || one[i].Key != other[i].Key || one[i].Revision != other[i].Revision:
			has, instead, rev = saying(one[i]), saying(other[i]), min(one[i].Revision, other[i].Revision)
		case !one[i].Agree(other[i].Digests):
			has, instead, rev = saying(one[i]), "that with another content", one[i].Revision
		default:
			continue
		}
		f.add(Differs, "up to revision %d, which both have reached, watch %d (%s) has %s where watch %d (%s) has %s", to, a.ID, form(a), has, b.ID, form(b), instead)
		f.list[len(f.list)-1].Revision = rev
		break // all that follows may be shifted by it
	}
	return len(other)
}

func saying(e history.Event) string {
	return fmt.Sprintf("%s of %v at revision %d", e.Kind, e.Key, e.Revision)
}

func form(w *history.Watch) string { return fmt.Sprintf("%s, %s, at %s", w.Start, w.Format, w.Server) }

// held is what a reader has after a list or initial events, and what came then.
type held map[history.Key]history.Event

// apply takes the events up to a revision. Initial events have none of their own: they come before the first bookmark.
func (s held) apply(events []history.Event, to int64) {
	for _, e := range events {
		switch {
		case e.Kind == history.Bookmark || e.Kind == history.Error || e.Revision > to:
		case e.Kind == history.Deleted:
			delete(s, e.Key)
		default:
			s[e.Key] = e
		}
	}
}

func (f *findings) sameState(w *history.Watch, want, have held, at int64) {
	if maps.EqualFunc(want, have, func(a, b history.Event) bool { return a.Revision == b.Revision && a.Agree(b.Digests) }) {
		return
	}
	for k, e := range want {
		switch other, ok := have[k]; {
		case !ok:
			f.add(Differs, "at revision %d the list and what followed have %v of revision %d; watch %d (%s) has not", at, k, e.Revision, w.ID, form(w))
		case other.Revision != e.Revision:
			f.add(Differs, "at revision %d the list and what followed have %v of revision %d; watch %d (%s) has it of revision %d", at, k, e.Revision, w.ID, form(w), other.Revision)
		case !other.Agree(e.Digests):
			f.add(Differs, "%v of revision %d has another content in watch %d (%s)", k, e.Revision, w.ID, form(w))
		}
	}
	for k, e := range have {
		if _, ok := want[k]; !ok {
			f.add(Differs, "at revision %d watch %d (%s) has %v of revision %d; the list and what followed have not", at, w.ID, form(w), k, e.Revision)
		}
	}
}
