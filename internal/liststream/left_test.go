// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package liststream

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/server/filters"
)

// longList is more than a connection holds.
func longList(t testing.TB) *world {
	var objects []*corev1.ConfigMap
	for i := range 400 {
		objects = append(objects, newMap(fmt.Sprint("m-", i), strings.Repeat("x", 100<<10)))
	}
	return newWorld(t, objects...)
}

// serve serves with a timeout, as upstream's filters keep it. What the handler ends with, a
// panic or nil, goes to ended.
func (w *world) serve(t *testing.T, timeout time.Duration) (server *httptest.Server, ended chan any) {
	ended = make(chan any, 1)
	handler := filters.WithTimeoutForNonLongRunningRequests(http.HandlerFunc(func(rw http.ResponseWriter, req *http.Request) {
		defer func() {
			r := recover()
			ended <- r
			if r != nil {
				panic(r)
			}
		}()
		w.streaming().ServeHTTP(rw, req)
	}), func(*http.Request, *request.RequestInfo) bool { return false })
	server = httptest.NewUnstartedServer(withInfo(http.HandlerFunc(func(rw http.ResponseWriter, req *http.Request) {
		ctx, cancel := context.WithTimeout(req.Context(), timeout)
		defer cancel()
		handler.ServeHTTP(rw, req.WithContext(ctx))
	})))
	server.EnableHTTP2 = true
	server.StartTLS()
	t.Cleanup(server.Close)
	return server, ended
}

// clients read little ahead of who reads from them.
func clients(t *testing.T) map[string]*http.Client {
	insecure := &tls.Config{InsecureSkipVerify: true} // the certificate is the server's own, on loopback
	h2 := &http.Transport{DisableCompression: true, TLSClientConfig: insecure.Clone(), ForceAttemptHTTP2: true, HTTP2: &http.HTTP2Config{MaxReceiveBufferPerStream: 64 << 10}}
	h1 := &http.Transport{DisableCompression: true, TLSClientConfig: insecure.Clone(), DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := (&net.Dialer{}).DialContext(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return conn, conn.(*net.TCPConn).SetReadBuffer(256 << 10)
	}}
	h1.TLSClientConfig.NextProtos = []string{"http/1.1"}
	t.Cleanup(h1.CloseIdleConnections)
	t.Cleanup(h2.CloseIdleConnections)
	return map[string]*http.Client{"HTTP/2": {Transport: h2}, "HTTP/1.1": {Transport: h1}}
}

func open(t *testing.T, ctx context.Context, client *http.Client, server *httptest.Server, f form) *http.Response {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, server.URL+"/api/v1/namespaces/n/configmaps?"+f.query, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept", f.accept)
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	return resp
}

var longForms = []form{
	{accept: "application/json"}, {accept: "application/vnd.kubernetes.protobuf"}, {accept: "application/json", query: "pretty=true"},
	{accept: "application/json" + asTable, query: "includeObject=Object"},
}

// TestLeft: a client that leaves in the middle of a list is not the handler's fault.
func TestLeft(t *testing.T) {
	w := longList(t)
	for name, client := range clients(t) {
		for _, f := range longForms {
			t.Run(name+" "+f.String(), func(t *testing.T) {
				server, ended := w.serve(t, time.Hour)
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				resp := open(t, ctx, client, server, f)
				if _, err := io.ReadFull(resp.Body, make([]byte, 1000)); err != nil {
					t.Fatal(err)
				}
				_ = resp.Body.Close()
				cancel()
				if r := <-ended; r != nil {
					t.Errorf("the handler ended with %v", r)
				}
			})
		}
	}
}

// TestStalled: a client that stalls for longer than a request may take is given up without
// blame, and then has something that does not look like a whole list.
func TestStalled(t *testing.T) {
	w := longList(t)
	for name, client := range clients(t) {
		for _, f := range longForms[:2] {
			t.Run(name+" "+f.String(), func(t *testing.T) {
				server, ended := w.serve(t, time.Second)
				resp := open(t, t.Context(), client, server, f)
				defer func() { _ = resp.Body.Close() }()
				if r := <-ended; r != nil {
					t.Errorf("the handler ended with %v", r)
				}
				if n, err := io.Copy(io.Discard, resp.Body); err == nil {
					t.Errorf("%d bytes have come, and end like a whole list", n)
				}
			})
		}
	}
}

// pausing is a response that looks at how many confine the heap whenever it is written to.
type pausing struct {
	http.ResponseWriter
	w         *world
	confiners int64
}

func (p *pausing) Write(data []byte) (int, error) {
	p.confiners = max(p.confiners, p.w.confiners.Load())
	return len(data), nil
}

// TestConfined: a Table confines the heap while it decodes, and not while it waits for who reads
// it.
func TestConfined(t *testing.T) {
	w := longList(t)
	p := &pausing{ResponseWriter: httptest.NewRecorder(), w: w}
	withInfo(w.streaming()).ServeHTTP(p, form{accept: "application/json" + asTable, query: "includeObject=Object"}.request())
	if w.confined.Load() == 0 {
		t.Error("the heap is never confined")
	}
	if n := w.confiners.Load(); p.confiners != 0 || n != 0 {
		t.Errorf("%d confine the heap while the client is waited for, and %d when the list has ended", p.confiners, n)
	}
	if n := w.reading.Load(); n != 0 {
		t.Errorf("%d lists that have ended are not done with their objects", n)
	}
	w.confined.Store(0)
	ask(w.streaming(), form{accept: "application/json"})
	if w.confined.Load() != 0 {
		t.Error("a list that keeps what it makes confines the heap")
	}
}
