// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package timeline

import (
	"fmt"
	"maps"
	"slices"
	"sort"
	"strings"

	"github.com/weir-project/weir/test/robustness/history"
)

// tableOf compares what was due with what came, row by row.
type tableOf struct {
	Head []string
	Rows []rowOf
}

type rowOf struct {
	Wrong bool
	Cells []string
}

// near is how many revisions of a scope are shown before and behind a violation.
const near = 9

func sorted(m map[string]string) []string { return slices.Sorted(maps.Keys(m)) }

// table is that of a record, nil if there is nothing to compare.
func (s *story) table(b *badRecord) *tableOf {
	switch {
	case len(s.changes) == 0: // the page says so
	case b.Watch != nil && initial(b):
		return s.states(b.Watch.Scope, b.revision, held(b.Watch, b.revision))
	case b.Watch != nil:
		return s.events(b.Watch.Scope, b.revision, []*history.Watch{b.Watch})
	case b.Twins != nil:
		return s.events(b.Twins.List.Scope, b.revision, b.Twins.Watches)
	case b.List != nil && len(b.List.Revisions) > 0:
		have := map[history.Key]history.Event{}
		for _, it := range b.List.Items {
			have[it.Key] = history.Event{Revision: it.Revision, Digests: it.Digests}
		}
		return s.states(b.List.Scope, b.List.Revisions[0], have)
	}
	return nil
}

// initial tells whether a violation is about initial events: before the first bookmark only what they add up to is due.
func initial(b *badRecord) bool {
	if b.Watch.Start == history.AtRevision {
		return false
	}
	for _, e := range b.Watch.Events {
		if e.Kind == history.Bookmark {
			return b.revision <= e.Revision
		}
	}
	return true
}

// held is what a watch's events up to a revision, and all initial events, add up to.
func held(w *history.Watch, to int64) map[history.Key]history.Event {
	have := map[history.Key]history.Event{}
	for _, e := range w.Events {
		switch e.Kind {
		case history.Bookmark:
			if e.Revision >= to {
				return have
			}
		case history.Error:
		case history.Deleted:
			delete(have, e.Key)
		default:
			have[e.Key] = e
		}
	}
	return have
}

// states compares objects with those that there were at a revision. Those that agree are counted.
func (s *story) states(scope history.Scope, rev int64, have map[history.Key]history.Event) *tableOf {
	t := &tableOf{Head: []string{"object", fmt.Sprintf("in etcd at revision %d", rev), "came"}}
	want := s.truth.States(scope, rev)
	keys := map[string]history.Key{}
	for k := range want {
		keys[k.Path()] = k
	}
	for k := range have {
		keys[k.Path()] = k
	}
	equal := 0
	for _, path := range slices.Sorted(maps.Keys(keys)) {
		k := keys[path]
		due, came := "-", "-"
		if o := want[k]; o != nil {
			due = fmt.Sprintf("revision %d, mark %s", o.Revision, o.Op)
		}
		e, ok := have[k]
		if ok {
			came = fmt.Sprintf("revision %d", e.Revision)
		}
		if o := want[k]; o != nil && ok && o.Revision == e.Revision {
			if e.Agree(o.Digests) {
				equal++
				continue
			}
			came += ", another content"
		}
		if len(t.Rows) < 40 {
			t.Rows = append(t.Rows, rowOf{Wrong: true, Cells: []string{path, due, came}})
		}
	}
	t.Rows = append(t.Rows, rowOf{Cells: []string{fmt.Sprintf("%d others", equal), "", "equal"}})
	return t
}

// events puts what was due beside what came at each watch, by revision.
func (s *story) events(scope history.Scope, rev int64, watches []*history.Watch) *tableOf {
	t := &tableOf{Head: []string{"revision", "learned at", "in etcd", "due"}}
	for _, w := range watches {
		t.Head = append(t.Head, fmt.Sprintf("watch %d: %s, %s at %s", w.ID, w.Start, w.Format, w.Server))
	}
	due := map[int64]history.Event{}
	changes := map[int64]history.Change{}
	var revisions []int64
	for _, c := range s.changes {
		changes[c.Revision] = c
	}
	if n := len(s.changes); n > 0 {
		for _, e := range s.truth.Events(scope, 0, s.changes[n-1].Revision) {
			due[e.Revision] = e
			revisions = append(revisions, e.Revision)
		}
	}
	came := make([]map[int64][]string, len(watches))
	for i, w := range watches {
		came[i] = map[int64][]string{}
		last := w.From
		for n, e := range w.Events {
			text := fmt.Sprintf("#%d %s", n+1, e.Kind)
			switch {
			case e.Kind == history.Error:
				text += fmt.Sprintf(" %d: %s", e.Code, e.Message)
				e.Revision = last + 1
			case e.Kind == history.Bookmark:
			case e.Key != due[e.Revision].Key:
				text += " of " + e.Key.Path()
			case !e.Agree(due[e.Revision].Digests):
				text += ", another content"
			}
			last = max(last, e.Revision)
			came[i][e.Revision] = append(came[i][e.Revision], text)
			revisions = append(revisions, e.Revision)
		}
	}
	slices.Sort(revisions)
	revisions = slices.Compact(revisions)
	at := sort.Search(len(revisions), func(i int) bool { return revisions[i] >= rev })
	for _, r := range revisions[max(0, at-near):min(len(revisions), at+near+1)] {
		row := rowOf{Wrong: r == rev, Cells: []string{fmt.Sprint(r), "", "", string(due[r].Kind)}}
		if c, ok := changes[r]; ok {
			row.Cells[1], row.Cells[2] = clock(c.At), changed(c)
		}
		for i, w := range watches {
			text := strings.Join(came[i][r], "; ")
			if text == "" && due[r].Kind != "" {
				switch {
				case w.Start == history.AtRevision && r <= w.From, w.Start != history.AtRevision && r <= firstMark(w):
					text = "(before it)"
				case r > w.Last():
					text = "(not come to)"
				default:
					text, row.Wrong = "MISSING", true
				}
			}
			row.Cells = append(row.Cells, text)
		}
		t.Rows = append(t.Rows, row)
	}
	return t
}

// firstMark is the revision of the first bookmark, up to which only the sum of the events is due.
func firstMark(w *history.Watch) int64 {
	for _, e := range w.Events {
		if e.Kind == history.Bookmark {
			return e.Revision
		}
	}
	return 1<<63 - 1
}
