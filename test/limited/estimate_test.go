// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package limited

import (
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"k8s.io/client-go/kubernetes"

	"github.com/weir-project/weir/internal/bench/dataset"
	"github.com/weir-project/weir/internal/bench/view"
	"github.com/weir-project/weir/internal/rig"
	"github.com/weir-project/weir/test/servers"
)

func TestMain(m *testing.M) { servers.Main(m) }

// measure is what a server says that its requests hold, and what its heap does.
type measure struct{ estimated, live int64 }

func measured(t *testing.T, s *servers.Server) measure {
	t.Helper()
	if err := s.Rig.Collect(t.Context()); err != nil {
		t.Fatal(err)
	}
	m, err := s.Rig.Metrics(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return measure{estimated: gauge(t, s, "weir_memory_requests_in_use_bytes"), live: m.Heap.Alloc + m.Heap.Stack}
}

func gauge(t *testing.T, s *servers.Server, name string) int64 {
	t.Helper()
	text, err := s.Rig.Get(t.Context(), "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile(`(?m)^` + name + ` (\S+)$`).FindSubmatch(text)
	if found == nil {
		t.Fatalf("%s has no metric %s", s.Name, name)
	}
	value, err := strconv.ParseFloat(string(found[1]), 64)
	if err != nil {
		t.Fatal(err)
	}
	return int64(value)
}

// secret returns one of size bytes, in JSON.
func secret(name string, size int, fill byte) string {
	return fmt.Sprintf(`{"kind":"Secret","apiVersion":"v1","metadata":{"name":%q},"data":{"payload":%q}}`,
		name, base64.StdEncoding.EncodeToString([]byte(strings.Repeat(string(fill), size))))
}

// estimates is a server with data, whose etcd can be stopped.
type estimates struct {
	server *servers.Server
	etcd   *rig.Etcd
}

func startEstimates(t *testing.T, args ...string) *estimates {
	room := servers.Room(t)
	etcd, err := room.StartEtcd(t.Context(), rig.EtcdOptions{})
	if err != nil {
		t.Fatal(err)
	}
	program := servers.Program(servers.Weir, append(args, "--memory-limit=1Ti")...)
	program.Etcd = etcd.Endpoints()
	return &estimates{server: servers.StartIn(t, room, program).Wait(), etcd: etcd}
}

// load loads Secrets of 1 MB and Pods of 7.5 KB.
func load(t *testing.T, s *servers.Server, secrets, pods int) {
	t.Helper()
	config, err := s.Rig.RESTConfig("load")
	if err != nil {
		t.Fatal(err)
	}
	config.ContentType = "application/vnd.kubernetes.protobuf"
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	for _, set := range []dataset.Set{dataset.Secrets(dataset.Place{}, secrets, 1_000_000), dataset.Pods(dataset.Place{}, pods, 7500)} {
		if _, err := set.Load(t.Context(), client, 8, view.New(io.Discard)); err != nil {
			t.Fatal(err)
		}
	}
}

// TestWritesHoldWhatIsEstimated has writes wait for etcd, which is stopped, with all that they hold.
func TestWritesHoldWhatIsEstimated(t *testing.T) {
	const size, at = 1_000_000, 8
	e := startEstimates(t)
	for i := range at {
		e.server.Must(http.MethodPost, "/api/v1/namespaces/default/secrets", raw(secret(fmt.Sprint("s-", i), size, 'a')))
	}
	for _, c := range []struct {
		name, method, path, contentType string
		body                            func(i int) string
	}{
		{"create", http.MethodPost, "/api/v1/namespaces/default/secrets", "application/json", func(i int) string { return secret(fmt.Sprint("new-", i), size, 'b') }},
		{"update", http.MethodPut, "/api/v1/namespaces/default/secrets/s-%d", "application/json", func(i int) string { return secret(fmt.Sprint("s-", i), size, 'c') }},
		{"merge patch", http.MethodPatch, "/api/v1/namespaces/default/secrets/s-%d", "application/merge-patch+json", func(i int) string { return secret(fmt.Sprint("s-", i), size, 'd') }},
		{"small strategic merge patch", http.MethodPatch, "/api/v1/namespaces/default/secrets/s-%d", "application/strategic-merge-patch+json", func(int) string { return `{"metadata":{"labels":{"a":"b"}}}` }},
		{"apply", http.MethodPatch, "/api/v1/namespaces/default/secrets/s-%d?fieldManager=m&force=true", "application/apply-patch+yaml", func(i int) string { return secret(fmt.Sprint("s-", i), size, 'e') }},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := measured(t, e.server)
			if err := e.etcd.Members[0].Pause(); err != nil {
				t.Fatal(err)
			}
			defer func() { _ = e.etcd.Members[0].Resume() }()
			done := make(chan error, at)
			for i := range at {
				go func() {
					path := c.path
					if strings.Contains(path, "%d") {
						path = fmt.Sprintf(path, i)
					}
					got, err := e.server.Answer(t.Context(), servers.Request{
						Method: c.method, Path: path, Header: http.Header{"Content-Type": {c.contentType}, "Accept": {"application/json"}}, Body: []byte(c.body(i)),
					})
					if err == nil && got.Status/100 != 2 {
						err = fmt.Errorf("%d: %.200s", got.Status, got.Body)
					}
					done <- err
				}()
			}
			servers.Eventually(t, "writes to wait for etcd", func() bool {
				stacks, err := e.server.Rig.Get(t.Context(), "/debug/pprof/goroutine?debug=2")
				waiting := 0
				for stack := range strings.SplitSeq(string(stacks), "\n\n") {
					if strings.Contains(stack, ".OptimisticPut(") {
						waiting++
					}
				}
				return err == nil && waiting >= at
			})
			// The server's own writes, of its lease and its address, wait there as well, so that one of these may be on its way yet: what is held changes until all wait.
			during := measured(t, e.server)
			servers.Eventually(t, "all to wait", func() bool {
				was := during
				during = measured(t, e.server)
				return during.live > was.live-noise/2 && during.live < was.live+noise/2
			})
			if err := e.etcd.Members[0].Resume(); err != nil {
				t.Fatal(err)
			}
			for range at {
				if err := <-done; err != nil {
					t.Error(err)
				}
			}
			check(t, before, during, at, size)
		})
	}
}

// raw is JSON as it is.
type raw string

// MarshalJSON implements json.Marshaler.
func (r raw) MarshalJSON() ([]byte, error) { return []byte(r), nil }

// noise is what the heap changes by itself, in bytes.
const noise = 2_000_000

// check finds an estimate that is less than what is held.
func check(t *testing.T, before, during measure, requests, size int64) {
	t.Helper()
	estimated, live := during.estimated-before.estimated, during.live-before.live
	t.Logf("%d requests: estimated %.1f MB, on the heap %.1f MB: %.1f and %.1f times their objects", requests,
		float64(estimated)/1e6, float64(live)/1e6, float64(estimated)/float64(size*requests), float64(live)/float64(size*requests))
	if live > estimated+noise {
		t.Errorf("requests hold %d bytes, and are thought to hold %d", live, estimated)
	}
}

const table = "application/json;as=Table;g=meta.k8s.io;v=v1"

// TestListsHoldWhatIsEstimated has lists wait for their clients, who do not read.
func TestListsHoldWhatIsEstimated(t *testing.T) {
	const secrets, pods, at = 8, 600, 4
	type list struct {
		path, accept string
		size         int64
	}
	for _, s := range []struct {
		name  string
		args  []string
		lists []list
	}{
		{"decoded", []string{"--feature-gates=StreamingList=false"}, []list{
			{"/api/v1/secrets", "application/json", secrets * 1_000_000},
			{"/api/v1/pods", "application/json", pods * 7500},
			{"/api/v1/pods", table, pods * 7500},
			{"/api/v1/pods?limit=300", "application/vnd.kubernetes.protobuf", 300 * 7500},
		}},
		// Only a guess is made of the size of objects that have no cache, so Secrets of 1 MB are left out.
		{"from etcd", []string{"--watch-cache-sizes=pods#0", "--etcd-count-metric-poll-period=1s"}, []list{
			{"/api/v1/pods", "application/json", pods * 7500},
		}},
		{"streamed", nil, []list{
			{"/api/v1/secrets", "application/json", secrets * 1_000_000},
			{"/api/v1/pods", "application/vnd.kubernetes.protobuf", pods * 7500},
			{"/api/v1/pods", table, pods * 7500},
		}},
	} {
		t.Run(s.name, func(t *testing.T) {
			e := startEstimates(t, s.args...)
			load(t, e.server, secrets, pods)
			if s.name == "from etcd" {
				// Without a cache the server counts its objects now and then.
				servers.Eventually(t, "objects to be counted", func() bool {
					text, err := e.server.Rig.Get(t.Context(), "/metrics")
					counted := regexp.MustCompile(`(?m)^apiserver_resource_objects\{.*resource="pods"\} (\d+)$`).FindSubmatch(text)
					return err == nil && counted != nil && string(counted[1]) == strconv.Itoa(pods)
				})
			}
			for _, r := range s.lists {
				t.Run(r.path+" "+r.accept, func(t *testing.T) {
					before := measured(t, e.server)
					ctx, cancel := context.WithCancel(t.Context())
					defer cancel()
					for range at {
						transport := servers.NewTransport()
						transport.HTTP2 = &http.HTTP2Config{MaxReceiveBufferPerStream: 64 << 10}
						defer transport.CloseIdleConnections()
						answer, err := e.server.OpenWith(ctx, &http.Client{Transport: transport}, servers.Request{Path: r.path, Header: http.Header{"Accept": {r.accept}}})
						if err != nil {
							t.Fatal(err)
						}
						defer answer.Body.Close()
						if answer.StatusCode != http.StatusOK {
							t.Fatal(answer.Status)
						}
					}
					check(t, before, measured(t, e.server), at, r.size)
				})
			}
		})
	}
}
