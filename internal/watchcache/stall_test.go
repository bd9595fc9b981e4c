// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package watchcache

import (
	"fmt"
	"net/http"
	"runtime"
	"slices"
	"testing"
	"time"
	"weak"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/apis/example"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/storage"
	clocktesting "k8s.io/utils/clock/testing"

	"github.com/weir-project/weir/internal/eventlog"
	"github.com/weir-project/weir/internal/frame"
)

// slowSubject is a cache of some Pods in a busy namespace and some in a quiet one, with a
// clock that the test moves.
type slowSubject struct {
	*subject
	clock stepped
	// writes counts the writes to the busy namespace.
	writes int
}

const (
	quietPods = 6 * handover
	busyPods  = 30
)

func newSlowSubject(t *testing.T) *slowSubject {
	t.Helper()
	fake := stepped{clocktesting.NewFakeClock(time.Now())}
	s := &slowSubject{clock: fake, subject: newSubject(t, withIndexes, func(_ *storeOptions, c *Config) { c.Clock = fake })}
	for range busyPods {
		s.writeBusy(t)
	}
	for i := range quietPods {
		s.writeQuiet(t, i, "first")
	}
	return s
}

// writeBusy changes one Pod of the busy namespace after the other.
func (s *slowSubject) writeBusy(t *testing.T) {
	t.Helper()
	p := pod(fmt.Sprint("p", s.writes%busyPods))
	p.Namespace, p.Labels = "busy", map[string]string{"write": fmt.Sprint(s.writes)}
	s.writes++
	waitRevision(t, s.Cache, revision(t, s.put(t, p).ResourceVersion))
}

// writeQuiet changes a Pod of the quiet namespace and node. The names are in the order of i.
func (s *slowSubject) writeQuiet(t *testing.T, i int, what string) *example.Pod {
	t.Helper()
	p := pod(fmt.Sprintf("p%03d", i))
	p.Namespace, p.Spec.NodeName, p.Labels = "quiet", "quiet", map[string]string{"write": what}
	stored := s.put(t, p)
	waitRevision(t, s.Cache, revision(t, stored.ResourceVersion))
	return stored
}

// pass has time pass while the busy namespace is written to.
func (s *slowSubject) pass(t *testing.T, d time.Duration) {
	t.Helper()
	for ; d > 0; d -= stallPeriod {
		s.writeBusy(t)
		s.clock.Step(min(d, stallPeriod))
	}
}

// watchQuiet watches what is quiet, by namespace or by node, or everything.
func (s *slowSubject) watchQuiet(t *testing.T, by, resourceVersion string) watch.Interface {
	t.Helper()
	ctx, prefix, pred := t.Context(), podPrefix, storage.Everything
	switch by {
	case "namespace":
		ctx, prefix = request.WithNamespace(ctx, "quiet"), podPrefix+"quiet/"
	case "node":
		pred = ofNode("quiet")
	}
	w, err := s.Watch(ctx, prefix, storage.ListOptions{ResourceVersion: resourceVersion, Predicate: pred, Recursive: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Stop)
	return w
}

func (s *slowSubject) stats(t *testing.T) eventlog.Stats {
	t.Helper()
	gen, _, _, err := s.current()
	if err != nil {
		t.Fatal(err)
	}
	return gen.log.Stats()
}

// busyObjects returns what the busy namespace has now.
func (s *slowSubject) busyObjects(t *testing.T) []weak.Pointer[frame.Frame] {
	t.Helper()
	_, _, v, err := s.current()
	if err != nil {
		t.Fatal(err)
	}
	var all []weak.Pointer[frame.Frame]
	v.objects.Ascend(podPrefix+"busy/", "", func(_ string, f *frame.Frame) bool {
		all = append(all, weak.Make(f))
		return true
	})
	return all
}

// expectForgotten replaces objects of the busy namespace, and waits until nothing keeps the
// old ones alive when they are too old for the history. It calls often from time to time,
// less than MinHistory apart.
func (s *slowSubject) expectForgotten(t *testing.T, old []weak.Pointer[frame.Frame], often func()) {
	t.Helper()
	for range minEvents + 2*busyPods { // the last minEvents are kept, however old
		s.writeBusy(t)
	}
	eventually(t, "the old objects to be let go of", func() bool {
		s.pass(t, MinHistory-2*stallPeriod)
		often()
		runtime.GC()
		return !slices.ContainsFunc(old, func(p weak.Pointer[frame.Frame]) bool { return p.Value() != nil })
	})
}

// expectGone reads a watch to its end, which has to be a 410.
func expectGone(t *testing.T, w watch.Interface) (events int) {
	t.Helper()
	for {
		event, ok := next(t, w)
		if !ok {
			t.Fatalf("the watch ended after %d events without saying why", events)
		}
		if event.Type != watch.Error {
			events++
			continue
		}
		status, isStatus := event.Object.(*metav1.Status)
		if !isStatus || status.Code != http.StatusGone || status.Reason != metav1.StatusReasonExpired {
			t.Fatalf("the watch ended with %v, want 410 Expired", event.Object)
		}
		ended(t, w)
		return events
	}
}

// TestStalledWatches has clients that take nothing: they are told to start again when that
// has lasted for as long as history is kept, whatever they watch, and nothing is kept for
// them. A client that stalls in its initial events keeps no old state alive.
func TestStalledWatches(t *testing.T) {
	for _, by := range []string{"namespace", "node", "all"} {
		for _, begin := range []string{"initial events", "live events"} {
			t.Run(by+", "+begin, func(t *testing.T) {
				s := newSlowSubject(t)
				from := "0"
				if begin == "live events" {
					_, rev, _, err := s.current()
					if err != nil {
						t.Fatal(err)
					}
					from = fmt.Sprint(rev)
				}
				w := s.watchQuiet(t, by, from)
				if begin == "live events" {
					for i := range handover + 1 {
						s.writeQuiet(t, i, "second")
					}
				}
				eventually(t, "the channel to be full", func() bool { return len(w.ResultChan()) == handover })
				eventually(t, "the watch to wait", s.clock.HasWaiters)
				old := s.busyObjects(t)
				s.pass(t, MinHistory-stallPeriod)
				if stats := s.stats(t); stats.Cursors != 1 {
					t.Fatalf("a watch whose client has taken nothing for %v has ended", MinHistory-stallPeriod)
				}
				eventually(t, "the watch to end", func() bool {
					s.pass(t, stallPeriod)
					return s.stats(t).Cursors == 0
				})
				s.expectForgotten(t, old, func() {})
				if stats := s.stats(t); stats.Aged > 0 || stats.Events > 2*minEvents {
					t.Errorf("the history is %+v", stats)
				}
				if events := expectGone(t, w); events >= handover {
					t.Errorf("%d events have been kept for a client that takes nothing", events)
				}
			})
		}
	}
}

// TestSlowWatchesAreCarried has clients that take an event now and then: they get all, and
// what is kept for those of a namespace or node is not others'.
func TestSlowWatchesAreCarried(t *testing.T) {
	for _, by := range []string{"namespace", "node"} {
		t.Run(by, func(t *testing.T) {
			s := newSlowSubject(t)
			w := s.watchQuiet(t, by, "0")
			eventually(t, "the channel to be full", func() bool { return len(w.ResultChan()) == handover })
			old := s.busyObjects(t)
			i := 0 // the next object
			take := func(eventType watch.EventType, what string) {
				t.Helper()
				event, ok := next(t, w)
				if !ok || event.Type != eventType {
					t.Fatalf("%+v, want %s of object %d", event, eventType, i)
				}
				if p := decoded(event).(*example.Pod); p.Name != fmt.Sprintf("p%03d", i) || p.Labels["write"] != what {
					t.Fatalf("%s of %s as it was written %s, want object %d, %s", event.Type, p.Name, p.Labels["write"], i, what)
				}
				i++
			}
			for n := range quietPods {
				s.writeQuiet(t, n, "second") // to be told after the initial events
			}
			s.expectForgotten(t, old, func() { take(watch.Added, "first") })
			if i >= quietPods-handover {
				t.Fatalf("the watch is through with its initial events after %d were taken", i)
			}
			if stats := s.stats(t); stats.Aged != quietPods || stats.Events > quietPods+2*minEvents {
				t.Errorf("the history is %+v, want %d events kept for the slow watch only", stats, quietPods)
			}
			for i < quietPods {
				take(watch.Added, "first")
			}
			for i = 0; i < handover; {
				take(watch.Modified, "second")
				s.pass(t, MinHistory-2*stallPeriod)
			}
			for i < quietPods {
				take(watch.Modified, "second")
			}
			s.parked(t, 1)
			s.pass(t, 2*stallPeriod)
			if stats := s.stats(t); stats.Aged != 0 {
				t.Errorf("the watch has taken everything, and the history is %+v", stats)
			}
		})
	}
}

// TestHistoryOfQuietResource has nothing happen after some changes: they are let go of all
// the same, without word from etcd.
func TestHistoryOfQuietResource(t *testing.T) {
	s := newSlowSubject(t)
	for range 2 * minEvents {
		s.writeBusy(t)
	}
	if stats := s.stats(t); stats.Events < 2*minEvents {
		t.Fatalf("the history is %+v before it is too old", stats)
	}
	s.clock.Step(MinHistory + 3*time.Second)
	eventually(t, "the history to go", func() bool { return s.stats(t).Events == minEvents })
	eventually(t, "its timer to stop", func() bool {
		gen, _, _, err := s.current()
		return err == nil && !gen.expiring.Load()
	})
}
