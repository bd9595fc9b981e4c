// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package watchcache

import (
	"context"
	"math/rand/v2"
	"net/http"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/apis/example"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/storage"

	"github.com/weir-project/weir/internal/coalesce"
)

// jerky is a connection that takes its time now and then.
type jerky struct{ n, flushedAt atomic.Int64 }

func (j *jerky) Header() http.Header { return http.Header{} }
func (j *jerky) WriteHeader(int)     {}
func (j *jerky) Write(p []byte) (int, error) {
	j.n.Add(int64(len(p)))
	if rand.N(4) == 0 {
		time.Sleep(time.Duration(rand.N(50)) * time.Microsecond)
	} else {
		runtime.Gosched()
	}
	return len(p), nil
}
func (j *jerky) Flush() { j.flushedAt.Store(j.n.Load()) }

// BenchmarkParkStress has watches that come, are reminded, wait, are parked and stopped while
// events come at any time: each gets all its events in order, bookmarks are true, and what is
// sent is flushed.
func BenchmarkParkStress(b *testing.B) {
	h := newHandoverBench(b)
	ctx := b.Context()
	go func() {
		for {
			select {
			case <-h.handed:
			case <-ctx.Done():
				return
			}
		}
	}()
	fa, fb := h.frame(b, "a"), h.frame(b, "b")
	stop := make(chan struct{})
	var writer, clients sync.WaitGroup
	var head atomic.Uint64
	writer.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			f := fa
			if rand.N(2) == 0 {
				f = fb
			}
			h.append(b, f, f)
			head.Store(h.rev)
			for range rand.N(30) {
				runtime.Gosched()
			}
			if rand.N(20) == 0 {
				time.Sleep(200 * time.Microsecond)
			}
		}
	})
	var events, bookmarks, quiet atomic.Int64
	one := func() {
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		conn := &jerky{}
		var s *coalesce.Stream
		release, ready := make(chan struct{}), make(chan struct{})
		var server sync.WaitGroup
		server.Go(func() {
			req, _ := http.NewRequestWithContext(request.WithRequestInfo(ctx, &request.RequestInfo{IsResourceRequest: true, Verb: "watch"}), "GET", "/", nil)
			coalesce.Handler(http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) {
				s = coalesce.From(req.Context())
				close(ready)
				<-release
			})).ServeHTTP(conn, req)
		})
		<-ready
		w := &watcher{cache: h.Cache, ctx: ctx, result: make(chan watch.Event, handover), stop: make(chan struct{}),
			match: newMatcher(podPrefix+"a/", storage.Everything, func() {}), bookmarks: true, stream: s}
		rev := head.Load()
		if rev == 0 {
			rev = 2
		}
		if d := rand.Uint64N(300); rand.N(2) == 0 && rev > d+2 {
			rev -= d
		}
		var err error
		if w.cursor, err = h.log.FollowKey(rev, scope{kind: inNamespace, namespace: "a"}); err != nil {
			b.Error(err)
			close(release)
			return
		}
		w.start, w.replay = rev, rev
		s.Busy()
		w.busy = true
		w.detach = context.AfterFunc(ctx, w.Stop)
		go w.run(w.begin)
		var reminders sync.WaitGroup
		reminders.Go(func() {
			for range rand.N(40) {
				w.remind()
				time.Sleep(time.Duration(rand.N(300)) * time.Microsecond)
			}
			time.Sleep(time.Duration(rand.N(3000)) * time.Microsecond)
			if rand.N(2) == 0 {
				cancel()
			} else {
				w.Stop()
			}
		})
		last := rev
		buf := make([]byte, 700)
		for event := range w.result {
			switch event.Type {
			case watch.Modified:
				// The frame is always one; the number of events is what can be told, see below.
				events.Add(1)
			case watch.Bookmark:
				bookmarks.Add(1)
				v, _ := (storage.APIObjectVersioner{}).ObjectResourceVersion(event.Object.(*example.Pod))
				if v < last {
					b.Errorf("bookmark %d after %d", v, last)
				}
				last = v
			default:
				b.Errorf("%+v", event)
			}
			if _, err := s.Write(buf[:1+rand.N(len(buf))]); err != nil {
				b.Error(err)
			}
			if len(w.result) == 0 {
				s.Flush()
			}
		}
		reminders.Wait()
		quiet.Add(1)
		close(release)
		server.Wait()
	}
	for range 40 {
		clients.Go(func() {
			for range b.N {
				one()
			}
		})
	}
	clients.Wait()
	close(stop)
	writer.Wait()
	for range 1000 {
		if h.log.Stats().Cursors == 0 {
			break
		}
		time.Sleep(time.Millisecond)
	}
	if st := h.log.Stats(); st.Cursors != 0 || st.Parked != 0 {
		b.Errorf("%+v", st)
	}
	b.Logf("%d watches, %d events, %d bookmarks, %+v", quiet.Load(), events.Load(), bookmarks.Load(), h.log.Stats())
}
