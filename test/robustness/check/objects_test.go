// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package check

import (
	"fmt"
	"net/http"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/weir-project/weir/test/robustness/history"
)

// story is what some clients did with one object, moment after moment, and what etcd had of it. Every write without an answer
// is one that has happened, unless it says that it has not.
type story struct {
	t        *testing.T
	key      history.Key
	truth    *history.Truth
	revision int64
	now      time.Time
	state    *history.State
	writes   []history.Write
	reads    []history.Read
}

func tell(t *testing.T, resource string) *story {
	return &story{t: t, key: history.Key{Resource: resource, Namespace: "n", Name: "o"}, truth: history.NewTruth(), now: time.Unix(1000, 0)}
}

func (s *story) after(d time.Duration) time.Time { return s.now.Add(d * time.Millisecond) }

// next goes on to the next moment. An act takes 4 ms, and etcd's change is in the middle and learned of after 5.
func (s *story) next() { s.now = s.now.Add(10 * time.Millisecond) }

func (s *story) change(state *history.State) {
	s.revision += 2
	if state != nil {
		state.Revision = s.revision
	}
	s.state = state
	if err := s.truth.Add(s.revision, s.after(5), s.key, state); err != nil {
		s.t.Fatal(err)
	}
}

func (s *story) write(verb, mark string) *history.Write {
	defer s.next()
	w := history.Write{Begun: s.now, At: s.after(4), Server: "a", Verb: verb, Key: s.key, Sent: mark, Outcome: history.Acknowledged, Status: 200}
	if verb == http.MethodDelete {
		w.Sent, w.UID, w.Deleted = "", s.state.UID, true
		s.change(nil)
		if s.key.Resource == graceful {
			w.Revision = s.revision
		}
	} else {
		uid := fmt.Sprintf("uid-%d", s.revision)
		if s.state != nil {
			uid = s.state.UID
		}
		d := history.Digests{Meta: uint64(s.revision) + 100, Body: uint64(s.revision) + 200}
		s.change(&history.State{UID: uid, Op: mark, Digests: d})
		w.UID, w.Op, w.Revision, w.Digests = uid, mark, s.revision, d
	}
	s.writes = append(s.writes, w)
	return &s.writes[len(s.writes)-1]
}

// unanswered is a write that happened, of which the client does not know.
func (s *story) unanswered(verb, mark string) *history.Write {
	w := s.write(verb, mark)
	*w = history.Write{Begun: w.Begun, At: w.Begun.Add(3 * time.Second), Server: "a", Verb: verb, Key: s.key, Sent: w.Sent, Outcome: history.Unanswered}
	return w
}

func (s *story) refused(verb, mark string, status int) *history.Write {
	defer s.next()
	s.writes = append(s.writes, history.Write{
		Begun: s.now, At: s.after(4), Server: "b", Verb: verb, Key: s.key, Sent: mark, Outcome: history.Refused, Status: status,
	})
	return &s.writes[len(s.writes)-1]
}

func (s *story) read() *history.Read {
	defer s.next()
	r := history.Read{Opened: s.now, Closed: s.after(4), Server: "b", Key: s.key, Mode: history.Consistent}
	if s.state != nil {
		r.Found, r.Revision, r.UID, r.Op, r.Digests = true, s.state.Revision, s.state.UID, s.state.Op, s.state.Digests
	}
	s.reads = append(s.reads, r)
	return &s.reads[len(s.reads)-1]
}

func (s *story) judge() []Violation {
	s.truth.Reach(s.revision)
	o := NewObjects(s.truth)
	var found []Violation
	for _, w := range s.writes {
		found = append(found, o.Write(w)...)
	}
	for _, r := range s.reads {
		found = append(found, o.Read(r)...)
	}
	return append(found, o.End()...)
}

// day is a story in which all happens that an object can go through.
func day(t *testing.T, resource string) *story {
	s := tell(t, resource)
	s.read()
	s.refused(http.MethodPatch, "0", http.StatusNotFound)
	s.write(http.MethodPost, "1")
	s.read()
	s.refused(http.MethodPost, "2", http.StatusConflict)
	s.unanswered(http.MethodPatch, "3")
	s.read()
	if resource != graceful { // a revision that nobody was told is no base: see linearizable
		s.write(http.MethodPut, "4").Base = s.state.Revision - 2
		s.refused(http.MethodPut, "5", http.StatusConflict).Base = s.state.Revision - 2
	}
	s.read()
	s.write(http.MethodDelete, "")
	s.read()
	s.refused(http.MethodDelete, "", http.StatusNotFound)
	s.write(history.Apply, "6")
	s.unanswered(http.MethodDelete, "")
	s.read()
	s.unanswered(http.MethodPost, "7")
	s.write(history.Apply, "8")
	s.read().Digests.Body = 0
	s.refused(http.MethodPut, "9", 422)
	s.writes = append(s.writes, history.Write{Begun: s.now, At: s.after(3000), Verb: http.MethodPut, Key: s.key, Sent: "never", Outcome: history.Unanswered})
	s.read()
	return s
}

func TestHonestObjects(t *testing.T) {
	for _, resource := range []string{graceful, "configmaps"} {
		if got := day(t, resource).judge(); len(got) > 0 {
			t.Errorf("%s: %v", resource, got)
		}
	}
	// The first step of a deletion is seen, an update ends it, and both are told that they have deleted.
	s := tell(t, graceful)
	s.write(http.MethodPost, "1")
	first := *s.state
	s.change(&history.State{UID: first.UID, Op: "1", Digests: first.Digests})
	s.next()
	s.read()
	begun := s.now
	w := s.write(http.MethodDelete, "")
	w.Begun, w.At, w.Revision = begun.Add(-25*time.Millisecond), s.after(20), 0
	s.writes = append(s.writes, history.Write{
		Begun: begun, At: s.after(0), Verb: http.MethodPatch, Key: s.key, Sent: "2", Outcome: history.Acknowledged, Deleted: true, UID: first.UID, Op: "2",
	})
	s.read()
	if got := s.judge(); len(got) > 0 {
		t.Errorf("two that delete: %v", got)
	}
	// An Event expires.
	e := tell(t, expiring)
	e.write(http.MethodPost, "1")
	e.change(nil)
	e.next()
	e.read()
	if got := e.judge(); len(got) > 0 {
		t.Errorf("expired: %v", got)
	}
	// A collection is deleted, answered or not.
	for _, outcome := range []history.Outcome{history.Acknowledged, history.Unanswered} {
		s := tell(t, "configmaps")
		s.write(http.MethodPost, "1")
		uid := s.state.UID
		w := s.write(http.MethodDelete, "")
		*w = history.Write{Begun: w.Begun, At: w.At, Verb: history.DeleteCollection, Key: history.Key{Resource: "configmaps", Namespace: "n"}, Outcome: outcome}
		if outcome == history.Acknowledged {
			w.Collected = []history.Collected{{Key: s.key, UID: uid}}
		}
		s.read()
		if got := s.judge(); len(got) > 0 {
			t.Errorf("a collection, %s: %v", outcome, got)
		}
	}
}

func TestLiesOfObjects(t *testing.T) {
	lies := map[string]struct {
		tell func(s *story)
		want Rule
	}{
		"stale read": {func(s *story) {
			s.write(http.MethodPost, "1")
			old := *s.state
			s.write(http.MethodPut, "2")
			r := s.read()
			r.Revision, r.Op, r.Digests = old.Revision, old.Op, old.Digests
		}, Linearizable},
		"stale read after a read": {func(s *story) {
			s.write(http.MethodPost, "1")
			old := *s.state
			// All the time that the update takes, either state may be read, but not the new one before the old one.
			begun := s.now
			s.write(http.MethodPut, "2")
			s.read()
			r := s.read()
			r.Revision, r.Op, r.Digests = old.Revision, old.Op, old.Digests
			s.writes[1].Begun, s.writes[1].At = begun, s.now
		}, Linearizable},
		"lost write": {func(s *story) {
			s.write(http.MethodPost, "1")
			r := s.read()
			s.refused(http.MethodPut, "2", 200).Outcome = history.Acknowledged
			w := &s.writes[1]
			w.UID, w.Op, w.Revision = r.UID, "2", 3
			later := *r
			later.Opened, later.Closed = s.now, s.after(4)
			s.reads = append(s.reads, later)
		}, Linearizable},
		"lost creation": {func(s *story) {
			s.write(http.MethodPost, "1")
			s.read().Found = false
		}, Linearizable},
		"resurrected": {func(s *story) {
			s.write(http.MethodPost, "1")
			old := *s.read()
			s.write(http.MethodDelete, "")
			old.Opened, old.Closed = s.now, s.after(4)
			s.reads = append(s.reads, old)
		}, Linearizable},
		"still there for a creation": {func(s *story) {
			s.write(http.MethodPost, "1")
			s.write(http.MethodDelete, "")
			s.refused(http.MethodPost, "2", http.StatusConflict)
		}, Linearizable},
		"gone for an update": {func(s *story) {
			s.write(http.MethodPost, "1")
			s.refused(http.MethodPut, "2", http.StatusNotFound)
		}, Linearizable},
		"lost update": {func(s *story) { // two from the same base
			s.write(http.MethodPost, "1")
			base, begun := s.state.Revision, s.now
			s.write(http.MethodPut, "2").Base = base
			s.write(http.MethodPut, "3").Base = base
			for i := range s.writes[1:] { // they are concurrent
				s.writes[i+1].Begun, s.writes[i+1].At = begun, s.now
			}
		}, Linearizable},
		"refused from the right base": {func(s *story) {
			s.write(http.MethodPost, "1")
			s.refused(http.MethodPut, "2", http.StatusConflict).Base = s.state.Revision
		}, Linearizable},
		"created twice": {func(s *story) {
			s.write(http.MethodPost, "1")
			s.write(http.MethodPost, "2")
		}, Linearizable},
		"answered with another's write": {func(s *story) {
			s.write(http.MethodPost, "1")
			s.write(http.MethodPatch, "2").Op = "1"
		}, Linearizable},
		"updates another object": {func(s *story) {
			s.write(http.MethodPost, "1")
			s.write(http.MethodPatch, "2").UID = "other"
		}, Linearizable},
		"deletes another object": {func(s *story) {
			s.write(http.MethodPost, "1")
			s.write(http.MethodDelete, "").UID = "other"
		}, Linearizable},
		"deleted before it was updated": {func(s *story) {
			s.write(http.MethodPost, "1")
			s.write(http.MethodPatch, "2")
			s.write(http.MethodDelete, "").Revision = 3
		}, Linearizable},
		"deleted twice": {func(s *story) {
			s.write(http.MethodPost, "1")
			again := *s.write(http.MethodDelete, "")
			again.Begun, again.At = s.now, s.after(4)
			s.writes = append(s.writes, again)
		}, Linearizable},
		"a revision that nobody wrote": {func(s *story) {
			s.write(http.MethodPost, "1")
			s.read().Revision++
		}, Linearizable},
		"content of an old state": {func(s *story) {
			s.write(http.MethodPost, "1")
			old := s.state.Digests
			s.write(http.MethodPut, "2")
			s.read().Digests = old
		}, Linearizable},
		"revision goes back": {func(s *story) {
			s.write(http.MethodPost, "1")
			s.write(http.MethodPatch, "2").Revision = 1
		}, Linearizable},
		"happened after its refusal": {func(s *story) {
			s.write(http.MethodPost, "1")
			w := s.write(http.MethodPut, "2")
			*w = history.Write{Begun: w.Begun, At: w.At, Verb: w.Verb, Key: s.key, Sent: "2", Outcome: history.Refused, Status: 422}
		}, Unasked},
		"happened twice": {func(s *story) {
			s.write(http.MethodPost, "1")
			s.unanswered(http.MethodPut, "2")
			s.write(http.MethodPut, "3")
			s.change(&history.State{UID: s.state.UID, Op: "2"})
		}, Unasked},
		"deleted by nobody": {func(s *story) {
			s.write(http.MethodPost, "1")
			s.change(nil)
		}, Unasked},
	}
	for name, lie := range lies {
		s := tell(t, "configmaps")
		lie.tell(s)
		if got := s.judge(); !slices.Contains(rules(got), lie.want) {
			t.Errorf("%s: found %v, not %s", name, got, lie.want)
		}
	}
}

// A history is judged in parts, and a lie is found across them; a write without an answer keeps them together while it
// may still happen.
func TestPartsOfObjects(t *testing.T) {
	for _, resource := range []string{graceful, "configmaps"} {
		s := tell(t, resource)
		s.write(http.MethodPost, "first")
		for i := range 3000 {
			switch {
			case i == 1000:
				s.unanswered(http.MethodPatch, "open")
			case i%11 == 5:
				s.read()
				s.write(http.MethodDelete, "")
				s.write(http.MethodPost, fmt.Sprint("made-", i))
			case i%3 == 0:
				s.read()
			default:
				s.write(http.MethodPatch, fmt.Sprint(i))
			}
			s.now = s.now.Add(40 * time.Millisecond)
		}
		s.truth.Reach(s.revision)
		run := func(lie int) (int, []Violation) {
			o := NewObjects(s.truth)
			var found []Violation
			parts, w, judged := 0, 0, 0
			count := func() {
				if now := o.Judged(); now > judged {
					parts, judged = parts+1, now
				}
			}
			for i, r := range s.reads {
				for ; w < len(s.writes) && s.writes[w].Begun.Before(r.Opened); w++ {
					found = append(found, o.Write(s.writes[w])...)
					count()
				}
				if i == lie {
					r.Revision -= 2
				}
				found = append(found, o.Read(r)...)
				count()
			}
			for _, w := range s.writes[w:] {
				found = append(found, o.Write(w)...)
			}
			found = append(found, o.End()...)
			if acts := len(s.reads) + len(s.writes); o.Judged() != acts || o.Undecided() != 0 {
				t.Errorf("%s: %d of %d acts were judged, %d parts are undecided", resource, o.Judged(), acts, o.Undecided())
			}
			return parts, found
		}
		parts, found := run(-1)
		if parts < 5 || len(found) > 0 {
			t.Errorf("%s: %d parts, and %v", resource, parts, found)
		}
		for lie := 3; lie < len(s.reads); lie += 701 {
			if _, found := run(lie); len(found) != 1 || found[0].Rule != Linearizable {
				t.Errorf("%s: a lie in read %d: found %v", resource, lie, found)
			}
		}
	}
}

// What has no order is drawn.
func TestPictures(t *testing.T) {
	s := tell(t, "configmaps")
	s.write(http.MethodPost, "1")
	s.read().Found = false
	o := NewObjects(s.truth)
	o.Pictures = t.TempDir()
	o.Write(s.writes[0])
	o.Read(s.reads[0])
	if found := o.End(); len(found) != 1 {
		t.Errorf("found %v", found)
	}
	if files, err := os.ReadDir(o.Pictures); err != nil || len(files) != 1 {
		t.Errorf("pictures: %v, %v", files, err)
	}
}
