// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package watchcache

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/apis/example"
	"k8s.io/apiserver/pkg/storage"
	clocktesting "k8s.io/utils/clock/testing"

	"github.com/weir-project/weir/internal/frame"
	"github.com/weir-project/weir/internal/ledger"
)

// TestLateIsBooked: the last state of an object that leaves a selector is made when first asked for. It is booked for as
// long as the change is in the log, however asking and leaving fall together.
func TestLateIsBooked(t *testing.T) {
	codec := frame.NewCodec(frame.Config{
		Codec: protobufCodec, NewFunc: newPod, Attrs: podAttrs, Versioner: storage.APIObjectVersioner{},
		Store: frame.NewStore(0, &ledger.Ledger{}),
	})
	p := &example.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: "p", ResourceVersion: "1"}}
	prev, err := codec.Encode(podKey(p), p)
	if err != nil {
		t.Fatal(err)
	}
	h := &history{readers: &oldReads{}}
	asked := &change{rev: 2, prev: prev, cur: prev}
	last, err := asked.gone(codec, storage.APIObjectVersioner{}, h)
	if err != nil {
		t.Fatal(err)
	}
	h.add(1000)
	if got, want := h.bytes.Load(), 1000+last.Size(); got != want || h.late.Load() != last.Size() {
		t.Errorf("%d bytes are booked, %d of them late; want %d and %d", got, h.late.Load(), want, last.Size())
	}
	h.trimmed(asked, 1000)
	for range 1000 {
		ch := &change{rev: 2, prev: prev, cur: prev}
		h.add(1000)
		var all sync.WaitGroup
		all.Go(func() {
			if _, err := ch.gone(codec, storage.APIObjectVersioner{}, h); err != nil {
				t.Error(err)
			}
		})
		all.Go(func() { h.trimmed(ch, 1000) })
		all.Wait()
	}
	if h.bytes.Load() != 0 || h.late.Load() != 0 {
		t.Errorf("%d bytes are booked when nothing is in the log, %d of them late", h.bytes.Load(), h.late.Load())
	}
}

// TestReadersAreBooked: what only readers need is what has left the log since the oldest of them began, but no more than that has.
func TestReadersAreBooked(t *testing.T) {
	before := ledger.Process.Bytes(ledger.Readers)
	r := &oldReads{}
	holds := func(what string, want int64) {
		t.Helper()
		if got := r.bytes(); got != want || ledger.Process.Bytes(ledger.Readers)-before != want {
			t.Errorf("%s: %d bytes are booked (%d in the ledger), want %d", what, got, ledger.Process.Bytes(ledger.Readers)-before, want)
		}
	}
	r.lose(100)
	holds("nobody reads", 0)
	first := r.enter(500)
	holds("the first has begun", 0)
	r.lose(200)
	second := r.enter(5000)
	r.lose(200)
	holds("two read", 400)
	r.lose(200)
	holds("all of the first's state is replaced", 500)
	first()
	first() // counts once
	holds("the second reads", 400)
	second()
	holds("all have left", 0)

	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 1000 {
				leave := r.enter(100)
				r.lose(7)
				leave()
			}
		})
	}
	all.Wait()
	holds("many have come and left", 0)
}

// TestReadersOfACache: a watch that has begun to send its initial events is a reader, and a list is, until they are done.
func TestReadersOfACache(t *testing.T) {
	s := newSubject(t)
	const n = 3 * handover
	var last *example.Pod
	for i := range n {
		last = s.put(t, pod(fmt.Sprint("p", i)))
	}
	waitRevision(t, s.Cache, revision(t, last.ResourceVersion))
	if _, err := s.list(t, podPrefix, storage.ListOptions{ResourceVersion: "0", Recursive: true, Predicate: storage.Everything}); err != nil {
		t.Fatal(err)
	}
	if n := s.readers.reading.Len(); n != 0 {
		t.Errorf("%d read when the list is done", n)
	}
	w := s.follow(t, storage.ListOptions{ResourceVersion: "0"}) // does not take them all
	for i := range n {
		p := pod(fmt.Sprint("p", i))
		p.Labels = map[string]string{"new": "yes"}
		last = s.put(t, p)
	}
	waitRevision(t, s.Cache, revision(t, last.ResourceVersion))
	s.forgetHistory(t)
	if s.readers.bytes() <= 0 {
		t.Error("nothing is booked for a watch that still sends a state of which everything has changed")
	}
	w.Stop()
	eventually(t, "the watch to be no reader", func() bool { return s.readers.bytes() == 0 })
}

// TestHistoryBound: when others have taken what all may keep, a log gives way, also where nothing is written, and a watch that reads
// is told everything.
func TestHistoryBound(t *testing.T) {
	var bound atomic.Int64
	bound.Store(1 << 40)
	s := newSubject(t, func(_ *storeOptions, c *Config) { c.HistoryBound = bound.Load })
	first := s.put(t, pod("p"))
	waitRevision(t, s.Cache, revision(t, first.ResourceVersion))
	w := s.follow(t, storage.ListOptions{ResourceVersion: first.ResourceVersion})
	large := strings.Repeat("x", 500_000)
	write := func(i int) {
		t.Helper()
		p := pod("p")
		p.Annotations = map[string]string{"large": large, "n": fmt.Sprint(i)}
		p = s.put(t, p)
		expect(t, w, watch.Modified, "p", p.ResourceVersion)
	}
	for i := range 40 {
		write(i)
	}
	gen, _, _, err := s.current()
	if err != nil {
		t.Fatal(err)
	}
	if b := gen.log.Stats().Bytes; b < 19_000_000 {
		t.Fatalf("%d bytes of history are kept of 40 changes of 500 kB", b)
	}
	if cut := s.Status().Cut; cut != 0 {
		t.Errorf("%d events are said to have gone before their time", cut)
	}
	kept := gen.log.Stats().Events
	bound.Store(0)
	s.relieve()
	if cut := s.Status().Cut; cut == 0 || cut != uint64(kept-gen.log.Stats().Events) {
		t.Errorf("%d events are said to have gone before their time, there are %d of %d", cut, gen.log.Stats().Events, kept)
	}
	if b := gen.log.Stats().Bytes; b > leastBytes {
		t.Errorf("nothing may be kept, and %d bytes are, more than the least", b)
	}
	s.mu.RLock()
	views := len(gen.past)
	s.mu.RUnlock()
	if events := gen.log.Stats().Events; views > events+1 {
		t.Errorf("%d earlier states are kept with %d events", views, events)
	}
	for i := range 40 {
		write(i)
		if b := gen.log.Stats().Bytes; b > leastBytes+1_000_000 {
			t.Fatalf("nothing may be kept, and %d bytes are after %d changes", b, i+1)
		}
	}
}

// TestRelieveBesideWrites: history is let go of by another goroutine than the one that takes changes in.
func TestRelieveBesideWrites(t *testing.T) {
	s := newSubject(t, func(_ *storeOptions, c *Config) { c.HistoryBound = func() int64 { return 0 } })
	done := make(chan struct{})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case <-done:
				return
			default:
				s.relieve()
			}
		}
	}()
	for i := range 20 {
		p := pod("p")
		p.Annotations = map[string]string{"n": fmt.Sprint(i)}
		waitRevision(t, s.Cache, revision(t, s.put(t, p).ResourceVersion))
	}
	close(done)
	<-ended
}

// TestOldHistoryGoes: of large objects little history is left when it is old, without any write; and a cache that is stopped
// leaves no timer behind.
func TestOldHistoryGoes(t *testing.T) {
	fake := stepped{clocktesting.NewFakeClock(time.Now())}
	s := newSubject(t, func(_ *storeOptions, c *Config) { c.Clock = fake })
	p := pod("p")
	p.Annotations = map[string]string{"large": strings.Repeat("x", 500_000)}
	for i := range 40 {
		p.Labels = map[string]string{"n": fmt.Sprint(i)}
		waitRevision(t, s.Cache, revision(t, s.put(t, p).ResourceVersion))
	}
	gen, _, _, err := s.current()
	if err != nil {
		t.Fatal(err)
	}
	if n := gen.log.Stats().Events; n < 39 {
		t.Fatalf("%d events are kept of 40", n)
	}
	fake.Step(s.cfg.History + 2*time.Second)
	eventually(t, "old history to go", func() bool { return gen.log.Stats().Bytes <= leastBytes })
	if n := s.history.bytes.Load(); n != gen.log.Stats().Bytes {
		t.Errorf("%d bytes of history are booked, and the log holds %d", n, gen.log.Stats().Bytes)
	}
	p.Labels = map[string]string{"n": "last"}
	waitRevision(t, s.Cache, revision(t, s.put(t, p).ResourceVersion))
	s.Stop()
	if n := s.history.bytes.Load(); n != 0 {
		t.Errorf("%d bytes of history are booked of a cache that has been stopped", n)
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	if gen.timer == nil || gen.timer.Stop() {
		t.Error("history of a cache that has been stopped is going to be looked at")
	}
}
