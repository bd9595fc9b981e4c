// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package history

import (
	"context"
	"fmt"
	"slices"
	"sort"
	"sync"
	"time"
)

// Change is one of an object's, as etcd had it.
type Change struct {
	Revision int64     `json:"revision"`
	At       time.Time `json:"at"` // when it was learned of
	Key      Key       `json:"key"`
	// Prev is the state before, nil if there was none; Next that after, nil if the object was deleted.
	Prev *State `json:"-"`
	Next *State `json:"next,omitempty"`
}

// Truth is all changes that etcd had after floor, in its order, and the state at floor. It is safe for concurrent use.
type Truth struct {
	mu sync.Mutex
	// changes have floor < Revision, which ascends. Those of one revision are of different objects: a lease that expires deletes
	// all that it has at one. What is in it does not change.
	changes []Change
	// keys has the changes of each object, and before them the last with Revision <= floor, if that left an object.
	keys  map[Key][]Change
	floor int64
	// floorAt is when the last change with Revision <= floor was learned of, zero if there was none.
	floorAt time.Time
	head    int64         // all changes up to this revision are known
	grown   chan struct{} // closed when head grows, and replaced
}

// NewTruth returns one that has no objects at revision 0.
func NewTruth() *Truth {
	return &Truth{keys: map[Key][]Change{}, grown: make(chan struct{})}
}

// Add notes a change: next is the state after it, nil for a deletion. There may be more at the same revision, until Reach or
// a change at a later one says that there are not.
func (t *Truth) Add(rev int64, at time.Time, k Key, next *State) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if rev <= t.head {
		return fmt.Errorf("etcd's watch gave revision %d of %v after it had given all up to revision %d", rev, k, t.head)
	}
	if n := len(t.changes); n > 0 && t.changes[n-1].Revision > rev {
		return fmt.Errorf("etcd's watch gave revision %d of %v after revision %d", rev, k, t.changes[n-1].Revision)
	}
	c := Change{Revision: rev, At: at, Key: k, Next: next}
	if of := t.keys[k]; len(of) > 0 {
		if c.Prev = of[len(of)-1].Next; of[len(of)-1].Revision == rev {
			return fmt.Errorf("etcd's watch gave revision %d of %v twice", rev, k)
		}
	}
	if c.Prev == nil && next == nil {
		return fmt.Errorf("etcd's watch gave a deletion of %v at revision %d, which did not exist", k, rev)
	}
	t.changes = append(t.changes, c)
	t.keys[k] = append(t.keys[k], c)
	t.growLocked(rev - 1)
	return nil
}

// Trim lets go of the changes up to a revision, as far as all is known, and returns them. What is asked about revisions
// before it from now on is not answered rightly. Who has asked, and finds then that Floor is not later than what was asked
// about, was answered rightly.
func (t *Truth) Trim(rev int64) []Change {
	t.mu.Lock()
	defer t.mu.Unlock()
	if rev = min(rev, t.head); rev <= t.floor {
		return nil
	}
	t.floor = rev
	later := func(list []Change) int {
		return sort.Search(len(list), func(i int) bool { return list[i].Revision > rev })
	}
	n := later(t.changes)
	dropped := t.changes[:n:n]
	if n > 0 {
		t.floorAt = dropped[n-1].At
	}
	t.changes = slices.Clone(t.changes[n:]) // so that dropped can be let go of
	for k, of := range t.keys {
		n := later(of)
		if n > 0 && of[n-1].Next != nil {
			n--
		}
		if of = slices.Clone(of[n:]); len(of) == 0 {
			delete(t.keys, k)
			continue
		}
		if of[0].Revision <= rev {
			of[0].Prev = nil
		}
		t.keys[k] = of
	}
	return dropped
}

// Floor is the revision before which nothing is known any more.
func (t *Truth) Floor() int64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.floor
}

// FloorAt is Floor, and when the last change up to it was learned of, zero if nothing was let go of. What began after that
// changes nothing up to Floor.
func (t *Truth) FloorAt() (int64, time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.floor, t.floorAt
}

// Reach notes that there is no other change up to a revision.
func (t *Truth) Reach(rev int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.growLocked(rev)
}

func (t *Truth) growLocked(rev int64) {
	if rev > t.head {
		t.head = rev
		close(t.grown)
		t.grown = make(chan struct{})
	}
}

// Head is the revision up to which all is known.
func (t *Truth) Head() int64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.head
}

// Wait waits until all is known up to a revision.
func (t *Truth) Wait(ctx context.Context, rev int64) error {
	for {
		t.mu.Lock()
		head, grown := t.head, t.grown
		t.mu.Unlock()
		if head >= rev {
			return nil
		}
		select {
		case <-grown:
		case <-ctx.Done():
			return fmt.Errorf("wait until etcd's watch has reached revision %d, now at %d: %w", rev, head, context.Cause(ctx))
		}
	}
}

// Changes returns those with after < Revision <= to. They must not be changed.
func (t *Truth) Changes(after, to int64) []Change {
	t.mu.Lock()
	all := t.changes
	t.mu.Unlock()
	lo := sort.Search(len(all), func(i int) bool { return all[i].Revision > after })
	hi := sort.Search(len(all), func(i int) bool { return all[i].Revision > to })
	return all[min(lo, hi):hi]
}

// ChangesOf returns those of one object with after < Revision. They must not be changed.
func (t *Truth) ChangesOf(k Key, after int64) []Change {
	t.mu.Lock()
	of := t.keys[k]
	t.mu.Unlock()
	return of[sort.Search(len(of), func(i int) bool { return of[i].Revision > after }):]
}

// Events returns what a watch of a scope has to deliver of the changes with after < Revision <= to. What leaves the
// scope is DELETED, with the content that it had there.
func (t *Truth) Events(c Scope, after, to int64) []Event {
	var events []Event
	for _, ch := range t.Changes(after, to) {
		before, now := c.Selects(ch.Key, ch.Prev), c.Selects(ch.Key, ch.Next)
		e := Event{Revision: ch.Revision, Key: ch.Key}
		switch {
		case now && before:
			e.Kind, e.Digests = Modified, ch.Next.Digests
		case now:
			e.Kind, e.Digests = Added, ch.Next.Digests
		case before:
			e.Kind, e.Digests = Deleted, ch.Prev.Digests
		default:
			continue
		}
		events = append(events, e)
	}
	return events
}

// At returns an object as it was at a revision, nil if there was none.
func (t *Truth) At(k Key, rev int64) *State {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.atLocked(k, rev)
}

func (t *Truth) atLocked(k Key, rev int64) *State {
	of := t.keys[k]
	if i := sort.Search(len(of), func(i int) bool { return of[i].Revision > rev }); i > 0 {
		return of[i-1].Next
	}
	return nil
}

// States returns all objects of a scope as they were at a revision.
func (t *Truth) States(c Scope, rev int64) map[Key]*State {
	t.mu.Lock()
	defer t.mu.Unlock()
	states := map[Key]*State{}
	for k := range t.keys {
		if s := t.atLocked(k, rev); c.Selects(k, s) {
			states[k] = s
		}
	}
	return states
}

// Next returns the object's first change after a revision, false if there is none.
func (t *Truth) Next(k Key, rev int64) (Change, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	of := t.keys[k]
	if i := sort.Search(len(of), func(i int) bool { return of[i].Revision > rev }); i < len(of) {
		return of[i], true
	}
	return Change{}, false
}

// Absent tells whether there was no such object at some revision with from <= revision <= to.
func (t *Truth) Absent(k Key, from, to int64) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.atLocked(k, from) == nil {
		return true
	}
	for _, c := range t.keys[k] {
		if c.Next == nil && from < c.Revision && c.Revision <= to {
			return true
		}
	}
	return false
}

// DeletedUID tells whether the object of a UID was deleted.
func (t *Truth) DeletedUID(k Key, uid string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, c := range t.keys[k] {
		if c.Next == nil && c.Prev != nil && c.Prev.UID == uid {
			return true
		}
	}
	return false
}

// RevisionBefore returns a revision after which the last n changes are, Floor if there are no more than that.
func (t *Truth) RevisionBefore(n int) int64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	if n = len(t.changes) - n; n > 0 {
		return t.changes[n].Revision - 1
	}
	return t.floor
}

// RevisionAt returns the revision of the last change before a time, Floor if there was none.
func (t *Truth) RevisionAt(at time.Time) int64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	if i := sort.Search(len(t.changes), func(i int) bool { return t.changes[i].At.After(at) }); i > 0 {
		return t.changes[i-1].Revision
	}
	return t.floor
}
