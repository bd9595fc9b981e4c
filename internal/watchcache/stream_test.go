// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package watchcache

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/storage"

	"github.com/weir-project/weir/internal/coalesce"
)

// TestNothingIsHeldBack follows a cache over a real connection, through the writer that
// gathers, with a handler that stops reading while events pile up and flushes as
// upstream's does: whenever its channel is empty. However many have piled up, all of
// them arrive, without another event to push them.
func TestNothingIsHeldBack(t *testing.T) {
	s := newSubject(t)
	first := s.put(t, pod("p"))
	waitRevision(t, s.Cache, revision(t, first.ResourceVersion))

	gate := make(chan struct{}, 1) // holds a token while the handler may read
	gate <- struct{}{}
	failed := make(chan error, 1)
	handler := http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		opts := storage.ListOptions{ResourceVersion: first.ResourceVersion, Predicate: storage.Everything, Recursive: true}
		events, err := s.Cache.Watch(req.Context(), podPrefix, opts)
		if err != nil {
			failed <- err
			return
		}
		defer events.Stop()
		flusher := w.(http.Flusher)
		flusher.Flush()
		for event := range events.ResultChan() {
			<-gate
			gate <- struct{}{}
			if _, err := fmt.Fprintln(w, event.Type); err != nil {
				return
			}
			if len(events.ResultChan()) == 0 {
				flusher.Flush()
			}
		}
	})
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		info := &request.RequestInfo{IsResourceRequest: true, Verb: "watch", Resource: "pods"}
		coalesce.Handler(handler, true).ServeHTTP(w, req.WithContext(request.WithRequestInfo(req.Context(), info)))
	}))
	server.EnableHTTP2 = true
	server.StartTLS()
	t.Cleanup(server.Close)

	ctx, cancel := context.WithTimeout(t.Context(), time.Minute) // so that a failure ends
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, server.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := server.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	lines := bufio.NewScanner(res.Body)
	// Around one and two batches, with and without what the channel and a blocked send hold.
	for n := 1; n <= 3*handover+4; n++ {
		<-gate
		piled := s.churn(t, n, 3)
		waitRevision(t, s.Cache, revision(t, piled[n-1].ResourceVersion))
		gate <- struct{}{}
		for i := range n {
			if !lines.Scan() {
				select {
				case err := <-failed:
					t.Fatal(err)
				default:
					t.Fatalf("of %d events that piled up, %d arrived: %v", n, i, lines.Err())
				}
			}
		}
	}
}
