// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package watchcache

import (
	"context"
	"fmt"
	"testing"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/apis/example"
	"k8s.io/apiserver/pkg/features"
	"k8s.io/apiserver/pkg/storage"
	storagetesting "k8s.io/apiserver/pkg/storage/testing"
	"k8s.io/client-go/tools/cache"
)

// custom is a cache of custom resources as upstream's tests see it, which know of Pods alone: the same fields, in another form.
type custom struct {
	storage.Interface
	// settle, if set, waits until the cache has a revision that was created.
	settle func(ctx context.Context, rev uint64) error
}

// newCustom starts a cache of custom resources that have the fields of Pods.
func newCustom(t *testing.T, options ...option) (custom, *subject) {
	t.Helper()
	pod := func(obj any) *example.Pod {
		p := &example.Pod{}
		if err := toPod(obj.(*unstructured.Unstructured), p); err != nil {
			t.Error(err)
		}
		return p
	}
	s := newSubject(t, append(options, func(o *storeOptions, c *Config) {
		o.codec = unstructured.UnstructuredJSONScheme
		o.newFunc, o.newListFunc = func() runtime.Object { return newCustomPod() }, func() runtime.Object { return newCustomPods() }
		c.Codec, c.NewFunc, c.NewListFunc = o.codec, o.newFunc, o.newListFunc
		c.GetAttrs = func(obj runtime.Object) (labels.Set, fields.Set, error) { return podAttrs(pod(obj)) }
		if trigger := c.Trigger; trigger != nil {
			c.Trigger = storage.IndexerFuncs{}
			for name, f := range trigger {
				c.Trigger[name] = func(obj runtime.Object) string { return f(pod(obj)) }
			}
		}
		if indexers := c.Indexers; indexers != nil {
			c.Indexers = &cache.Indexers{}
			for name, f := range *indexers {
				(*c.Indexers)[name] = func(obj any) ([]string, error) { return f(pod(obj)) }
			}
		}
	})...)
	return custom{Interface: s.Cache}, s
}

func newCustomPod() *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{"apiVersion": "example.apiserver.k8s.io/v1", "kind": "Pod"}}
}

func newCustomPods() *unstructured.UnstructuredList {
	return &unstructured.UnstructuredList{Object: map[string]any{"apiVersion": "example.apiserver.k8s.io/v1", "kind": "PodList"}}
}

// toCustom returns a Pod as a custom resource.
func toCustom(obj runtime.Object) (*unstructured.Unstructured, error) {
	data, err := runtime.Encode(jsonCodec, obj)
	if err != nil {
		return nil, err
	}
	u := &unstructured.Unstructured{}
	return u, u.UnmarshalJSON(data)
}

// toPod sets a Pod to what a custom resource is. One without anything but its type is none.
func toPod(u *unstructured.Unstructured, into runtime.Object) error {
	pod := into.(*example.Pod)
	*pod = example.Pod{}
	if _, ok := u.Object["metadata"]; !ok {
		return nil
	}
	data, err := u.MarshalJSON()
	if err != nil {
		return err
	}
	return runtime.DecodeInto(jsonCodec, data, pod)
}

// as has f fill a custom resource, and pod with what that is, if there is no error.
func as(pod runtime.Object, f func(u runtime.Object) error) error {
	u := newCustomPod()
	if err := f(u); err != nil || pod == nil {
		return err
	}
	return toPod(u, pod)
}

func (c custom) Create(ctx context.Context, key string, obj, out runtime.Object, ttl uint64) error {
	u, err := toCustom(obj)
	if err != nil {
		return err
	}
	if err := as(out, func(out runtime.Object) error { return c.Interface.Create(ctx, key, u, out, ttl) }); err != nil {
		return err
	}
	if c.settle == nil {
		return nil
	}
	rev, err := c.Versioner().ObjectResourceVersion(out)
	if err != nil {
		return err
	}
	return c.settle(ctx, rev)
}

func (c custom) Get(ctx context.Context, key string, opts storage.GetOptions, out runtime.Object) error {
	return as(out, func(out runtime.Object) error { return c.Interface.Get(ctx, key, opts, out) })
}

// cached returns what a test says that it knows of an object.
func cached(obj runtime.Object) (runtime.Object, error) {
	if obj == nil {
		return nil, nil
	}
	return toCustom(obj)
}

func (c custom) Delete(ctx context.Context, key string, out runtime.Object, pre *storage.Preconditions, validate storage.ValidateObjectFunc, known runtime.Object, opts storage.DeleteOptions) error {
	known, err := cached(known)
	if err != nil {
		return err
	}
	return as(out, func(out runtime.Object) error {
		return c.Interface.Delete(ctx, key, out, pre, func(ctx context.Context, obj runtime.Object) error {
			pod := &example.Pod{}
			if err := toPod(obj.(*unstructured.Unstructured), pod); err != nil {
				return err
			}
			return validate(ctx, pod)
		}, known, opts)
	})
}

func (c custom) GuaranteedUpdate(ctx context.Context, key string, out runtime.Object, ignoreNotFound bool, pre *storage.Preconditions, update storage.UpdateFunc, known runtime.Object) error {
	known, err := cached(known)
	if err != nil {
		return err
	}
	return as(out, func(out runtime.Object) error {
		return c.Interface.GuaranteedUpdate(ctx, key, out, ignoreNotFound, pre, func(obj runtime.Object, meta storage.ResponseMeta) (runtime.Object, *uint64, error) {
			pod := &example.Pod{}
			if err := toPod(obj.(*unstructured.Unstructured), pod); err != nil {
				return nil, nil, err
			}
			next, ttl, err := update(pod, meta)
			if err != nil {
				return nil, nil, err
			}
			u, err := toCustom(next)
			return u, ttl, err
		}, known)
	})
}

// selecting returns options whose predicate looks at custom resources.
func selecting(opts storage.ListOptions) storage.ListOptions {
	if attrs := opts.Predicate.GetAttrs; attrs != nil {
		opts.Predicate.GetAttrs = func(obj runtime.Object) (labels.Set, fields.Set, error) {
			pod := &example.Pod{}
			if err := toPod(obj.(*unstructured.Unstructured), pod); err != nil {
				return nil, nil, err
			}
			return attrs(pod)
		}
	}
	return opts
}

func (c custom) GetList(ctx context.Context, key string, opts storage.ListOptions, out runtime.Object) error {
	list := newCustomPods()
	if err := c.Interface.GetList(ctx, key, selecting(opts), list); err != nil {
		return err
	}
	pods := out.(*example.PodList)
	pods.Items = nil
	if list.Items != nil {
		pods.Items = make([]example.Pod, 0, len(list.Items))
	}
	for i := range list.Items {
		pod := example.Pod{}
		if err := toPod(&list.Items[i], &pod); err != nil {
			return err
		}
		pods.Items = append(pods.Items, pod)
	}
	accessor, err := meta.ListAccessor(list)
	if err != nil {
		return err
	}
	pods.ResourceVersion, pods.Continue, pods.RemainingItemCount = accessor.GetResourceVersion(), accessor.GetContinue(), accessor.GetRemainingItemCount()
	return nil
}

func (c custom) Watch(ctx context.Context, key string, opts storage.ListOptions) (watch.Interface, error) {
	w, err := c.Interface.Watch(ctx, key, selecting(opts))
	if err != nil {
		return nil, err
	}
	return watch.Filter(w, func(e watch.Event) (watch.Event, bool) {
		if shared, ok := e.Object.(runtime.CacheableObject); ok {
			e.Object = shared.GetObject()
		}
		if u, ok := e.Object.(*unstructured.Unstructured); ok {
			pod := &example.Pod{}
			if err := toPod(u, pod); err != nil {
				return errorEvent(fmt.Errorf("an event has %v: %w", u, err)), true
			}
			e.Object = pod
		}
		return e, true
	}), nil
}

// TestConformanceUnstructured runs upstream's tests of storage over a cache of custom resources.
func TestConformanceUnstructured(t *testing.T) {
	start := func(run func(context.Context, *testing.T, storage.Interface), options ...option) func(context.Context, *testing.T) {
		return func(ctx context.Context, t *testing.T) {
			c, _ := newCustom(t, options...)
			run(ctx, t, c)
		}
	}
	all := []conformance{
		{name: "List", run: func(ctx context.Context, t *testing.T) {
			c, s := newCustom(t)
			storagetesting.RunTestList(ctx, t, c, s.compact, true, s.recorder())
		}},
		{name: "ConsistentList", run: func(ctx context.Context, t *testing.T) {
			c, s := newCustom(t)
			storagetesting.RunTestConsistentList(ctx, t, c, s.increase, true, true, true)
		}},
		{name: "GetListNonRecursive", run: func(ctx context.Context, t *testing.T) {
			c, s := newCustom(t)
			storagetesting.RunTestGetListNonRecursive(ctx, t, s.increase, c)
		}},
		{name: "ListContinuation", run: start(func(ctx context.Context, t *testing.T, c storage.Interface) {
			storagetesting.RunTestListContinuation(ctx, t, c, uncounted)
		})},
		{name: "ListPaginationRareObject", run: start(func(ctx context.Context, t *testing.T, c storage.Interface) {
			storagetesting.RunTestListPaginationRareObject(ctx, t, c, uncounted)
		})},
		{name: "ListContinuationWithFilter", run: start(func(ctx context.Context, t *testing.T, c storage.Interface) {
			storagetesting.RunTestListContinuationWithFilter(ctx, t, c, uncounted)
		})},
		{name: "WatchFromZero", run: func(ctx context.Context, t *testing.T) {
			c, s := newCustom(t)
			storagetesting.RunTestWatchFromZero(ctx, t, c, s.compactHistory)
		}},
		{name: "ClusterScopedWatch", run: start(storagetesting.RunTestClusterScopedWatch, withIndexes, withClusterScope)},
		{name: "OptionalWatchBookmarksWithCorrectResourceVersion", run: start(storagetesting.RunTestOptionalWatchBookmarksWithCorrectResourceVersion)},
		{name: "CompactRevision", gates: gates{features.ListFromCacheSnapshot: true}, run: func(ctx context.Context, t *testing.T) {
			c, s := newCustom(t)
			storagetesting.RunTestCompactRevision(ctx, t, c, s.increase, s.compact)
		}},
		{name: "WatchDispatchBookmarkEvents", run: start(func(ctx context.Context, t *testing.T, c storage.Interface) {
			storagetesting.RunTestWatchDispatchBookmarkEvents(ctx, t, c, true)
		})},
	}
	for name, run := range plain {
		all = append(all, conformance{name: name, run: start(run)})
	}
	for name, run := range withIndex {
		all = append(all, conformance{name: name, run: start(run, withIndexes)})
	}
	for name, run := range settled {
		all = append(all, conformance{name: name, run: func(ctx context.Context, t *testing.T) {
			c, s := newCustom(t)
			c.settle = func(ctx context.Context, rev uint64) error {
				_, _, _, err := s.waitFresh(ctx, rev)
				return err
			}
			run(ctx, t, c)
		}})
	}
	for _, test := range all {
		t.Run(test.name, func(t *testing.T) {
			test.gates.set(t)
			test.run(t.Context(), t)
		})
	}
}
