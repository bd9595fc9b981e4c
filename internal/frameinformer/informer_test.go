// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package frameinformer

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"runtime"
	"sync/atomic"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kruntime "k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/client-go/tools/cache"
	fcache "k8s.io/client-go/tools/cache/testing"
	"k8s.io/client-go/util/consistencydetector"

	"github.com/weir-project/weir/internal/frame"
	"github.com/weir-project/weir/internal/ledger"
)

// create makes objects of so many bytes each.
func (w *world) create(n, bytes int) []*corev1.Secret {
	w.t.Helper()
	r := rand.New(rand.NewPCG(1, 2))
	var made []*corev1.Secret
	for i := range n {
		obj, out := w.new().(*corev1.Secret), w.new().(*corev1.Secret)
		fill(r, obj, "ns-0", fmt.Sprint("object-", i), i)
		if bytes > 0 {
			obj.Data = map[string][]byte{"payload": make([]byte, bytes)}
			for j := range obj.Data["payload"] {
				obj.Data["payload"][j] = byte(r.Uint32())
			}
		}
		if err := w.store.Create(context.Background(), w.key(obj), obj, out, 0); err != nil {
			w.t.Fatal(err)
		}
		made = append(made, out)
	}
	return made
}

func alive() int64 {
	var stats runtime.MemStats
	for range 3 { // what finalizers let go of, too
		runtime.GC()
	}
	runtime.ReadMemStats(&stats)
	return int64(stats.HeapAlloc)
}

// TestHoldsNoPayload: the bytes of an informer of large objects are those of its places, also after all objects were read, and
// the ledger has them.
func TestHoldsNoPayload(t *testing.T) {
	const n, size = 20, 1 << 20
	w := secrets.open(t, protobufs)
	w.create(n, size)
	c := w.cache()
	eventually(t, "the cache to be ready", c.Ready)
	before := alive()
	cfg := w.config(func() Source { return c })
	inf := start(t, cfg)
	eventually(t, "the informer to have all", func() bool { return len(inf.GetIndexer().ListKeys()) == n })
	for _, obj := range inf.GetIndexer().List() {
		if got := len(obj.(*corev1.Secret).Data["payload"]); got != size {
			t.Errorf("a payload of %d bytes, want %d", got, size)
		}
	}
	// What etcd and its client do meanwhile is less than one object.
	if each := (alive() - before) / n; each > size/20 {
		t.Errorf("the informer holds %d bytes for an object of %d", each, size)
	}
	eventually(t, "the books to have all", func() bool { return cfg.Ledger.Bytes(ledger.Informers) > 100*n })
	if booked := cfg.Ledger.Bytes(ledger.Informers); booked > 1000*n {
		t.Errorf("%d bytes are booked for the places of %d objects", booked, n)
	}
	runtime.KeepAlive(inf)
}

// TestBooksAreEven: what is deleted, and what is there when the informer ends, is given back.
func TestBooksAreEven(t *testing.T) {
	w := secrets.open(t, protobufs)
	w.create(5, 0)
	c := w.cache()
	cfg := w.config(func() Source { return c })
	inf := New(cfg)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); inf.RunWithContext(ctx) }()
	eventually(t, "five places", func() bool { return len(inf.GetStore().ListKeys()) == 5 && cfg.Ledger.Bytes(ledger.Informers) > 0 })
	eventually(t, "the books of five", func() bool { return cfg.Ledger.Bytes(ledger.Informers)%5 == 0 })
	held := cfg.Ledger.Bytes(ledger.Informers)
	if err := w.store.Delete(ctx, w.prefix()+"ns-0/object-0", w.new(), nil, storage.ValidateAllObjectFunc, nil, storage.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the books of four", func() bool { return cfg.Ledger.Bytes(ledger.Informers) == held/5*4 })
	cancel()
	<-done
	if left := cfg.Ledger.Bytes(ledger.Informers); left != 0 {
		t.Errorf("%d bytes are booked after the end", left)
	}
}

// TestReadAnew: when the cache has read everything anew, or is another, an informer that goes on where it was holds the new cache's
// frames, not those of before beside them.
func TestReadAnew(t *testing.T) {
	w := secrets.open(t, protobufs)
	w.create(20, 0)
	first, second := w.cache(), w.cache()
	eventually(t, "both caches to be ready", func() bool { return first.Ready() && second.Ready() })
	var now atomic.Pointer[Source]
	use := func(s Source) { now.Store(&s) }
	use(first)
	inf := start(t, w.config(func() Source { return *now.Load() }))
	eventually(t, "the informer to have all", func() bool { return len(inf.GetIndexer().ListKeys()) == 20 })
	// A watch that has told something goes on where it was; the reflector would begin anew after one that has not.
	out := w.new()
	if err := w.store.GuaranteedUpdate(context.Background(), w.prefix()+"ns-0/object-0", out, false, nil, func(obj kruntime.Object, _ storage.ResponseMeta) (kruntime.Object, *uint64, error) {
		obj.(*corev1.Secret).Labels = map[string]string{"changed": ""}
		return obj, nil, nil
	}, nil); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the change", func() bool {
		f := second.Peek("ns-0/object-0")
		return f.Revision() == revisionOf(t, out) && holds(inf, func(i *item, key string) bool {
			g, _ := i.held()
			return key != "ns-0/object-0" || g.Revision() == f.Revision()
		})
	})
	use(second)
	first.Stop()
	eventually(t, "all frames to be the second cache's", func() bool {
		return holds(inf, func(i *item, key string) bool { f, _ := i.held(); return f == second.Peek(key) })
	})
}

// TestPutBack: etcd is put back to an earlier state while the server runs. The cache reads it anew, and an informer does not go on
// at a revision that there is not any more: it would hold what is gone, and not hear of what is written.
func TestPutBack(t *testing.T) {
	later, earlier := secrets.open(t, protobufs), secrets.open(t, protobufs)
	later.create(20, 0)
	earlier.create(3, 0)
	first, second := later.cache(), earlier.cache()
	eventually(t, "both caches to be ready", func() bool { return first.Ready() && second.Ready() })
	var now atomic.Pointer[Source]
	use := func(s Source) { now.Store(&s) }
	use(first)
	inf := start(t, later.config(func() Source { return *now.Load() }))
	eventually(t, "the informer to have all", func() bool { return len(inf.GetIndexer().ListKeys()) == 20 })
	// A watch that has told something goes on where it was; the reflector would begin anew after one that has not.
	if err := later.store.Delete(context.Background(), later.prefix()+"ns-0/object-19", later.new(), nil, storage.ValidateAllObjectFunc, nil, storage.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the deletion", func() bool { return len(inf.GetIndexer().ListKeys()) == 19 })
	use(second)
	first.Stop()
	eventually(t, "what there was before", func() bool { return len(inf.GetIndexer().ListKeys()) == 3 })
	if err := earlier.store.Delete(context.Background(), earlier.prefix()+"ns-0/object-2", earlier.new(), nil, storage.ValidateAllObjectFunc, nil, storage.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "what is written then", func() bool { return len(inf.GetIndexer().ListKeys()) == 2 })
}

// TestDetector: upstream's detector of inconsistencies, which the environment of a server may turn on (KUBE_WATCHLIST_INCONSISTENCY_DETECTOR),
// finds none. It ends the process if it does.
func TestDetector(t *testing.T) {
	t.Cleanup(consistencydetector.SetDataConsistencyDetectionForWatchListEnabledForTest(true))
	w := secrets.open(t, protobufs)
	w.create(3, 0)
	c := w.cache()
	eventually(t, "the cache to be ready", c.Ready)
	everything := func(o metav1.ListOptions) storage.ListOptions {
		all := storage.ListOptions{ResourceVersion: o.ResourceVersion, ResourceVersionMatch: o.ResourceVersionMatch, SendInitialEvents: o.SendInitialEvents, Predicate: storage.Everything, Recursive: true}
		all.Predicate.AllowWatchBookmarks = o.AllowWatchBookmarks
		return all
	}
	var listed atomic.Bool
	cfg := w.config(func() Source { return c })
	cfg.Connection = &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (kruntime.Object, error) {
			list := &corev1.SecretList{}
			defer listed.Store(true)
			return list, w.store.GetList(ctx, w.prefix(), everything(o), list)
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			return w.store.Watch(ctx, w.prefix(), everything(o))
		},
	}
	inf := start(t, cfg)
	eventually(t, "the informer to have all", func() bool { return len(inf.GetIndexer().ListKeys()) == 3 })
	if !listed.Load() {
		t.Error("the detector has not looked")
	}
}

// holds tells whether something is true of all items.
func holds(n *informer, is func(i *item, key string) bool) bool {
	for _, obj := range n.SharedIndexInformer.GetIndexer().List() {
		key, _ := cache.MetaNamespaceKeyFunc(obj)
		if !is(obj.(*item), key) {
			return false
		}
	}
	return true
}

// TestEqual: another copy is held in place of a frame only if it is equal.
func TestEqual(t *testing.T) {
	w := secrets.open(t, protobufs)
	made := w.create(1, 0)
	first, second := w.cache(), w.cache()
	eventually(t, "both caches to be ready", func() bool { return first.Ready() && second.Ready() })
	n := New(w.config(nil)).(*informer)
	_ = n.SetTransform(trim)
	a, b := first.Peek("ns-0/object-0"), second.Peek("ns-0/object-0")
	if n.equal(framed(a), a) {
		t.Error("a frame is another copy of itself")
	}
	if !n.equal(framed(a), b) {
		t.Error("two frames of one object at one revision are not equal")
	}
	received, _ := trimmed(made[0])
	if !n.equal(whole(received), b) {
		t.Error("an object is not equal to its frame")
	}
	other := received.DeepCopyObject().(*corev1.Secret)
	other.Data["a"] = append(other.Data["a"], 'x')
	if n.equal(whole(other), b) {
		t.Error("an object with another payload is equal to a frame")
	}
	made[0].Data["a"] = append(made[0].Data["a"], 'x')
	codec := frame.NewCodec(frame.Config{Codec: protobufs, NewFunc: w.newObject, Attrs: attrs, Versioner: w.store.Versioner(), Store: frame.NewStore(0, &ledger.Ledger{})})
	changed, err := codec.Encode(a.Key(), made[0])
	if err != nil {
		t.Fatal(err)
	}
	if n.equal(framed(changed), b) {
		t.Error("frames with other bytes are equal")
	}
}

// TestConnection: where there is no cache, the informer holds what comes over the connection, transformed; once there is one,
// its frames.
func TestConnection(t *testing.T) {
	w := secrets.open(t, protobufs)
	made := w.create(3, 0)
	connection := fcache.NewFakeControllerSource()
	for _, obj := range made {
		clearType(obj) // as a typed client does
		connection.AddDropWatch(obj.DeepCopy())
	}
	cfg := w.config(func() Source { return nil })
	cfg.Connection = connection
	inf := start(t, cfg)
	eventually(t, "the informer to have all", func() bool { return inf.HasSynced() && len(inf.GetIndexer().ListKeys()) == 3 })
	made[1].Labels = map[string]string{"changed": ""}
	connection.Modify(made[1].DeepCopy())
	eventually(t, "the change", func() bool {
		obj, _, _ := inf.GetIndexer().GetByKey("ns-0/object-1")
		return maps.Equal(obj.(*corev1.Secret).Labels, made[1].Labels)
	})
	for i, obj := range made {
		want, _ := trimmed(obj)
		want.(metav1.Object).SetResourceVersion("")
		got, _, err := inf.GetIndexer().GetByKey(fmt.Sprint("ns-0/object-", i))
		if err != nil {
			t.Fatal(err)
		}
		got = got.(*corev1.Secret).DeepCopy()
		got.(metav1.Object).SetResourceVersion("")
		if !reflect.DeepEqual(got, any(want)) {
			t.Errorf("object %d differs from what was sent", i)
		}
	}
}

// TestLazy: an informer that nobody wants anything of reads nothing over a connection, and nobody waits for it. Frames it has from the start.
func TestLazy(t *testing.T) {
	w := secrets.open(t, protobufs)
	w.create(3, 0)
	c := w.cache()
	cfg := w.config(func() Source { return nil })
	cfg.Lazy = true
	asked := make(chan struct{}, 100)
	failing := func(metav1.ListOptions) error { asked <- struct{}{}; return context.Canceled }
	cfg.Connection = &cache.ListWatch{
		ListFunc:  func(o metav1.ListOptions) (kruntime.Object, error) { return nil, failing(o) },
		WatchFunc: func(o metav1.ListOptions) (watch.Interface, error) { return nil, failing(o) },
	}
	inf := start(t, cfg)
	if !inf.HasSynced() || !cache.IsDone(inf.HasSyncedChecker()) {
		t.Error("somebody has to wait for an informer that is not used")
	}
	if inf.inUse() {
		t.Error("an informer that is not used has begun to read")
	}
	inf.GetIndexer()
	<-asked

	cfg = w.config(func() Source { return c })
	cfg.Lazy = true
	inf = start(t, cfg)
	eventually(t, "the informer to begin by itself", inf.inUse)
	lister := inf.GetIndexer()
	eventually(t, "the informer to have all", func() bool { return inf.HasSynced() && len(lister.List()) == 3 })
}

// TestSharedWhileAlive: there is one of an object as long as a reader has it, and none when nobody has.
func TestSharedWhileAlive(t *testing.T) {
	w := secrets.open(t, protobufs)
	w.create(1, 0)
	c := w.cache()
	inf := start(t, w.config(func() Source { return c }))
	eventually(t, "the informer to have the object", func() bool { return len(inf.GetIndexer().ListKeys()) == 1 })
	i := inf.SharedIndexInformer.GetIndexer().List()[0].(*item)
	objects := make(chan any, 8)
	for range cap(objects) {
		go func() {
			obj, err := inf.read(i)
			if err != nil {
				t.Error(err)
			}
			objects <- obj
		}()
	}
	first := <-objects
	for range cap(objects) - 1 {
		if another := <-objects; another != first {
			t.Error("two readers have two of one object")
		}
	}
	alive()
	if again, _ := inf.read(i); again != first {
		t.Error("an object is decoded again while a reader has it")
	}
	runtime.KeepAlive(first)
	first = nil
	alive()
	if (*i.last.Load())() != nil {
		t.Error("what was decoded outlives its readers")
	}
}

// TestIndexers: the functions of further indexes see objects.
func TestIndexers(t *testing.T) {
	w := secrets.open(t, protobufs)
	made := w.create(5, 0)
	c := w.cache()
	shared := New(w.config(func() Source { return c }))
	if err := shared.AddIndexers(cache.Indexers{"uid": func(obj any) ([]string, error) { return []string{string(obj.(*corev1.Secret).UID)}, nil }}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); shared.RunWithContext(ctx) }()
	defer func() { cancel(); <-done }()
	eventually(t, "the informer to have all", func() bool { return len(shared.GetIndexer().ListKeys()) == 5 })
	found, err := shared.GetIndexer().ByIndex("uid", string(made[3].UID))
	if err != nil || len(found) != 1 || found[0].(*corev1.Secret).Name != made[3].Name {
		t.Errorf("found %v, %v", found, err)
	}
	if err := shared.SetTransform(trim); err == nil {
		t.Error("an informer that has started takes a transform")
	}
}
