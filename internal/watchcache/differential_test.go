// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package watchcache

import (
	"context"
	"crypto/sha256"
	"fmt"
	"math/rand"
	"os"
	"strconv"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/apis/example"
	"k8s.io/apiserver/pkg/features"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/cacher"
	etcdfeature "k8s.io/apiserver/pkg/storage/feature"
	"k8s.io/utils/ptr"
)

// TestDifferential puts the same random operations to upstream's cacher and to weir's
// cache, both over one etcd, and compares what they answer. WEIR_SEED repeats a run.
func TestDifferential(t *testing.T) {
	t.Parallel()
	d := newDifferential(t, randomSeed(t), false)
	d.run(3)
	d.future()
}

// TestDifferentialSharded does the same with selectors of shards among the others.
func TestDifferentialSharded(t *testing.T) {
	gates{features.ShardedListAndWatch: true}.set(t)
	d := newDifferential(t, randomSeed(t), true)
	d.run(1)
}

func randomSeed(t *testing.T) int64 {
	t.Helper()
	seed := time.Now().UnixNano()
	if s := os.Getenv("WEIR_SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseInt(s, 10, 64); err != nil {
			t.Fatalf("WEIR_SEED=%q is no seed: %v", s, err)
		}
	}
	t.Logf("WEIR_SEED=%d repeats this run", seed)
	return seed
}

// run goes through so many lives of etcd, each with the same events and between two
// of them an outage.
func (d *differential) run(epochs int) {
	const rounds = 12
	for epoch := range epochs {
		for round := range rounds {
			d.step = fmt.Sprintf("epoch %d round %d", epoch, round)
			for range 1 + d.rand.Intn(30) {
				d.write()
			}
			if round == 5 {
				d.expire()
			}
			d.settle()
			for range 3 {
				d.watch()
			}
			for range 12 {
				d.list()
			}
			switch round {
			case 2, 9:
				d.compact()
			case 4:
				d.etcd.breakConnections()
				d.faults["broken connections"]++
			case 6:
				d.etcd.restart()
				d.faults["restart"]++
			case 8:
				d.stopSome()
			}
		}
		d.settle()
		d.compareWatches()
		if epoch < epochs-1 {
			d.outage()
		}
	}
	d.summary(epochs)
}

// differential is the two caches and what is known of their common state.
type differential struct {
	t       *testing.T
	rand    *rand.Rand
	step    string
	sharded bool
	etcd    *faultyEtcd
	direct  storage.Interface
	stock   *cacher.CacheDelegator
	cacher  *cacher.Cacher
	weir    *Cache

	// exists are the Pods that there are, by key, as they were last written.
	exists map[string]*example.Pod
	keys   []string
	// last is the revision of the last write, first the lowest from which both caches
	// have every event, compacted the one that etcd was compacted at.
	last, first, compacted uint64
	revisions              []uint64
	pairs                  []*pair

	// What was compared, so that a run that compared nothing is seen.
	writes, lists, listErrors, pages, watches, events, expired, cut int
	faults                                                          map[string]int
}

func newDifferential(t *testing.T, seed int64, sharded bool) *differential {
	t.Helper()
	d := &differential{
		t:       t,
		sharded: sharded,
		rand:    rand.New(rand.NewSource(seed)),
		etcd:    newFaultyEtcd(t),
		exists:  map[string]*example.Pod{},
		faults:  map[string]int{},
	}
	o := storeOptions{prefix: "/registry"}
	d.direct = newStore(t, d.etcd.direct, o)
	// Both begin with the same state.
	for range 20 {
		d.writeTo(d.direct)
	}

	d.cacher, d.stock = startCacher(t, newStore(t, d.etcd.proxied(), o))
	d.weir = startCache(t, podConfig(newStore(t, d.etcd.proxied(), o), nil))
	eventually(t, "etcd's features to be known", func() bool {
		return etcdfeature.DefaultFeatureSupportChecker.Supports(storage.RequestWatchProgress)
	})
	d.settle()
	d.first = d.last
	return d
}

// startCacher returns upstream's cache of Pods over a store, and what lists from it.
func startCacher(t testing.TB, store storage.Interface) (*cacher.Cacher, *cacher.CacheDelegator) {
	t.Helper()
	return startCacherOf(t, store, podConfig(nil, nil))
}

// startCacherOf returns upstream's cache of what weir's would cache with a configuration.
func startCacherOf(t testing.TB, store storage.Interface, config Config) (*cacher.Cacher, *cacher.CacheDelegator) {
	t.Helper()
	c, err := cacher.NewCacherFromConfig(cacher.Config{
		Storage:             store,
		Versioner:           config.Versioner,
		GroupResource:       config.GroupResource,
		EventsHistoryWindow: cacher.DefaultEventFreshDuration,
		ResourcePrefix:      config.ResourcePrefix,
		KeyFunc:             config.KeyFunc,
		GetAttrsFunc:        config.GetAttrs,
		NewFunc:             config.NewFunc,
		NewListFunc:         config.NewListFunc,
		IndexerFuncs:        config.Trigger,
		Indexers:            config.Indexers,
		Codec:               config.Codec,
	})
	if err != nil {
		t.Fatalf("starting upstream's cacher: %v", err)
	}
	d := cacher.NewCacheDelegator(c, store)
	t.Cleanup(func() {
		d.Stop()
		c.Stop()
	})
	if err := c.Wait(t.Context()); err != nil {
		t.Fatalf("waiting for upstream's cacher: %v", err)
	}
	return c, d
}

func (d *differential) fatalf(format string, args ...any) {
	d.t.Helper()
	d.t.Fatalf(d.step+": "+format, args...)
}

func (d *differential) errorf(format string, args ...any) {
	d.t.Helper()
	d.t.Errorf(d.step+": "+format, args...)
}

// The little world that operations and selectors draw from.
var (
	namespaces = []string{"a", "b", "load", "load2"}
	nodes      = []string{"", "n1", "n2", "n3"}
	apps       = []string{"", "web", "db"}
	phases     = []string{"Pending", "Running"}
)

func (d *differential) oneOf(of []string) string { return of[d.rand.Intn(len(of))] }

func (d *differential) randomPod() *example.Pod {
	pod := &example.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: d.oneOf(namespaces), Name: fmt.Sprintf("p%d", d.rand.Intn(12))}}
	d.mutate(pod)
	return pod
}

// mutate changes what selectors look at, and always something.
func (d *differential) mutate(pod *example.Pod) {
	pod.Labels = nil
	if app := d.oneOf(apps); app != "" {
		pod.Labels = map[string]string{"app": app}
	}
	pod.Spec.NodeName = d.oneOf(nodes)
	pod.Status.Phase = example.PodPhase(d.oneOf(phases))
	pod.Annotations = map[string]string{"n": strconv.Itoa(d.rand.Int())}
	pod.UID = types.UID(fmt.Sprintf("%x", sha256.Sum256([]byte(podKey(pod))))) // as different as real ones
}

// write does one operation, through either cache.
func (d *differential) write() {
	if d.rand.Intn(2) == 0 {
		d.writeTo(d.stock)
	} else {
		d.writeTo(d.weir)
	}
}

func (d *differential) writeTo(s storage.Interface) {
	d.t.Helper()
	ctx, out := d.t.Context(), &example.Pod{}
	wanted := d.randomPod()
	key := podKey(wanted)
	_, exists := d.exists[key]
	switch {
	case !exists:
		if err := s.Create(ctx, key, wanted, out, 0); err != nil {
			d.fatalf("creating %s: %v", key, err)
		}
		d.exists[key] = out
	case d.rand.Intn(3) == 0:
		if err := s.Delete(ctx, key, out, nil, storage.ValidateAllObjectFunc, nil, storage.DeleteOptions{}); err != nil {
			d.fatalf("deleting %s: %v", key, err)
		}
		delete(d.exists, key)
	default:
		d.update(s, key, wanted, out)
		d.exists[key] = out
	}
	d.wrote(out)
}

func (d *differential) update(s storage.Interface, key string, wanted, out *example.Pod) {
	d.t.Helper()
	err := s.GuaranteedUpdate(d.t.Context(), key, out, true, nil, storage.SimpleUpdate(func(obj runtime.Object) (runtime.Object, error) {
		pod := wanted.DeepCopy()
		pod.ResourceVersion = obj.(*example.Pod).ResourceVersion
		return pod, nil
	}), nil)
	if err != nil {
		d.fatalf("updating %s: %v", key, err)
	}
}

// wrote remembers the revision of a write from its outcome.
func (d *differential) wrote(out *example.Pod) {
	d.writes++
	d.last = revision(d.t, out.ResourceVersion)
	d.revisions = append(d.revisions, d.last)
}

// expire has Pods come and go by their time to live.
func (d *differential) expire() {
	d.t.Helper()
	var keys []string
	for i := range 1 + d.rand.Intn(3) {
		pod := d.randomPod()
		pod.Name = fmt.Sprintf("ttl%d", i)
		out := &example.Pod{}
		if err := d.weir.Create(d.t.Context(), podKey(pod), pod, out, 1); err != nil {
			if storage.IsExist(err) {
				continue // two of them in one namespace
			}
			d.fatalf("creating %s: %v", podKey(pod), err)
		}
		d.wrote(out)
		keys = append(keys, podKey(pod))
	}
	for _, key := range keys {
		for name, s := range map[string]storage.Interface{"stock": d.stock, "weir": d.weir} {
			eventually(d.t, key+" to expire in "+name, func() bool {
				return storage.IsNotFound(s.Get(d.t.Context(), key, storage.GetOptions{ResourceVersion: "0"}, &example.Pod{}))
			})
		}
	}
	rev, err := d.direct.GetCurrentResourceVersion(d.t.Context())
	if err != nil {
		d.fatalf("reading the revision: %v", err)
	}
	d.last = rev
}

// settle waits until both caches have seen the last write.
func (d *differential) settle() {
	d.t.Helper()
	for name, s := range map[string]storage.Interface{"stock": d.stock, "weir": d.weir} {
		eventually(d.t, fmt.Sprintf("%s to reach revision %d", name, d.last), func() bool {
			ctx, cancel := context.WithTimeout(d.t.Context(), patience)
			defer cancel()
			err := s.GetList(ctx, podPrefix, storage.ListOptions{
				ResourceVersion:      fmt.Sprint(d.last),
				ResourceVersionMatch: metav1.ResourceVersionMatchNotOlderThan,
				Predicate:            storage.Everything,
				Recursive:            true,
			}, &example.PodList{})
			return err == nil
		})
	}
}

// compact compacts etcd at a revision that both caches have passed, before which neither has a state any more.
func (d *differential) compact() {
	d.t.Helper()
	rev := d.first + uint64(d.rand.Int63n(int64(d.last-d.first)+1))
	if rev <= d.compacted {
		return
	}
	d.compactAt(rev)
	if err := d.cacher.Compact(fmt.Sprint(rev)); err != nil {
		d.fatalf("compacting upstream's snapshots: %v", err)
	}
	eventually(d.t, "the compaction to be observed", func() bool { return d.weir.cfg.Storage.CompactRevision() == int64(rev) })
	d.weir.observeCompaction()
	d.faults["compaction"]++
	d.compareList(podPrefix, storage.ListOptions{Recursive: true, Predicate: storage.Everything,
		ResourceVersion: fmt.Sprint(rev - 1), ResourceVersionMatch: metav1.ResourceVersionMatchExact})
}

func (d *differential) compactAt(rev uint64) {
	d.t.Helper()
	compactEtcd(d.t.Context(), d.t, d.etcd.direct.Client, d.direct, int64(rev))
	d.compacted = rev
}

// outage has both caches lose etcd, and events for good: both read everything anew.
func (d *differential) outage() {
	d.t.Helper()
	d.step += " outage"
	before, _, _, err := d.weir.current()
	if err != nil {
		d.fatalf("before the outage: %v", err)
	}
	d.etcd.outage(func() {
		for range 5 + d.rand.Intn(20) {
			d.writeTo(d.direct)
		}
		d.compactAt(d.last)
		d.writeTo(d.direct)
	})
	eventually(d.t, "weir to read anew", func() bool {
		gen, _, _, err := d.weir.current()
		return err == nil && gen != before
	})
	// Upstream tells by ending its watches, which compareWatches has ended already:
	// both have everything that comes after a revision that they know.
	d.settle()
	d.writeTo(d.direct)
	d.settle()
	d.first = d.last
	d.revisions = []uint64{d.last}
	d.faults["outage"]++
}

// future asks for states that there are not yet, for which both wait in vain.
func (d *differential) future() {
	d.t.Helper()
	d.step = "future"
	ahead := fmt.Sprint(d.last + 1000)
	for _, match := range []metav1.ResourceVersionMatch{metav1.ResourceVersionMatchNotOlderThan, metav1.ResourceVersionMatchExact} {
		d.compareList(podPrefix, storage.ListOptions{Recursive: true, Predicate: storage.Everything, ResourceVersion: ahead, ResourceVersionMatch: match})
	}
	opts := storage.ListOptions{Recursive: true, Predicate: storage.Everything, ResourceVersion: ahead}
	opts.Predicate.AllowWatchBookmarks = true
	opts.SendInitialEvents, opts.ResourceVersionMatch = ptr.To(true), metav1.ResourceVersionMatchNotOlderThan
	d.startWatch(podPrefix, opts, false)
	p := d.pairs[len(d.pairs)-1]
	for _, r := range []*recording{p.stock, p.weir} {
		eventually(d.t, p.asked+" to end", func() bool { _, _, closed := r.state(); return closed })
	}
	d.comparePair(p, 0)
}

// summary fails if the run did not do what it is there for.
func (d *differential) summary(epochs int) {
	d.t.Logf("%d writes, %d lists (%d of them errors, %d followed to another page), %d watches with %d events (%d too old, %d cut by upstream), faults %v",
		d.writes, d.lists, d.listErrors, d.pages, d.watches, d.events, d.expired, d.cut, d.faults)
	for what, n := range map[string]int{
		"lists": d.lists, "errors of lists": d.listErrors, "pages": d.pages, "watches": d.watches, "events": d.events,
		"compactions": d.faults["compaction"], "outages": d.faults["outage"] + 2 - epochs, "restarts": d.faults["restart"],
	} {
		if n == 0 {
			d.t.Errorf("no %s were compared", what)
		}
	}
}
