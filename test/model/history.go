// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package model

import (
	"fmt"
	"maps"
	"slices"
	"sort"

	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/storage"
)

// state is all objects at one revision, by key.
type state map[string]runtime.Object

// change is one write: the object of a key went from prev to cur. One of them may be nil.
type change struct {
	rev       uint64
	key       string
	prev, cur runtime.Object
}

// history is all that was ever written.
type history struct {
	kind Kind
	// changes are by ascending revision; states[i] is the state after changes[i].
	changes []change
	states  []state
	// dropped is how many of states are nil: nobody may ask for them any more.
	dropped int
}

// head is the state after the last change.
func (h *history) head() state {
	if len(h.states) == 0 {
		return state{}
	}
	return h.states[len(h.states)-1]
}

// last is the revision of the last change.
func (h *history) last() uint64 {
	if len(h.changes) == 0 {
		return 0
	}
	return h.changes[len(h.changes)-1].rev
}

// after returns how many changes have a revision of at most rev.
func (h *history) after(rev uint64) int {
	return sort.Search(len(h.changes), func(i int) bool { return h.changes[i].rev > rev })
}

// at returns the state at a revision, false if it is not kept any more.
func (h *history) at(rev uint64) (state, bool) {
	n := h.after(rev)
	if n == 0 {
		return state{}, h.dropped == 0
	}
	return h.states[n-1], n > h.dropped
}

func (h *history) add(c change) {
	next := maps.Clone(h.head())
	if c.cur == nil {
		delete(next, c.key)
	} else {
		next[c.key] = c.cur
	}
	h.changes, h.states = append(h.changes, c), append(h.states, next)
}

// drop lets go of the states before a revision.
func (h *history) drop(rev uint64) {
	for n := h.after(rev) - 1; h.dropped < n; h.dropped++ {
		h.states[h.dropped] = nil
	}
}

// some tells whether there is a revision from lo to hi at which ok is true.
func (h *history) some(lo, hi uint64, ok func(rev uint64, s state) bool) bool {
	if s, kept := h.at(lo); kept && ok(lo, s) {
		return true
	}
	for n := h.after(lo); n < len(h.changes) && h.changes[n].rev <= hi; n++ {
		if s := h.states[n]; s != nil && ok(h.changes[n].rev, s) {
			return true
		}
	}
	return false
}

// page is what a list has to tell of one state.
type page struct {
	items []runtime.Object
	// last is the key of the last item; more says that other objects of the scope come after
	// it, and wanted that the list selects one of them.
	last         string
	more, wanted bool
	// left is how many objects of the scope come after last, selected or not.
	left int64
}

// list returns up to limit objects, if that is not 0, of those that pred selects in the scope
// of the state, from a key on.
func (h *history) list(s state, where scope, pred storage.SelectionPredicate, from string, limit int64) (page, error) {
	var p page
	for _, key := range slices.Sorted(maps.Keys(s)) {
		if !where.has(key) || key < from {
			continue
		}
		selected, err := pred.Matches(s[key])
		if err != nil {
			return p, err
		}
		if limit > 0 && int64(len(p.items)) == limit {
			p.more, p.left, p.wanted = true, p.left+1, p.wanted || selected
			continue
		}
		if selected {
			p.items, p.last = append(p.items, s[key]), key
		}
	}
	return p, nil
}

// event is what a watch tells.
type event struct {
	kind string // ADDED, MODIFIED, DELETED
	rev  uint64
	obj  runtime.Object
}

func (e event) String() string { return fmt.Sprintf("%s at %d: %+v", e.kind, e.rev, e.obj) }

// eventOf returns what a change is to a watch; false if it is nothing.
func (h *history) eventOf(c change, where scope, pred storage.SelectionPredicate) (event, bool, error) {
	if !where.has(c.key) {
		return event{}, false, nil
	}
	var is, was bool
	var err error
	if c.cur != nil {
		if is, err = pred.Matches(c.cur); err != nil {
			return event{}, false, err
		}
	}
	if c.prev != nil {
		if was, err = pred.Matches(c.prev); err != nil {
			return event{}, false, err
		}
	}
	switch {
	case is && was:
		return event{"MODIFIED", c.rev, c.cur}, true, nil
	case is:
		return event{"ADDED", c.rev, c.cur}, true, nil
	case was:
		// The last content that the watch was allowed to see, at the revision at which it left.
		return event{"DELETED", c.rev, at(c.prev, c.rev)}, true, nil
	default:
		return event{}, false, nil
	}
}

// equal compares objects as clients do, to whom nothing and an empty list are the same.
func equal(a, b runtime.Object) bool { return apiequality.Semantic.DeepEqual(a, b) }
