// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package watchcache

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	examplev1 "k8s.io/apiserver/pkg/apis/example/v1"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/storage"
	clocktesting "k8s.io/utils/clock/testing"
	"k8s.io/utils/ptr"

	"github.com/weir-project/weir/internal/coalesce"
	"github.com/weir-project/weir/internal/convoy"
	"github.com/weir-project/weir/internal/frame"
	"github.com/weir-project/weir/internal/ledger"
	"github.com/weir-project/weir/internal/wire"
)

// countingEncoder counts what it encodes.
type countingEncoder struct {
	runtime.Encoder
	n *atomic.Int64
}

func (c countingEncoder) Encode(obj runtime.Object, w io.Writer) error {
	c.n.Add(1)
	return c.Encoder.Encode(obj, w)
}

// TestReadersKeepTogether has two watch lists read a resource in JSON of which the Store keeps a small part. The second reads only while
// the first is waiting for it, or has read all: kept together, everything is encoded once, and left to themselves twice.
func TestReadersKeepTogether(t *testing.T) {
	const objects = 400
	for _, together := range []bool{true, false} {
		t.Run(fmt.Sprintf("together %t", together), func(t *testing.T) {
			clock := clocktesting.NewFakeClock(time.Now())
			s := newSubject(t, func(_ *storeOptions, c *Config) {
				c.Store = frame.NewStore(256<<10, &ledger.Ledger{})
				if together {
					c.Convoys = convoy.New(64<<10, clock)
				}
			})
			var last string
			for i := range objects {
				p := pod(fmt.Sprintf("p%04d", i))
				p.Annotations = map[string]string{"content": strings.Repeat("content ", 250)}
				last = s.put(t, p).ResourceVersion
			}
			waitRevision(t, s.Cache, revision(t, last))

			made := &atomic.Int64{}
			encoder := countingEncoder{codecs.LegacyCodec(examplev1.SchemeGroupVersion), made}
			// read reads all, and calls begun when there is something to read, and before before each event.
			read := func(begun, before func()) chan int {
				done := make(chan int, 1)
				req := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/?watch=1", nil)
				req.Header.Set("Accept", "application/json")
				req = req.WithContext(request.WithRequestInfo(req.Context(), &request.RequestInfo{IsResourceRequest: true, Verb: "watch"}))
				handler := http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
					n := 0
					defer func() { done <- n }()
					opts := storage.ListOptions{ResourceVersion: "0", SendInitialEvents: ptr.To(true), Predicate: storage.Everything, Recursive: true}
					opts.Predicate.AllowWatchBookmarks = true
					w, err := s.Watch(r.Context(), podPrefix, opts)
					if err != nil {
						t.Error(err)
						return
					}
					defer w.Stop()
					eventually(t, "the first event", func() bool { return len(w.ResultChan()) > 0 })
					begun()
					for before(); n < objects; before() {
						f, ok := (<-w.ResultChan()).Object.(*frame.Frame)
						if !ok {
							t.Error("an initial event is no frame")
							return
						}
						if _, err := f.As(wire.JSON, examplev1.SchemeGroupVersion.String(), encoder); err != nil {
							t.Error(err)
							return
						}
						n++
					}
				})
				go coalesce.Handler(handler, true).ServeHTTP(httptest.NewRecorder(), req)
				return done
			}
			joined, both := make(chan struct{}), make(chan struct{})
			var first chan int
			second := read(func() { close(joined) }, func() {
				<-both
				eventually(t, "the first to wait", func() bool { return clock.HasWaiters() || len(first) == 1 })
			})
			<-joined
			first = read(func() {}, func() {})
			close(both)
			if n := <-second; n != objects {
				t.Errorf("the second has read %d objects", n)
			}
			if n := <-first; n != objects {
				t.Errorf("the first has read %d objects", n)
			}
			if n := made.Load(); together && n > objects*5/4 || !together && n < objects*7/4 {
				t.Errorf("%d objects were encoded %d times", objects, n)
			}
		})
	}
}
