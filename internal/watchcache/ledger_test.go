// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package watchcache

import (
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"runtime"
	"sync/atomic"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kruntime "k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/apis/example"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/cacher/metrics"
	"k8s.io/utils/clock"

	"github.com/weir-project/weir/internal/frame"
	"github.com/weir-project/weir/internal/ledger"
)

// ledgerError is the part by which all that is booked may differ from what the heap has grown by.
const ledgerError = 0.15

// books holds what is booked against what the heap has grown by, since newBooks.
type books struct {
	heap, booked int64
}

func live() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC() // what sync.Pools have had goes with the second
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

func newBooks() books { return books{live(), ledger.Process.Total()} }

func (b books) hold(t *testing.T, after string) {
	t.Helper()
	grown, booked := live()-b.heap, ledger.Process.Total()-b.booked
	t.Logf("after %s %d bytes are booked, and the heap has grown by %d", after, booked, grown)
	if math.Abs(float64(booked-grown)) > ledgerError*float64(grown) {
		t.Errorf("after %s %d bytes are booked, %.2f of the %d that the heap has grown by", after, booked, float64(booked)/float64(grown), grown)
	}
}

// TestLedgerAgainstHeap: a cache takes in objects and changes of them, they are derived and compressed, and somebody reads an earlier state. What
// the ledger says that all of it takes is what the heap says.
func TestLedgerAgainstHeap(t *testing.T) {
	const n = 10_000
	var bound atomic.Int64
	bound.Store(1 << 40)
	c := &follower{begun: make(chan struct{}), cfg: Config{
		Clock: clock.RealClock{}, History: MinHistory, GroupResource: podResource, Versioner: storage.APIObjectVersioner{},
		NewFunc: newPod, GetAttrs: podAttrs, HistoryBound: bound.Load,
		KeyFunc: func(obj kruntime.Object) (string, error) { return podKey(obj.(*example.Pod)), nil },
	}}
	c.history.readers = &c.readers
	c.dispatch = metrics.NewWatcherMetricsObservers(podResource)
	c.codec = frame.NewCodec(frame.Config{
		Codec: protobufCodec, NewFunc: newPod, Attrs: podAttrs, Versioner: c.cfg.Versioner,
		Store: frame.NewStore(1<<30, ledger.Process),
	})
	defer func() {
		c.setNotReady(nil)
		c.running.Wait()
	}()
	rev := 0
	random := rand.New(rand.NewPCG(1, 2))
	newest := func(i int) *example.Pod {
		rev++
		noise := make([]byte, 500+random.IntN(3000))
		for i := range noise {
			noise[i] = 'a' + byte(random.IntN(26))
		}
		return &example.Pod{ObjectMeta: metav1.ObjectMeta{
			Namespace: fmt.Sprint("n", i%50), Name: fmt.Sprint("pod-", i), ResourceVersion: fmt.Sprint(rev),
			Labels: map[string]string{"app": fmt.Sprint("app-", i%100)}, Annotations: map[string]string{"noise": string(noise)},
		}}
	}
	s := &source{cache: c, state: c.newState()}
	modify := func() {
		for i := range n {
			if err := s.apply(t.Context(), watch.Event{Type: watch.Modified, Object: newest(i)}); err != nil {
				t.Fatal(err)
			}
		}
	}

	books := newBooks()
	for i := range n {
		if err := s.add(newest(i)); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.ready(uint64(rev)); err != nil {
		t.Fatal(err)
	}
	books.hold(t, "reading everything")

	modify()
	books.hold(t, "a change of everything")

	_, _, v, err := c.current()
	if err != nil {
		t.Fatal(err)
	}
	var all []*frame.Frame
	v.objects.Ascend("", "", func(_ string, f *frame.Frame) bool {
		all = append(all, f)
		return true
	})
	write := func(f *frame.Frame, w io.Writer) error {
		_, err := fmt.Fprintf(w, "%s is derived %01000d", f.Key(), f.Revision())
		return err
	}
	for _, f := range all {
		if _, err := f.Derive("derived", false, write); err != nil {
			t.Fatal(err)
		}
	}
	books.hold(t, "deriving everything")

	for i := 0; i < n; i += 50 {
		form := frame.Form{ID: "compressed", Write: func(_ *frame.Frame, w io.Writer) error {
			noise := make([]byte, 2000)
			for i := range noise {
				noise[i] = byte(random.Uint32())
			}
			_, err := w.Write(noise)
			return err
		}}
		if _, err := frame.SegmentOf(all[i:i+50], form); err != nil {
			t.Fatal(err)
		}
	}
	books.hold(t, "compressing everything")

	leave := c.readers.enter(v.bytes)
	modify()
	bound.Store(0)
	c.relieve()
	if held := ledger.Process.Bytes(ledger.Readers); held < v.bytes/2 {
		t.Errorf("of an earlier state of %d bytes that somebody reads %d are booked", v.bytes, held)
	}
	books.hold(t, "another change of everything, while somebody reads the state before")
	runtime.KeepAlive(all)
	runtime.KeepAlive(v)
	leave()
}
