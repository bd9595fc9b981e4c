// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package watchcache

import (
	"context"
	"fmt"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	kruntime "k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/registry/generic"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/storagebackend"
	"k8s.io/apiserver/pkg/storage/storagebackend/factory"

	"github.com/weir-project/weir/test/etcd"
)

// oneBehind is a storage whose watches tell of each event when the next one comes, and of no progress. asked is told when it is asked for its revision.
type oneBehind struct {
	storage.Interface
	asked func()
}

// Watch implements storage.Interface.
func (o oneBehind) Watch(ctx context.Context, key string, opts storage.ListOptions) (watch.Interface, error) {
	w, err := o.Interface.Watch(ctx, key, opts)
	if err != nil {
		return nil, err
	}
	var before *watch.Event
	begun := false
	return watch.Filter(w, func(e watch.Event) (watch.Event, bool) {
		switch {
		case !begun:
			begun = e.Type == watch.Bookmark
			return e, true
		case e.Type == watch.Bookmark:
			return e, false
		}
		e, last := e, before
		before = &e
		if last == nil {
			return e, false
		}
		return *last, true
	}), nil
}

// GetCurrentResourceVersion implements storage.Interface.
func (o oneBehind) GetCurrentResourceVersion(ctx context.Context) (uint64, error) {
	rev, err := o.Interface.GetCurrentResourceVersion(ctx)
	o.asked()
	return rev, err
}

// TestJoinedArrives: a cache that has joined a follower which is always late answers when that has reached what etcd had when the cache was first asked.
func TestJoinedArrives(t *testing.T) {
	stores := newWidgetStores(t, etcd.Run(t).Endpoints(), 10*MinHistory)
	asked := func() {}
	stores.caches.opts.NewStorage = func(config *storagebackend.ConfigForResource, newFunc, newListFunc func() kruntime.Object, resourcePrefix string) (storage.Interface, factory.DestroyFunc, error) {
		s, destroy, err := generic.NewRawStorage(config, newFunc, newListFunc, resourcePrefix)
		return oneBehind{s, func() { asked() }}, destroy, err
	}
	raw, _ := stores.open(t, Uncached, "v1")
	first, _ := stores.cache(t, "v1")
	put(t, raw, "v1", "a", "")
	made, _ := stores.open(t, stores.caches.Decorator(), "v1beta1")
	if made.(*Cache).follower != first.follower {
		t.Fatal("the follower is another one")
	}
	// list waits for nothing after etcd has said its revision.
	list := func() (int, error) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		asked = cancel
		defer func() { asked = func() {} }()
		list := &unstructured.UnstructuredList{}
		err := made.GetList(ctx, widgetPrefix+"/", storage.ListOptions{ResourceVersion: "0", Recursive: true, Predicate: storage.Everything}, list)
		return len(list.Items), err
	}
	if n, err := list(); err == nil {
		t.Fatalf("it shows %d objects before it has the first", n)
	}
	for i := range 3 {
		put(t, raw, "v1", fmt.Sprint("b", i), "")
		eventually(t, "the follower to have what it had been asked for", func() bool { objects, _ := first.Size(); return objects == i+1 })
		if n, err := list(); err != nil || n != i+1 {
			t.Errorf("with %d objects it shows %d, %v", i+1, n, err)
		}
	}
}
