// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package watchcache

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/apis/example"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/utils/clock"
	clocktesting "k8s.io/utils/clock/testing"

	"github.com/weir-project/weir/internal/coalesce"
)

// parked waits until n watches are parked, and no watch is anything else.
func (s *subject) parked(t testing.TB, n int) {
	t.Helper()
	gen, _, _, err := s.current()
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, fmt.Sprintf("%d watches to be parked", n), func() bool {
		stats := gen.log.Stats()
		return stats.Parked == n && stats.Cursors == n
	})
}

// ended waits until a watch has ended, which has to happen without a further event.
func ended(t testing.TB, w watch.Interface) {
	t.Helper()
	if event, ok := next(t, w); ok {
		line, _ := lineOf(event)
		t.Fatalf("the watch tells %s, want its end", line)
	}
}

// goroutines counts the goroutines of watches.
func goroutines() int {
	stacks := make([]byte, 4<<20)
	return strings.Count(string(stacks[:runtime.Stack(stacks, true)]), "(*watcher).run(")
}

// TestParkedWatchesEnd ends watches that have nothing to send, in each way there is.
func TestParkedWatchesEnd(t *testing.T) {
	for name, end := range map[string]func(*subject, watch.Interface, context.CancelFunc){
		"stop":       func(_ *subject, w watch.Interface, _ context.CancelFunc) { w.Stop() },
		"context":    func(_ *subject, _ watch.Interface, cancel context.CancelFunc) { cancel() },
		"generation": func(s *subject, _ watch.Interface, _ context.CancelFunc) { s.setNotReady(errors.New("a test")) },
		"cache":      func(s *subject, _ watch.Interface, _ context.CancelFunc) { s.Cache.Stop() },
	} {
		t.Run(name, func(t *testing.T) {
			s := newSubject(t, withIndexes)
			first := s.put(t, pod("first"))
			gen, _, _, err := s.current()
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			var watches []watch.Interface
			for _, pred := range []storage.SelectionPredicate{storage.Everything, ofNode("n1")} {
				pred.AllowWatchBookmarks = true
				w, err := s.Watch(ctx, podPrefix, storage.ListOptions{ResourceVersion: first.ResourceVersion, Predicate: pred, Recursive: true})
				if err != nil {
					t.Fatal(err)
				}
				watches = append(watches, w)
			}
			s.parked(t, len(watches))
			eventually(t, "the watches' goroutines to end", func() bool { return goroutines() == 0 })
			for _, w := range watches {
				end(s, w, cancel)
			}
			for _, w := range watches {
				ended(t, w)
				w.Stop()
			}
			eventually(t, "the watches to let go of the log", func() bool { return gen.log.Stats().Cursors == 0 })
		})
	}
}

// flushed is a connection that calls onFlush when it is flushed.
type flushed struct {
	*httptest.ResponseRecorder
	onFlush func()
}

// Flush implements http.Flusher.
func (f *flushed) Flush() { f.onFlush() }

// TestNothingIsLostWhileParking has a watch be stopped, and a bookmark be due, when it
// has found nothing left to send and is not parked yet.
func TestNothingIsLostWhileParking(t *testing.T) {
	s := newSubject(t, withIndexes)
	first := s.put(t, pod("p0"))
	const n = 3 * handover
	written := s.churn(t, n, 1)
	waitRevision(t, s.Cache, revision(t, written[n-1].ResourceVersion))
	for name, c := range map[string]struct {
		what func(*watcher)
		want watch.EventType // "": the end
	}{
		"stop":     {(*watcher).Stop, ""},
		"bookmark": {(*watcher).remind, watch.Bookmark},
	} {
		t.Run(name, func(t *testing.T) {
			connection := &flushed{ResponseRecorder: httptest.NewRecorder()}
			handler := coalesce.Handler(http.HandlerFunc(func(stream http.ResponseWriter, req *http.Request) {
				pred := storage.Everything
				pred.AllowWatchBookmarks = true
				events, err := s.Watch(req.Context(), podPrefix, storage.ListOptions{ResourceVersion: first.ResourceVersion, Predicate: pred, Recursive: true})
				if err != nil {
					t.Error(err)
					return
				}
				w := events.(*watcher)
				// The watch holds the stream back until it has handed over everything, and
				// flushes it then, because there is something to flush.
				connection.onFlush = func() { c.what(w) }
				if _, err := stream.Write([]byte("something")); err != nil {
					t.Error(err)
				}
				for _, p := range written {
					expect(t, w, watch.Modified, p.Name, p.ResourceVersion)
				}
				select {
				case event := <-w.ResultChan():
					if event.Type != c.want {
						t.Errorf("%+v, want an event of type %q", event, c.want)
					}
				case <-time.After(patience):
					t.Error("nobody has noticed")
				}
				w.Stop()
			}), true)
			info := &request.RequestInfo{IsResourceRequest: true, Verb: "watch", Resource: "pods"}
			req := httptest.NewRequestWithContext(request.WithRequestInfo(t.Context(), info), http.MethodGet, "/", nil)
			handler.ServeHTTP(connection, req)
		})
	}
}

// TestSlowWatchesAreParkedAgain has watches that are given more than they have room for.
// They have goroutines for as long as that lasts.
func TestSlowWatchesAreParkedAgain(t *testing.T) {
	s := newSubject(t, withIndexes)
	first := s.put(t, pod("p0"))
	all := s.follow(t, storage.ListOptions{ResourceVersion: first.ResourceVersion})
	node := s.follow(t, storage.ListOptions{ResourceVersion: first.ResourceVersion, Predicate: ofNode("n1")})
	mine := pod("mine")
	mine.Spec.NodeName = "n1"
	stored := s.put(t, mine)
	expect(t, all, watch.Added, "mine", stored.ResourceVersion)
	expect(t, node, watch.Added, "mine", stored.ResourceVersion)
	for n := 1; n < 3*handover; n += 3 {
		s.parked(t, 2)
		written := s.churn(t, n, 1)
		waitRevision(t, s.Cache, revision(t, written[n-1].ResourceVersion))
		if n > handover {
			eventually(t, "the full watch to have a goroutine", func() bool { return goroutines() == 1 })
		}
		for _, p := range written {
			expect(t, all, watch.Modified, p.Name, p.ResourceVersion)
		}
	}
	s.parked(t, 2)
	eventually(t, "the watches' goroutines to end", func() bool { return goroutines() == 0 })
	if n, m := len(all.ResultChan()), len(node.ResultChan()); n != 0 || m != 0 {
		t.Errorf("%d and %d events are left over", n, m)
	}
}

// stepped is a clock that a test moves. As with a real one, what is due is called by a
// goroutine of its own.
type stepped struct{ *clocktesting.FakeClock }

// AfterFunc implements clock.WithDelayedExecution.
func (c stepped) AfterFunc(d time.Duration, f func()) clock.Timer {
	return steppedTimer{c.FakeClock.AfterFunc(d, func() { go f() })}
}

// steppedTimer is a timer that may be used again: a FakeClock blocks on the channel of
// one that has gone off twice, though that calls a function.
type steppedTimer struct{ clock.Timer }

// Reset implements clock.Timer.
func (t steppedTimer) Reset(d time.Duration) bool {
	select {
	case <-t.C():
	default:
	}
	return t.Timer.Reset(d)
}

// TestBookmarksOfParkedWatches has watches without anything to send be told how far they
// are, and go on from there.
func TestBookmarksOfParkedWatches(t *testing.T) {
	fake := stepped{clocktesting.NewFakeClock(time.Now())}
	s := newSubject(t, withIndexes, func(_ *storeOptions, c *Config) { c.Clock = fake })
	first := s.put(t, pod("p0"))
	waitRevision(t, s.Cache, revision(t, first.ResourceVersion))
	pred := storage.Everything
	pred.AllowWatchBookmarks = true
	all := s.follow(t, storage.ListOptions{ResourceVersion: first.ResourceVersion, Predicate: pred})
	pred = ofNode("n1")
	pred.AllowWatchBookmarks = true
	node := s.follow(t, storage.ListOptions{ResourceVersion: first.ResourceVersion, Predicate: pred})

	// Up to what fills the channel, which all's reader leaves unread until the bookmark is due.
	for n := 1; n < handover; n++ {
		s.parked(t, 2)
		written := s.churn(t, n, 1)
		last := written[n-1].ResourceVersion
		waitRevision(t, s.Cache, revision(t, last))
		eventually(t, "the events to be handed over", func() bool { return len(all.ResultChan()) == n })
		s.parked(t, 2)
		fake.Step(bookmarkPeriod)
		for _, p := range written {
			expect(t, all, watch.Modified, p.Name, p.ResourceVersion)
		}
		for _, w := range []watch.Interface{all, node} {
			select {
			case event, ok := <-w.ResultChan():
				if !ok || event.Type != watch.Bookmark || event.Object.(*example.Pod).ResourceVersion != last {
					t.Fatalf("%+v after %d events, want a bookmark at %s", event, n, last)
				}
			case <-time.After(patience):
				t.Fatalf("no bookmark after %d events", n)
			}
		}
	}
	s.parked(t, 2)
}

// TestBookmarksTellTheTruth has bookmarks become due while events come.
func TestBookmarksTellTheTruth(t *testing.T) {
	fake := stepped{clocktesting.NewFakeClock(time.Now())}
	s := newSubject(t, withIndexes, func(_ *storeOptions, c *Config) {
		c.Clock = fake
		c.History = 1000 * time.Hour // a client that takes nothing meanwhile is not stalled
	})
	first := s.put(t, pod("p0"))
	waitRevision(t, s.Cache, revision(t, first.ResourceVersion))
	pred := storage.Everything
	pred.AllowWatchBookmarks = true
	w := s.follow(t, storage.ListOptions{ResourceVersion: first.ResourceVersion, Predicate: pred})

	const least = 200 // events, and bookmarks
	enough := make(chan struct{})
	var writing sync.WaitGroup
	writing.Go(func() {
		for {
			s.churn(t, 1, 1)
			fake.Step(bookmarkPeriod)
			select {
			case <-enough:
				return
			default:
			}
		}
	})
	var at uint64 // everything up to here has been told
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	for events, bookmarks := 0, 0; events < least || bookmarks < least/4; {
		if events < least/2 { // at first the watch has to wait, later it is parked mostly
			eventually(t, "the channel to be full", func() bool { return len(w.ResultChan()) == handover })
		}
		select {
		case event, ok := <-w.ResultChan():
			if !ok {
				t.Fatal("the watch has ended")
			}
			rev := revision(t, decoded(event).(*example.Pod).ResourceVersion)
			switch {
			case event.Type != watch.Bookmark && rev <= at:
				t.Fatalf("an event of revision %d after %d", rev, at)
			case rev < at:
				t.Fatalf("a bookmark of revision %d after %d", rev, at)
			case event.Type == watch.Bookmark:
				bookmarks++
			default:
				events++
			}
			at = rev
		case <-deadline.C:
			t.Fatalf("%d events and %d bookmarks in %v", events, bookmarks, patience)
		}
	}
	close(enough)
	writing.Wait()
}
