// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package coalesce_test

import (
	"math/rand/v2"
	"net/http"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"k8s.io/apiserver/pkg/endpoints/request"

	"github.com/weir-project/weir/internal/coalesce"
)

// counted is a connection that knows what has been written and flushed.
type counted struct{ written, flushed atomic.Int64 }

func (c *counted) Header() http.Header { return http.Header{} }
func (c *counted) WriteHeader(int)     {}
func (c *counted) Write(p []byte) (int, error) {
	runtime.Gosched()
	c.written.Add(int64(len(p)))
	return len(p), nil
}
func (c *counted) Flush() { runtime.Gosched(); c.flushed.Store(c.written.Load()) }

// TestQuietMeansFlushed has a handler that writes and flushes, and producers as a watch has
// them: who was busy says Idle when the next may be busy already. When all are quiet nothing
// is held back.
func TestQuietMeansFlushed(t *testing.T) {
	for range 20_000 {
		conn := &counted{}
		req, err := http.NewRequestWithContext(request.WithRequestInfo(t.Context(), &request.RequestInfo{IsResourceRequest: true, Verb: "watch"}), http.MethodGet, "/", nil)
		if err != nil {
			t.Fatal(err)
		}
		coalesce.Handler(http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) {
			s := coalesce.From(req.Context())
			s.Busy()
			var all sync.WaitGroup
			total := 0
			sizes := make([]int, rand.N(6))
			for i := range sizes {
				sizes[i] = 1 + rand.N(40_000)
				total += sizes[i]
			}
			all.Go(func() {
				p := make([]byte, 40_000)
				for _, n := range sizes {
					if _, err := s.Write(p[:n]); err != nil {
						t.Error(err)
					}
					s.Flush()
				}
			})
			for range 2 {
				busy := rand.N(2) == 0
				all.Go(func() {
					if busy {
						s.Busy()
						runtime.Gosched()
					}
					s.Idle()
				})
			}
			all.Wait()
			if got := conn.flushed.Load(); got != int64(total) {
				t.Fatalf("of %d bytes %d are written and %d flushed while all is quiet", total, conn.written.Load(), got)
			}
		}), true).ServeHTTP(conn, req)
	}
}
