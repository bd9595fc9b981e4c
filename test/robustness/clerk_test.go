// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package robustness

import (
	"context"
	"math"
	"path/filepath"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/weir-project/weir/test/robustness/check"
	"github.com/weir-project/weir/test/robustness/history"
)

// The truth is kept for what waits to be judged, but not for ever, and so much of it in any case.
func TestTrimKeepsWhatIsNeeded(t *testing.T) {
	const keeps, changes = time.Minute, leastChanges + 1000
	begin := time.Unix(1000, 0)
	key := history.Key{Resource: pods, Namespace: "n", Name: "o"}
	for _, c := range []struct {
		name  string
		needs int64
		age   time.Duration // of the last change
		want  int64
	}{
		{"nothing is old", math.MaxInt64, 0, 0},
		{"old, and not needed", math.MaxInt64, keeps, 1000},
		{"needed", 500, keeps, 500},
		{"needed for too long", 500, waited * keeps, 1000},
	} {
		truth := history.NewTruth()
		for rev := int64(1); rev <= changes; rev++ {
			if err := truth.Add(rev, begin, key, &history.State{Revision: rev}); err != nil {
				t.Fatal(err)
			}
		}
		truth.Reach(changes)
		if trim(truth, c.needs, begin.Add(c.age), keeps); truth.Floor() != c.want {
			t.Errorf("%s: the floor is %d, want %d", c.name, truth.Floor(), c.want)
		}
	}
}

// When etcd does not say how far it is, the run has failed, and what would have to be judged by that is not.
func TestUnknownRevisionsAreNotJudged(t *testing.T) {
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{"127.0.0.1:1"}})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	r := &Run{etcd: client, truth: history.NewTruth(), reads: make(chan *history.Read, 1), acks: make(chan history.Write, 1)}
	r.objects = check.NewObjects(r.truth)
	if r.record, err = newRecord(filepath.Join(t.TempDir(), "history.jsonl")); err != nil {
		t.Fatal(err)
	}
	key := history.Key{Resource: pods, Namespace: "n", Name: "o"}
	if err := r.truth.Add(1, time.Now(), key, &history.State{Revision: 1, UID: "u"}); err != nil {
		t.Fatal(err)
	}
	r.truth.Reach(2)
	now := time.Now()
	r.reads <- &history.Read{Key: key, Mode: history.NotOlderThan, Asked: 1, Opened: now, Closed: now}
	r.acks <- history.Write{Key: key, Verb: "DELETE", Outcome: history.Acknowledged, Deleted: true, UID: "u", Begun: now, At: now}
	close(r.reads)
	close(r.acks)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	r.judgeReads(ctx)
	r.judgeWrites(ctx)
	if err := r.record.close(); err != nil {
		t.Error(err)
	}
	if len(r.found.violations) > 0 || len(r.found.failures) != 2 {
		t.Errorf("violations %v, failures %v", r.found.violations, r.found.failures)
	}
}
