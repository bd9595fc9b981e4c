// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package check

import (
	"fmt"

	"github.com/weir-project/weir/test/robustness/history"
)

// Read checks that a read of one object gave a state that it had, and none that was over before what was known, or asked for.
// The truth must have reached Reached and the revision that was read. Of what the truth has let go of nothing is said.
func Read(t *history.Truth, r *history.Read) []Violation {
	f := findings{what: fmt.Sprintf("read %d (%s, %s) of %v at %s", r.ID, r.Mode, r.Format, r.Key, r.Server)}
	since := t.Floor()
	switch r.Mode {
	case history.Consistent:
		since = r.Known
	case history.NotOlderThan:
		since = r.Asked
	}
	if !r.Found {
		if !t.Absent(r.Key, since, r.Reached) { // what has not changed up to the floor is known to have been there
			f.add(Stale, "not found, and it was there from revision %d to revision %d", since, r.Reached)
		}
		return f.list
	}
	s := t.At(r.Key, r.Revision)
	switch {
	case s == nil && t.Floor() > r.Revision:
		if since >= t.Floor() {
			f.add(Stale, "revision %d, which was over at revision %d, and revision %d was known or asked for", r.Revision, t.Floor(), since)
		}
		return f.list
	case s == nil || s.Revision != r.Revision:
		f.add(Foreign, "it never had revision %d", r.Revision)
	case s.UID != r.UID || s.Op != r.Op || !s.Agree(r.Digests):
		f.add(Content, "revision %d has another content", r.Revision)
	}
	if next, more := t.Next(r.Key, r.Revision); more && next.Revision <= since {
		f.add(Stale, "revision %d, which was over at revision %d, and revision %d was known or asked for", r.Revision, next.Revision, since)
	}
	return f.list
}
