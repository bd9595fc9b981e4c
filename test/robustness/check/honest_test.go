// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package check

import (
	"net/http"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/weir-project/weir/test/robustness/history"
)

// What long runs were once told of as violations, and is none.
func TestHonestObjectsOfLongRuns(t *testing.T) {
	for name, honest := range map[string]func(*testing.T) []Violation{
		// The one that names a revision cannot have been the one that deletes another.
		"of two deletions without an answer one happened": func(t *testing.T) []Violation {
			s := tell(t, "configmaps")
			s.write(http.MethodPost, "1")
			base := s.state.Revision
			s.writes = append(s.writes, history.Write{
				Begun: s.now, At: s.after(3000), Verb: http.MethodDelete, Key: s.key, Base: base - 1, Outcome: history.Unanswered,
			})
			s.unanswered(http.MethodDelete, "").Base = base
			s.read()
			return s.judge()
		},
		// The first step of the deletion, and then an update, which deletes.
		"a deletion in two steps is ended by an update, and neither is answered": func(t *testing.T) []Violation {
			s := tell(t, graceful)
			s.write(http.MethodPost, "1")
			begun := *s.state
			s.change(&begun)
			s.writes = append(s.writes, history.Write{Begun: s.now, At: s.after(3000), Verb: http.MethodDelete, Key: s.key, Outcome: history.Unanswered})
			s.now = s.now.Add(time.Minute)
			s.writes = append(s.writes, history.Write{Begun: s.now, At: s.after(3000), Verb: history.Apply, Key: s.key, Sent: "2", Outcome: history.Unanswered})
			s.change(nil)
			s.next()
			s.read()
			return s.judge()
		},
		// Both orders are right by what clients know of marks, but one would give a new object an old UID.
		"a deletion meets an apply": func(t *testing.T) []Violation {
			s := tell(t, "configmaps")
			s.write(http.MethodPost, "1")
			apply := s.write(history.Apply, "2")
			deletion := *s.write(http.MethodDelete, "")
			deletion.Begun = apply.Begun.Add(-time.Millisecond)
			s.writes[len(s.writes)-1] = deletion
			s.read()
			s.write(http.MethodPost, "3")
			s.read()
			return s.judge()
		},
		"what has expired long ago is not remembered": func(t *testing.T) []Violation {
			s := tell(t, expiring)
			s.write(http.MethodPost, "1")
			o := NewObjects(s.truth)
			a := o.acts(s.key, s.now)
			a.begin, a.upTo = o.at(s.key, s.revision), s.revision // all so far was judged
			s.now = s.now.Add(10 * time.Minute)
			s.change(nil)
			s.truth.Reach(s.revision)
			s.truth.Trim(s.revision)
			s.write(http.MethodPost, "2")
			s.truth.Reach(s.revision)
			return append(o.Write(s.writes[1]), o.End()...)
		},
		"what has expired is let go of before what comes next is judged": func(t *testing.T) []Violation {
			s := tell(t, expiring)
			s.write(http.MethodPost, "1")
			o := NewObjects(s.truth)
			a := o.acts(s.key, s.now)
			a.begin, a.upTo = o.at(s.key, s.revision), s.revision // all so far was judged
			s.now = s.now.Add(4 * time.Minute)
			s.change(nil)
			expired := s.revision
			s.now = s.now.Add(4 * time.Minute)
			s.write(http.MethodPost, "2")
			s.truth.Reach(s.revision)
			found := o.Write(s.writes[1])
			s.truth.Trim(expired)
			return append(found, o.End()...)
		},
		// It is judged before etcd's changes of that time are let go of.
		"one act is all for a long time": func(t *testing.T) []Violation {
			s := tell(t, expiring)
			s.write(http.MethodPost, "1")
			s.truth.Reach(s.revision)
			o := NewObjects(s.truth)
			found := o.Write(s.writes[0])
			passes := func() {
				s.now = s.now.Add(2 * time.Minute)
				s.revision += 2
				other := history.Key{Resource: expiring, Namespace: "n", Name: "other"}
				state := &history.State{UID: "u", Op: "x", Revision: s.revision}
				if err := s.truth.Add(s.revision, s.after(1), other, state); err != nil {
					t.Fatal(err)
				}
				found = append(found, o.Write(history.Write{
					Begun: s.now, At: s.after(4), Key: other, Verb: http.MethodPatch, Outcome: history.Acknowledged,
					Sent: "x", Op: "x", UID: "u", Revision: s.revision,
				})...)
				read := history.Read{Opened: s.after(5), Closed: s.after(9), Key: other, Mode: history.Consistent, Found: true, UID: "u", Op: "x", Revision: s.revision}
				found = append(found, o.Read(read)...)
			}
			passes()
			passes()
			s.change(nil)
			s.truth.Reach(s.revision)
			s.truth.Trim(s.revision)
			passes()
			s.write(http.MethodPost, "2")
			s.truth.Reach(s.revision)
			for _, v := range append(append(found, o.Write(s.writes[1])...), o.End()...) {
				if v.Key == s.key {
					return []Violation{v}
				}
			}
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			for _, v := range honest(t) {
				t.Error(v)
			}
		})
	}
}

// An object that was deleted does not come back with the UID that it had.
func TestUIDComesBack(t *testing.T) {
	s := tell(t, "configmaps")
	s.write(http.MethodPost, "1")
	uid := s.state.UID
	s.write(http.MethodDelete, "")
	w := s.write(http.MethodPost, "2")
	w.UID, s.state.UID = uid, uid
	if len(s.judge()) == 0 {
		t.Error("nothing is found")
	}
}

// A write without an answer may happen minutes after its client has given it up, when etcd has a majority again, and
// after others of its object have been judged.
func TestLateDeletion(t *testing.T) {
	for name, late := range map[string]bool{"late": true, "of nobody": false} {
		t.Run(name, func(t *testing.T) {
			s, o := begun(t, "configmaps")
			var found []Violation
			if late {
				found = o.Write(history.Write{Begun: s.now, At: s.after(3000), Server: "a", Verb: http.MethodDelete, Key: s.key, Outcome: history.Unanswered})
			}
			act := func(mark int) {
				s.now = s.now.Add(10 * time.Second)
				found = append(found, o.Write(*s.write(http.MethodPut, strconv.Itoa(mark)))...)
				found = append(found, o.Read(*s.read())...)
				s.truth.Reach(s.revision)
			}
			for i := range 16 {
				act(i + 2)
			}
			if o.Judged() == 0 {
				t.Fatalf("nothing has been judged in between: %d writes, %d reads wait", len(o.of[s.key].writes), len(o.of[s.key].reads))
			}
			s.change(nil)
			s.now = s.now.Add(time.Second)
			found = append(found, o.Write(*s.refused(http.MethodPatch, "99", http.StatusNotFound))...)
			s.truth.Reach(s.revision)
			found = append(found, o.End()...)
			unasked := slices.ContainsFunc(found, func(v Violation) bool { return v.Rule == Unasked })
			if unasked == late || late && len(found) > 0 {
				t.Errorf("found %v", found)
			}
		})
	}
}
