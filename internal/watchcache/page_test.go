// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package watchcache

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/cacher/consistency"
)

// lister counts the lists that it is asked for, and the most objects of one.
type lister struct {
	storage.Interface
	lists, most atomic.Int64
}

func (c *lister) GetList(ctx context.Context, key string, opts storage.ListOptions, listObj runtime.Object) error {
	err := c.Interface.GetList(ctx, key, opts, listObj)
	c.lists.Add(1)
	c.most.Store(max(c.most.Load(), int64(meta.LenList(listObj))))
	return err
}

// TestCheckedInPages: the consistency checker reads large objects from etcd a few at a time, and finds the cache to have the same.
func TestCheckedInPages(t *testing.T) {
	var store *lister
	s := newSubject(t, func(_ *storeOptions, c *Config) {
		if c.Storage != nil {
			store = &lister{Interface: c.Storage}
			c.Storage = store
		}
	})
	const n = 35
	for i := range n {
		p := pod(fmt.Sprint("p", i))
		p.Annotations = map[string]string{"large": strings.Repeat("x", 1_000_000)}
		waitRevision(t, s.Cache, revision(t, s.put(t, p).ResourceVersion))
	}
	store.lists.Store(0)
	store.most.Store(0)
	checker := consistency.NewChecker(podPrefix, podResource, newPodList, identities{s.follower}, inPages{s.follower})
	digests, err := checker.CalculateDigests(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if digests.CacheDigest != digests.EtcdDigest {
		t.Errorf("the digests differ: %+v", digests)
	}
	if store.most.Load() > leastPage || store.lists.Load() != (n+leastPage-1)/leastPage {
		t.Errorf("%d objects of 1 MB were read in %d lists, up to %d at once", n, store.lists.Load(), store.most.Load())
	}
}

func TestPageOf(t *testing.T) {
	for _, c := range []struct {
		bytes int64
		n     int
		want  int64
	}{{0, 0, firstPage}, {1 << 30, 1 << 10, leastPage}, {100 << 10, 100, pageSize}, {64 << 20, 1 << 10, 128}} {
		if got := pageOf(c.bytes, c.n); got != c.want {
			t.Errorf("of %d objects of %d bytes %d are read at once, want %d", c.n, c.bytes, got, c.want)
		}
	}
}
