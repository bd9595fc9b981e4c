// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package check

import (
	"fmt"

	"github.com/weir-project/weir/test/robustness/history"
)

// Read checks that what was read is a state that existed, and was not known to be old if the read is consistent. The truth
// must have reached its revision, and Known. That an object was not there is judged by Objects.
func Read(t *history.Truth, r *history.Read) []Violation {
	f := findings{what: fmt.Sprintf("read %d (%s, %s) of %v at %s", r.ID, r.Mode, r.Format, r.Key, r.Server)}
	if r.Found {
		switch s := t.At(r.Key, r.Revision); {
		case s == nil || s.Revision != r.Revision || s.UID != r.UID || s.Op != r.Op:
			f.add(State, "revision %d, mark %s, uid %s has never been", r.Revision, r.Op, r.UID)
		case !r.Agree(s.Digests):
			f.add(Content, "revision %d has another content", r.Revision)
		}
	}
	if r.Found && r.Mode == history.Consistent {
		if later := t.ChangesOf(r.Key, r.Revision); len(later) > 0 && later[0].Revision <= r.Known {
			f.add(Stale, "revision %d, and revision %d was known before", r.Revision, later[0].Revision)
		}
	}
	return f.list
}
