// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/weir-project/weir/internal/status"
)

// statusOf returns the server's report, and how long it is.
func statusOf(t *testing.T, client *kubernetes.Clientset) (*status.Report, int) {
	t.Helper()
	body, err := client.RESTClient().Get().AbsPath(status.Path).DoRaw(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	r := &status.Report{}
	if err := json.Unmarshal(body, r); err != nil {
		t.Fatal(err)
	}
	return r, len(body)
}

// transport returns one over HTTP/2 that takes few bytes of a stream in advance.
func transport(t *testing.T) *http.Transport {
	t.Helper()
	config, err := rest.TLSConfigFor(server.Client)
	if err != nil {
		t.Fatal(err)
	}
	tr := &http.Transport{TLSClientConfig: config, DisableCompression: true, Protocols: &http.Protocols{}, HTTP2: &http.HTTP2Config{MaxReceiveBufferPerStream: 64 << 10}}
	tr.Protocols.SetHTTP2(true)
	t.Cleanup(tr.CloseIdleConnections)
	return tr
}

// watch opens one that ends with ctx.
func watch(ctx context.Context, tr http.RoundTripper, path, agent string) (io.ReadCloser, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, server.Client.Host+path, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("User-Agent", agent)
	if server.Client.BearerToken != "" {
		req.Header.Set("Authorization", "Bearer "+server.Client.BearerToken)
	}
	resp, err := tr.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		_ = resp.Body.Close()
		return nil, fmt.Errorf("%s: %s", path, resp.Status)
	}
	return resp.Body, nil
}

// TestStatusWithManyWatches: with 10,000 watches open, of more clients than are kept by name, the status counts all of them, and is no
// longer than it may be.
func TestStatusWithManyWatches(t *testing.T) {
	const (
		watches = 10_000
		agents  = 700
		longest = 1 << 20 // bytes; a name of a client may have 256
	)
	admin := clientFor(t, server.Client, runtime.ContentTypeJSON, nil)
	ns := namespace(t, admin)
	ctx, cancel := context.WithTimeout(t.Context(), 5*patience) // a busy machine opens 25 watches a second
	defer cancel()
	tr := transport(t)
	numbers := make(chan int)
	var opening sync.WaitGroup
	for range 50 {
		opening.Go(func() {
			for i := range numbers {
				if _, err := watch(ctx, tr, "/api/v1/namespaces/"+ns+"/configmaps?watch=1", fmt.Sprintf("many-%d/%s", i%agents, strings.Repeat("x", 300))); err != nil {
					t.Errorf("watch %d: %v", i, err)
				}
			}
		})
	}
	for i := range watches {
		if t.Failed() {
			break // the others would fail, too
		}
		numbers <- i
	}
	close(numbers)
	opening.Wait()
	if t.Failed() {
		return
	}
	r, size := statusOf(t, admin)
	t.Logf("a status of %d bytes", size)
	if size > longest || len(r.Readers) > 20 || len(r.Clients) > 501 {
		t.Errorf("a status of %d bytes, with %d readers and %d clients", size, len(r.Readers), len(r.Clients))
	}
	open := int64(0)
	for _, c := range r.Clients {
		open += c.Watching
		if len(c.UserAgent) > 256 {
			t.Errorf("a user agent of %d bytes", len(c.UserAgent))
		}
	}
	if open < watches || r.Watching < watches || !r.Clients[len(r.Clients)-1].Others {
		t.Errorf("%d watches are open, %d of all clients together", r.Watching, open)
	}
	if i := slices.IndexFunc(r.Resources, func(r status.Resource) bool { return r.Name == "configmaps" }); i < 0 || r.Resources[i].Watches < watches {
		t.Errorf("ConfigMaps have not all watches: %+v", r.Resources)
	}
	cancel()
	eventually(t, func() (bool, string) {
		r, _ := statusOf(t, admin)
		return r.Watching < 1000, fmt.Sprintf("%d watches are open though their clients have left", r.Watching)
	})
}

// TestStatusNamesTheSlow: a client that takes nothing is among the slowest readers, with what it has yet to read, until it takes it.
func TestStatusNamesTheSlow(t *testing.T) {
	const (
		writes = 20
		size   = 900_000
	)
	admin := clientFor(t, server.Client, runtime.ContentTypeJSON, nil)
	ns := namespace(t, admin)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	tr := transport(t)
	agent := "slow\x1b[31m/" + ns
	if _, err := watch(ctx, tr, "/api/v1/namespaces/"+ns+"/configmaps?watch=1", agent); err == nil {
		t.Fatal("a control character was sent") // net/http does not; who does is in cmd/weir's TestStatus
	}
	agent = "<b>slow</b>/" + ns
	body, err := watch(ctx, tr, "/api/v1/namespaces/"+ns+"/configmaps?watch=1", agent)
	if err != nil {
		t.Fatal(err)
	}
	for i := range writes {
		if _, err := admin.CoreV1().ConfigMaps(ns).Create(ctx, configMap(ns, fmt.Sprint("c", i), strings.Repeat("x", size)), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	reader := func() *status.Reader {
		r, _ := statusOf(t, admin)
		i := slices.IndexFunc(r.Readers, func(r status.Reader) bool { return r.UserAgent == agent })
		if i < 0 {
			return nil
		}
		return &r.Readers[i]
	}
	eventually(t, func() (bool, string) {
		r := reader()
		if r == nil {
			return false, "it is not there"
		}
		ok := r.Resource == "configmaps" && r.Namespace == ns && r.Name == "" && r.User != "" && r.Events > 0 && r.Events < writes && r.Seconds > 0 && r.Bytes < writes*size
		return ok, fmt.Sprintf("%+v", *r)
	})
	read := make(chan error, 1)
	go func() {
		_, err := io.CopyN(io.Discard, body, writes*size)
		read <- err
	}()
	if err := <-read; err != nil {
		t.Fatal(err)
	}
	go func() { _, _ = io.Copy(io.Discard, body) }() // ends with ctx
	eventually(t, func() (bool, string) { return reader() == nil, "it has taken all, and is still there" })
}
