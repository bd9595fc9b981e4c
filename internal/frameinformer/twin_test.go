// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package frameinformer

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/client-go/tools/cache"
)

// truth is what was written: each object at each revision, without what the transform takes away. Deletions are revisions, too.
type truth struct {
	mu sync.Mutex
	at map[string]map[string]runtime.Object
	// live has the revision that exists.
	live map[string]string
}

func (tr *truth) note(obj runtime.Object, exists bool) {
	obj, _ = trimmed(obj)
	accessor, _ := meta.Accessor(obj)
	key := accessor.GetNamespace() + "/" + accessor.GetName()
	tr.mu.Lock()
	defer tr.mu.Unlock()
	if tr.at[key] == nil {
		tr.at[key] = map[string]runtime.Object{}
	}
	tr.at[key][accessor.GetResourceVersion()] = obj
	delete(tr.live, key)
	if exists {
		tr.live[key] = accessor.GetResourceVersion()
	}
}

func trimmed(obj runtime.Object) (runtime.Object, error) {
	obj = obj.DeepCopyObject()
	clearType(obj)
	changed, err := trim(obj)
	return changed.(runtime.Object), err
}

// clearType takes away what typed clients take away of what they are sent.
func clearType(obj runtime.Object) {
	reflect.ValueOf(obj).Elem().FieldByName("TypeMeta").SetZero()
}

// fill makes an object of an object by chance.
func fill(r *rand.Rand, obj Message, namespace, name string, uid int) {
	accessor, _ := meta.Accessor(obj)
	accessor.SetNamespace(namespace)
	accessor.SetName(name)
	accessor.SetUID(types.UID(fmt.Sprint("uid-", uid)))
	accessor.SetManagedFields([]metav1.ManagedFieldsEntry{{Manager: "test", Operation: "Update", FieldsV1: &metav1.FieldsV1{Raw: []byte(`{"f:x":{}}`)}}})
	accessor.SetLabels(map[string]string{"n": fmt.Sprint(r.IntN(3))})
	payload := make([]byte, r.IntN(4000))
	for i := range payload {
		payload[i] = byte(r.IntN(256))
	}
	text := strconv.Quote(string(payload)) // no bytes that are no UTF-8
	switch obj := obj.(type) {
	case *corev1.Pod:
		obj.Spec = corev1.PodSpec{NodeName: fmt.Sprint("node-", r.IntN(3)), Containers: []corev1.Container{{Name: "c", Image: text}}}
		obj.Status = corev1.PodStatus{Phase: corev1.PodRunning, Message: text}
	case *corev1.Secret:
		obj.Data, obj.Type = map[string][]byte{"a": payload, "empty": {}, "b": payload[:len(payload)/2]}, corev1.SecretTypeOpaque
	case *corev1.ConfigMap:
		obj.Data, obj.BinaryData = map[string]string{"a": text, "empty": ""}, map[string][]byte{"b": payload}
	}
}

// told is a handler that keeps what it is told.
type told struct {
	t  *testing.T
	mu sync.Mutex
	// of has the objects of each key, in their order; a deletion is followed by nil.
	of map[string][]any
	// latest has the revision of the latest of them, 0 if that is a deletion.
	latest sync.Map
}

func (h *told) tell(obj any, gone bool) {
	key, _ := cache.MetaNamespaceKeyFunc(obj)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.of[key] = append(h.of[key], obj)
	if gone {
		h.of[key] = append(h.of[key], nil)
		h.latest.Store(key, uint64(0))
		return
	}
	h.latest.Store(key, revisionOf(h.t, obj))
}

func (h *told) OnAdd(obj any, _ bool) { h.tell(obj, false) }

func (h *told) OnUpdate(before, after any) {
	key, _ := cache.MetaNamespaceKeyFunc(after)
	h.mu.Lock()
	was := h.of[key][len(h.of[key])-1]
	h.mu.Unlock()
	if !reflect.DeepEqual(was, before) {
		h.t.Errorf("%s: an update is from\n%.2000v\nand what was told before is\n%.2000v", key, before, was)
	}
	h.tell(after, false)
}

func (h *told) OnDelete(obj any) {
	if unknown, ok := obj.(cache.DeletedFinalStateUnknown); ok {
		obj = unknown.Obj
	}
	h.tell(obj, true)
}

func revisionOf(t *testing.T, obj any) uint64 {
	accessor, err := meta.Accessor(obj)
	if err != nil {
		t.Error(err)
		return 0
	}
	rev, err := strconv.ParseUint(accessor.GetResourceVersion(), 10, 64)
	if err != nil {
		t.Error(err)
	}
	return rev
}

// TestTwin has objects of each kind created, updated and deleted while readers read and a handler listens, and holds all that they
// get against what was written.
func TestTwin(t *testing.T) {
	for _, k := range []kind{pods, secrets, configs} {
		t.Run(k.resource, func(t *testing.T) { twin(t, k.open(t, protobufs)) })
	}
	t.Run("stored as JSON", func(t *testing.T) { twin(t, secrets.open(t, jsons)) })
}

func twin(t *testing.T, w *world) {
	tr := &truth{at: map[string]map[string]runtime.Object{}, live: map[string]string{}}
	// Some objects are there before the informer is.
	write(t, w, tr, 50)
	c := w.cache()
	handler := &told{t: t, of: map[string][]any{}}
	n := start(t, w.config(func() Source { return c }), handler)
	var writing, reading sync.WaitGroup
	var done atomic.Bool
	writing.Go(func() { write(t, w, tr, 200) })
	samples := make([][]any, 3)
	for i := range samples {
		reading.Go(func() { samples[i] = sample(t, n, handler, &done) })
	}
	writing.Wait()
	eventually(t, "the informer to be where the writes are", func() bool { return n.HasSynced() && caughtUp(n, tr) })
	done.Store(true)
	reading.Wait()
	eventually(t, "the handler to be told of all", func() bool { return handler.knows(tr) })

	for _, obj := range n.GetIndexer().List() {
		samples[0] = append(samples[0], obj)
	}
	for _, all := range handler.of {
		samples[0] = append(samples[0], all...)
	}
	for _, read := range samples {
		for _, obj := range read {
			if obj == nil {
				continue
			}
			key, _ := cache.MetaNamespaceKeyFunc(obj)
			want, ok := tr.at[key][strconv.FormatUint(revisionOf(t, obj), 10)]
			if !ok || !reflect.DeepEqual(obj, any(want)) {
				t.Fatalf("%s is\n%.2000v\nwant\n%.2000v", key, obj, want)
			}
		}
	}
	keys := slices.Sorted(maps.Keys(tr.live))
	got := n.GetIndexer().ListKeys()
	slices.Sort(got)
	if !slices.Equal(got, keys) {
		t.Errorf("the store has %q, want %q", got, keys)
	}
	for namespace := range 3 {
		in, err := n.GetIndexer().ByIndex(cache.NamespaceIndex, fmt.Sprint("ns-", namespace))
		if err != nil {
			t.Error(err)
		}
		want := slices.DeleteFunc(slices.Clone(keys), func(key string) bool { return key[:len("ns-0")] != fmt.Sprint("ns-", namespace) })
		if len(in) != len(want) {
			t.Errorf("%d objects in namespace %d, want %d", len(in), namespace, len(want))
		}
	}
}

// write makes n writes by chance.
func write(t *testing.T, w *world, tr *truth, n int) {
	r := rand.New(rand.NewPCG(uint64(n), 1))
	ctx := context.Background()
	for i := range n {
		namespace, name := fmt.Sprint("ns-", r.IntN(3)), fmt.Sprint("object-", r.IntN(8))
		key := w.prefix() + namespace + "/" + name
		tr.mu.Lock()
		_, exists := tr.live[namespace+"/"+name]
		tr.mu.Unlock()
		out := w.new()
		var err error
		switch {
		case !exists:
			obj := w.new()
			fill(r, obj, namespace, name, n+i)
			err = w.store.Create(ctx, key, obj, out, 0)
		case r.IntN(4) == 0:
			err = w.store.Delete(ctx, key, out, nil, storage.ValidateAllObjectFunc, nil, storage.DeleteOptions{})
			exists = false
			if err == nil {
				tr.note(out, false)
				continue
			}
		default:
			err = w.store.GuaranteedUpdate(ctx, key, out, false, nil, func(obj runtime.Object, _ storage.ResponseMeta) (runtime.Object, *uint64, error) {
				accessor, _ := meta.Accessor(obj)
				uid, rev := accessor.GetUID(), accessor.GetResourceVersion()
				fill(r, obj.(Message), namespace, name, 0)
				accessor.SetUID(uid)
				accessor.SetResourceVersion(rev)
				return obj, nil, nil
			}, nil)
		}
		if err != nil {
			t.Error(err)
			return
		}
		tr.note(out, true)
	}
}

// sample reads objects until done, and checks that no read takes the reader back, nor to before what the handler has been told.
func sample(t *testing.T, n *informer, handler *told, done *atomic.Bool) []any {
	r := rand.New(rand.NewPCG(7, rand.Uint64()))
	indexer := n.GetIndexer()
	seen := map[string]uint64{}
	var read []any
	tick := time.NewTicker(time.Millisecond) // the writer needs the processors, too
	defer tick.Stop()
	for !done.Load() {
		<-tick.C
		key := fmt.Sprintf("ns-%d/object-%d", r.IntN(3), r.IntN(8))
		atLeast := uint64(0)
		if rev, ok := handler.latest.Load(key); ok {
			atLeast = rev.(uint64)
		}
		obj, exists, err := indexer.GetByKey(key)
		if err != nil {
			t.Error(err)
			return read
		}
		if !exists {
			continue
		}
		rev := revisionOf(t, obj)
		if rev < seen[key] || rev < atLeast {
			t.Errorf("%s is of revision %d after %d was read and %d was told", key, rev, seen[key], atLeast)
			return read
		}
		if seen[key] != rev {
			read = append(read, obj)
		}
		seen[key] = rev
		if r.IntN(50) == 0 {
			read = append(read, indexer.List()...)
		}
	}
	return read
}

// caughtUp tells whether the informer has what exists.
func caughtUp(n *informer, tr *truth) bool {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	all := n.GetIndexer().List()
	if len(all) != len(tr.live) {
		return false
	}
	for _, obj := range all {
		accessor, _ := meta.Accessor(obj)
		if tr.live[accessor.GetNamespace()+"/"+accessor.GetName()] != accessor.GetResourceVersion() {
			return false
		}
	}
	return true
}

// knows tells whether the handler has been told of what exists, and that what does not is gone.
func (h *told) knows(tr *truth) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	tr.mu.Lock()
	defer tr.mu.Unlock()
	for key := range tr.live {
		if len(h.of[key]) == 0 {
			return false
		}
	}
	for key, all := range h.of {
		last := all[len(all)-1]
		rev, exists := tr.live[key]
		if exists != (last != nil) {
			return false
		}
		if exists {
			if accessor, _ := meta.Accessor(last); accessor.GetResourceVersion() != rev {
				return false
			}
		}
	}
	return true
}
