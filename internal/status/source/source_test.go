// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package source

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/weir-project/weir/internal/status"
)

// sourceOf returns a source whose server is h, by way of a kubeconfig.
func sourceOf(t *testing.T, h http.HandlerFunc) (*Source, *httptest.Server) {
	t.Helper()
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	config := clientcmdapi.NewConfig()
	config.Clusters["c"] = &clientcmdapi.Cluster{Server: server.URL}
	config.Contexts["c"] = &clientcmdapi.Context{Cluster: "c"}
	config.CurrentContext = "c"
	s, err := New(clientcmd.NewDefaultClientConfig(*config, nil))
	if err != nil {
		t.Fatal(err)
	}
	return s, server
}

func TestErrors(t *testing.T) {
	for _, test := range []struct {
		status int
		body   string
		want   []string
	}{
		{404, "404 page not found", []string{"has no /weir/status", "/metrics", "apiserver_longrunning_requests"}},
		{403, "no", []string{"needs the verb get", "/weir/status"}},
		{401, "", []string{"does not know the user"}},
		{500, "broken", []string{"cannot get the status"}},
		{200, "<html>", []string{"cannot read the status"}},
	} {
		s, _ := sourceOf(t, func(w http.ResponseWriter, req *http.Request) {
			if req.URL.Path != status.Path {
				t.Errorf("asked for %s", req.URL.Path)
			}
			w.WriteHeader(test.status)
			_, _ = w.Write([]byte(test.body))
		})
		_, err := s.Get(t.Context())
		for _, want := range test.want {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%d: %v, want %q in it", test.status, err, want)
			}
		}
	}
	s, server := sourceOf(t, func(http.ResponseWriter, *http.Request) {})
	server.Close()
	if _, err := s.Get(t.Context()); err == nil || !strings.Contains(err.Error(), "cannot reach") {
		t.Errorf("a server that is gone: %v", err)
	}
}
