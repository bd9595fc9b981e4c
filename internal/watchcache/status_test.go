// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package watchcache

import (
	"context"
	"fmt"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/runtime/schema"
)

// together are caches of which c is one.
func together(c *Cache) *Caches {
	return &Caches{of: map[schema.GroupResource][]*Cache{c.cfg.GroupResource: {c}}}
}

// TestStatus: what a cache says of itself is what was written, and what its readers have not taken.
func TestStatus(t *testing.T) {
	s := newSlowSubject(t)
	caches := together(s.Cache)
	if ready, all := caches.Ready(); ready != 1 || all != 1 {
		t.Errorf("%d of %d are ready", ready, all)
	}
	w := s.watchQuiet(t, "all", "")
	initial := busyPods + quietPods
	for range initial {
		<-w.ResultChan()
	}
	eventually(t, "the watch to wait for the next event", func() bool { return s.stats(t).Parked == 1 })
	if _, readers := caches.Status(10); len(readers) != 0 {
		t.Errorf("who has taken all has something to read: %+v", readers)
	}
	const writes = 3 * handover
	began := s.clock.Now()
	for i := range writes {
		s.writeQuiet(t, i, "second")
	}
	eventually(t, "the watch to have no room", func() bool { return len(w.ResultChan()) == handover })
	eventually(t, "the watch to be behind", func() bool {
		_, readers := caches.Status(10)
		return len(readers) == 1
	})
	all, readers := caches.Status(10)
	// One more than there is room for may be in the hands of the watch.
	if r := readers[0]; r.Events < writes-handover-handover || r.Events > writes-handover || !r.Since.Equal(began) || r.Resource != s.cfg.GroupResource {
		t.Errorf("after %d writes of which %d were taken: %+v", writes, handover, r)
	}
	if _, none := caches.Status(0); len(none) != 0 {
		t.Errorf("%d readers where none is asked for", len(none))
	}
	got := all[0]
	_, rev, v, err := s.current()
	if err != nil {
		t.Fatal(err)
	}
	if !got.Ready || got.Objects != initial || got.Bytes != v.bytes || got.Revision != rev || got.Watches != 1 || got.Parked != 0 ||
		got.Events != busyPods+quietPods+writes || got.EventBytes <= 0 || got.Oldest.IsZero() || got.Head != rev {
		t.Errorf("%+v of %d objects of %d bytes at %d", got, initial, v.bytes, rev)
	}
	for range writes {
		<-w.ResultChan()
	}
	eventually(t, "the watch to be behind no more", func() bool {
		_, readers := caches.Status(10)
		return len(readers) == 0
	})
	s.setNotReady(fmt.Errorf("broken"))
	if all, _ := caches.Status(1); all[0].Ready && all[0].Revision == 0 || !all[0].Ready && all[0].Cause != "broken" {
		t.Errorf("of a cache that is not ready: %+v", all[0])
	}
}

// TestCatchUp: a cache whose resource does not change learns that etcd is further, and one that cannot does not keep who asks.
func TestCatchUp(t *testing.T) {
	s := newSubject(t)
	caches := together(s.Cache)
	before, _ := caches.Status(0)
	rev := uint64(s.increase(t.Context(), t))
	if rev <= before[0].Revision {
		t.Fatalf("revision %d is not later than %d", rev, before[0].Revision)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	caches.CatchUp(ctx, rev)
	if after, _ := caches.Status(0); after[0].Revision < rev {
		t.Errorf("the cache is at %d, etcd at %d", after[0].Revision, rev)
	}
	if ctx.Err() != nil {
		t.Error("it took all the time that it was given")
	}
	ended, end := context.WithCancel(t.Context())
	end()
	caches.CatchUp(ended, rev+1_000_000)
}
