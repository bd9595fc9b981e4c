// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package history

import (
	"context"
	"testing"
	"time"
)

var key = Key{Resource: "pods", Namespace: "n", Name: "one"}

// What cannot be etcd's history is refused, for all is judged by it.
func TestTruthRefuses(t *testing.T) {
	truth := NewTruth()
	if err := truth.Add(3, time.Unix(3, 0), key, nil); err == nil {
		t.Error("a deletion of nothing is taken")
	}
	if err := truth.Add(3, time.Unix(3, 0), key, &State{Revision: 3}); err != nil {
		t.Fatal(err)
	}
	for _, rev := range []int64{2, 3} {
		if err := truth.Add(rev, time.Unix(4, 0), key, &State{Revision: rev}); err == nil {
			t.Errorf("revision %d is taken after revision 3", rev)
		}
	}
}

func TestTruthIsReached(t *testing.T) {
	truth := NewTruth()
	if err := truth.Add(3, time.Unix(3, 0), key, &State{Revision: 3, UID: "u"}); err != nil {
		t.Fatal(err)
	}
	reached := make(chan error, 1)
	go func() { reached <- truth.Wait(t.Context(), 5) }()
	if err := truth.Add(4, time.Unix(4, 0), key, nil); err != nil {
		t.Fatal(err)
	}
	truth.Reach(5)
	if err := <-reached; err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := truth.Wait(ctx, 6); err == nil {
		t.Error("revision 6 is not reached, and waiting for it ends well")
	}
	if s := truth.At(key, 3); s == nil || s.UID != "u" || truth.At(key, 2) != nil || truth.At(key, 4) != nil {
		t.Error("an object is not there from its creation to its deletion")
	}
	if truth.RevisionAt(time.Unix(3, 1)) != 3 || truth.RevisionAt(time.Unix(2, 0)) != 0 || truth.RevisionAt(time.Unix(9, 0)) != 4 {
		t.Error("a time has the wrong revision")
	}
	if !truth.DeletedUID(key, "u") || truth.DeletedUID(key, "v") {
		t.Error("the wrong object was deleted")
	}
}

// Nothing but what was delivered, and said to be all, is gone on from.
func TestLast(t *testing.T) {
	added := Event{Kind: Added, Revision: 7, Key: key}
	for _, c := range []struct {
		start  Start
		events []Event
		want   int64
	}{
		{AtRevision, nil, 4},
		{AtRevision, []Event{added}, 7},
		{WatchList, []Event{added}, 0},
		{WatchList, []Event{added, {Kind: Bookmark, Revision: 6, InitialEnd: true}}, 6},
		{AtZero, []Event{added, {Kind: Bookmark, Revision: 8}, {Kind: Error, Revision: 9}}, 8},
	} {
		if got := (&Watch{Start: c.start, From: map[Start]int64{AtRevision: 4}[c.start], Events: c.events}).Last(); got != c.want {
			t.Errorf("%s, %v: last %d, want %d", c.start, c.events, got, c.want)
		}
	}
	if Digest([]string{"ab", "c"}) == Digest([]string{"a", "bc"}) || Digest(nil, map[string]string{"a": "b"}) == Digest(nil, map[string]string{"b": "a"}) {
		t.Error("two contents have one digest")
	}
}
