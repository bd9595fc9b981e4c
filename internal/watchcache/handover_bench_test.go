// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package watchcache

import (
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/apis/example"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/cacher/metrics"
	"k8s.io/utils/clock"

	"github.com/weir-project/weir/internal/eventlog"
	"github.com/weir-project/weir/internal/frame"
	"github.com/weir-project/weir/internal/ledger"
)

// handoverBench is a log with parked watches, to which a benchmark appends by hand.
type handoverBench struct {
	*Cache
	log    *eventlog.Log[scope, *change]
	rev    uint64
	handed chan int
	done   sync.WaitGroup
}

func newHandoverBench(b *testing.B) *handoverBench {
	b.Helper()
	h := &handoverBench{handed: make(chan int, 1)}
	h.Cache = &Cache{newFunc: newPod, follower: &follower{cfg: Config{Clock: clock.RealClock{}, History: MinHistory, GroupResource: podResource, Versioner: storage.APIObjectVersioner{}, NewFunc: newPod, GetAttrs: podAttrs}}}
	h.dispatch = metrics.NewWatcherMetricsObservers(podResource)
	h.codec = frame.NewCodec(frame.Config{
		Codec: protobufCodec, NewFunc: newPod, Attrs: podAttrs, Versioner: h.cfg.Versioner,
		Store: frame.NewStore(frame.DefaultBudget, &ledger.Ledger{}),
	})
	limits := h.limits(func() int64 { return 0 })
	limits.Trimmed = nil
	limits.Handed = func(_ *change, n int) { h.handed <- n }
	h.log = newLog(0, "", limits)
	h.done.Go(h.log.Dispatch)
	b.Cleanup(func() {
		h.log.Close()
		h.done.Wait()
	})
	return h
}

// frame returns an object of a namespace at the next revision.
func (h *handoverBench) frame(b *testing.B, namespace string) *frame.Frame {
	b.Helper()
	h.rev++
	f, err := h.codec.Encode(podPrefix+namespace+"/p", &example.Pod{ObjectMeta: metav1.ObjectMeta{
		Namespace: namespace, Name: "p", ResourceVersion: fmt.Sprint(h.rev), Labels: map[string]string{"app": "web", "tier": "front"},
	}})
	if err != nil {
		b.Fatal(err)
	}
	return f
}

// append makes a change of one object to another known.
func (h *handoverBench) append(b *testing.B, prev, cur *frame.Frame) {
	h.rev++
	if err := h.log.Append(h.rev, 100, &change{rev: h.rev, prev: prev, cur: cur, same: cur.SelectedAs(prev)}); err != nil {
		b.Fatal(err)
	}
}

// watch returns a watch that is parked, with room for so many events.
func (h *handoverBench) watch(b *testing.B, namespace, selector string, room int) *watcher {
	b.Helper()
	pred := storage.Everything
	var err error
	if pred.Label, err = labels.Parse(selector); err != nil {
		b.Fatal(err)
	}
	prefix, key := podPrefix, scope{}
	if namespace != "" {
		prefix, key = podPrefix+namespace+"/", scope{kind: inNamespace, namespace: namespace}
	}
	w := &watcher{
		cache: h.Cache, ctx: b.Context(), result: make(chan watch.Event, room), stop: make(chan struct{}), detach: func() bool { return true },
		match: newMatcher(prefix, pred, func() {}),
	}
	if key.kind == wholeResource {
		w.cursor, err = h.log.Follow(h.log.Stats().Head)
	} else {
		w.cursor, err = h.log.FollowKey(h.log.Stats().Head, key)
	}
	if err != nil {
		b.Fatal(err)
	}
	if !w.park() {
		b.Fatal("a watch cannot be parked")
	}
	return w
}

// BenchmarkHandOver is one event handed to 5,000 parked watches. "room" has nobody read
// them meanwhile: what the dispatcher itself takes. "read" has a goroutine for each that
// reads, as upstream's handler does, and has to be woken. "selectors" is "room" for watches
// with a label selector.
func BenchmarkHandOver(b *testing.B) {
	const watches = 5000
	for _, c := range []struct {
		name, selector string
		read           bool
	}{{name: "room"}, {name: "selectors", selector: "app=web,tier in (front,back)"}, {name: "read", read: true}} {
		b.Run(c.name, func(b *testing.B) {
			h := newHandoverBench(b)
			f := h.frame(b, "a")
			var all []*watcher
			var readers sync.WaitGroup
			var read atomic.Int64
			for range watches {
				w := h.watch(b, "", c.selector, handover)
				all = append(all, w)
				if c.read {
					readers.Go(func() {
						for {
							select {
							case <-w.result:
								read.Add(1)
							case <-b.Context().Done():
								return
							}
						}
					})
				}
			}
			var took, most time.Duration
			n := 0
			for b.Loop() {
				began := time.Now()
				h.append(b, f, f)
				if got := <-h.handed; got != watches {
					b.Fatalf("%d watches of %d have taken the event", got, watches)
				}
				d := time.Since(began)
				took, most = took+d, max(most, d)
				n++
				for c.read && read.Load() < int64(n)*watches {
					runtime.Gosched()
				}
				if !c.read && n%handover == 0 {
					b.StopTimer()
					for _, w := range all {
						for range handover {
							<-w.result
						}
					}
					b.StartTimer()
				}
			}
			b.ReportMetric(float64(took.Nanoseconds())/float64(n)/watches, "ns/watch")
			b.ReportMetric(most.Seconds()*1e3, "max-ms/event")
		})
	}
}

// lateness is how long an event takes to a watch that comes right after another event.
type lateness struct {
	n          int
	took, most time.Duration
}

// observe has an object go from prev to cur, and then another one change, which is for w.
func (l *lateness) observe(b *testing.B, h *handoverBench, prev, cur, other *frame.Frame, w *watcher) {
	h.append(b, prev, cur)
	began := time.Now()
	h.append(b, other, other)
	<-w.result
	d := time.Since(began)
	l.n, l.took, l.most = l.n+1, l.took+d, max(l.most, d)
}

func (l *lateness) report(b *testing.B) {
	b.ReportMetric(float64(l.took.Microseconds())/float64(l.n), "mean-µs/event")
	b.ReportMetric(l.most.Seconds()*1e3, "max-ms/event")
}

// BenchmarkCostlySelectors is an event to a watch of one namespace, right after an event to
// 20 watches of another one whose selectors are 390 kB long.
func BenchmarkCostlySelectors(b *testing.B) {
	h := newHandoverBench(b)
	var selector strings.Builder
	selector.WriteString("app notin (x")
	for i := 0; selector.Len() < 390_000; i++ {
		fmt.Fprintf(&selector, ",v%d", i)
	}
	selector.WriteString(")")
	a, other := h.frame(b, "a"), h.frame(b, "b")
	var costly []*watcher
	for range 20 {
		costly = append(costly, h.watch(b, "a", selector.String(), handover))
	}
	w := h.watch(b, "b", "", handover)
	var late lateness
	for b.Loop() {
		late.observe(b, h, a, a, other, w)
		<-h.handed
		for _, c := range costly { // the costly ones get theirs too
			<-c.result
		}
		b.StopTimer()
		for h.log.Stats().Parked != 21 {
			runtime.Gosched()
		}
		b.StartTimer()
	}
	late.report(b)
}
