// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"golang.org/x/net/websocket"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// lines opens a JSON watch and returns its lines.
func lines(t *testing.T, path, accept string) *bufio.Scanner {
	t.Helper()
	httpClient, err := rest.HTTPClientFor(server.Client)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, server.URL+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept", accept)
	res, err := httpClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { res.Body.Close() })
	if res.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(res.Body)
		t.Fatalf("%s: %s: %s", path, res.Status, text)
	}
	s := bufio.NewScanner(res.Body)
	s.Buffer(nil, 4<<20)
	return s
}

func next(t *testing.T, s *bufio.Scanner) string {
	t.Helper()
	if !s.Scan() {
		t.Fatalf("the watch ended: %v", s.Err())
	}
	return s.Text()
}

// prepare makes a namespace with n ConfigMaps.
func prepare(t *testing.T, n int) (*kubernetes.Clientset, string) {
	t.Helper()
	client := clientFor(t, server.Client, runtime.ContentTypeProtobuf, nil)
	ns := namespace(t, client)
	for i := range n {
		if _, err := client.CoreV1().ConfigMaps(ns).Create(t.Context(), configMap(ns, fmt.Sprint("cm-", i), strings.Repeat("v", i)), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	return client, ns
}

// TestWebsocket: the messages of a websocket are the lines of the stream.
func TestWebsocket(t *testing.T) {
	client, ns := prepare(t, 3)
	path := "/api/v1/namespaces/" + ns + "/configmaps?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"
	plain := lines(t, path, "application/json")

	tls, err := rest.TLSConfigFor(server.Client)
	if err != nil {
		t.Fatal(err)
	}
	config, err := websocket.NewConfig("wss"+strings.TrimPrefix(server.URL, "https")+path, server.URL)
	if err != nil {
		t.Fatal(err)
	}
	config.TlsConfig = tls
	config.Header.Set("Accept", "application/json")
	ws, err := websocket.DialConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	defer ws.Close()

	same := func() {
		t.Helper()
		var message string
		if err := websocket.Message.Receive(ws, &message); err != nil {
			t.Fatal(err)
		}
		if line := next(t, plain); strings.TrimSuffix(message, "\n") != line {
			t.Errorf("the websocket says\n%s\nand the stream\n%s", message, line)
		}
	}
	for range 4 { // three objects and the bookmark
		same()
	}
	if _, err := client.CoreV1().ConfigMaps(ns).Update(t.Context(), configMap(ns, "cm-1", "changed"), metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	same()
	if err := client.CoreV1().ConfigMaps(ns).Delete(t.Context(), "cm-2", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	same()
}

// TestTableColumnsOnce: the definitions of a Table's columns are in its first event
// only, whoever else watches the same Table.
func TestTableColumnsOnce(t *testing.T) {
	client, ns := prepare(t, 3)
	path := "/api/v1/namespaces/" + ns + "/configmaps?watch=1"
	const accept = "application/json;as=Table;v=v1;g=meta.k8s.io"
	for range 3 {
		s := lines(t, path, accept)
		for i := range 4 {
			if i == 3 {
				if _, err := client.CoreV1().ConfigMaps(ns).Update(t.Context(), configMap(ns, "cm-1", fmt.Sprint("changed", t.Name(), i)), metav1.UpdateOptions{}); err != nil {
					t.Fatal(err)
				}
				if _, err := client.CoreV1().ConfigMaps(ns).Update(t.Context(), configMap(ns, "cm-1", "back"), metav1.UpdateOptions{}); err != nil {
					t.Fatal(err)
				}
			}
			var event struct {
				Object metav1.Table
			}
			if err := json.Unmarshal([]byte(next(t, s)), &event); err != nil {
				t.Fatal(err)
			}
			if columns := len(event.Object.ColumnDefinitions); (i == 0) != (columns > 0) {
				t.Errorf("event %d has %d column definitions", i, columns)
			}
			if rows := len(event.Object.Rows); rows != 1 {
				t.Errorf("event %d has %d rows", i, rows)
			}
		}
	}
}

// TestSelectorDoesNotLeak: who watches Pods of one node never sees what a Pod became
// after it left the node's selector.
func TestSelectorDoesNotLeak(t *testing.T) {
	client, ns := prepare(t, 0)
	if _, err := client.CoreV1().ConfigMaps(ns).Create(t.Context(), configMap(ns, "secretive", "before"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	path := "/api/v1/namespaces/" + ns + "/configmaps?watch=1&labelSelector=app%3De2e"
	watches := map[string]*bufio.Scanner{"restricted": lines(t, path, "application/json"), "everything": lines(t, strings.Split(path, "&")[0], "application/json")}
	for _, s := range watches {
		next(t, s)
	}
	hidden := configMap(ns, "secretive", "after")
	hidden.Labels = nil
	updated, err := client.CoreV1().ConfigMaps(ns).Update(t.Context(), hidden, metav1.UpdateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]struct{ kind, value string }{"restricted": {"DELETED", "before"}, "everything": {"MODIFIED", "after"}} {
		var event struct {
			Type   string
			Object corev1.ConfigMap
		}
		if err := json.Unmarshal([]byte(next(t, watches[name])), &event); err != nil {
			t.Fatal(err)
		}
		if event.Type != want.kind || event.Object.Data["key"] != want.value || event.Object.ResourceVersion != updated.ResourceVersion {
			t.Errorf("%s sees %s with %q at %s, want %s with %q at %s", name, event.Type, event.Object.Data["key"], event.Object.ResourceVersion, want.kind, want.value, updated.ResourceVersion)
		}
	}
}
