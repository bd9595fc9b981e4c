// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package coalesce_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/endpoints/responsewriter"
	"k8s.io/apiserver/pkg/server/routine"

	"github.com/weir-project/weir/internal/coalesce"
	"github.com/weir-project/weir/internal/ledger"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds what a test waits for; it decides nothing unless something hangs.
const patience = time.Minute

// tap stands between the server and the Stream and records what comes through.
type tap struct {
	http.ResponseWriter
	mu sync.Mutex
	// calls are the lengths of the Writes, and -1 for each Flush.
	calls []int
}

var _ responsewriter.UserProvidedDecorator = (*tap)(nil)

func (tp *tap) Unwrap() http.ResponseWriter { return tp.ResponseWriter }

func (tp *tap) Write(p []byte) (int, error) {
	tp.mu.Lock()
	tp.calls = append(tp.calls, len(p))
	tp.mu.Unlock()
	return tp.ResponseWriter.Write(p)
}

func (tp *tap) Flush() {
	tp.mu.Lock()
	tp.calls = append(tp.calls, -1)
	tp.mu.Unlock()
	tp.ResponseWriter.(http.Flusher).Flush()
}

func (tp *tap) seen() []int {
	tp.mu.Lock()
	defer tp.mu.Unlock()
	return append([]int{}, tp.calls...)
}

// exchange is one request that a test makes of its handler.
type exchange struct {
	// ctx ends when the test has waited too long.
	ctx context.Context
	// tap is what reached the server, outer what coalesce.Handler was given.
	tap   *tap
	outer http.ResponseWriter
}

// bothVersions runs a test over HTTP/1.1 and over HTTP/2, with TLS, and looks at the
// ledger afterwards.
func bothVersions(t *testing.T, test func(t *testing.T, s *server)) {
	for _, version := range []int{1, 2} {
		t.Run(fmt.Sprintf("HTTP%d", version), func(t *testing.T) {
			before := ledger.Process.Bytes(ledger.Streams)
			s := newServer(t, version)
			test(t, s)
			s.close()
			if after := ledger.Process.Bytes(ledger.Streams); after != before {
				t.Errorf("%d bytes of stream buffers are booked after everything has ended", after-before)
			}
		})
	}
}

// server is a real server whose handler is set by the test.
type server struct {
	*httptest.Server
	version int
	ctx     context.Context
	cancel  context.CancelFunc
	handler func(w http.ResponseWriter, req *http.Request, x exchange)
	// routine says that requests are served as with the gate APIServingWithRoutine.
	routine bool
	// info is what the request is said to be.
	info request.RequestInfo
	// returned gets a value when coalesce.Handler has returned.
	returned chan struct{}
}

func newServer(t *testing.T, version int) *server {
	s := &server{
		version:  version,
		info:     request.RequestInfo{IsResourceRequest: true, Verb: "watch"},
		returned: make(chan struct{}, 1), // a test makes one request
	}
	s.ctx, s.cancel = context.WithTimeout(context.Background(), patience)
	s.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.ProtoMajor != version {
			t.Errorf("the request came over HTTP/%d", req.ProtoMajor)
		}
		x := exchange{ctx: s.ctx, tap: &tap{ResponseWriter: w}}
		x.outer = responsewriter.WrapForHTTP1Or2(x.tap)
		inner := http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) { s.handler(w, req, x) })
		info := s.info
		handler := coalesce.Handler(inner, true)
		if s.routine {
			handler = routine.WithRoutine(handler, func(*http.Request, *request.RequestInfo) bool { return true })
		}
		handler.ServeHTTP(x.outer, req.WithContext(request.WithRequestInfo(req.Context(), &info)))
		s.returned <- struct{}{}
	}))
	s.EnableHTTP2 = version == 2
	if version == 1 {
		s.TLS = &tls.Config{NextProtos: []string{"http/1.1"}}
	}
	s.StartTLS()
	t.Cleanup(s.close)
	return s
}

// close waits for the handlers.
func (s *server) close() {
	s.Client().CloseIdleConnections()
	s.Server.Close()
	s.cancel()
}

// get sends the request and returns when the response's headers are there.
func (s *server) get(t *testing.T) *http.Response {
	t.Helper()
	req, err := http.NewRequestWithContext(s.ctx, http.MethodGet, s.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := s.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	return resp
}

// wait waits for what, which has to come.
func wait(t *testing.T, ctx context.Context, what string, c <-chan struct{}) {
	t.Helper()
	select {
	case <-c:
	case <-ctx.Done():
		t.Errorf("%s did not come within %v", what, patience)
	}
}
