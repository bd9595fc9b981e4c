// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package ondemand

import (
	"context"
	"errors"
	"math/rand"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/registry/generic"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/etcd3"
	etcdfeature "k8s.io/apiserver/pkg/storage/feature"
	"k8s.io/apiserver/pkg/storage/storagebackend"
	"k8s.io/apiserver/pkg/storage/storagebackend/factory"
	"k8s.io/client-go/tools/cache"
	"k8s.io/utils/clock"
	clocktesting "k8s.io/utils/clock/testing"

	"github.com/weir-project/weir/internal/watchcache"
	"github.com/weir-project/weir/test/etcd"
	"github.com/weir-project/weir/test/model"
	"github.com/weir-project/weir/test/wait"
)

const (
	patience = time.Minute
	prefix   = "/example.io/widgets"
)

var widgets = schema.GroupResource{Group: "example.io", Resource: "widgets"}

// store makes storages of Widgets.
type store struct {
	kind   model.Kind
	config *storagebackend.ConfigForResource
	caches *watchcache.Caches
}

func newStore(t *testing.T, endpoints []string) *store {
	t.Helper()
	kind := model.Widgets(prefix + "/")
	return &store{kind: kind, caches: watchcache.NewCaches(watchcache.Options{}), config: &storagebackend.ConfigForResource{
		GroupResource: widgets,
		Config: storagebackend.Config{
			Prefix:              "/registry",
			Transport:           storagebackend.TransportConfig{ServerList: endpoints},
			Codec:               unstructured.UnstructuredJSONScheme,
			EventsHistoryWindow: watchcache.MinHistory,
			LeaseManagerConfig:  etcd3.NewDefaultLeaseManagerConfig(),
		},
	}}
}

func (s *store) make(t *testing.T, by generic.StorageDecorator) (storage.Interface, factory.DestroyFunc) {
	t.Helper()
	made, destroy, err := by(s.config, prefix,
		func(obj runtime.Object) (string, error) { return storage.NamespaceKeyFunc(prefix+"/", obj) },
		s.kind.New, s.kind.NewList, s.kind.Attrs,
		storage.IndexerFuncs{"spec.nodeName": func(obj runtime.Object) string { return model.WidgetNode(obj.(*unstructured.Unstructured)) }},
		&cache.Indexers{storage.FieldIndex("spec.nodeName"): func(obj any) ([]string, error) {
			return []string{model.WidgetNode(obj.(*unstructured.Unstructured))}, nil
		}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(destroy)
	return made, destroy
}

func (s *store) keeper(clock clock.WithTicker) *Keeper {
	return NewKeeper(watchcache.Uncached, s.caches.DecoratorFrom, clock)
}

// seed draws the seed of a run; WEIR_SEED repeats one.
func seed(t *testing.T) int64 {
	t.Helper()
	drawn := time.Now().UnixNano()
	if s := os.Getenv("WEIR_SEED"); s != "" {
		var err error
		if drawn, err = strconv.ParseInt(s, 10, 64); err != nil {
			t.Fatalf("WEIR_SEED=%q is no number: %v", s, err)
		}
	}
	t.Logf("WEIR_SEED=%d", drawn)
	return drawn
}

// TestModel has a storage closed all the time that nobody uses it, and holds every answer against the model: what was handed out as
// a revision can be gone on from, and nothing is missed.
func TestModel(t *testing.T) {
	client := etcd.Run(t)
	s := newStore(t, client.Endpoints())
	direct, _ := s.make(t, generic.UndecoratedStorage)
	keeper := s.keeper(clock.RealClock{})
	sweep := func() { keeper.sweep(0) }
	w := model.New(t, s.kind, &model.Subject{Name: "store", Storage: direct, PathPrefix: "/registry"}, nil, seed(t))
	subject, _ := s.make(t, keeper.Decorator())
	wait.Until(t, "etcd's features to be known", patience, func() bool {
		if err := subject.GetList(t.Context(), prefix, storage.ListOptions{Recursive: true, Predicate: storage.Everything}, s.kind.NewList()); err != nil {
			t.Fatal(err)
		}
		return etcdfeature.DefaultFeatureSupportChecker.Supports(storage.RequestWatchProgress)
	})
	w.Add(&model.Subject{Name: "ondemand", Storage: subject, PathPrefix: "/registry", Cached: true, Absent: true})

	var sweeping sync.WaitGroup
	stop := make(chan struct{})
	opened := 0
	sweeping.Go(func() {
		r := rand.New(rand.NewSource(1))
		for open := false; ; {
			select {
			case <-stop:
				return
			case <-time.After(time.Duration(r.Intn(3)) * time.Millisecond): // how often, not whether
			}
			sweep()
			if is := s.caches.Of(widgets) != nil; is && !open {
				opened++
				open = true
			} else if !is {
				open = false
			}
		}
	})
	// Some watches stay open to the end of a round: then nobody uses the storage.
	for range 5 {
		w.Concurrently(3, 40, func() {})
		w.Sequence(60)
		wait.Until(t, "the cache to be closed", patience, func() bool { return s.caches.Of(widgets) == nil })
	}
	close(stop)
	sweeping.Wait()
	w.Sum("not found", "page", "ADDED", "MODIFIED", "DELETED")
	if opened < 5 {
		t.Errorf("the cache has been opened %d times", opened)
	}
}

// TestNobody has a storage that nobody uses be closed, and a list of nothing open nothing. Whoever has a revision from before goes on.
func TestNobody(t *testing.T) {
	client := etcd.Run(t)
	s := newStore(t, client.Endpoints())
	fake := clocktesting.NewFakeClock(time.Now())
	keeper := s.keeper(fake)
	made, destroy := s.make(t, keeper.Decorator())
	subject := made.(*Storage)
	list := func() *unstructured.UnstructuredList {
		t.Helper()
		list := s.kind.NewList()
		if err := subject.GetList(t.Context(), prefix, storage.ListOptions{Recursive: true, Predicate: storage.Everything}, list); err != nil {
			t.Fatal(err)
		}
		return list.(*unstructured.UnstructuredList)
	}
	open := func(plain, cached bool) {
		t.Helper()
		for what, one := range map[string]struct {
			slot *slot
			want bool
		}{"plain": {&subject.plain, plain}, "cached": {&subject.cached, cached}} {
			one.slot.mu.Lock()
			is := one.slot.now != nil
			one.slot.mu.Unlock()
			if is != one.want {
				t.Errorf("the %s storage is open: %v, want %v", what, is, one.want)
			}
		}
	}
	stats := func() storage.Stats {
		t.Helper()
		stats, err := subject.Stats(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return stats
	}

	empty := list()
	if stats := stats(); stats.ObjectCount != 0 || len(empty.Items) != 0 {
		t.Errorf("of no object there are %d, and %d in a list", stats.ObjectCount, len(empty.Items))
	}
	open(false, false)
	out := s.kind.New()
	key := prefix + "/a/one"
	if err := subject.Create(t.Context(), key, s.kind.Make("a", "one", model.Content{UID: "1"}), out, 0); err != nil {
		t.Fatal(err)
	}
	if stats := stats(); stats.ObjectCount != 1 {
		t.Errorf("of one object there are %d", stats.ObjectCount)
	}
	open(true, false)

	// The empty list's revision is older than the cache.
	ctx, cancel := context.WithCancel(t.Context())
	w, err := subject.Watch(ctx, prefix, storage.ListOptions{ResourceVersion: empty.GetResourceVersion(), Recursive: true, Predicate: storage.Everything})
	if err != nil {
		t.Fatal(err)
	}
	if e := <-w.ResultChan(); e.Type != watch.Added {
		t.Errorf("the watch says %v, want the object that was made after the list", e)
	}
	if got := list(); len(got.Items) != 1 {
		t.Errorf("a list has %d objects, want 1", len(got.Items))
	}
	open(true, true)
	fake.Step(Windows * watchcache.MinHistory)
	keeper.sweep(Windows)
	open(false, true)
	cancel() // the watch is not stopped
	wait.Until(t, "the cache to be closed", patience, func() bool {
		fake.Step(Windows * watchcache.MinHistory)
		keeper.sweep(Windows)
		return s.caches.Of(widgets) == nil
	})
	open(false, false)

	destroy()
	if err := subject.Get(t.Context(), key, storage.GetOptions{}, s.kind.New()); !apierrors.IsTooManyRequests(err) {
		t.Errorf("a storage that has been destroyed says %v, want 429", err)
	}
}

// TestUnreachable has an etcd that does not answer: who asks is sent away, and can come back.
func TestUnreachable(t *testing.T) {
	failure := errors.New("no etcd")
	var fail atomic.Bool
	fail.Store(true)
	closed := 0
	s := slot{clock: clock.RealClock{}, open: func() (storage.Interface, factory.DestroyFunc, error) {
		if fail.Load() {
			return nil, nil, failure
		}
		return &Storage{}, func() { closed++ }, nil
	}}
	if _, _, err := s.use(t.Context()); !apierrors.IsTooManyRequests(err) || !strings.Contains(err.Error(), failure.Error()) {
		t.Errorf("without etcd it says %v, want 429 and why", err)
	}
	fail.Store(false)
	_, release, err := s.use(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	s.sweep(0)
	if closed != 0 {
		t.Error("it is closed while it is used")
	}
	release()
	release()
	s.sweep(0)
	if closed != 1 {
		t.Errorf("it is closed %d times", closed)
	}
	s.close()
	if _, _, err := s.use(t.Context()); !apierrors.IsTooManyRequests(err) {
		t.Errorf("when it is closed for good it says %v, want 429", err)
	}
}
