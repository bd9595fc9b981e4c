// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package watchcache

import (
	"context"
	"errors"
	"fmt"
	"math/rand"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/conversion"
	"k8s.io/apiextensions-apiserver/pkg/crdserverscheme"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured/unstructuredscheme"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	kruntime "k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer/versioning"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/registry/generic"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/cacher/metrics"
	"k8s.io/apiserver/pkg/storage/etcd3"
	etcdfeature "k8s.io/apiserver/pkg/storage/feature"
	"k8s.io/apiserver/pkg/storage/storagebackend"
	"k8s.io/apiserver/pkg/storage/storagebackend/factory"
	"k8s.io/client-go/tools/cache"
	"k8s.io/component-base/metrics/legacyregistry"

	"github.com/weir-project/weir/internal/ledger"
	"github.com/weir-project/weir/test/etcd"
	"github.com/weir-project/weir/test/model"
)

var widgets = schema.GroupResource{Group: "example.io", Resource: "widgets"}

const widgetPrefix = "/example.io/widgets"

// widgetStores makes storages of Widgets in two versions, v1 and v1beta1, as upstream does: v1 is stored.
type widgetStores struct {
	kind      model.Kind
	converter kruntime.ObjectConvertor
	// begins is what their codecs begin to decode with.
	begins    kruntime.Decoder
	endpoints []string
	caches    *Caches
	// key is what Sharing.Key returns.
	key string
	// plain says that nothing but labels, name and namespace can be selected by.
	plain bool
}

func newWidgetStores(t *testing.T, endpoints []string, linger time.Duration) *widgetStores {
	t.Helper()
	factory, err := conversion.NewCRConverterFactory(nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	definition := &apiextensionsv1.CustomResourceDefinition{Spec: apiextensionsv1.CustomResourceDefinitionSpec{
		Group: widgets.Group, Conversion: &apiextensionsv1.CustomResourceConversion{Strategy: apiextensionsv1.NoneConverter},
		Versions: []apiextensionsv1.CustomResourceDefinitionVersion{{Name: "v1"}, {Name: "v1beta1"}, {Name: "v1alpha1"}},
	}}
	w := &widgetStores{kind: model.Widgets(widgetPrefix + "/"), endpoints: endpoints, key: "widgets", begins: unstructured.UnstructuredJSONScheme}
	if w.converter, _, err = factory.NewConverter(definition); err != nil {
		t.Fatal(err)
	}
	w.caches = NewCaches(Options{Sharing: &Sharing{Linger: linger, Key: func(*storagebackend.ConfigForResource, func() kruntime.Object, func() kruntime.Object) (string, bool) {
		return w.key, w.key != ""
	}}})
	t.Cleanup(w.caches.End)
	// A server has made clients of etcd before, which is when etcd's features are looked at.
	_, destroy := w.open(t, generic.UndecoratedStorage, "v1")
	defer destroy()
	eventually(t, "etcd's features to be known", func() bool {
		return etcdfeature.DefaultFeatureSupportChecker.Supports(storage.RequestWatchProgress)
	})
	return w
}

func groupVersion(version string) schema.GroupVersion {
	return schema.GroupVersion{Group: widgets.Group, Version: version}
}

func newWidget(version string) *unstructured.Unstructured {
	u := &unstructured.Unstructured{}
	u.SetGroupVersionKind(groupVersion(version).WithKind("Widget"))
	return u
}

func newWidgetList(version string) *unstructured.UnstructuredList {
	u := &unstructured.UnstructuredList{}
	u.SetGroupVersionKind(groupVersion(version).WithKind("WidgetList"))
	return u
}

// open has a decorator make the storage of a version.
func (s *widgetStores) open(t *testing.T, by generic.StorageDecorator, version string) (storage.Interface, factory.DestroyFunc) {
	t.Helper()
	config := &storagebackend.ConfigForResource{GroupResource: widgets, Config: storagebackend.Config{
		Prefix:              "/registry",
		Transport:           storagebackend.TransportConfig{ServerList: s.endpoints},
		EventsHistoryWindow: MinHistory,
		LeaseManagerConfig:  etcd3.NewDefaultLeaseManagerConfig(),
		Codec: versioning.NewCodec(unstructured.UnstructuredJSONScheme, s.begins, s.converter, unstructuredscheme.NewUnstructuredCreator(),
			crdserverscheme.NewUnstructuredObjectTyper(), nil, groupVersion("v1"), groupVersion(version), "crdRESTOptions"),
	}}
	attrs := s.kind.Attrs
	if s.plain {
		attrs = func(obj kruntime.Object) (labels.Set, fields.Set, error) {
			u := obj.(*unstructured.Unstructured)
			return u.GetLabels(), fields.Set{"metadata.name": u.GetName(), "metadata.namespace": u.GetNamespace()}, nil
		}
	}
	made, destroy, err := by(config, widgetPrefix,
		func(obj kruntime.Object) (string, error) { return storage.NamespaceKeyFunc(widgetPrefix+"/", obj) },
		func() kruntime.Object { return newWidget(version) }, func() kruntime.Object { return newWidgetList(version) }, attrs,
		storage.IndexerFuncs{"spec.nodeName": func(obj kruntime.Object) string { return model.WidgetNode(obj.(*unstructured.Unstructured)) }},
		&cache.Indexers{storage.FieldIndex("spec.nodeName"): func(obj any) ([]string, error) {
			return []string{model.WidgetNode(obj.(*unstructured.Unstructured))}, nil
		}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(destroy)
	return made, destroy
}

// cache returns a Cache of a version that is ready.
func (s *widgetStores) cache(t *testing.T, version string) (*Cache, factory.DestroyFunc) {
	t.Helper()
	made, destroy := s.open(t, s.caches.Decorator(), version)
	eventually(t, "the cache to be ready", func() bool { return made.ReadinessCheck() == nil })
	return made.(*Cache), destroy
}

// inVersion is a storage of a version as the model sees it, for which all objects are in v1. It fails whatever is not in the version.
type inVersion struct {
	storage.Interface
	version string
}

func (s inVersion) to(obj kruntime.Object) kruntime.Object {
	u := obj.DeepCopyObject().(*unstructured.Unstructured)
	u.SetAPIVersion(groupVersion(s.version).String())
	return u
}

func (s inVersion) from(obj kruntime.Object) (kruntime.Object, error) {
	u := obj.DeepCopyObject().(*unstructured.Unstructured)
	if len(u.Object) == 0 {
		return u, nil // of what was not found
	}
	if got := u.GetAPIVersion(); got != groupVersion(s.version).String() {
		return nil, fmt.Errorf("%s of %s is in version %s", u.GetName(), s.version, got)
	}
	u.SetAPIVersion(groupVersion("v1").String())
	return u, nil
}

// as has f fill an object of the version, and obj with what that is.
func (s inVersion) as(obj kruntime.Object, f func(obj kruntime.Object) error) error {
	out := newWidget(s.version)
	if err := f(out); err != nil {
		return err
	}
	got, err := s.from(out)
	if err == nil {
		obj.(*unstructured.Unstructured).Object = got.(*unstructured.Unstructured).Object
	}
	return err
}

func (s inVersion) Create(ctx context.Context, key string, obj, out kruntime.Object, ttl uint64) error {
	return s.as(out, func(out kruntime.Object) error { return s.Interface.Create(ctx, key, s.to(obj), out, ttl) })
}

func (s inVersion) Get(ctx context.Context, key string, opts storage.GetOptions, out kruntime.Object) error {
	return s.as(out, func(out kruntime.Object) error { return s.Interface.Get(ctx, key, opts, out) })
}

func (s inVersion) Delete(ctx context.Context, key string, out kruntime.Object, pre *storage.Preconditions, validate storage.ValidateObjectFunc, _ kruntime.Object, opts storage.DeleteOptions) error {
	return s.as(out, func(out kruntime.Object) error {
		return s.Interface.Delete(ctx, key, out, pre, func(ctx context.Context, obj kruntime.Object) error {
			obj, err := s.from(obj)
			if err != nil {
				return err
			}
			return validate(ctx, obj)
		}, nil, opts)
	})
}

func (s inVersion) GuaranteedUpdate(ctx context.Context, key string, out kruntime.Object, ignoreNotFound bool, pre *storage.Preconditions, update storage.UpdateFunc, _ kruntime.Object) error {
	return s.as(out, func(out kruntime.Object) error {
		return s.Interface.GuaranteedUpdate(ctx, key, out, ignoreNotFound, pre, func(obj kruntime.Object, meta storage.ResponseMeta) (kruntime.Object, *uint64, error) {
			obj, err := s.from(obj)
			if err != nil {
				return nil, nil, err
			}
			if u := obj.(*unstructured.Unstructured); len(u.Object) == 2 {
				obj = (&unstructured.Unstructured{}).NewEmptyInstance() // there is none: all that it has is its type
			}
			next, ttl, err := update(obj, meta)
			if err != nil {
				return nil, nil, err
			}
			return s.to(next), ttl, nil
		}, nil)
	})
}

func (s inVersion) GetList(ctx context.Context, key string, opts storage.ListOptions, out kruntime.Object) error {
	list := newWidgetList(s.version)
	if err := s.Interface.GetList(ctx, key, opts, list); err != nil {
		return err
	}
	for i := range list.Items {
		item, err := s.from(&list.Items[i])
		if err != nil {
			return err
		}
		list.Items[i] = *item.(*unstructured.Unstructured)
	}
	into := out.(*unstructured.UnstructuredList)
	into.Items = list.Items
	into.Object = list.Object
	return nil
}

func (s inVersion) Watch(ctx context.Context, key string, opts storage.ListOptions) (watch.Interface, error) {
	w, err := s.Interface.Watch(ctx, key, opts)
	if err != nil {
		return nil, err
	}
	return watch.Filter(w, func(e watch.Event) (watch.Event, bool) {
		if e.Type == watch.Error {
			return e, true
		}
		if o, ok := e.Object.(kruntime.CacheableObject); ok {
			e.Object = o.GetObject()
		}
		obj, err := s.from(e.Object)
		if err != nil {
			return errorEvent(err), true
		}
		e.Object = obj
		return e, true
	}), nil
}

// TestSharedModel has two versions be served from one store, while the one that it was begun for and others are closed, and holds every answer
// against the model.
func TestSharedModel(t *testing.T) {
	client := etcd.Run(t)
	s := newWidgetStores(t, client.Endpoints(), 0)
	direct, _ := s.open(t, generic.UndecoratedStorage, "v1")
	world := model.New(t, s.kind, &model.Subject{Name: "store", Storage: direct, PathPrefix: "/registry"}, nil, randomSeed(t))
	first, closeFirst := s.cache(t, "v1alpha1")
	if first.cfg.NewFunc().(*unstructured.Unstructured).GetAPIVersion() != "example.io/v1alpha1" {
		t.Fatal("the first is not the one that the store was begun for")
	}
	stored, _ := s.cache(t, "v1")
	other, _ := s.cache(t, "v1beta1")
	if stored.follower != first.follower || other.follower != first.follower {
		t.Fatal("the versions are not served from one store")
	}
	closeFirst()
	world.Add(&model.Subject{Name: "v1", Storage: inVersion{stored, "v1"}, PathPrefix: "/registry", Cached: true})
	world.Add(&model.Subject{Name: "v1beta1", Storage: inVersion{other, "v1beta1"}, PathPrefix: "/registry", Cached: true})

	var churning sync.WaitGroup
	stop := make(chan struct{})
	opened := 0
	churning.Go(func() {
		r := rand.New(rand.NewSource(1))
		for {
			select {
			case <-stop:
				return
			default:
			}
			version := []string{"v1", "v1beta1"}[r.Intn(2)]
			c, closeIt := s.cache(t, version)
			w, err := c.Watch(t.Context(), widgetPrefix, storage.ListOptions{ResourceVersion: "0", Recursive: true, Predicate: storage.Everything})
			if err != nil {
				t.Error(err)
				return
			}
			if err := c.GetList(t.Context(), widgetPrefix, storage.ListOptions{Recursive: true, Predicate: storage.Everything}, newWidgetList(version)); err != nil {
				t.Error(err)
				return
			}
			closeIt()
			for range w.ResultChan() { // it ends
			}
			opened++
		}
	})
	for range 3 {
		world.Concurrently(3, modelSteps(t, 60), func() {})
		world.Sequence(modelSteps(t, 100))
	}
	close(stop)
	churning.Wait()
	world.Sum("not found", "page", "ADDED", "MODIFIED", "DELETED")
	t.Logf("%d have been opened and closed meanwhile", opened)
	if opened == 0 {
		t.Error("none was opened and closed meanwhile")
	}
	if ready, all := s.caches.Ready(); ready != 1 || all != 1 {
		t.Errorf("%d of %d are ready, want one", ready, all)
	}
}

// put writes a Widget.
func put(t *testing.T, in storage.Interface, version, name string, text string) *unstructured.Unstructured {
	t.Helper()
	u := newWidget(version)
	u.SetNamespace("a")
	u.SetName(name)
	u.SetGeneration(1)
	u.Object["spec"] = map[string]any{"text": text}
	out := newWidget(version)
	if err := in.Create(t.Context(), widgetPrefix+"/a/"+name, u, out, 0); err != nil {
		t.Fatal(err)
	}
	return out
}

// metricOf returns the sum of a metric of the process that is counted by resource, or of one of etcd's.
func metricOf(t *testing.T, name string) float64 {
	t.Helper()
	families, err := legacyregistry.DefaultGatherer.Gather()
	if err != nil {
		t.Fatal(err)
	}
	sum := 0.0
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			of := map[string]string{}
			for _, l := range m.GetLabel() {
				of[l.GetName()] = l.GetValue()
			}
			if of["resource"] == widgets.Resource && of["group"] == widgets.Group {
				sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return sum
}

// following returns how many goroutines of the process follow etcd, or are of clients of it.
func following() int {
	stacks := make([]byte, 16<<20)
	n := 0
	for stack := range strings.SplitSeq(string(stacks[:runtime.Stack(stacks, true)]), "\n\n") {
		if strings.Contains(stack, "watchcache.(*follower)") || strings.Contains(stack, "eventlog.(*Log") || strings.Contains(stack, "etcd/client/v3.(*") {
			n++
		}
	}
	return n
}

// TestSharedIsOne counts: two versions that are read have as many goroutines, reads of the resource and bytes as one, and one more if they are not shared.
func TestSharedIsOne(t *testing.T) {
	client := etcd.Run(t)
	s := newWidgetStores(t, client.Endpoints(), 0)
	direct, _ := s.open(t, generic.UndecoratedStorage, "v1")
	const n = 200
	for i := range n {
		put(t, direct, "v1", fmt.Sprint("w", i), strings.Repeat("x", 1000))
	}
	const initializations = "apiserver_watch_cache_initializations_total"
	type count struct {
		goroutines int
		reads      float64
		bytes      int64
		caches     int
	}
	counted := func() count {
		books := Books{}
		s.caches.AddTo(books)
		_, all := s.caches.Ready()
		return count{runtime.NumGoroutine(), metricOf(t, initializations), books[widgets][ledger.Frames], all}
	}
	read := func(c *Cache, version string) {
		list := newWidgetList(version)
		if err := c.GetList(t.Context(), widgetPrefix, storage.ListOptions{Recursive: true, Predicate: storage.Everything}, list); err != nil {
			t.Fatal(err)
		}
		if len(list.Items) != n || list.Items[7].GetAPIVersion() != groupVersion(version).String() {
			t.Errorf("%d objects of version %s", len(list.Items), list.Items[7].GetAPIVersion())
		}
	}
	// What the process keeps once it has begun is there before anything is counted.
	metrics.Register()
	_, closeWarm := s.cache(t, "v1")
	closeWarm()
	none, before := counted(), following()
	c, closeFirst := s.cache(t, "v1")
	read(c, "v1")
	one := counted()
	o, closeOther := s.cache(t, "v1beta1")
	read(o, "v1beta1")
	two := counted()
	// Those of the library's that come and go by themselves, as timers do.
	const some = 3
	if one.caches != 1 || one.bytes < n*1000 || one.reads-none.reads != 1 {
		t.Errorf("with one version there are %+v", one)
	}
	if two.caches != 1 || two.bytes != one.bytes || two.reads != one.reads || two.goroutines > one.goroutines+some {
		t.Errorf("with two versions there are %+v, with one %+v", two, one)
	}
	// Written in one version, seen in the other.
	got := newWidget("v1beta1")
	rev := put(t, o, "v1beta1", "new", "y").GetResourceVersion()
	if err := c.Get(t.Context(), widgetPrefix+"/a/new", storage.GetOptions{ResourceVersion: rev}, got); err != nil || got.GetAPIVersion() != "example.io/v1" {
		t.Errorf("what was written in v1beta1 is %v in v1, %v", got, err)
	}
	raw, err := client.KV.Get(t.Context(), "/registry"+widgetPrefix+"/a/new")
	if err != nil || len(raw.Kvs) != 1 || !strings.Contains(string(raw.Kvs[0].Value), `"apiVersion":"example.io/v1"`) {
		t.Errorf("it is stored as %v, %v", raw, err)
	}
	s.key = "" // the next is not shared
	u, closeUnshared := s.cache(t, "v1beta1")
	three := counted()
	if u.follower == o.follower || three.caches != 2 || three.reads != two.reads+1 || three.goroutines <= two.goroutines+some {
		t.Errorf("with one that is not shared there are %+v, before %+v", three, two)
	}
	closeUnshared()
	closeOther()
	closeFirst()
	if left := counted(); left.caches != 0 || left.bytes != 0 {
		t.Errorf("when all are closed there are %+v left", left)
	}
	eventually(t, "all goroutines to end", func() bool { return following() <= before })
}

// TestSharedLives: the watches of a version end when that is closed, and no others. What nobody reads from goes on for a while, is taken up again without
// being read, and ends when another takes its place, when nothing is to linger any more, or after a while.
func TestSharedLives(t *testing.T) {
	client := etcd.Run(t)
	s := newWidgetStores(t, client.Endpoints(), time.Hour)
	follow := func(c *Cache, rev string) watch.Interface {
		t.Helper()
		w, err := c.Watch(t.Context(), widgetPrefix, storage.ListOptions{ResourceVersion: rev, Recursive: true, Predicate: storage.Everything})
		if err != nil {
			t.Fatal(err)
		}
		return w
	}
	next := func(w watch.Interface, version, name string) {
		t.Helper()
		select {
		case e := <-w.ResultChan():
			frame, ok := e.Object.(kruntime.CacheableObject)
			if !ok {
				t.Fatalf("the watch of %s says %v", version, e)
			}
			u := frame.GetObject().(*unstructured.Unstructured)
			if u.GetName() != name || u.GetAPIVersion() != groupVersion(version).String() {
				t.Errorf("the watch of %s says %s of %s", version, u.GetAPIVersion(), u.GetName())
			}
		case <-time.After(patience):
			t.Fatalf("the watch of %s says nothing", version)
		}
	}
	ended := func(w watch.Interface) {
		t.Helper()
		select {
		case e, ok := <-w.ResultChan():
			if ok {
				t.Errorf("a watch that is to end says %v", e)
			}
		case <-time.After(patience):
			t.Fatal("a watch does not end")
		}
	}
	one, closeOne := s.cache(t, "v1")
	two, closeTwo := s.cache(t, "v1beta1")
	began := put(t, one, "v1", "began", "").GetResourceVersion()
	w1, w2, parked := follow(one, began), follow(two, began), follow(one, began)
	put(t, two, "v1beta1", "a", "")
	next(w1, "v1", "a")
	next(w2, "v1beta1", "a")
	next(parked, "v1", "a")
	closeOne()
	ended(w1)
	ended(parked)
	late, err := one.Watch(t.Context(), widgetPrefix, storage.ListOptions{ResourceVersion: began, Recursive: true, Predicate: storage.Everything})
	if err == nil {
		t.Errorf("a cache that is closed gives a watch: %v", late)
	}
	put(t, two, "v1beta1", "b", "")
	next(w2, "v1beta1", "b")

	follower := two.follower
	closeTwo()
	ended(w2)
	if _, all := s.caches.Ready(); all != 1 || s.caches.Of(widgets) != nil {
		t.Errorf("%d linger, want one that nobody is served from", all)
	}
	again, closeAgain := s.cache(t, "v1beta1")
	if again.follower != follower {
		t.Error("what lingers is not taken up again")
	}
	w := follow(again, began)
	next(w, "v1beta1", "a")
	next(w, "v1beta1", "b")
	closeAgain()
	closeAgain()

	s.key = "another definition"
	_, closeOther := s.cache(t, "v1")
	if _, all := s.caches.Ready(); all != 1 || !isStopped(follower) {
		t.Errorf("there are %d, one of which another has taken the place of", all)
	}
	closeOther()
	s.caches.End()
	if _, all := s.caches.Ready(); all != 0 {
		t.Errorf("%d linger after the end", all)
	}
	_, closeLast := s.cache(t, "v1")
	closeLast()
	if _, all := s.caches.Ready(); all != 0 {
		t.Errorf("%d linger after the end", all)
	}

	short := newWidgetStores(t, client.Endpoints(), time.Millisecond)
	brief, closeBrief := short.cache(t, "v1")
	closeBrief()
	eventually(t, "what lingers to end", func() bool { _, all := short.caches.Ready(); return all == 0 })
	eventually(t, "what lingers to end", func() bool { return isStopped(brief.follower) })
}

func isStopped(f *follower) bool {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.stopped
}

// TestSharedFailure: what cannot be started fails all that wait for it, and the next one begins anew.
func TestSharedFailure(t *testing.T) {
	s := NewCaches(Options{Sharing: &Sharing{}})
	failure, fail := errors.New("no etcd"), make(chan struct{})
	var waiting sync.WaitGroup
	for range 5 {
		waiting.Go(func() {
			if _, _, err := s.share("k", widgets, func(*follower) (*follower, func(), error) {
				<-fail
				return nil, nil, failure
			}); !errors.Is(err, failure) {
				t.Errorf("who waits is told %v", err)
			}
		})
	}
	close(fail)
	waiting.Wait()
	ended := false
	x, release, err := s.share("k", widgets, func(*follower) (*follower, func(), error) { return nil, func() { ended = true }, nil })
	if err != nil || x == nil {
		t.Fatal(err)
	}
	release()
	release()
	if !ended || len(s.shared) != 0 {
		t.Error("what nobody uses does not end")
	}
	func() {
		defer func() {
			if recover() == nil {
				t.Error("a panic is hidden")
			}
		}()
		_, _, _ = s.share("k", widgets, func(*follower) (*follower, func(), error) { panic("at the start") })
	}()
	if len(s.shared) != 0 {
		t.Error("what has panicked is given to the next")
	}
}
