// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package watchcache

import (
	"context"
	"net/http"
	"path"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/apis/example"
	"k8s.io/apiserver/pkg/features"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/etcd3"
	clocktesting "k8s.io/utils/clock/testing"
	"k8s.io/utils/ptr"

	"github.com/weir-project/weir/internal/frame"
	"github.com/weir-project/weir/test/etcd"
)

// putRaw writes what is no Pod where a Pod should be.
func (s *subject) putRaw(t testing.TB, key, value string) {
	t.Helper()
	if _, err := s.client.Put(t.Context(), path.Join(s.opts.prefix, key), value); err != nil {
		t.Fatalf("writing %s: %v", key, err)
	}
}

// repair removes what putRaw wrote.
func (s *subject) repair(t testing.TB, key string) {
	t.Helper()
	if _, err := s.client.KV.Delete(t.Context(), path.Join(s.opts.prefix, key)); err != nil {
		t.Fatalf("deleting %s: %v", key, err)
	}
}

// refuses checks that a cache that cannot read an object says so, and leaves nothing
// out.
func (s *subject) refuses(t *testing.T) {
	t.Helper()
	if err := s.ReadinessCheck(); err == nil {
		t.Error("the cache reports that it is ready")
	}
	everything := storage.ListOptions{ResourceVersion: "0", Predicate: storage.Everything, Recursive: true}
	err := s.GetList(t.Context(), podPrefix, everything, &example.PodList{})
	if !apierrors.IsTooManyRequests(err) {
		t.Errorf("a list is answered with %v, want 429", err)
	}
	if _, err := s.Watch(t.Context(), podPrefix, everything); !apierrors.IsTooManyRequests(err) {
		t.Errorf("a watch is answered with %v, want 429", err)
	}
	// What goes to etcd is etcd's to refuse.
	everything.Predicate.Limit = 500
	if err := s.GetList(t.Context(), podPrefix, everything, &example.PodList{}); err == nil {
		t.Error("a page is answered although an object in it cannot be read")
	}
}

// TestUnreadableObject has an object in etcd that cannot be decoded, from the start
// and while the cache runs, with objects read at once and streamed.
func TestUnreadableObject(t *testing.T) {
	for name, with := range map[string]gates{"WatchList": nil, "List": {features.WatchList: false}} {
		t.Run(name, func(t *testing.T) {
			with.set(t)
			// Otherwise etcd3 panics in tests when an object cannot be decoded.
			etcd3.TestOnlySetFatalOnDecodeError(t, false)
			// The cache takes a failing watch up again for a while before it reads everything
			// anew, as upstream's does. That time passes while the test waits.
			fake := stepped{clocktesting.NewFakeClock(time.Now())}
			passing := func(done func() bool) func() bool {
				return func() bool {
					fake.Step(time.Second)
					return done()
				}
			}
			s := newSubject(t, withIndexes, func(_ *storeOptions, c *Config) { c.Clock = fake })
			first := s.put(t, pod("first"))
			waitRevision(t, s.Cache, revision(t, first.ResourceVersion))
			w := s.follow(t, storage.ListOptions{ResourceVersion: first.ResourceVersion})

			s.putRaw(t, "/pods/a/garbage", "no Pod at all")
			eventually(t, "the watch to end", passing(func() bool {
				select {
				case event, ok := <-w.ResultChan():
					if ok {
						line, _ := lineOf(event)
						t.Fatalf("the watch tells %s, want its end", line)
					}
					return true
				default:
					return false
				}
			}))
			s.refuses(t)

			// A cache that finds it when it starts.
			late := &subject{client: s.client, opts: s.opts}
			var err error
			cfg := s.cfg
			cfg.Storage = newStore(t, s.client, s.opts)
			if late.Cache, err = New(cfg); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(late.Stop)
			for name, c := range map[string]*subject{"running": s, "new": late} {
				eventually(t, "the "+name+" cache to fail reading everything", passing(func() bool {
					c.mu.RLock()
					defer c.mu.RUnlock()
					return c.gen == nil && c.cause != nil
				}))
				c.refuses(t)
			}

			s.repair(t, "/pods/a/garbage")
			after := s.put(t, pod("after"))
			for _, c := range []*subject{s, late} {
				eventually(t, "the cache to be ready", passing(c.Ready))
				waitRevision(t, c.Cache, revision(t, after.ResourceVersion))
				w := c.follow(t, storage.ListOptions{ResourceVersion: "0"})
				expect(t, w, watch.Added, "after", after.ResourceVersion)
				expect(t, w, watch.Added, "first", first.ResourceVersion)
			}
		})
	}
}

// TestCompactedPast has etcd compacted past what the cache has seen, while it is cut
// off: watches end, and the state of after is served, from which watches go on.
func TestCompactedPast(t *testing.T) {
	e := newFaultyEtcd(t)
	o := storeOptions{prefix: "/registry"}
	direct := newStore(t, e.direct, o)
	writer := &subject{Cache: &Cache{follower: &follower{cfg: Config{Storage: direct}}}, client: e.direct, opts: o}
	first := writer.put(t, pod("first"))
	gone := writer.put(t, pod("gone"))

	s := &subject{Cache: startCache(t, podConfig(newStore(t, e.proxied(), o), nil)), client: e.direct, opts: o}
	waitRevision(t, s.Cache, revision(t, gone.ResourceVersion))
	w := s.follow(t, storage.ListOptions{ResourceVersion: gone.ResourceVersion})
	before, _, _, err := s.current()
	if err != nil {
		t.Fatal(err)
	}

	var second *example.Pod
	e.outage(func() {
		writer.remove(t, gone)
		compacted := writer.churn(t, 10, 1)
		compactEtcd(t.Context(), t, e.direct.Client, direct, int64(revision(t, compacted[9].ResourceVersion)))
		writer.remove(t, compacted[9])
		second = writer.put(t, pod("second"))
	})
	if event, ok := next(t, w); ok {
		line, _ := lineOf(event)
		t.Errorf("the watch tells %s, want its end: what came in between is lost", line)
	}
	eventually(t, "the cache to be read anew", func() bool {
		gen, _, _, err := s.current()
		return err == nil && gen != before
	})
	var list example.PodList
	if err := s.GetList(t.Context(), podPrefix, storage.ListOptions{Predicate: storage.Everything, Recursive: true}, &list); err != nil {
		t.Fatalf("listing: %v", err)
	}
	var names []string
	for _, p := range list.Items {
		names = append(names, p.Name+"@"+p.ResourceVersion)
	}
	if want := "first@" + first.ResourceVersion + " second@" + second.ResourceVersion; strings.Join(names, " ") != want {
		t.Errorf("the state is %v, want %s", names, want)
	}
	old := s.follow(t, storage.ListOptions{ResourceVersion: gone.ResourceVersion})
	if event, ok := next(t, old); !ok || event.Type != watch.Error || event.Object.(*metav1.Status).Code != http.StatusGone {
		t.Errorf("a watch from before begins with %v, want 410", event)
	}
	on := s.follow(t, storage.ListOptions{ResourceVersion: list.ResourceVersion})
	third := writer.put(t, pod("third"))
	expect(t, on, watch.Added, "third", third.ResourceVersion)
}

// TestLeadsOn has events that cannot follow from what was read, and such that can.
func TestLeadsOn(t *testing.T) {
	s := newSubject(t, withIndexes)
	at := func(rev string, uid types.UID) *example.Pod {
		p := pod("one")
		p.ResourceVersion, p.UID = rev, uid
		return p
	}
	encoded := func(p *example.Pod) *frame.Frame {
		t.Helper()
		if p == nil {
			return nil
		}
		f, err := s.codec.Encode(podKey(p), p)
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	for name, c := range map[string]struct {
		event watch.EventType
		prev  *example.Pod
		now   *example.Pod
		good  bool
	}{
		"creation":                             {watch.Added, nil, at("7", "u"), true},
		"change":                               {watch.Modified, at("6", "u"), at("7", "u"), true},
		"deletion":                             {watch.Deleted, at("6", "u"), at("7", "u"), true},
		"one object under two keys":            {watch.Added, at("6", "u"), at("7", "u"), true},
		"change of what is not there":          {watch.Modified, nil, at("7", "u"), false},
		"deletion of what is not there":        {watch.Deleted, nil, at("7", "u"), false},
		"creation without the deletion before": {watch.Added, at("6", "u"), at("7", "v"), false},
		"creation, a second time":              {watch.Added, at("7", "u"), at("7", "u"), false},
		"change, a second time":                {watch.Modified, at("7", "u"), at("7", "u"), false},
		"what was before, told late":           {watch.Modified, at("8", "u"), at("7", "u"), false},
		"deletion of what has been made anew":  {watch.Deleted, at("8", "v"), at("7", "u"), false},
	} {
		err := leadsOn(watch.Event{Type: c.event, Object: c.now}, encoded(c.prev), encoded(c.now))
		if (err == nil) != c.good {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// mute is a storage that does not say its revision while it is told not to.
type mute struct {
	storage.Interface
	on    atomic.Bool
	asked chan struct{}
}

// GetCurrentResourceVersion implements storage.Interface.
func (m *mute) GetCurrentResourceVersion(ctx context.Context) (uint64, error) {
	if !m.on.Load() {
		return m.Interface.GetCurrentResourceVersion(ctx)
	}
	select {
	case m.asked <- struct{}{}:
	case <-ctx.Done():
	}
	<-ctx.Done()
	return 0, ctx.Err()
}

// TestSilence has etcd asked for its revision after the watch has told nothing for a while: as long as it does not answer, the
// cache goes on to follow the watch.
func TestSilence(t *testing.T) {
	gates{features.SizeBasedListCostEstimate: false}.set(t) // it asks, too
	fake := stepped{clocktesting.NewFakeClock(time.Now())}
	m := &mute{asked: make(chan struct{})}
	s := newSubject(t, func(_ *storeOptions, c *Config) {
		m.Interface = c.Storage
		c.Storage, c.Clock = m, fake
	})
	first := s.put(t, pod("first"))
	waitRevision(t, s.Cache, revision(t, first.ResourceVersion))
	w := s.follow(t, storage.ListOptions{ResourceVersion: first.ResourceVersion})
	m.on.Store(true)
	eventually(t, "etcd to be asked", func() bool {
		fake.Step(silencePeriod)
		select {
		case <-m.asked:
			return true
		default:
			return false
		}
	})
	second := s.put(t, pod("second"))
	expect(t, w, watch.Added, "second", second.ResourceVersion)
}

// TestNothingIsLeft stops caches and watches in every state that they can be in, and
// looks for goroutines that are left.
func TestNothingIsLeft(t *testing.T) {
	// What the store itself keeps running for each cache or starts later is not looked for.
	gates{features.SizeBasedListCostEstimate: false}.set(t)
	client := etcd.Run(t)
	store := newStore(t, client, storeOptions{prefix: "/registry", still: true})
	writer := &subject{Cache: &Cache{follower: &follower{cfg: Config{Storage: store}}}, client: client}
	writer.churn(t, 100, 100)
	live := func() {
		c, err := New(podConfig(store, nil))
		if err != nil {
			t.Fatal(err)
		}
		eventually(t, "the cache to be ready", c.Ready)
		s := &subject{Cache: c, client: client}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		start := func(opts storage.ListOptions) watch.Interface {
			opts.Recursive, opts.Predicate = true, storage.Everything
			opts.Predicate.AllowWatchBookmarks = true
			w, err := s.Watch(ctx, podPrefix, opts)
			if err != nil {
				t.Fatal(err)
			}
			return w
		}
		unread := start(storage.ListOptions{ResourceVersion: "0"})
		start(storage.ListOptions{ResourceVersion: "0"}) // ended by its context, never read
		stopped := start(storage.ListOptions{SendInitialEvents: ptr.To(true), ResourceVersionMatch: metav1.ResourceVersionMatchNotOlderThan})
		next(t, stopped)
		stopped.Stop()
		ended := start(storage.ListOptions{ResourceVersion: "0"}) // ended with the cache
		failed := start(storage.ListOptions{ResourceVersion: "1"})
		writer.churn(t, 50, 10)
		unread.Stop()
		cancel()
		c.Stop()
		c.Stop()
		for {
			if _, ok := next(t, ended); !ok {
				break
			}
		}
		failed.Stop()
		if _, err := c.Watch(t.Context(), podPrefix, storage.ListOptions{Predicate: storage.Everything, Recursive: true}); err == nil {
			t.Error("a stopped cache takes a watch")
		}
	}
	live() // opens the connections to etcd, which stay
	before := goleak.IgnoreCurrent()
	// One that is stopped before it has read anything. etcd's client may be left with an
	// open stream that has no watch; the next one takes that over.
	c, err := New(podConfig(store, nil))
	if err != nil {
		t.Fatal(err)
	}
	c.Stop()
	for range 5 {
		live()
	}

	var left error
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for left = goleak.Find(before); left != nil && ctx.Err() == nil; left = goleak.Find(before) {
	}
	if left != nil {
		t.Errorf("goroutines are left: %v", left)
	}
}
