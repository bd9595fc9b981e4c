// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
)

// TestStalledList: a list that its client does not read ends when the request's time is up,
// and lets go of the state that it was reading.
func TestStalledList(t *testing.T) {
	admin := clientFor(t, server.Client, runtime.ContentTypeJSON, nil)
	ns := namespace(t, admin)
	for i := range 20 {
		if _, err := admin.CoreV1().ConfigMaps(ns).Create(t.Context(), configMap(ns, fmt.Sprint("c", i), strings.Repeat("x", 900_000)), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	config, err := rest.TLSConfigFor(server.Client)
	if err != nil {
		t.Fatal(err)
	}
	for name, protocols := range map[string]func(*http.Protocols){
		"HTTP/1.1": func(p *http.Protocols) { p.SetHTTP1(true) },
		"HTTP/2":   func(p *http.Protocols) { p.SetHTTP2(true) },
	} {
		t.Run(name, func(t *testing.T) {
			transport := &http.Transport{TLSClientConfig: config.Clone(), DisableCompression: true, Protocols: &http.Protocols{}, HTTP2: &http.HTTP2Config{MaxReceiveBufferPerStream: 64 << 10}}
			transport.TLSClientConfig.MinVersion = tls.VersionTLS12
			protocols(transport.Protocols)
			defer transport.CloseIdleConnections()
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.Client.Host+"/api/v1/namespaces/"+ns+"/configmaps?timeout=1s", nil)
			if err != nil {
				t.Fatal(err)
			}
			if server.Client.BearerToken != "" {
				req.Header.Set("Authorization", "Bearer "+server.Client.BearerToken)
			}
			resp, err := (&http.Client{Transport: transport}).Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			if resp.StatusCode != http.StatusOK {
				t.Fatal(resp.Status)
			}
			eventually(t, func() (bool, string) {
				stacks, err := admin.CoreV1().RESTClient().Get().AbsPath("/debug/pprof/goroutine").Param("debug", "1").DoRaw(t.Context())
				if err != nil {
					return false, err.Error()
				}
				return !strings.Contains(string(stacks), "liststream.(*Answer)"), "the list is still being sent:\n" + string(stacks)
			})
			if n, err := io.Copy(io.Discard, resp.Body); err == nil {
				t.Errorf("half a list of %d bytes looks whole", n)
			}
		})
	}
}
