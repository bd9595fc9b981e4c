// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bufio"
	"compress/gzip"
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

// TestGzip: what a client gets that takes gzip, as client-go does unless told
// otherwise, is the stream, compressed: initial events, bookmark and live events.
func TestGzip(t *testing.T) {
	client, ns := prepare(t, 40)
	path := "/api/v1/namespaces/" + ns + "/configmaps?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"
	plain := lines(t, path, "application/json")

	config := rest.CopyConfig(server.Client)
	config.DisableCompression = true // or the transport asks for gzip and unpacks it itself
	httpClient, err := rest.HTTPClientFor(config)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, server.URL+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept", "application/json")
	req.Header.Set("Accept-Encoding", "gzip")
	res, err := httpClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if got := res.Header.Get("Content-Encoding"); got != "gzip" {
		t.Fatalf("Content-Encoding is %q", got)
	}
	unpacked, err := gzip.NewReader(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	packed := bufio.NewScanner(unpacked)
	same := func() {
		t.Helper()
		if a, b := next(t, packed), next(t, plain); a != b {
			t.Errorf("compressed:\n%s\nplain:\n%s", a, b)
		}
	}
	for range 41 { // forty objects and the bookmark
		same()
	}
	for i := range 3 {
		if _, err := client.CoreV1().ConfigMaps(ns).Update(t.Context(), configMap(ns, "cm-1", fmt.Sprint("changed ", i)), metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		same()
	}
}

// TestNode: who watches the Pods of one node is not shown what became of one that is
// not there any more, and sees nothing of other nodes.
func TestNode(t *testing.T) {
	client, ns := prepare(t, 0)
	if _, err := client.CoreV1().ServiceAccounts(ns).Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	create := func(name, node string) *corev1.Pod {
		t.Helper()
		pod, err := client.CoreV1().Pods(ns).Create(t.Context(), &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: name},
			Spec:       corev1.PodSpec{NodeName: node, Containers: []corev1.Container{{Name: "c", Image: "i"}}},
		}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return pod
	}
	create("here", "a")
	create("there", "b")
	s := lines(t, "/api/v1/pods?watch=1&fieldSelector=spec.nodeName%3Da", "application/json")
	expect := func(kind, name string) corev1.Pod {
		t.Helper()
		var event struct {
			Type   string
			Object corev1.Pod
		}
		if err := json.Unmarshal([]byte(next(t, s)), &event); err != nil {
			t.Fatal(err)
		}
		if event.Type != kind || event.Object.Name != name {
			t.Fatalf("the node sees %s %s, want %s %s", event.Type, event.Object.Name, kind, name)
		}
		return event.Object
	}
	expect("ADDED", "here")
	create("elsewhere", "b")
	pending := create("pending", "")
	pending.Labels = map[string]string{"for": "nobody"}
	if _, err := client.CoreV1().Pods(ns).Update(t.Context(), pending, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	binding := &corev1.Binding{ObjectMeta: metav1.ObjectMeta{Name: "pending"}, Target: corev1.ObjectReference{Kind: "Node", Name: "a"}}
	if err := client.CoreV1().Pods(ns).Bind(t.Context(), binding, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if pod := expect("ADDED", "pending"); pod.Spec.NodeName != "a" || pod.Labels["for"] != "nobody" {
		t.Errorf("the node sees %+v", pod)
	}
	now := int64(0)
	if err := client.CoreV1().Pods(ns).Delete(t.Context(), "elsewhere", metav1.DeleteOptions{GracePeriodSeconds: &now}); err != nil {
		t.Fatal(err)
	}
	if err := client.CoreV1().Pods(ns).Delete(t.Context(), "here", metav1.DeleteOptions{GracePeriodSeconds: &now}); err != nil {
		t.Fatal(err)
	}
	expect("MODIFIED", "here") // it is marked first, and then gone
	expect("DELETED", "here")
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

// TestSelectorDoesNotLeak: who watches by a label never sees what an object became
// after it left the selector.
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
