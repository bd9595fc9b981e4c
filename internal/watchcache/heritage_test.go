// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package watchcache

import (
	"context"
	"fmt"
	"reflect"
	"sync/atomic"
	"testing"
	"time"

	structuralschema "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	kruntime "k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/registry/generic"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/storagebackend"
	"k8s.io/apiserver/pkg/storage/storagebackend/factory"
	clocktesting "k8s.io/utils/clock/testing"

	"github.com/weir-project/weir/internal/intact"
	"github.com/weir-project/weir/test/etcd"
)

// countingReads counts the reads of a whole resource: for the cache, and for its clients.
type countingReads struct {
	storage.Interface
	reads *atomic.Int64
}

// Watch implements storage.Interface.
func (c countingReads) Watch(ctx context.Context, key string, opts storage.ListOptions) (watch.Interface, error) {
	if opts.SendInitialEvents != nil {
		c.reads.Add(1)
	}
	return c.Interface.Watch(ctx, key, opts)
}

// GetList implements storage.Interface.
func (c countingReads) GetList(ctx context.Context, key string, opts storage.ListOptions, list kruntime.Object) error {
	if opts.Recursive {
		c.reads.Add(1)
	}
	return c.Interface.GetList(ctx, key, opts, list)
}

// defaulting is a decoder that gives each object spec.late, as a schema with a default does.
type defaulting struct{ kruntime.Decoder }

// Decode implements runtime.Decoder.
func (d defaulting) Decode(data []byte, kind *schema.GroupVersionKind, into kruntime.Object) (kruntime.Object, *schema.GroupVersionKind, error) {
	obj, of, err := d.Decoder.Decode(data, kind, into)
	if u, ok := obj.(*unstructured.Unstructured); ok && err == nil {
		if err := unstructured.SetNestedField(u.Object, "l", "spec", "late"); err != nil {
			return nil, of, err
		}
	}
	return obj, of, err
}

// heirs are stores of a definition that changes, whose objects are taken as they are stored.
type heirs struct {
	*widgetStores
	reads atomic.Int64
	// late says that the schema has a default for spec.late.
	late bool
}

func newHeirs(t *testing.T, endpoints []string) *heirs {
	h := &heirs{widgetStores: newWidgetStores(t, endpoints, 10*MinHistory)}
	h.plain = true
	h.caches.opts.Rules = func(_ *storagebackend.ConfigForResource, newFunc func() kruntime.Object) (intact.Rules, bool) {
		anything := structuralschema.Structural{Extensions: structuralschema.Extensions{XPreserveUnknownFields: true}, Generic: structuralschema.Generic{Type: "object"}}
		root, spec := anything, anything
		if h.late {
			late := structuralschema.Structural{Generic: structuralschema.Generic{Type: "string", Default: structuralschema.JSON{Object: "l"}}}
			spec.Properties = map[string]structuralschema.Structural{"late": late}
		}
		root.Properties = map[string]structuralschema.Structural{"spec": spec}
		return intact.Rules{
			Group: widgets.Group, Kind: "Widget", Version: newFunc().GetObjectKind().GroupVersionKind().Version, Renames: true,
			Schemas: map[string]*structuralschema.Structural{"v1": &root, "v1beta1": &root},
		}, true
	}
	h.caches.opts.NewStorage = func(config *storagebackend.ConfigForResource, newFunc, newListFunc func() kruntime.Object, resourcePrefix string) (storage.Interface, factory.DestroyFunc, error) {
		s, destroy, err := generic.NewRawStorage(config, newFunc, newListFunc, resourcePrefix)
		return countingReads{s, &h.reads}, destroy, err
	}
	return h
}

// change has the definition be another.
func (h *heirs) change(late bool) {
	h.key += "'"
	h.late = late
	h.begins = unstructured.UnstructuredJSONScheme
	if late {
		h.begins = defaulting{h.begins}
	}
}

// all returns what a storage lists.
func (h *heirs) all(t *testing.T, s storage.Interface, version string) ([]unstructured.Unstructured, string) {
	t.Helper()
	list := newWidgetList(version)
	if err := s.GetList(t.Context(), widgetPrefix+"/", storage.ListOptions{Recursive: true, Predicate: storage.Everything}, list); err != nil {
		t.Fatal(err)
	}
	return list.Items, list.GetResourceVersion()
}

// likeStored holds a cache against the storage without one, by the definition as it is.
func (h *heirs) likeStored(t *testing.T, what string, c *Cache, version string) {
	t.Helper()
	direct, destroy := h.open(t, Uncached, version)
	defer destroy()
	want, _ := h.all(t, direct, version)
	if got, _ := h.all(t, c, version); !reflect.DeepEqual(got, want) {
		t.Errorf("%s: the cache of %s has %v, want %v", what, version, got, want)
	}
}

// TestHeritage changes a definition again and again, while another version of what it was before is still open, or not. Every object is decoded by the
// definition as it is, and as long as all are known as they are stored none is read again.
func TestHeritage(t *testing.T) {
	client := etcd.Run(t)
	h := newHeirs(t, client.Endpoints())
	const objects = pageSize + 3
	direct, _ := h.open(t, generic.UndecoratedStorage, "v1")
	for i := range objects {
		put(t, direct, "v1", fmt.Sprintf("w%04d", i), "text")
	}
	// This one is stored in the other version.
	if _, err := client.KV.Put(t.Context(), "/registry"+widgetPrefix+"/a/beta", `{"apiVersion":"example.io/v1beta1","kind":"Widget","metadata":{"generation":1,"name":"beta","namespace":"a"},"spec":{"n":1}}`+"\n"); err != nil {
		t.Fatal(err)
	}
	version, other := "v1", "v1beta1"
	c, destroy := h.cache(t, version)
	h.likeStored(t, "at first", c, version)
	reads := h.reads.Load()
	if reads == 0 {
		t.Fatal("reads are not counted")
	}
	step := func(what string, late, open bool, want int64) {
		t.Helper()
		closeOther := func() {}
		if open {
			_, closeOther = h.cache(t, other)
		}
		destroy()
		h.change(late)
		version, other = other, version
		c, destroy = h.cache(t, version)
		name := fmt.Sprint("n", h.key)
		rev := put(t, c, version, name, "x").GetResourceVersion()
		w, err := c.Watch(t.Context(), widgetPrefix, storage.ListOptions{ResourceVersion: rev, Recursive: true, Predicate: storage.Everything})
		if err != nil {
			t.Fatal(err)
		}
		defer w.Stop()
		h.likeStored(t, what, c, version)
		if err := c.Delete(t.Context(), widgetPrefix+"/a/"+name, newWidget(version), nil, storage.ValidateAllObjectFunc, nil, storage.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		if e := <-w.ResultChan(); e.Type != watch.Deleted {
			t.Errorf("%s: the watch tells of %v", what, e)
		}
		h.likeStored(t, what+", and deleted", c, version)
		closeOther()
		if more := h.reads.Load() - reads; more != want {
			t.Errorf("%s: the resource has been read %d times, want %d", what, more, want)
		}
		reads = h.reads.Load()
	}
	step("a change", false, false, 0)
	step("while another version is open", false, true, 0)
	// What is decoded is not known as it is stored.
	step("a default more", true, false, 0)
	step("a default less", false, false, 1)
	step("and known again", false, false, 0)
	if _, err := client.KV.Put(t.Context(), "/registry"+widgetPrefix+"/a/odd", `{ "apiVersion":"example.io/v1","kind":"Widget","metadata":{"generation":1,"name":"odd","namespace":"a"},"spec":{}}`); err != nil {
		t.Fatal(err)
	}
	h.likeStored(t, "with one that is not stored as the server writes it", c, version)
	step("one that is not known", false, false, 1)
	if _, err := client.KV.Delete(t.Context(), "/registry"+widgetPrefix+"/a/odd"); err != nil {
		t.Fatal(err)
	}
	h.likeStored(t, "without that", c, version)
	step("which has gone", false, false, 0)
}

// TestHeritageFails: what cannot be decoded by what the definition is now, or would be stored elsewhere, is read as if nothing had been known.
func TestHeritageFails(t *testing.T) {
	h := newHeirs(t, etcd.Run(t).Endpoints())
	direct, _ := h.open(t, generic.UndecoratedStorage, "v1")
	put(t, direct, "v1", "a", "text")
	c, destroy := h.cache(t, "v1")
	h.likeStored(t, "at first", c, "v1")
	was := c.heritage()
	if was == nil || was.view.objects.Len() != 1 {
		t.Fatalf("it leaves %v", was)
	}
	if (*follower)(nil).heritage() != nil {
		t.Error("none leaves something")
	}
	c.MarkConsistent(false)
	if c.heritage() != nil {
		t.Error("what differs from etcd is left to the next")
	}
	destroy()
	h.caches.End()

	for what, keyFunc := range map[string]func(kruntime.Object) (string, error){
		"elsewhere": func(kruntime.Object) (string, error) { return widgetPrefix + "/other", nil },
		"nowhere":   func(kruntime.Object) (string, error) { return "", fmt.Errorf("no key") },
	} {
		s, inherited := &source{cache: c.follower, state: c.newState()}, *was
		c.cfg.KeyFunc, c.cfg.Storage = keyFunc, direct
		if err := s.inherit(t.Context(), &inherited); err == nil || s.rev != 0 {
			t.Errorf("%s: it is taken over", what)
		}
	}
}

// TestHeritageLeadsNowhere: where the watch that goes on from what is inherited tells of what cannot be decoded, and is gone since, everything is read at
// once, and not only when the watch has failed for long: the clock stands still.
func TestHeritageLeadsNowhere(t *testing.T) {
	client := etcd.Run(t)
	h := newHeirs(t, client.Endpoints())
	direct, _ := h.open(t, generic.UndecoratedStorage, "v1")
	put(t, direct, "v1", "a", "text")
	c, _ := h.cache(t, "v1")
	h.likeStored(t, "at first", c, "v1")
	cfg := c.follower.cfg
	cfg.heritage = c.heritage()
	if _, err := client.KV.Put(t.Context(), "/registry"+widgetPrefix+"/a/odd", "nothing that could be decoded"); err != nil {
		t.Fatal(err)
	}
	gone, err := client.KV.Delete(t.Context(), "/registry"+widgetPrefix+"/a/odd")
	if err != nil {
		t.Fatal(err)
	}
	cfg.Clock = clocktesting.NewFakeClock(time.Now())
	reads := h.reads.Load()
	f, err := newFollower(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer f.stop()
	eventually(t, "the follower to have read what is there", func() bool {
		_, rev, v, err := f.current()
		return err == nil && rev >= uint64(gone.Header.Revision) && v.objects.Len() == 1
	})
	if more := h.reads.Load() - reads; more != 1 {
		t.Errorf("the resource has been read %d times, want 1", more)
	}
}
