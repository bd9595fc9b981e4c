// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package watchcache

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/storage"

	"github.com/weir-project/weir/internal/coalesce"
)

// A client that takes nothing is told 410 after as long as history is kept, whether it asks for
// gzip or not.
func TestStalledWatchList(t *testing.T) {
	for _, encoding := range []string{"identity", "gzip"} {
		t.Run(encoding, func(t *testing.T) {
			s := newSlowSubject(t)
			if encoding == "gzip" {
				// More rows than there is room for. What all fits leaves nothing to wait for.
				for i := range 2 * rowHandover {
					p := pod(fmt.Sprintf("large%d", i))
					p.Namespace, p.Annotations = "quiet", map[string]string{"content": strings.Repeat("a", 256<<10)}
					waitRevision(t, s.Cache, revision(t, s.put(t, p).ResourceVersion))
				}
			}
			handler := coalesce.Handler(http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) {
				yes := true
				pred := storage.Everything
				pred.AllowWatchBookmarks = true
				ctx := request.WithNamespace(req.Context(), "quiet")
				w, err := s.Watch(ctx, podPrefix+"quiet/", storage.ListOptions{ResourceVersion: "0", SendInitialEvents: &yes, Predicate: pred, Recursive: true})
				if err != nil {
					t.Error(err)
					return
				}
				defer w.Stop()
				eventually(t, "all that there is room for to be handed over", func() bool {
					return len(w.ResultChan()) == cap(w.ResultChan()) && s.clock.HasWaiters()
				})
				s.pass(t, 2*MinHistory)
				if n := s.stats(t).Cursors; n != 0 {
					t.Errorf("a client has taken nothing for %v and is not told", 2*MinHistory)
				}
				if e := <-w.ResultChan(); e.Type != watch.Error {
					t.Errorf("it is kept %v", e)
				}
			}), true)
			info := &request.RequestInfo{IsResourceRequest: true, Verb: "watch", APIVersion: "v1", Resource: "pods", Namespace: "quiet"}
			req := httptest.NewRequestWithContext(request.WithRequestInfo(t.Context(), info), http.MethodGet, "/", nil)
			req.Header.Set("Accept-Encoding", encoding)
			handler.ServeHTTP(httptest.NewRecorder(), req)
		})
	}
}
