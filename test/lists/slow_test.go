// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package lists

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/scheme"

	"github.com/weir-project/weir/test/servers"
)

const (
	slowNamespace = "lists-slow"
	slowPath      = "/api/v1/namespaces/" + slowNamespace + "/configmaps"
	// slowObjects and slowBytes make a list of more than 8 MB: more than a connection
	// and the sockets under it hold, where the client's windows are small.
	slowObjects, slowBytes = 1000, 8 << 10
	slowWrites             = 10000
	writers                = 8
)

// clients read little ahead of who reads from them.
func clients(t testing.TB) map[string]*http.Client {
	h2 := servers.NewTransport()
	h2.HTTP2 = &http.HTTP2Config{MaxReceiveBufferPerStream: 64 << 10}
	h1 := servers.NewTransportHTTP1()
	h1.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := (&net.Dialer{}).DialContext(ctx, network, address)
		if err != nil {
			return nil, err
		}
		// A buffer that does not hold some of loopback's large segments makes TCP crawl.
		return conn, conn.(*net.TCPConn).SetReadBuffer(256 << 10)
	}
	t.Cleanup(h2.CloseIdleConnections)
	t.Cleanup(h1.CloseIdleConnections)
	return map[string]*http.Client{"HTTP/2": {Transport: h2}, "HTTP/1.1": {Transport: h1}}
}

// parallel calls do with 0 to n-1, from several goroutines, until it fails.
func parallel(n int, do func(i int) error) error {
	var next atomic.Int64
	var wg sync.WaitGroup
	failed := make(chan error, writers)
	for range writers {
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				if err := do(i); err != nil {
					next.Store(int64(n))
					failed <- err
					return
				}
			}
		})
	}
	wg.Wait()
	close(failed)
	return <-failed
}

// write makes one request that has to succeed, from any goroutine.
func write(ctx context.Context, s *servers.Server, method, path string, object any) error {
	body, err := json.Marshal(object)
	if err != nil {
		return err
	}
	resp, err := s.Answer(ctx, servers.Request{Method: method, Path: path, Body: body, Header: http.Header{"Content-Type": {"application/json"}}})
	if err != nil {
		return err
	}
	if resp.Status/100 != 2 {
		return fmt.Errorf("%s %s: %d %.300s", method, path, resp.Status, resp.Body)
	}
	return nil
}

// slowObject returns one whose content is new, and remains large when it is compressed.
func slowObject(i int) map[string]any {
	const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	content := make([]byte, slowBytes)
	for i := range content {
		content[i] = letters[rand.IntN(len(letters))]
	}
	return map[string]any{"apiVersion": "v1", "kind": "ConfigMap", "metadata": map[string]any{"name": fmt.Sprintf("slow-%04d", i)},
		"data": map[string]any{"content": string(content)}}
}

// fillSlow makes a list that is too long for a connection to hold.
func (p *pair) fillSlow(t *testing.T) {
	t.Helper()
	p.weir.In(t).Must(http.MethodPost, "/api/v1/namespaces", map[string]any{
		"apiVersion": "v1", "kind": "Namespace", "metadata": map[string]any{"name": slowNamespace}})
	err := parallel(slowObjects, func(i int) error {
		return write(t.Context(), p.weir, http.MethodPost, slowPath, slowObject(i))
	})
	if err != nil {
		t.Fatal(err)
	}
}

// slowly is a list that has been begun, and is not read on.
type slowly struct {
	what, accept string
	resp         *http.Response
	begun        []byte
}

func (p *pair) begin(t *testing.T, what string, client *http.Client, accept, query string) *slowly {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*servers.Patience)
	t.Cleanup(cancel)
	resp, err := p.weir.OpenWith(ctx, client, servers.Request{Path: slowPath + "?timeout=10m" + query, Header: http.Header{"Accept": {accept}}})
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	s := &slowly{what: what, accept: accept, resp: resp, begun: make([]byte, 100)}
	t.Cleanup(func() { _ = resp.Body.Close() }) // after a failure there may be something left to read
	if _, err := io.ReadFull(resp.Body, s.begun); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	return s
}

// testSlow reads lists slowly while much is written, and holds each against upstream's
// list of the same revision.
func (p *pair) testSlow(t *testing.T) {
	p.fillSlow(t)
	var all []*slowly
	begin := func(when string) {
		for name, client := range clients(t) {
			for _, accept := range []string{"application/json", "application/vnd.kubernetes.protobuf"} {
				for _, query := range []string{"", "&resourceVersion=0"} {
					all = append(all, p.begin(t, fmt.Sprintf("%s, %s%s, begun %s", name, accept, query, when), client, accept, query))
				}
			}
		}
	}
	begin("before anything is written")
	p.writeMuch(t, slowWrites/2)
	begin("in the middle")
	p.writeMuch(t, slowWrites/2)
	last := p.revision(t)
	for _, s := range all {
		p.checkSlow(t, s, last)
	}
}

// writeMuch writes n times: objects change, and some go and come back.
func (p *pair) writeMuch(t *testing.T, n int) {
	t.Helper()
	// Each has objects of its own, so that no write gets into the way of another.
	var mu [writers]sync.Mutex
	err := parallel(n/2, func(i int) error {
		w := i % writers
		mu[w].Lock()
		defer mu[w].Unlock()
		k := rand.IntN(slowObjects/writers)*writers + w
		path, object := slowPath+"/"+fmt.Sprintf("slow-%04d", k), slowObject(k)
		if i%5 != 0 {
			if err := write(t.Context(), p.weir, http.MethodPut, path, object); err != nil {
				return err
			}
			object["immutable"] = false
			return write(t.Context(), p.weir, http.MethodPut, path, object)
		}
		if err := write(t.Context(), p.weir, http.MethodDelete, path, nil); err != nil {
			return err
		}
		return write(t.Context(), p.weir, http.MethodPost, slowPath, object)
	})
	if err != nil {
		t.Fatal(err)
	}
}

func (p *pair) checkSlow(t *testing.T, s *slowly, last int64) {
	t.Helper()
	rest, err := io.ReadAll(s.resp.Body)
	got := append(s.begun, rest...)
	if err != nil {
		t.Errorf("%s: ended after %d bytes: %v", s.what, len(got), err)
		return
	}
	list := &corev1.ConfigMapList{}
	if err := runtime.DecodeInto(scheme.Codecs.UniversalDecoder(), got, list); err != nil {
		t.Errorf("%s: %v", s.what, err)
		return
	}
	if list.ResourceVersion >= fmt.Sprint(last) && len(list.ResourceVersion) >= len(fmt.Sprint(last)) {
		t.Errorf("%s: it is of revision %s, but was begun before %d", s.what, list.ResourceVersion, last)
	}
	want, err := p.stock.Answer(t.Context(), servers.Request{
		Path:   slowPath + "?resourceVersionMatch=Exact&resourceVersion=" + list.ResourceVersion,
		Header: http.Header{"Accept": {s.accept}},
	})
	if err != nil || want.Status != http.StatusOK {
		t.Errorf("%s: stock: %d %v %.300s", s.what, want.Status, err, want.Body)
		return
	}
	if !bytes.Equal(got, want.Body) {
		t.Errorf("%s: it is not what was there at revision %s: %s", s.what, list.ResourceVersion, compareBytes(want.Body, got))
	}
}
