// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package watchcache

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	kruntime "k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/registry/generic"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/cacher/metrics"
	"k8s.io/apiserver/pkg/storage/storagebackend"

	"github.com/weir-project/weir/test/etcd"
)

// decoding is a codec that tells of each object that it decodes.
type decoding struct {
	kruntime.Codec
	told func()
}

// Decode implements runtime.Decoder.
func (d decoding) Decode(data []byte, kind *schema.GroupVersionKind, into kruntime.Object) (kruntime.Object, *schema.GroupVersionKind, error) {
	d.told()
	return d.Codec.Decode(data, kind, into)
}

// TestHeritageIsTakenInPages: of large objects that have to be decoded as many are in memory at a time as where they are read in pages.
func TestHeritageIsTakenInPages(t *testing.T) {
	h := newHeirs(t, etcd.Run(t).Endpoints())
	direct, _ := h.open(t, generic.UndecoratedStorage, "v1")
	const objects = 40
	for i := range objects {
		put(t, direct, "v1", fmt.Sprintf("w%04d", i), strings.Repeat("x", 500_000))
	}
	c, destroy := h.cache(t, "v1")
	h.all(t, c, "v1")
	was := c.heritage()
	destroy()
	h.caches.End()

	held, most := 0, 0
	c.cfg.stored = &storedCodec{Codec: decoding{c.cfg.Codec, func() {
		held++
		most = max(most, held)
	}}, newFunc: c.cfg.NewFunc}
	of := c.cfg.KeyFunc
	c.cfg.KeyFunc = func(obj kruntime.Object) (string, error) {
		held--
		return of(obj)
	}
	c.cfg.Storage = direct // its own is closed
	page := pageOf(was.view.bytes, was.view.objects.Len())
	s := &source{cache: c.follower, state: c.newState()}
	if err := s.inherit(t.Context(), was); err != nil || s.state.objects.Len() != objects {
		t.Fatalf("%d objects are taken over, %v", s.state.objects.Len(), err)
	}
	if int64(most) > page+1 {
		t.Errorf("%d objects are decoded at once, where %d are read at once", most, page)
	}
}

// TestHeritageEnds: a follower that is to end does not take over first what it was left.
func TestHeritageEnds(t *testing.T) {
	h := newHeirs(t, etcd.Run(t).Endpoints())
	direct, _ := h.open(t, generic.UndecoratedStorage, "v1")
	const objects = 2*pageSize + 3
	for i := range objects {
		put(t, direct, "v1", fmt.Sprintf("w%04d", i), "text")
	}
	c, _ := h.cache(t, "v1")
	h.all(t, c, "v1")
	began, goOn := make(chan struct{}), make(chan struct{})
	var decoded atomic.Int64
	h.change(true)
	begins := h.begins
	h.begins = decoding{versionless{begins}, func() {
		if decoded.Add(1) == 1 {
			close(began)
		}
		<-goOn
	}}
	made, destroy := h.open(t, h.caches.Decorator(), "v1beta1")
	<-began
	var ending sync.WaitGroup
	ending.Go(func() {
		destroy()
		h.caches.End()
	})
	eventually(t, "the follower to be stopped", func() bool { return isStopped(made.(*Cache).follower) })
	close(goOn)
	ending.Wait()
	if n := decoded.Load(); n >= objects {
		t.Errorf("%d objects are decoded all the same", n)
	}
}

// versionless is a decoder as a codec that encodes nothing.
type versionless struct{ kruntime.Decoder }

func (versionless) Encode(kruntime.Object, io.Writer) error {
	return fmt.Errorf("nothing is encoded with it")
}
func (versionless) Identifier() kruntime.Identifier { return "" }

// TestHeritageOfTheFuture: what is known of a state that etcd has been put back before is worth nothing to the next follower.
func TestHeritageOfTheFuture(t *testing.T) {
	client := etcd.Run(t)
	h := newHeirs(t, client.Endpoints())
	held := h.holdBack()
	direct, _ := h.open(t, generic.UndecoratedStorage, "v1")
	put(t, direct, "v1", "a", "text")
	c, _ := h.cache(t, "v1")
	h.all(t, c, "v1")
	held.Lock()
	locked := true
	defer func() {
		if locked {
			held.Unlock()
		}
	}()
	// etcd is put back to where it was before the object was made: it has none, and a revision that is lower.
	if err := direct.Delete(t.Context(), widgetPrefix+"/a/a", newWidget("v1"), nil, storage.ValidateAllObjectFunc, nil, storage.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	c.mu.Lock()
	c.gen.rev += 1000
	c.mu.Unlock()
	for range 20 {
		h.change(false)
		made, destroy := h.open(t, h.caches.Decorator(), "v1")
		if names, err := listed(t, made, "0"); err == nil && len(names) > 0 {
			t.Errorf("a list shows %v", names)
		}
		if t.Failed() {
			break
		}
		destroy()
	}
	held.Unlock()
	locked = false
}

// TestHeritageCompacted: what has been compacted since is not gone on from; the resource is read at once, as if nothing were known of it.
func TestHeritageCompacted(t *testing.T) {
	client := etcd.Run(t)
	h := newHeirs(t, client.Endpoints())
	direct, _ := h.open(t, generic.UndecoratedStorage, "v1")
	put(t, direct, "v1", "a", "text")
	c, destroy := h.cache(t, "v1")
	h.all(t, c, "v1")
	rev := int64(0)
	for range 5 {
		r, err := client.KV.Put(t.Context(), "/registry/something/else", "x")
		if err != nil {
			t.Fatal(err)
		}
		rev = r.Header.Revision
	}
	if _, err := client.Compact(t.Context(), rev, clientv3.WithCompactPhysical()); err != nil {
		t.Fatal(err)
	}
	metrics.Register()
	const failures = "apiserver_watch_cache_initialization_errors_total"
	before := metricOf(t, failures)
	destroy()
	h.change(false)
	made, _ := h.open(t, h.caches.Decorator(), "v1beta1")
	eventually(t, "the cache to answer", func() bool {
		names, err := listed(t, made, "")
		return err == nil && len(names) == 1
	})
	if n := metricOf(t, failures) - before; n > 0 {
		t.Errorf("reading the resource has failed %v times", n)
	}
}

// TestHeritageOfAnotherLife: an event that the definition as it is cannot decode, between what is inherited and the present, is of objects that are gone. The resource is
// read at once.
func TestHeritageOfAnotherLife(t *testing.T) {
	client := etcd.Run(t)
	h := newHeirs(t, client.Endpoints())
	held := h.holdBack()
	direct, _ := h.open(t, generic.UndecoratedStorage, "v1")
	put(t, direct, "v1", "a", "text")
	c, destroy := h.cache(t, "v1")
	h.all(t, c, "v1")
	metrics.Register()
	const failures = "apiserver_watch_cache_initialization_errors_total"
	before := metricOf(t, failures)
	held.Lock()
	const key = "/registry" + widgetPrefix + "/a/old"
	if _, err := client.KV.Put(t.Context(), key, `{"apiVersion":"example.io/v0","kind":"Widget","metadata":{"generation":1,"name":"old","namespace":"a"}}`); err != nil {
		t.Fatal(err)
	}
	if _, err := client.KV.Delete(t.Context(), key); err != nil {
		t.Fatal(err)
	}
	destroy()
	h.change(false)
	made, _ := h.open(t, h.caches.Decorator(), "v1beta1")
	held.Unlock()
	eventually(t, "the cache to be watched", func() bool {
		w, err := made.Watch(t.Context(), widgetPrefix, storage.ListOptions{ResourceVersion: "0", Recursive: true, Predicate: storage.Everything})
		if err == nil {
			w.Stop()
		}
		return err == nil
	})
	if n := metricOf(t, failures) - before; n > 0 {
		t.Errorf("reading the resource has failed %v times", n)
	}
}

// TestPastOfAnotherLife: the same of a follower that begins with a revision of the past.
func TestPastOfAnotherLife(t *testing.T) {
	client := etcd.Run(t)
	h := newHeirs(t, client.Endpoints())
	direct, _ := h.open(t, generic.UndecoratedStorage, "v1")
	from, err := strconv.ParseUint(put(t, direct, "v1", "a", "text").GetResourceVersion(), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	metrics.Register()
	const failures = "apiserver_watch_cache_initialization_errors_total"
	before := metricOf(t, failures)
	const key = "/registry" + widgetPrefix + "/a/old"
	if _, err := client.KV.Put(t.Context(), key, `{"apiVersion":"example.io/v0","kind":"Widget","metadata":{"generation":1,"name":"old","namespace":"a"}}`); err != nil {
		t.Fatal(err)
	}
	if _, err := client.KV.Delete(t.Context(), key); err != nil {
		t.Fatal(err)
	}
	made, _ := h.open(t, h.caches.DecoratorFrom(from), "v1")
	eventually(t, "the present to be listed", func() bool {
		list := newWidgetList("v1")
		err := made.GetList(t.Context(), widgetPrefix+"/", storage.ListOptions{ResourceVersion: "0", Recursive: true, Predicate: storage.Everything}, list)
		if err != nil {
			return false
		}
		rev, err := strconv.ParseUint(list.GetResourceVersion(), 10, 64)
		return err == nil && rev >= from+2 && len(list.Items) == 1
	})
	if n := metricOf(t, failures) - before; n > 0 {
		t.Errorf("reading the resource has failed %v times", n)
	}
}

// TestBothVersionsLinger: a definition of two versions that are not served from one store changes its columns, while nobody asks. Both stores are gone on with.
func TestBothVersionsLinger(t *testing.T) {
	s := newWidgetStores(t, etcd.Run(t).Endpoints(), 10*MinHistory)
	s.caches.opts.Sharing.Key = func(_ *storagebackend.ConfigForResource, newFunc, _ func() kruntime.Object) (string, bool) {
		return newFunc().(*unstructured.Unstructured).GetAPIVersion(), true
	}
	one, closeOne := s.cache(t, "v1")
	two, closeTwo := s.cache(t, "v1beta1")
	closeOne()
	closeTwo()
	again, _ := s.cache(t, "v1")
	other, _ := s.cache(t, "v1beta1")
	if again.follower != one.follower || other.follower != two.follower {
		t.Errorf("gone on with: %v, %v", again.follower == one.follower, other.follower == two.follower)
	}
}
