// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package watchcache

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/apis/example"
	"k8s.io/apiserver/pkg/features"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/etcd3"
	clocktesting "k8s.io/utils/clock/testing"
	"k8s.io/utils/ptr"
)

// observed is the storage behind a cache, with its reads counted and its watches and
// lists in the hand of the test.
type observed struct {
	storage.Interface
	// whole and small count reads of all objects, and of a page or one.
	whole, small atomic.Int64
	// watches counts the watches that have begun.
	watches atomic.Int64

	// events are told by the watch that runs. One that is an error ends it.
	events chan watch.Event

	mu sync.Mutex
	// refused is how many watches more fail at once.
	refused int
	// listing, if set, is called before the storage lists.
	listing func(storage.ListOptions)
	// current, if not 0, is the revision that the storage says it is at.
	current uint64
}

// observe has the cache of a subject use an observed storage.
func observe(o *observed) option {
	return func(_ *storeOptions, c *Config) {
		if c.Storage != nil {
			o.Interface = c.Storage
			c.Storage = o
		}
	}
}

func (o *observed) set(change func()) {
	o.mu.Lock()
	defer o.mu.Unlock()
	change()
}

func (o *observed) GetList(ctx context.Context, key string, opts storage.ListOptions, list runtime.Object) error {
	if !bounded(opts) {
		o.whole.Add(1)
	} else {
		o.small.Add(1)
	}
	o.mu.Lock()
	listing := o.listing
	o.mu.Unlock()
	if listing != nil {
		listing(opts)
	}
	return o.Interface.GetList(ctx, key, opts, list)
}

func (o *observed) Watch(ctx context.Context, key string, opts storage.ListOptions) (watch.Interface, error) {
	if opts.SendInitialEvents != nil {
		o.whole.Add(1)
	}
	defer o.watches.Add(1)
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.refused > 0 {
		o.refused--
		return newErrorWatch(errMade), nil
	}
	w, err := o.Interface.Watch(ctx, key, opts)
	if err != nil {
		return nil, err
	}
	t := &told{Interface: w, out: make(chan watch.Event), done: make(chan struct{})}
	go t.run(o.events)
	return t, nil
}

func (o *observed) GetCurrentResourceVersion(ctx context.Context) (uint64, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.current != 0 {
		return o.current, nil
	}
	return o.Interface.GetCurrentResourceVersion(ctx)
}

// told is a watch that tells a test's events beside the storage's.
type told struct {
	watch.Interface
	out  chan watch.Event
	once sync.Once
	done chan struct{}
}

// ResultChan implements watch.Interface.
func (w *told) ResultChan() <-chan watch.Event { return w.out }

// Stop implements watch.Interface.
func (w *told) Stop() {
	w.once.Do(func() { close(w.done) })
	w.Interface.Stop()
}

func (w *told) run(others <-chan watch.Event) {
	defer close(w.out)
	for {
		var event watch.Event
		ok := true
		select {
		case event, ok = <-w.Interface.ResultChan():
		case event = <-others:
		case <-w.done:
		}
		if !ok {
			return
		}
		select {
		case w.out <- event:
		case <-w.done:
			return
		}
	}
}

// errMade is an error as etcd's watches have it.
var errMade = apierrors.NewInternalError(errors.New("made by the test"))

// list reads Pods; what selects them is a predicate, and where it is not all of them, a key.
func (s *subject) list(t testing.TB, key string, opts storage.ListOptions) (*example.PodList, error) {
	t.Helper()
	opts.Recursive = key == podPrefix
	opts.Predicate.GetAttrs = podAttrs
	if opts.Predicate.Label == nil {
		opts.Predicate.Label = labels.Everything()
	}
	if opts.Predicate.Field == nil {
		opts.Predicate.Field = fields.Everything()
	}
	var list example.PodList
	err := s.GetList(t.Context(), key, opts, &list)
	return &list, err
}

// stalls waits until the cache knows that it cannot follow.
func (s *subject) stalls(t testing.TB) {
	t.Helper()
	eventually(t, "the cache to stall", s.stalled)
}

// TestStalledReads has an object in etcd that cannot be read while the cache runs: what
// the cache cannot answer, etcd does, and tells of it by its key.
func TestStalledReads(t *testing.T) {
	etcd3.TestOnlySetFatalOnDecodeError(t, false)
	for name, with := range map[string]gates{"names all": nil, "names the first": {features.AllowUnsafeMalformedObjectDeletion: false}} {
		t.Run(name, func(t *testing.T) {
			with.set(t)
			s := newSubject(t, withIndexes, func(_ *storeOptions, c *Config) { c.Bounded = true })
			for _, name := range []string{"a", "b", "d"} {
				s.put(t, pod(name))
			}
			last := s.put(t, pod("e"))
			waitRevision(t, s.Cache, revision(t, last.ResourceVersion))
			// A value with this prefix is one that has been encrypted, with a key that is not there.
			s.putRaw(t, "/pods/a/c", "k8s:enc:lost")
			s.stalls(t)

			_, err := s.list(t, podPrefix, storage.ListOptions{})
			if err == nil || !strings.Contains(err.Error(), "/registry/pods/a/c") {
				t.Errorf("a list is answered with %v, want an error that names /registry/pods/a/c", err)
			}
			page, err := s.list(t, podPrefix, storage.ListOptions{Predicate: storage.SelectionPredicate{Limit: 1}})
			if err != nil || len(page.Items) != 1 || page.Items[0].Name != "a" {
				t.Fatalf("a page is answered with %v, %v, want Pod a", page.Items, err)
			}
			// The page came from etcd, and is of a revision that the cache has not reached.
			next, err := s.list(t, podPrefix, storage.ListOptions{Predicate: storage.SelectionPredicate{Limit: 1, Continue: page.Continue}})
			if err != nil || len(next.Items) != 1 || next.Items[0].Name != "b" {
				t.Errorf("the page after that is answered with %v, %v, want Pod b", next.Items, err)
			}
			one, err := s.list(t, podPrefix+"a/d", storage.ListOptions{})
			if err != nil || len(one.Items) != 1 || one.Items[0].Name != "d" {
				t.Errorf("a list of one is answered with %v, %v, want Pod d", one.Items, err)
			}
			newer := storage.GetOptions{ResourceVersion: page.ResourceVersion}
			if err := s.Get(t.Context(), podPrefix+"a/d", newer, &example.Pod{}); err != nil {
				t.Errorf("a Pod at a newer revision is answered with %v", err)
			}
			old, err := s.list(t, podPrefix, storage.ListOptions{ResourceVersion: "0"})
			if err != nil || len(old.Items) != 4 {
				t.Errorf("a list that may be old is answered with %d Pods, %v, want 4", len(old.Items), err)
			}
			if s.Answers(metav1.ListOptions{}) || !s.Answers(metav1.ListOptions{ResourceVersion: "0"}) {
				t.Error("flow control is told that the cache answers what it does not, or the other way round")
			}
			// The watch will not get past what is repaired: everything is read anew.
			s.repair(t, "/pods/a/c")
			eventually(t, "lists to be answered", func() bool {
				list, err := s.list(t, podPrefix, storage.ListOptions{})
				return err == nil && len(list.Items) == 4 && !s.stalled()
			})
		})
	}
}

// TestStalledReadsTakeTurns has more lists than etcd is to be asked at once while the
// cache has stalled: one that has waited in vain is told to come back, and why. Pages and
// single objects do not wait.
func TestStalledReadsTakeTurns(t *testing.T) {
	etcd3.TestOnlySetFatalOnDecodeError(t, false)
	fake := stepped{clocktesting.NewFakeClock(time.Now())}
	o := &observed{}
	s := newSubject(t, withIndexes, observe(o), func(_ *storeOptions, c *Config) { c.Clock = fake })
	waitRevision(t, s.Cache, revision(t, s.put(t, pod("a")).ResourceVersion))
	s.putRaw(t, "/pods/a/b", "no Pod at all")
	eventually(t, "the cache to know the object", func() bool {
		fake.Step(time.Second)
		s.mu.RLock()
		defer s.mu.RUnlock()
		return s.gen != nil && s.gen.stalled != nil && strings.Contains(s.gen.stalled.Error(), "/registry/pods/a/b")
	})

	begun, release := make(chan struct{}), make(chan struct{})
	o.set(func() {
		o.listing = func(opts storage.ListOptions) {
			if !bounded(opts) {
				begun <- struct{}{}
				<-release
			}
		}
	})
	answers := make(chan error)
	for range wholeReads {
		go func() {
			_, err := s.list(t, podPrefix, storage.ListOptions{})
			answers <- err
		}()
		<-begun
	}
	late := make(chan error)
	go func() {
		_, err := s.list(t, podPrefix, storage.ListOptions{Predicate: storage.SelectionPredicate{Limit: 1, Label: labels.SelectorFromSet(labels.Set{"a": "b"})}})
		late <- err
	}()
	if _, err := s.list(t, podPrefix, storage.ListOptions{Predicate: storage.SelectionPredicate{Limit: 1}}); err != nil {
		t.Errorf("a page is answered with %v", err)
	}
	if _, err := s.list(t, podPrefix+"a/a", storage.ListOptions{}); err != nil {
		t.Errorf("a single Pod is answered with %v", err)
	}
	var err error
	eventually(t, "the late list to be answered", func() bool {
		fake.Step(100 * time.Millisecond)
		select {
		case err = <-late:
			return true
		case <-begun:
			t.Fatal("a list is read before it is its turn")
			return false
		default:
			return false
		}
	})
	if !apierrors.IsTooManyRequests(err) || !strings.Contains(err.Error(), "/registry/pods/a/b") {
		t.Errorf("the late list is answered with %v, want 429 and the key", err)
	}
	close(release)
	for range wholeReads {
		if err := <-answers; err == nil || apierrors.IsTooManyRequests(err) {
			t.Errorf("a list that had its turn is answered with %v, want the storage's error", err)
		}
	}
}

// TestHiccup has the watch fail for a reason that is not in the storage: it goes on where
// it was, and nothing is read anew.
func TestHiccup(t *testing.T) {
	fake := stepped{clocktesting.NewFakeClock(time.Now())}
	o := &observed{events: make(chan watch.Event)}
	s := newSubject(t, withIndexes, observe(o), func(_ *storeOptions, c *Config) { c.Clock = fake })
	first := s.put(t, pod("first"))
	waitRevision(t, s.Cache, revision(t, first.ResourceVersion))
	before, _, _, err := s.current()
	if err != nil {
		t.Fatal(err)
	}
	o.set(func() { o.refused = 1 })
	o.events <- errorEvent(errMade)
	passing := func(done func() bool) func() bool {
		return func() bool {
			fake.Step(100 * time.Millisecond)
			return done()
		}
	}
	eventually(t, "the cache to stall", passing(s.stalled))
	// What is written in the name of other resources shows that the watch is well again.
	rev := s.increase(t.Context(), t)
	eventually(t, "the cache to go on", passing(func() bool { return !s.stalled() }))
	list, err := s.list(t, podPrefix, storage.ListOptions{ResourceVersion: fmt.Sprint(rev)})
	if err != nil || len(list.Items) != 1 {
		t.Errorf("a list is answered with %d Pods, %v, want 1", len(list.Items), err)
	}
	// One such failure now and then is no reason to read anything anew either.
	for range 3 {
		fake.Step(failuresApart)
		begun := o.watches.Load()
		eventually(t, "a watch to end", passing(func() bool {
			select {
			case o.events <- errorEvent(errMade):
				return true
			default:
				return false
			}
		}))
		// Until then the failure may not have been noted, and time that passes now would be before it.
		eventually(t, "the watch to be taken up again", passing(func() bool { return o.watches.Load() > begun }))
	}
	changed := s.churn(t, 1, 1)[0]
	eventually(t, "the cache to have the change", passing(func() bool {
		_, at, _, err := s.current()
		return err == nil && at >= revision(t, changed.ResourceVersion)
	}))
	if after, _, _, err := s.current(); err != nil || after != before {
		t.Errorf("everything has been read anew, %v", err)
	}
}

// TestRepairedSoon has an object repaired before the cache has given up its state: it does
// not wait until it would have, although its watch will never get past the object.
func TestRepairedSoon(t *testing.T) {
	etcd3.TestOnlySetFatalOnDecodeError(t, false)
	fake := stepped{clocktesting.NewFakeClock(time.Now())}
	s := newSubject(t, withIndexes, func(_ *storeOptions, c *Config) { c.Clock = fake })
	waitRevision(t, s.Cache, revision(t, s.put(t, pod("a")).ResourceVersion))
	before, _, _, err := s.current()
	if err != nil {
		t.Fatal(err)
	}
	s.putRaw(t, "/pods/a/b", "no Pod at all")
	passing := func(done func() bool) func() bool {
		return func() bool {
			fake.Step(20 * time.Millisecond)
			return done()
		}
	}
	eventually(t, "the cache to stall", passing(s.stalled))
	s.repair(t, "/pods/a/b")
	begun := fake.Now()
	eventually(t, "everything to be read anew", passing(func() bool {
		gen, _, _, err := s.current()
		return err == nil && gen != before
	}))
	if took := fake.Since(begun); took > internalErrorRetry/2 {
		t.Errorf("the cache is back after %v", took)
	}
}

// TestUnreadableIsNotReadAllTheTime has an object that cannot be read for two minutes:
// everything is read now and then, and the object often, so that the cache is back soon
// after it has been repaired.
func TestUnreadableIsNotReadAllTheTime(t *testing.T) {
	etcd3.TestOnlySetFatalOnDecodeError(t, false)
	gates{features.ListFromCacheSnapshot: false, features.DetectCacheInconsistency: false}.set(t)
	fake := stepped{clocktesting.NewFakeClock(time.Now())}
	o := &observed{}
	s := newSubject(t, withIndexes, observe(o), func(_ *storeOptions, c *Config) { c.Clock = fake })
	waitRevision(t, s.Cache, revision(t, s.churn(t, 20, 20)[19].ResourceVersion))
	s.putRaw(t, "/pods/a/p9a", "no Pod at all")
	eventually(t, "the cache to give up its state", func() bool {
		fake.Step(restartDelay)
		return !s.Ready()
	})
	// step lets a second pass for the source. Nobody else waits for the clock.
	step := func() {
		eventually(t, "the source to wait", func() bool { return fake.HasWaiters() || s.Ready() })
		fake.Step(restartDelay)
	}
	o.whole.Store(0)
	o.small.Store(0)
	begun := fake.Now()
	for fake.Since(begun) < 2*time.Minute {
		step()
	}
	// After 1, 2, 4, 8, 16, 30, 30 and 30 s, once to put it in place and once to find out why not.
	if n := o.whole.Load(); n < 4 || n > 18 {
		t.Errorf("everything has been read %d times, want 4 to 18", n)
	}
	if n := o.small.Load(); n < 120 {
		t.Errorf("the object has been read %d times, want every second", n)
	}
	err := s.refusal(t)
	if !strings.Contains(err.Error(), "/registry/pods/a/p9a") {
		t.Errorf("a list is refused with %v, which does not name the object", err)
	}
	// By its name, any other can be had.
	if one, err := s.list(t, podPrefix+"a/p9", storage.ListOptions{}); err != nil || len(one.Items) != 1 {
		t.Errorf("a list of one is answered with %v, %v", one.Items, err)
	}
	// Repaired just after everything has been read in vain, and before the reason is looked for, it is not in the way for long.
	whole, repaired := o.whole.Load(), false // repaired belongs to the source until that is ready
	o.set(func() {
		o.listing = func(opts storage.ListOptions) {
			if !repaired && o.whole.Load() > whole && opts.Predicate.Limit == pageSize {
				s.repair(t, "/pods/a/p9a")
				repaired = true
			}
		}
	})
	for o.whole.Load() == whole {
		step()
	}
	begun = fake.Now()
	for !s.Ready() {
		step()
	}
	if took := fake.Since(begun); took > maxRestartDelay/2 || !repaired {
		t.Errorf("the cache is back after %v, repaired in time: %v", took, repaired)
	}
}

// refusal returns why a list of everything is refused.
func (s *subject) refusal(t testing.TB) error {
	t.Helper()
	_, err := s.list(t, podPrefix, storage.ListOptions{ResourceVersion: "0"})
	if !apierrors.IsTooManyRequests(err) {
		t.Fatalf("a list is answered with %v, want 429", err)
	}
	return err
}

// TestGoingBack has the storage tell of revisions that are lower than others before.
func TestGoingBack(t *testing.T) {
	o := &observed{events: make(chan watch.Event)}
	s := newSubject(t, withIndexes, observe(o))
	last := s.churn(t, 20, 10)[19]
	waitRevision(t, s.Cache, revision(t, last.ResourceVersion))
	now := func() *generation {
		gen, _, _, err := s.current()
		if err != nil {
			return nil
		}
		return gen
	}
	first := now()
	anew := func(before *generation) {
		t.Helper()
		eventually(t, "everything to be read anew", func() bool {
			gen := now()
			return gen != nil && gen != before
		})
		got := &example.Pod{}
		if err := s.Get(t.Context(), podKey(last), storage.GetOptions{ResourceVersion: "0"}, got); err != nil || got.ResourceVersion != last.ResourceVersion {
			t.Errorf("the cache has revision %s of Pod %s, %v, want %s", got.ResourceVersion, last.Name, err, last.ResourceVersion)
		}
	}
	old := func() *example.Pod {
		p := last.DeepCopy()
		p.ResourceVersion = "2"
		return p
	}

	// One member of etcd is behind: nothing follows from it.
	o.events <- watch.Event{Type: watch.Bookmark, Object: old()}
	after := s.put(t, pod("next"))
	waitRevision(t, s.Cache, revision(t, after.ResourceVersion))
	if now() != first {
		t.Error("everything has been read anew because a member of etcd is behind")
	}
	// All of etcd is.
	o.set(func() { o.current = 2 })
	o.events <- watch.Event{Type: watch.Bookmark, Object: old()}
	eventually(t, "the cache to give up its state", func() bool { return now() != first })
	o.set(func() { o.current = 0 })
	anew(first)

	before := now()
	o.events <- watch.Event{Type: watch.Modified, Object: old()}
	anew(before)

	// The watch does not say so, and a consistent list, or one that begins to watch, asks.
	for name, ask := range map[string]func() error{
		"list": func() error {
			_, err := s.list(t, podPrefix, storage.ListOptions{})
			return err
		},
		"watch list": func() error {
			w := s.follow(t, storage.ListOptions{SendInitialEvents: ptr.To(true), ResourceVersionMatch: metav1.ResourceVersionMatchNotOlderThan, Predicate: storage.Everything})
			event, _ := next(t, w)
			return apierrors.FromObject(event.Object)
		},
	} {
		before := now()
		o.set(func() { o.current = 2 })
		if err := ask(); !apierrors.IsTooManyRequests(err) {
			t.Errorf("a %s of what there was before etcd went back is answered with %v, want 429", name, err)
		}
		eventually(t, "the cache to give up its state", func() bool { return now() != before })
		o.set(func() { o.current = 0 })
		anew(before)
	}
}

// TestGoingBackInSilence has nobody ask, and the watch tell nothing.
func TestGoingBackInSilence(t *testing.T) {
	fake := stepped{clocktesting.NewFakeClock(time.Now())}
	o := &observed{}
	s := newSubject(t, withIndexes, observe(o), func(_ *storeOptions, c *Config) { c.Clock = fake })
	waitRevision(t, s.Cache, revision(t, s.put(t, pod("first")).ResourceVersion))
	before, _, _, err := s.current()
	if err != nil {
		t.Fatal(err)
	}
	o.set(func() { o.current = 1 })
	eventually(t, "everything to be read anew", func() bool {
		fake.Step(time.Second)
		gen, _, _, err := s.current()
		return err == nil && gen != before
	})
}

// TestObstacleUnknown: a search that had no time says nothing of what can be read, and
// keeps the error that there was.
func TestObstacleUnknown(t *testing.T) {
	failure := errors.New("the storage's own")
	o := &obstacle{unknown: true}
	if (&follower{}).gone(t.Context(), o) {
		t.Error("an obstacle that has not been found is taken for gone")
	}
	if !(&follower{}).gone(t.Context(), &obstacle{repaired: true}) {
		t.Error("an obstacle that has gone while it was looked for is waited for")
	}
	for _, o := range []*obstacle{nil, o} {
		if err := o.because(failure); err != failure {
			t.Errorf("%v replaces the error", err)
		}
	}
	page := storage.ListOptions{Recursive: true, Predicate: storage.Everything}
	for limit, want := range map[int64]bool{0: false, 2: true, pageSize: true, 1 << 40: false} {
		page.Predicate.Limit = limit
		if got := bounded(page); got != want {
			t.Errorf("a list with limit %d is bounded: %v", limit, got)
		}
	}
}
