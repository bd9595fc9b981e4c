// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	apitypes "k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/component-base/metrics/legacyregistry"

	"github.com/weir-project/weir/internal/budget"
	"github.com/weir-project/weir/test/wait"
)

// patience bounds the waits of these tests.
const patience = time.Minute

// full leaves nothing of the process's budget until the test ends or empty is called.
func full(t *testing.T) (empty func()) {
	t.Helper()
	g, err := budget.Process.Acquire(t.Context(), budget.Request{Bytes: 1 << 50, Kind: budget.Essential})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.Release)
	return g.Release
}

func waiting(t *testing.T, n int) {
	t.Helper()
	wait.Until(t, fmt.Sprintf("%d requests to wait", n), patience, func() bool { return budget.Process.Usage().Waiting == n })
}

// counted returns the sum of a counter, over the series that have these labels.
func counted(t *testing.T, name string, labels map[string]string) (sum float64) {
	t.Helper()
	families, err := legacyregistry.DefaultGatherer.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			matched := 0
			for _, l := range m.GetLabel() {
				if want, asked := labels[l.GetName()]; asked && want == l.GetValue() {
					matched++
				}
			}
			if matched == len(labels) {
				sum += m.GetCounter().GetValue()
			}
		}
	}
	return sum
}

// large returns an object whose writing is large.
func large(name string) *corev1.ConfigMap {
	return &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"},
		Data:       map[string]string{"content": strings.Repeat("x", 300_000)},
	}
}

// TestWithoutMemory has a server that has no memory left for requests.
func TestWithoutMemory(t *testing.T) {
	server, client := startServer(t, "--data-dir="+t.TempDir(), "--memory-limit=1Ti")
	defer func() {
		if err := server.Stop(); err != nil {
			t.Error(err)
		}
		if size := budget.Process.Usage().Size; size < 1<<62 {
			t.Errorf("the server has ended, and its budget is %d bytes", size)
		}
	}()
	for i := range 40 {
		if _, err := client.CoreV1().ConfigMaps("default").Create(t.Context(), large(fmt.Sprint("l-", i)), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	t.Run("what is essential goes on", func(t *testing.T) { testEssential(t, client) })
	t.Run("a request that waits", func(t *testing.T) { testWaits(t, client) })
	t.Run("who leaves leaves nothing", func(t *testing.T) { testLeaves(t, client) })
	t.Run("a request that is refused", func(t *testing.T) { testRefused(t, server.Client) })
	t.Run("what was refused succeeds", func(t *testing.T) { testRetried(t, client) })
	t.Run("an answer that has begun is whole", func(t *testing.T) { testWhole(t, server.Client) })
	t.Run("a watch that has begun holds nothing", func(t *testing.T) { testWatch(t, client) })
}

// holds waits until requests hold so much, which others that end late do not change for long.
func holds(t *testing.T, what string, bytes int64) {
	t.Helper()
	wait.Until(t, what, patience, func() bool { return budget.Process.Usage().InUse == bytes })
}

func testEssential(t *testing.T, client *kubernetes.Clientset) {
	lease := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: "leader", Namespace: "default"}}
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}}
	if _, err := client.CoreV1().Nodes().Create(t.Context(), node, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	lease, err := client.CoordinationV1().Leases("default").Create(t.Context(), lease, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	events, err := client.CoordinationV1().Leases("default").Watch(t.Context(), metav1.ListOptions{ResourceVersion: lease.ResourceVersion, FieldSelector: "metadata.name=leader"})
	if err != nil {
		t.Fatal(err)
	}
	defer events.Stop()
	full(t)
	for i := range 3 {
		holder := fmt.Sprint("holder-", i)
		lease.Spec.HolderIdentity = &holder
		if lease, err = client.CoordinationV1().Leases("default").Update(t.Context(), lease, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		if e := <-events.ResultChan(); e.Object.(*coordinationv1.Lease).ResourceVersion != lease.ResourceVersion {
			t.Errorf("the watch that runs has %+v", e)
		}
	}
	if _, err := client.CoreV1().Nodes().Patch(t.Context(), "n", apitypes.StrategicMergePatchType,
		[]byte(`{"status":{"conditions":[{"type":"Ready","status":"True"}]}}`), metav1.PatchOptions{}, "status"); err != nil {
		t.Errorf("a node's heartbeat: %v", err)
	}
	for _, path := range []string{"/readyz", "/livez", "/healthz", "/metrics", "/version", "/api"} {
		if err := client.RESTClient().Get().AbsPath(path).Do(t.Context()).Error(); err != nil {
			t.Errorf("%s: %v", path, err)
		}
	}
	if n := budget.Process.Usage().Waiting; n != 0 {
		t.Errorf("%d requests wait", n)
	}
}

func testWaits(t *testing.T, client *kubernetes.Clientset) {
	empty := full(t)
	done := make(chan error)
	go func() {
		_, err := client.CoreV1().ConfigMaps("default").Create(t.Context(), large("waits"), metav1.CreateOptions{})
		done <- err
	}()
	waiting(t, 1)
	select {
	case err := <-done:
		t.Errorf("a large write has not waited: %v", err)
	default:
		empty()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	waiting(t, 0)
}

func testLeaves(t *testing.T, client *kubernetes.Clientset) {
	defer full(t)()
	before := budget.Process.Usage().InUse
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() {
		_, err := client.CoreV1().ConfigMaps("default").List(ctx, metav1.ListOptions{})
		done <- err
	}()
	waiting(t, 1)
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	waiting(t, 0)
	holds(t, "what it waited for to be nobody's", before)
}

// testRefused compares how often it was counted, and what was answered in each form.
func testRefused(t *testing.T, config *rest.Config) {
	defer full(t)()
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		t.Fatal(err)
	}
	for _, accept := range []string{runtime.ContentTypeJSON, runtime.ContentTypeProtobuf, runtime.ContentTypeYAML} {
		counters := []struct {
			name   string
			labels map[string]string
		}{
			{"apiserver_request_total", map[string]string{"code": "429", "resource": "configmaps", "verb": "LIST"}},
			{"apiserver_request_terminations_total", map[string]string{"code": "429", "resource": "configmaps", "verb": "LIST"}},
			{"weir_memory_rejected_requests_total", map[string]string{"reason": "time-out"}},
		}
		var before []float64
		for _, c := range counters {
			before = append(before, counted(t, c.name, c.labels))
		}
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, config.Host+"/api/v1/configmaps?timeout=5s", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Accept", accept)
		answer, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(answer.Body)
		answer.Body.Close()
		if err != nil {
			t.Fatal(err)
		}
		obj, _, err := scheme.Codecs.UniversalDeserializer().Decode(body, nil, nil)
		status, ok := obj.(*metav1.Status)
		if answer.StatusCode != http.StatusTooManyRequests || err != nil || !ok || status.Reason != metav1.StatusReasonTooManyRequests ||
			status.Details == nil || status.Details.RetryAfterSeconds < 1 || !strings.HasPrefix(answer.Header.Get("Content-Type"), accept) ||
			answer.Header.Get("Retry-After") != strconv.Itoa(int(status.Details.RetryAfterSeconds)) {
			t.Errorf("%s: %s, %v, %+v: %q", accept, answer.Status, answer.Header, err, body)
		}
		for i, c := range counters {
			if got := counted(t, c.name, c.labels) - before[i]; got != 1 {
				t.Errorf("%s: %s%v counts %v", accept, c.name, c.labels, got)
			}
		}
	}
}

func testRetried(t *testing.T, client *kubernetes.Clientset) {
	empty := full(t)
	before := counted(t, "weir_memory_rejected_requests_total", nil)
	done := make(chan error)
	go func() {
		done <- client.CoreV1().RESTClient().Post().Namespace("default").Resource("configmaps").Param("timeout", "10s").
			Body(large("retried")).Do(t.Context()).Error()
	}()
	wait.Until(t, "the request to be refused", patience, func() bool { return counted(t, "weir_memory_rejected_requests_total", nil) > before })
	empty()
	if err := <-done; err != nil {
		t.Errorf("client-go's own retry: %v", err)
	}
}

func testWhole(t *testing.T, config *rest.Config) {
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := client.Get(config.Host + "/api/v1/namespaces/default/configmaps")
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	begun := make([]byte, 1000)
	if _, err := io.ReadFull(answer.Body, begun); err != nil {
		t.Fatal(err)
	}
	defer full(t)()
	rest, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	var list corev1.ConfigMapList
	if err := json.Unmarshal(append(begun, rest...), &list); err != nil || len(list.Items) < 40 {
		t.Errorf("%d objects, %v", len(list.Items), err)
	}
}

func testWatch(t *testing.T, client *kubernetes.Clientset) {
	const heavy = 100 << 10
	wait.Until(t, "other requests to be answered", patience, func() bool { return budget.Process.Usage().InUse < heavy })
	yes := true
	events, err := client.CoreV1().ConfigMaps("default").Watch(t.Context(), metav1.ListOptions{
		SendInitialEvents: &yes, AllowWatchBookmarks: true, ResourceVersionMatch: metav1.ResourceVersionMatchNotOlderThan})
	if err != nil {
		t.Fatal(err)
	}
	defer events.Stop()
	for e := range events.ResultChan() {
		if e.Type == "BOOKMARK" {
			break
		}
	}
	wait.Until(t, "the watch to hold nothing", patience, func() bool { return budget.Process.Usage().InUse < heavy })
	// Another one waits for as long as there is nothing.
	empty := full(t)
	done := make(chan error)
	go func() {
		events, err := client.CoreV1().ConfigMaps("default").Watch(t.Context(), metav1.ListOptions{})
		if err == nil {
			events.Stop()
		}
		done <- err
	}()
	waiting(t, 1)
	empty()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
