// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package watchcache

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/apis/example"
	"k8s.io/apiserver/pkg/storage"

	"github.com/weir-project/weir/internal/frame"
)

// put creates or updates a Pod and returns it as it is stored.
func (s *subject) put(t testing.TB, pod *example.Pod) *example.Pod {
	t.Helper()
	out := &example.Pod{}
	err := s.cfg.Storage.GuaranteedUpdate(t.Context(), podKey(pod), out, true, nil, storage.SimpleUpdate(func(obj runtime.Object) (runtime.Object, error) {
		next := pod.DeepCopy()
		next.ResourceVersion = obj.(*example.Pod).ResourceVersion
		return next, nil
	}), nil)
	if err != nil {
		t.Fatalf("writing %s: %v", podKey(pod), err)
	}
	return out
}

// remove deletes a Pod and returns it with the revision of the deletion.
func (s *subject) remove(t testing.TB, pod *example.Pod) *example.Pod {
	t.Helper()
	out := &example.Pod{}
	if err := s.cfg.Storage.Delete(t.Context(), podKey(pod), out, nil, storage.ValidateAllObjectFunc, nil, storage.DeleteOptions{}); err != nil {
		t.Fatalf("deleting %s: %v", podKey(pod), err)
	}
	return out
}

// follow starts a watch on all Pods that ends with the test.
func (s *subject) follow(t testing.TB, opts storage.ListOptions) watch.Interface {
	t.Helper()
	opts.Recursive = true
	if opts.Predicate.Label == nil {
		opts.Predicate = storage.Everything
	}
	w, err := s.Watch(t.Context(), podPrefix, opts)
	if err != nil {
		t.Fatalf("watching: %v", err)
	}
	t.Cleanup(w.Stop)
	return w
}

// next returns the next event that is no bookmark, or false if the watch has ended.
func next(t testing.TB, w watch.Interface) (watch.Event, bool) {
	t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	for {
		select {
		case event, ok := <-w.ResultChan():
			if ok && event.Type == watch.Bookmark {
				continue
			}
			return event, ok
		case <-deadline.C:
			t.Fatalf("the watch tells nothing for %v", patience)
		}
	}
}

// expect reads the next event, which has to be of a type and with a Pod at a revision.
func expect(t testing.TB, w watch.Interface, eventType watch.EventType, name, resourceVersion string) *example.Pod {
	t.Helper()
	event, ok := next(t, w)
	if !ok {
		t.Fatalf("the watch has ended, want %s of %s at %s", eventType, name, resourceVersion)
	}
	pod, isPod := decoded(event).(*example.Pod)
	if !isPod || event.Type != eventType || pod.Name != name || pod.ResourceVersion != resourceVersion {
		line, _ := lineOf(event)
		t.Fatalf("event %s, want %s of %s at %s", line, eventType, name, resourceVersion)
	}
	return pod
}

func decoded(event watch.Event) runtime.Object {
	if shared, ok := event.Object.(runtime.CacheableObject); ok {
		return shared.GetObject()
	}
	return event.Object
}

func pod(name string) *example.Pod {
	return &example.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: name}}
}

// churned numbers the changes of churn, so that each is one.
var churned atomic.Int64

// churn makes n changes to k Pods and returns what is stored each time.
func (s *subject) churn(t testing.TB, n, k int) []*example.Pod {
	t.Helper()
	var out []*example.Pod
	for i := range n {
		p := pod(fmt.Sprintf("p%d", i%k))
		p.Annotations = map[string]string{"n": strconv.FormatInt(churned.Add(1), 10)}
		out = append(out, s.put(t, p))
	}
	return out
}

// ofNode selects the Pods of a node by the index.
func ofNode(name string) storage.SelectionPredicate {
	return storage.SelectionPredicate{
		Label: labels.Everything(), Field: fields.OneTermEqualSelector("spec.nodeName", name),
		GetAttrs: podAttrs, IndexFields: []string{"spec.nodeName"},
	}
}

// TestSlowWatcherContinues has a watch that is not read while thousands of events
// pile up. It continues without a gap, and another is not held up by it.
func TestSlowWatcherContinues(t *testing.T) {
	s := newSubject(t, withIndexes)
	first := s.put(t, pod("first"))
	slow := s.follow(t, storage.ListOptions{ResourceVersion: first.ResourceVersion})
	other := s.follow(t, storage.ListOptions{ResourceVersion: first.ResourceVersion})

	const n, pods = 3000, 20
	written := s.churn(t, n, pods)
	for _, w := range []watch.Interface{other, slow} {
		for i, p := range written {
			eventType := watch.Modified
			if i < pods {
				eventType = watch.Added
			}
			got := expect(t, w, eventType, p.Name, p.ResourceVersion)
			if got.Annotations["n"] != p.Annotations["n"] {
				t.Fatalf("event %d has the content of change %s, want %s", i, got.Annotations["n"], p.Annotations["n"])
			}
		}
	}
}

// TestSlowInitialEvents has a watch that is read up to the middle of its initial
// events, then not until much has changed: it tells of the state of its beginning to
// the end, and then of every change.
func TestSlowInitialEvents(t *testing.T) {
	s := newSubject(t, withIndexes)
	const objects = 300
	before := s.churn(t, objects, objects)
	waitRevision(t, s.Cache, revision(t, before[objects-1].ResourceVersion))
	byName := map[string]*example.Pod{}
	for _, p := range before {
		byName[p.Name] = p
	}
	w := s.follow(t, storage.ListOptions{ResourceVersion: "0"})
	initial := func(n int) {
		t.Helper()
		for range n {
			event, ok := next(t, w)
			if !ok || event.Type != watch.Added {
				t.Fatalf("event of type %q (%v) among the initial ones", event.Type, ok)
			}
			got := decoded(event).(*example.Pod)
			want := byName[got.Name]
			if want == nil || want.ResourceVersion != got.ResourceVersion {
				t.Fatalf("initial event of %s at %s, want %v", got.Name, got.ResourceVersion, want)
			}
			delete(byName, got.Name)
		}
	}
	initial(objects / 2)
	changes := s.churn(t, 1000, objects)
	initial(objects - objects/2)
	for _, p := range changes {
		expect(t, w, watch.Modified, p.Name, p.ResourceVersion)
	}
}

// TestTooSlowWatcherExpires has the history trimmed past a watch: it ends with 410
// after what it had in hand, without a gap before that. One that lost nothing of its
// own goes on.
func TestTooSlowWatcherExpires(t *testing.T) {
	s := newSubject(t, withIndexes)
	first := s.put(t, pod("first"))
	slow := s.follow(t, storage.ListOptions{ResourceVersion: first.ResourceVersion})
	unaffected := s.follow(t, storage.ListOptions{ResourceVersion: first.ResourceVersion, Predicate: ofNode("n1")})

	written := s.churn(t, 1000, 20)
	last := revision(t, written[len(written)-1].ResourceVersion)
	waitRevision(t, s.Cache, last)
	s.forgetHistory(t)

	told := 0
	for {
		event, ok := next(t, slow)
		if !ok {
			t.Fatalf("the watch ended after %d events without saying why", told)
		}
		if event.Type == watch.Error {
			status, isStatus := event.Object.(*metav1.Status)
			if !isStatus || status.Code != http.StatusGone || status.Reason != metav1.StatusReasonExpired {
				t.Fatalf("the watch ended with %v, want 410 Expired", event.Object)
			}
			break
		}
		if got := decoded(event).(*example.Pod); got.ResourceVersion != written[told].ResourceVersion {
			t.Fatalf("event %d is of revision %s, want %s", told, got.ResourceVersion, written[told].ResourceVersion)
		}
		told++
	}
	if told >= len(written) {
		t.Errorf("all %d events were told, and then an error", told)
	}
	if event, ok := next(t, slow); ok {
		t.Errorf("an event of type %s after the error", event.Type)
	}

	mine := pod("mine")
	mine.Spec.NodeName = "n1"
	stored := s.put(t, mine)
	expect(t, unaffected, watch.Added, "mine", stored.ResourceVersion)

	// To start from before what is left is refused in the same way.
	late := s.follow(t, storage.ListOptions{ResourceVersion: first.ResourceVersion})
	if event, ok := next(t, late); !ok || event.Type != watch.Error || event.Object.(*metav1.Status).Code != http.StatusGone {
		t.Errorf("a watch from before the history began with %v, want 410", event)
	}
}

// TestLeavingTheSelector follows an object out of a watch's selector: the watch is
// told of a deletion with the content that it was entitled to, at the revision of the
// change, and no encoding of the event has anything of the new content.
func TestLeavingTheSelector(t *testing.T) {
	s := newSubject(t, withIndexes)
	const secret = "content-of-another-tenant"
	for name, pred := range map[string]storage.SelectionPredicate{
		"node": ofNode("n1"),
		"label": {
			Label: labels.SelectorFromSet(labels.Set{"app": "web"}), Field: fields.Everything(), GetAttrs: podAttrs,
		},
	} {
		t.Run(name, func(t *testing.T) {
			in := pod("moves-" + name)
			in.Spec.NodeName, in.Labels = "n1", map[string]string{"app": "web"}
			in.Annotations = map[string]string{"content": "mine"}
			before := s.put(t, in)
			live := s.follow(t, storage.ListOptions{ResourceVersion: before.ResourceVersion, Predicate: pred})

			out := in.DeepCopy()
			out.Spec.NodeName, out.Labels = "n2", map[string]string{"app": "db"}
			out.Annotations = map[string]string{"content": secret}
			moved := s.put(t, out)
			out.Annotations["more"] = secret
			again := s.put(t, out)
			waitRevision(t, s.Cache, revision(t, again.ResourceVersion))
			// One that begins later looks the same up in the history.
			replayed := s.follow(t, storage.ListOptions{ResourceVersion: before.ResourceVersion, Predicate: pred})
			back := s.put(t, in)

			for name, w := range map[string]watch.Interface{"live": live, "replayed": replayed} {
				event, ok := next(t, w)
				if !ok || event.Type != watch.Deleted {
					t.Fatalf("%s: event of type %q (%v), want DELETED", name, event.Type, ok)
				}
				got := decoded(event).(*example.Pod)
				if got.Annotations["content"] != "mine" || got.Spec.NodeName != "n1" || got.ResourceVersion != moved.ResourceVersion {
					t.Errorf("%s: deleted %+v, want %+v at %s", name, got, before, moved.ResourceVersion)
				}
				for _, codec := range []runtime.Codec{jsonCodec, protobufCodec} {
					var encoded bytes.Buffer
					if err := codec.Encode(event.Object, &encoded); err != nil {
						t.Fatalf("%s: encoding the event's object: %v", name, err)
					}
					if bytes.Contains(encoded.Bytes(), []byte(secret)) || !bytes.Contains(encoded.Bytes(), []byte("mine")) {
						t.Errorf("%s: the encoded object has content that the watch must not see: %q", name, encoded.Bytes())
					}
				}
				// The change outside of the selector is no event, the return is an addition.
				expect(t, w, watch.Added, in.Name, back.ResourceVersion)
			}
		})
	}
}

// counting is a field selector that counts what it is asked.
type counting struct {
	fields.Selector
	asked *atomic.Int64
}

func (c counting) Matches(f fields.Fields) bool {
	c.asked.Add(1)
	return c.Selector.Matches(f)
}

// TestIndexedWatchesReadTheirOwn counts the objects that watches of one node, one
// namespace and one name look at while much happens elsewhere.
func TestIndexedWatchesReadTheirOwn(t *testing.T) {
	s := newSubject(t, withIndexes)
	start := s.put(t, pod("first"))
	selectors := map[string]fields.Selector{
		"spec.nodeName":      fields.OneTermEqualSelector("spec.nodeName", "mine"),
		"metadata.namespace": fields.OneTermEqualSelector("metadata.namespace", "mine"),
		"metadata.name":      fields.OneTermEqualSelector("metadata.name", "mine"),
		"everything":         fields.OneTermNotEqualSelector("metadata.name", ""),
	}
	asked := map[string]*atomic.Int64{}
	watches := map[string]watch.Interface{}
	for name, selector := range selectors {
		asked[name] = &atomic.Int64{}
		watches[name] = s.follow(t, storage.ListOptions{ResourceVersion: start.ResourceVersion, Predicate: storage.SelectionPredicate{
			Label: labels.Everything(), Field: counting{selector, asked[name]}, GetAttrs: podAttrs, IndexFields: []string{"spec.nodeName"},
		}})
	}
	const others, own = 500, 5
	s.churn(t, others, 20)
	for i := range own {
		p := pod("mine")
		p.Namespace, p.Spec.NodeName = "mine", "mine"
		p.Annotations = map[string]string{"n": strconv.Itoa(i)}
		stored := s.put(t, p)
		for name, w := range watches {
			for {
				event, ok := next(t, w)
				if !ok {
					t.Fatalf("the watch by %s has ended", name)
				}
				if decoded(event).(*example.Pod).ResourceVersion == stored.ResourceVersion {
					break
				}
				if name != "everything" {
					t.Fatalf("the watch by %s told of %v", name, decoded(event))
				}
			}
		}
	}
	for name, n := range asked {
		if name == "everything" {
			if n.Load() < others {
				t.Errorf("the watch of everything looked at %d objects, which must be more than %d: the count counts nothing", n.Load(), others)
			}
			continue
		}
		// An event has an object before and one after.
		if most := int64(2 * own); n.Load() > most {
			t.Errorf("the watch by %s looked at %d objects, want %d at most: it reads what others do", name, n.Load(), most)
		}
	}
}

// TestEventsAreShared has watches tell of the same change by the same frame.
func TestEventsAreShared(t *testing.T) {
	s := newSubject(t, withIndexes)
	first := s.put(t, pod("first"))
	waitRevision(t, s.Cache, revision(t, first.ResourceVersion))
	var watches []watch.Interface
	for range 3 {
		watches = append(watches, s.follow(t, storage.ListOptions{ResourceVersion: "0"}))
	}
	change := pod("first")
	change.Annotations = map[string]string{"n": "1"}
	s.put(t, change)
	s.remove(t, change)
	for _, eventType := range []watch.EventType{watch.Added, watch.Modified, watch.Deleted} {
		var shared *frame.Frame
		for i, w := range watches {
			event, ok := next(t, w)
			f, isFrame := event.Object.(*frame.Frame)
			if !ok || event.Type != eventType || !isFrame {
				t.Fatalf("watch %d: event %s of %T, want %s of a frame", i, event.Type, event.Object, eventType)
			}
			if shared == nil {
				shared = f
			}
			if f != shared {
				t.Errorf("watch %d has a frame of its own for %s", i, eventType)
			}
		}
	}
}

// TestDecodedInitialEvents is for resources whose REST storage changes what it reads.
func TestDecodedInitialEvents(t *testing.T) {
	s := newSubject(t, withIndexes, func(_ *storeOptions, c *Config) { c.DefaultedOnRead = func(runtime.Object) bool { return true } })
	stored := s.put(t, pod("first"))
	waitRevision(t, s.Cache, revision(t, stored.ResourceVersion))
	w := s.follow(t, storage.ListOptions{ResourceVersion: "0"})
	event, ok := next(t, w)
	if got, isPod := event.Object.(*example.Pod); !ok || !isPod || got.ResourceVersion != stored.ResourceVersion {
		t.Errorf("initial event with %T, want the Pod itself", event.Object)
	}
}

// TestStopEndsUnreadWatch stops a watch that nobody reads, by either way.
func TestStopEndsUnreadWatch(t *testing.T) {
	s := newSubject(t, withIndexes)
	const pods = 200
	written := s.churn(t, pods, pods)
	waitRevision(t, s.Cache, revision(t, written[pods-1].ResourceVersion))
	for name, stop := range map[string]func(watch.Interface, context.CancelFunc){
		"Stop":    func(w watch.Interface, _ context.CancelFunc) { w.Stop(); w.Stop() },
		"context": func(_ watch.Interface, cancel context.CancelFunc) { cancel() },
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			w, err := s.Watch(ctx, podPrefix, storage.ListOptions{ResourceVersion: "0", Predicate: storage.Everything, Recursive: true})
			if err != nil {
				t.Fatal(err)
			}
			stop(w, cancel)
			gen, _, _, err := s.current()
			if err != nil {
				t.Fatal(err)
			}
			eventually(t, "the watch to let go of the log", func() bool { return gen.log.Stats().Cursors == 0 })
			// What it had handed over by then may still be read.
			told := 0
			for {
				if _, ok := next(t, w); !ok {
					break
				}
				told++
			}
			if told > handover {
				t.Errorf("the watch tells of %d events after its end, want %d at most", told, handover)
			}
		})
	}
}
