// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package history

import (
	"context"
	"slices"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/sharding"
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
	truth.Reach(3)
	if err := truth.Add(3, time.Unix(4, 0), other, &State{Revision: 3}); err == nil {
		t.Error("one more change is taken of a revision that was complete")
	}
}

var other = Key{Resource: "pods", Namespace: "n", Name: "other"}

// A lease that expires takes many objects at one revision, and that is known when all of them are.
func TestTruthOfOneRevision(t *testing.T) {
	truth := NewTruth()
	add := func(rev int64, k Key, s *State) {
		t.Helper()
		if err := truth.Add(rev, time.Unix(rev, 0), k, s); err != nil {
			t.Fatal(err)
		}
	}
	add(3, key, &State{Revision: 3, UID: "u"})
	add(4, other, &State{Revision: 4, UID: "v"})
	truth.Reach(4)
	add(5, key, nil)
	if truth.Head() != 4 {
		t.Errorf("revision %d is reached by the first change of revision 5", truth.Head())
	}
	add(5, other, nil)
	truth.Reach(5)
	if truth.Head() != 5 || len(truth.Changes(4, 5)) != 2 || len(truth.Events(Scope{Resource: "pods"}, 4, 5)) != 2 {
		t.Errorf("revision 5 has changes %v", truth.Changes(4, 5))
	}
	if !truth.Absent(other, 4, 5) || truth.Absent(other, 4, 4) || !truth.Absent(other, 5, 5) {
		t.Error("an object is absent when it is there, or there when it is deleted")
	}
}

// What is let go of is not needed to tell what was there later.
func TestTrim(t *testing.T) {
	truth := NewTruth()
	for rev := int64(1); rev <= 20; rev++ {
		k, s := key, &State{Revision: rev, UID: "u"}
		switch {
		case rev == 2:
			k = other // never written again
		case rev%5 == 0:
			s = nil
		}
		if err := truth.Add(rev, time.Unix(rev, 0), k, s); err != nil {
			t.Fatal(err)
		}
	}
	truth.Reach(20)
	at := func(rev int64) int { return len(truth.States(Scope{Resource: "pods"}, rev)) }
	var before []int
	for rev := int64(7); rev <= 20; rev++ {
		before = append(before, at(rev))
	}
	events := truth.Events(Scope{Resource: "pods"}, 7, 20)
	if dropped := truth.Trim(7); len(dropped) != 7 || truth.Floor() != 7 || truth.Trim(6) != nil {
		t.Errorf("%d changes up to revision 7 are let go of, and the floor is %d", len(dropped), truth.Floor())
	}
	for rev := int64(7); rev <= 20; rev++ {
		if got := at(rev); got != before[rev-7] {
			t.Errorf("at revision %d there are %d objects, %d before", rev, got, before[rev-7])
		}
	}
	if !slices.Equal(truth.Events(Scope{Resource: "pods"}, 7, 20), events) {
		t.Error("later events are others")
	}
	if s := truth.At(other, 20); s == nil || s.Revision != 2 {
		t.Error("what was not written again is not there")
	}
	if truth.RevisionAt(time.Unix(1, 0)) != 7 || truth.RevisionAt(time.Unix(9, 0)) != 9 {
		t.Error("a time has the wrong revision")
	}
	truth.Trim(20)
	if truth.At(key, 20) != nil || len(truth.keys) != 1 || len(truth.changes) != 0 {
		t.Errorf("of %d objects and %d changes something is kept that nobody can ask for", len(truth.keys), len(truth.changes))
	}
}

// A UID is in one shard of them all, and that is the one that upstream puts it in.
func TestShards(t *testing.T) {
	for _, uid := range []string{"", "a", "f3b8ad7e-4c7e-4d0b-9f4a-0d2c6c6f1f55", "u"} {
		o := &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{UID: types.UID(uid)}}
		for _, n := range []uint64{1, 2, 8} {
			selected := 0
			for i := range n {
				c := Scope{Resource: "pods", Shard: i, Shards: n}
				upstream, err := sharding.Parse(c.ShardSelector())
				if err != nil {
					t.Fatal(err)
				}
				want, err := upstream.Matches(o)
				if err != nil {
					t.Fatal(err)
				}
				if got := c.Selects(key, &State{UID: uid}); got != want {
					t.Errorf("uid %q is in shard %d of %d: %t, and upstream says %t", uid, i, n, got, want)
				} else if got {
					selected++
				}
			}
			if selected != 1 {
				t.Errorf("uid %q is in %d of %d shards", uid, selected, n)
			}
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
