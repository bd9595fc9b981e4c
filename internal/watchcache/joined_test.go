// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package watchcache

import (
	"context"
	"sync"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	kruntime "k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/registry/generic"
	"k8s.io/apiserver/pkg/storage"
	etcdfeature "k8s.io/apiserver/pkg/storage/feature"
	"k8s.io/apiserver/pkg/storage/storagebackend"
	"k8s.io/apiserver/pkg/storage/storagebackend/factory"

	"github.com/weir-project/weir/test/etcd"
)

// heldBack is a storage whose watches tell nothing while held is locked: so a cache is late for as long as a test wants.
type heldBack struct {
	storage.Interface
	held *sync.RWMutex
}

// Watch implements storage.Interface.
func (h heldBack) Watch(ctx context.Context, key string, opts storage.ListOptions) (watch.Interface, error) {
	w, err := h.Interface.Watch(ctx, key, opts)
	if err != nil {
		return nil, err
	}
	return watch.Filter(w, func(e watch.Event) (watch.Event, bool) {
		h.held.RLock()
		defer h.held.RUnlock()
		return e, true
	}), nil
}

// holdBack has caches that are opened from now on be late while what it returns is locked.
func (s *widgetStores) holdBack() *sync.RWMutex {
	held, of := &sync.RWMutex{}, s.caches.opts.NewStorage
	if of == nil {
		of = generic.NewRawStorage
	}
	s.caches.opts.NewStorage = func(config *storagebackend.ConfigForResource, newFunc, newListFunc func() kruntime.Object, resourcePrefix string) (storage.Interface, factory.DestroyFunc, error) {
		raw, destroy, err := of(config, newFunc, newListFunc, resourcePrefix)
		return heldBack{raw, held}, destroy, err
	}
	return held
}

func listed(t *testing.T, s storage.Interface, resourceVersion string) ([]string, error) {
	t.Helper()
	list := &unstructured.UnstructuredList{}
	err := s.GetList(t.Context(), widgetPrefix+"/", storage.ListOptions{ResourceVersion: resourceVersion, Recursive: true, Predicate: storage.Everything}, list)
	var names []string
	for _, item := range list.Items {
		names = append(names, item.GetName())
	}
	return names, err
}

// TestJoinedShowNothingOfBefore has a cache be opened that answers from a follower which has gone on, and is late. What was deleted before the
// cache was opened is shown to nobody, whichever read asks; the cache that had been open before may show it, as one that is late may.
func TestJoinedShowNothingOfBefore(t *testing.T) {
	for name, lingers := range map[string]bool{"that lingers": true, "of another version": false} {
		t.Run(name, func(t *testing.T) {
			stores := newWidgetStores(t, etcd.Run(t).Endpoints(), 10*MinHistory)
			held := stores.holdBack()
			raw, _ := stores.open(t, Uncached, "v1")
			key := widgetPrefix + "/default/a"
			obj := newWidget("v1")
			obj.SetNamespace("default")
			obj.SetName("a")
			if err := raw.Create(t.Context(), key, obj, newWidget("v1"), 0); err != nil {
				t.Fatal(err)
			}
			first, destroy := stores.cache(t, "v1")
			if names, err := listed(t, first, "0"); err != nil || len(names) != 1 {
				t.Fatalf("%v %v", names, err)
			}
			held.Lock()
			locked := true
			defer func() {
				if locked {
					held.Unlock()
				}
			}()
			if err := raw.Delete(t.Context(), key, newWidget("v1"), nil, storage.ValidateAllObjectFunc, nil, storage.DeleteOptions{}); err != nil {
				t.Fatal(err)
			}
			if names, err := listed(t, first, "0"); err != nil || len(names) != 1 {
				t.Fatalf("the cache is not late: %v %v", names, err)
			}
			if lingers {
				destroy()
			}
			made, _ := stores.open(t, stores.caches.Decorator(), "v1beta1")
			second := made.(*Cache)
			if second.follower != first.follower {
				t.Fatal("the follower is another one")
			}
			if names, err := listed(t, second, "0"); err == nil {
				t.Errorf("a list shows %v", names)
			}
			var got unstructured.Unstructured
			if err := second.Get(t.Context(), key, storage.GetOptions{ResourceVersion: "0"}, &got); err == nil {
				t.Errorf("a read shows %v", got.Object)
			}
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			if w, err := second.Watch(ctx, widgetPrefix+"/", storage.ListOptions{ResourceVersion: "0", Recursive: true, Predicate: storage.Everything}); err == nil {
				t.Errorf("a watch tells of %v", <-w.ResultChan())
			}
			held.Unlock()
			locked = false
			eventually(t, "the cache to have reached the present", func() bool {
				names, err := listed(t, second, "0")
				if len(names) > 0 {
					t.Fatalf("a list shows %v", names)
				}
				return err == nil
			})
		})
	}
}

// TestGoneDoesNotLinger: the follower of a resource that is not defined any more ends with the last cache.
func TestGoneDoesNotLinger(t *testing.T) {
	for name, defined := range map[string]bool{"defined": true, "gone": false} {
		t.Run(name, func(t *testing.T) {
			stores := newWidgetStores(t, etcd.Run(t).Endpoints(), 10*MinHistory)
			stores.caches.opts.Sharing.Defined = func(resource schema.GroupResource) bool { return defined && resource == widgets }
			a, destroyA := stores.cache(t, "v1")
			_, destroyB := stores.cache(t, "v1beta1")
			destroyA()
			if !a.follower.Ready() {
				t.Error("the follower has ended, from which another version is answered")
			}
			destroyB()
			if a.follower.Ready() != defined {
				t.Errorf("the follower goes on: %v", !defined)
			}
			if all := stores.caches.all(); (len(all) > 0) != defined {
				t.Errorf("%d followers are left", len(all))
			}
		})
	}
}

// TestNotJoinedWithoutProgress: where etcd cannot be asked for progress, a cache has a follower of its own. One that joins another would answer
// nothing until something happens to its resource.
func TestNotJoinedWithoutProgress(t *testing.T) {
	client := etcd.Run(t)
	stores := newWidgetStores(t, client.Endpoints(), 10*MinHistory)
	first, _ := stores.cache(t, "v1")
	before := etcdfeature.DefaultFeatureSupportChecker
	t.Cleanup(func() { etcdfeature.DefaultFeatureSupportChecker = before })
	etcdfeature.DefaultFeatureSupportChecker = withoutProgress{before}
	if _, err := client.KV.Put(t.Context(), "/registry/something/else", "x"); err != nil {
		t.Fatal(err)
	}
	second, _ := stores.cache(t, "v1beta1")
	for name, c := range map[string]*Cache{"that was there before": first, "that has come": second} {
		for _, rev := range []string{"0", ""} {
			if _, err := listed(t, c, rev); err != nil {
				t.Errorf("the cache %s does not answer a list from %q: %v", name, rev, err)
			}
		}
		if _, err := c.Stats(t.Context()); err != nil {
			t.Errorf("the cache %s does not know how many there are: %v", name, err)
		}
	}
}
