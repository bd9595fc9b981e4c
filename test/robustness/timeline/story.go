// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package timeline

import (
	"cmp"
	"errors"
	"io/fs"
	"regexp"
	"slices"
	"strconv"
	"time"

	"github.com/weir-project/weir/test/robustness/check"
	"github.com/weir-project/weir/test/robustness/history"
)

// shown is how many records with violations are drawn, and beside each how many others of the same scope.
const shown, shownBeside = 12, 6

// story is what is drawn of a history.
type story struct {
	begin, end time.Time
	servers    []string // weirs and whatever else faults were done to
	faults     []history.Fault
	truth      *history.Truth
	changes    []history.Change // in etcd's order
	bad        []*badRecord
	more       int // records with violations that are not in bad
}

// badRecord is a record with violations, and what is drawn around it.
type badRecord struct {
	*Line
	key      history.Key // of reads and writes that have no order
	revision int64       // that the first violation speaks of, 0 for none
	at       time.Time   // when that was
	beside   []span      // records of the same scope or object
}

// span is a record as a bar.
type span struct {
	from, to   time.Time
	class      string
	text, full string
}

// load reads a history twice: first what was found, then what belongs to it.
func load(path string) (*story, error) {
	s := &story{truth: history.NewTruth()}
	seen := func(server string, times ...time.Time) {
		if server != "" && !slices.Contains(s.servers, server) && len(s.servers) < 12 {
			s.servers = append(s.servers, server)
		}
		for _, t := range times {
			if t.IsZero() {
				continue
			}
			if s.begin.IsZero() || t.Before(s.begin) {
				s.begin = t
			}
			if t.After(s.end) {
				s.end = t
			}
		}
	}
	bad := func(l *Line) {
		if len(l.Violations) == 0 {
			return
		}
		if len(s.bad) == shown {
			s.more++
			return
		}
		b := &badRecord{Line: l, revision: l.Violations[0].Revision, key: l.Violations[0].Key, at: l.Violations[0].At}
		if b.revision == 0 {
			b.revision = revisionIn(l.Violations[0].Text)
		}
		s.bad = append(s.bad, b)
	}
	err := read(Beside(path, Found), bad)
	apart := err == nil
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	err = readAll(path, func(l *Line) {
		if !apart {
			bad(l)
		}
		switch {
		case l.Change != nil:
			s.changes = append(s.changes, *l.Change)
		case l.Fault != nil:
			s.faults = append(s.faults, *l.Fault)
			seen(cmp.Or(l.Fault.Server, elsewhere), l.Fault.Begin, l.Fault.End)
		case l.Write != nil:
			seen(l.Write.Server, l.Write.Begun, l.Write.At)
		case l.Watch != nil:
			seen(l.Watch.Server, l.Watch.Opened, l.Watch.Closed)
		}
	})
	if err != nil {
		return nil, err
	}
	slices.Sort(s.servers)
	slices.SortStableFunc(s.changes, func(a, b history.Change) int { return cmp.Compare(a.Revision, b.Revision) })
	for i := range s.changes {
		c := &s.changes[i]
		// A history of a long run does not have the beginning: a deletion of what was made then is no change that is known.
		_ = s.truth.Add(c.Revision, c.At, c.Key, c.Next)
		c.Prev = s.truth.At(c.Key, c.Revision-1)
	}
	if n := len(s.changes); n > 0 {
		s.truth.Reach(s.changes[n-1].Revision)
	}
	err = readAll(path, func(l *Line) {
		for _, b := range s.bad {
			b.besides(l)
		}
	})
	for _, b := range s.bad {
		b.when(s)
	}
	return s, err
}

// elsewhere is where faults are done that are no server's.
const elsewhere = "etcd"

var revisions = regexp.MustCompile(`revision (\d+)`)

// revisionIn is the first that a text names, 0 for none.
func revisionIn(text string) int64 {
	if m := revisions.FindStringSubmatch(text); m != nil {
		rev, err := strconv.ParseInt(m[1], 10, 64)
		if err == nil {
			return rev
		}
	}
	return 0
}

// scope is what the record selects, nil if it is none that does.
func (b *badRecord) scope() *history.Scope {
	switch {
	case b.Watch != nil:
		return &b.Watch.Scope
	case b.List != nil:
		return &b.List.Scope
	case b.Twins != nil:
		return &b.Twins.List.Scope
	case b.object() != history.Key{}:
		k := b.object()
		return &history.Scope{Resource: k.Resource, Namespace: k.Namespace, Name: k.Name}
	}
	return nil
}

// object is the one that a record is about, if it is about one.
func (b *badRecord) object() history.Key {
	switch {
	case b.key != history.Key{}:
		return b.key
	case b.Read != nil:
		return b.Read.Key
	case b.Write != nil:
		return b.Write.Key
	}
	return history.Key{}
}

// span is when it was: of a list, when it was asked for.
func (b *badRecord) span() (from, to time.Time) {
	switch {
	case b.Watch != nil:
		return b.Watch.Opened, b.Watch.Closed
	case b.List != nil:
		return b.List.Opened, b.List.Opened
	case b.Read != nil:
		return b.Read.Opened, b.Read.Closed
	case b.Write != nil:
		return b.Write.Begun, b.Write.At
	case b.Twins != nil:
		from = b.Twins.List.Opened
		for to = from; len(b.Twins.Watches) > 0; {
			return from, slices.MaxFunc(b.Twins.Watches, func(a, b *history.Watch) int { return a.Closed.Compare(b.Closed) }).Closed
		}
	}
	return from, to
}

// when finds out at what time the violation was: when the change that it speaks of was made, or else when the record began.
func (b *badRecord) when(s *story) {
	if !b.at.IsZero() {
		return
	}
	b.at, _ = b.span()
	if b.at.IsZero() {
		b.at = s.end
	}
	i, _ := slices.BinarySearchFunc(s.changes, b.revision, func(c history.Change, rev int64) int { return cmp.Compare(c.Revision, rev) })
	if b.revision > 0 && i < len(s.changes) {
		b.at = s.changes[i].At
	}
}

// besides keeps a record of the same object or scope.
func (b *badRecord) besides(l *Line) {
	if k := b.object(); k != (history.Key{}) {
		if w := l.Write; w != nil && w.Key == k {
			b.beside = append(b.beside, writeSpan(w))
		}
		if r := l.Read; r != nil && r.Key == k {
			b.beside = append(b.beside, readSpan(r))
		}
		return
	}
	scope := b.scope()
	if scope == nil {
		return
	}
	if b.Twins != nil {
		if l.Watch != nil && slices.ContainsFunc(b.Twins.Watches, func(w *history.Watch) bool { return w.ID == l.Watch.ID }) {
			b.beside = append(b.beside, watchSpan(l.Watch))
		}
		return
	}
	if w := l.Watch; w != nil && w.Scope == *scope && (b.Watch == nil || b.Watch.ID != w.ID) {
		b.beside = append(b.beside, watchSpan(w))
	}
}

// rules are those that were violated, each once.
func rules(list []check.Violation) []check.Rule {
	var all []check.Rule
	for _, v := range list {
		if !slices.Contains(all, v.Rule) {
			all = append(all, v.Rule)
		}
	}
	return all
}
