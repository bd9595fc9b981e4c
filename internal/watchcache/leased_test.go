// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package watchcache

import (
	"context"
	"fmt"
	"path"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"

	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/apis/example"
	"k8s.io/apiserver/pkg/storage"
)

// gated is a storage whose watches give a deletion when the test lets it pass.
type gated struct {
	storage.Interface
	// pass has a true for each deletion that may pass, and a false to end the watch before it.
	pass chan bool
}

// Watch implements storage.Interface.
func (g *gated) Watch(ctx context.Context, key string, opts storage.ListOptions) (watch.Interface, error) {
	w, err := g.Interface.Watch(ctx, key, opts)
	if err != nil {
		return nil, err
	}
	out := make(chan watch.Event)
	go func() {
		defer close(out)
		defer w.Stop()
		for event := range w.ResultChan() {
			if event.Type == watch.Deleted {
				select {
				case ok := <-g.pass:
					if !ok {
						return
					}
				case <-ctx.Done():
					return
				}
			}
			select {
			case out <- event:
			case <-ctx.Done():
				return
			}
		}
	}()
	return gatedWatch{w, out}, nil
}

type gatedWatch struct {
	watch.Interface
	out chan watch.Event
}

// ResultChan implements watch.Interface.
func (g gatedWatch) ResultChan() <-chan watch.Event { return g.out }

// TestExpiredLease has etcd delete two objects at one revision, as when a lease expires, and the watch of etcd end between
// them: nobody is shown a state with one of them, and neither is forgotten.
func TestExpiredLease(t *testing.T) {
	g := &gated{pass: make(chan bool)}
	s := newSubject(t, func(_ *storeOptions, c *Config) {
		g.Interface = c.Storage
		c.Storage, c.Leased = g, true
	})
	one, two, three := s.put(t, pod("one")), s.put(t, pod("two")), s.put(t, pod("three"))
	waitRevision(t, s.Cache, revision(t, three.ResourceVersion))
	w := s.follow(t, storage.ListOptions{ResourceVersion: three.ResourceVersion})
	var deletions []clientv3.Op
	for _, p := range []*example.Pod{one, two} {
		deletions = append(deletions, clientv3.OpDelete(path.Join(s.opts.prefix, podKey(p))))
	}
	done, err := s.client.KV.Txn(t.Context()).Then(deletions...).Commit()
	if err != nil {
		t.Fatal(err)
	}
	rev := uint64(done.Header.Revision)
	at := fmt.Sprint(rev)

	g.pass <- true
	expect(t, w, watch.Deleted, "one", at)
	list, err := s.list(t, podPrefix, storage.ListOptions{ResourceVersion: "0", Recursive: true, Predicate: storage.Everything})
	if err != nil {
		t.Fatal(err)
	}
	if got := revision(t, list.ResourceVersion); got != rev-1 || len(list.Items) != 3 {
		t.Errorf("between two deletions of revision %d there is a state of %d objects at revision %d", rev, len(list.Items), got)
	}
	late := s.follow(t, storage.ListOptions{ResourceVersion: list.ResourceVersion})
	expect(t, late, watch.Deleted, "one", at)

	g.pass <- false // the watch of etcd ends, and begins again
	g.pass <- true
	g.pass <- true
	expect(t, w, watch.Deleted, "two", at)
	expect(t, late, watch.Deleted, "two", at)
	waitRevision(t, s.Cache, rev)
	list, err = s.list(t, podPrefix, storage.ListOptions{Recursive: true, Predicate: storage.Everything})
	if err != nil {
		t.Fatal(err)
	}
	if len(list.Items) != 1 || revision(t, list.ResourceVersion) < rev {
		t.Errorf("after revision %d there are %d objects at revision %s", rev, len(list.Items), list.ResourceVersion)
	}
	// What is later says that the revision is complete, too.
	four := s.put(t, pod("four"))
	expect(t, w, watch.Added, "four", four.ResourceVersion)
	waitRevision(t, s.Cache, revision(t, four.ResourceVersion))
}

// TestLastDeletion has an object with a lease deleted, and nothing else happen: that it is gone is shown, though nobody asks.
func TestLastDeletion(t *testing.T) {
	s := newSubject(t, func(_ *storeOptions, c *Config) { c.Leased = true })
	s.put(t, pod("one"))
	two := s.put(t, pod("two"))
	waitRevision(t, s.Cache, revision(t, two.ResourceVersion))
	s.remove(t, two)
	eventually(t, "the deletion to be shown", func() bool {
		_, _, v, err := s.current()
		return err == nil && v.objects.Len() == 1
	})
}
