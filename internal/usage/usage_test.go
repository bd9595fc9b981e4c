// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package usage

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/endpoints/request"
)

// send puts a request through a registry's handler, which answer answers.
func send(r *Registry, verb, query, agent string, u user.Info, seats uint64, answer http.HandlerFunc) {
	req := httptest.NewRequest(http.MethodGet, "/api/v1/pods?"+query, nil)
	req.Header.Set("User-Agent", agent)
	ctx := request.WithRequestInfo(req.Context(), &request.RequestInfo{IsResourceRequest: true, Verb: verb, Resource: "pods"})
	ctx = request.WithUser(ctx, u)
	r.Handler(answer, func(context.Context) uint64 { return seats }).ServeHTTP(httptest.NewRecorder(), req.WithContext(ctx))
}

func named(name string, groups ...string) user.Info {
	return &user.DefaultInfo{Name: name, Groups: groups}
}

func TestHandlerCounts(t *testing.T) {
	r := NewRegistry(10)
	u := named("system:serviceaccount:default:a")
	send(r, "list", "", "a/1", u, 7, func(w http.ResponseWriter, req *http.Request) {
		From(req.Context()).SetStreamed(true)
		w.Header().Set("Content-Encoding", "gzip")
		_, _ = w.Write(make([]byte, 100))
		_, _ = w.Write(make([]byte, 23))
	})
	send(r, "list", "", "a/1", u, 2, func(http.ResponseWriter, *http.Request) {})
	send(r, "update", "", "a/1", u, 1, func(w http.ResponseWriter, req *http.Request) {
		if From(req.Context()) != nil {
			t.Error("a write is counted as a read")
		}
	})
	send(r, "watch", "watch=true&sendInitialEvents=true", "a/1", u, 1, func(w http.ResponseWriter, req *http.Request) {
		if r.Watching() != 1 || r.Snapshot()[0].Watching != 1 {
			t.Errorf("%d watches are open while one is", r.Watching())
		}
		if name, agent := From(req.Context()).Client(); name != u.GetName() || agent != "a/1" {
			t.Errorf("the watch is %s's with %s", name, agent)
		}
		if _, ok := w.(http.Flusher); ok {
			w.(http.Flusher).Flush()
		} else {
			t.Error("a watch cannot flush")
		}
	})
	send(r, "watch", "watch=true", "a/1", u, 1, func(http.ResponseWriter, *http.Request) {})

	all := r.Snapshot()
	if len(all) != 1 {
		t.Fatalf("%d accounts, want 1: %+v", len(all), all)
	}
	got := all[0]
	if got.LastSeen.IsZero() {
		t.Error("nobody was seen")
	}
	got.LastSeen = time.Time{}
	want := Account{
		User: u.GetName(), UserAgent: "a/1", Lists: 2, ListsStreamed: 1, ListsDecoded: 1, WatchLists: 1, Watches: 1,
		OtherRequests: 1, Compressed: 1, Bytes: 123, Seats: 11,
	}
	if got != want {
		t.Errorf("counted\n%+v, want\n%+v", got, want)
	}
	if r.Watching() != 0 {
		t.Errorf("%d watches are open when none is", r.Watching())
	}
}

func TestNodesAreOneName(t *testing.T) {
	r := NewRegistry(10)
	for i := range 3 {
		send(r, "list", "", "kubelet", named(fmt.Sprintf("system:node:n%d", i), user.NodesGroup), 1, func(http.ResponseWriter, *http.Request) {})
	}
	send(r, "list", "", "kubelet", named("system:node:pretender"), 1, func(http.ResponseWriter, *http.Request) {})
	all := r.Snapshot()
	if len(all) != 2 || all[0].User != "system:node:*" || all[0].Lists != 3 || all[1].User != "system:node:pretender" {
		t.Errorf("%+v", all)
	}
}

// TestBounded holds that names without end leave those that are in use, and that nothing that was counted is lost.
func TestBounded(t *testing.T) {
	const names = 8
	r := NewRegistry(names)
	now := time.Unix(1000, 0)
	r.now = func() time.Time { now = now.Add(time.Second); return now }
	release := make(chan struct{})
	entered := make(chan struct{})
	var open sync.WaitGroup
	open.Go(func() {
		send(r, "watch", "", "stays", named("u"), 1, func(w http.ResponseWriter, _ *http.Request) {
			close(entered)
			<-release
			_, _ = w.Write(make([]byte, 10))
		})
	})
	<-entered
	for i := range 100 {
		send(r, "list", "", fmt.Sprint("agent", i)+strings.Repeat("é", 1000), named("u"), 1, func(w http.ResponseWriter, _ *http.Request) {
			_, _ = w.Write([]byte("x"))
		})
	}
	close(release)
	open.Wait()
	all := r.Snapshot()
	if len(all) != names+1 || !all[names].Others {
		t.Fatalf("%d accounts, want %d and the others: %+v", len(all), names, all)
	}
	if all[0].UserAgent != "stays" || all[0].Bytes != 10 || all[0].Watches != 1 {
		t.Errorf("who was there all the time is not: %+v", all[0])
	}
	var lists, bytes int64
	for _, a := range all {
		lists, bytes = lists+a.Lists, bytes+a.Bytes
		if len(a.UserAgent) > maxName {
			t.Errorf("a user agent of %d bytes was kept", len(a.UserAgent))
		}
		if strings.ContainsRune(a.UserAgent, '\uFFFD') {
			t.Errorf("a user agent was cut within a character: %q", a.UserAgent)
		}
	}
	if lists != 100 || bytes != 110 {
		t.Errorf("%d lists of %d bytes are left of 100 of 110", lists, bytes)
	}
	if last := all[1]; !strings.HasPrefix(last.UserAgent, "agent9") {
		t.Errorf("the first to go are not those seen longest ago: %s is left", last.UserAgent)
	}
}

// TestAllInUse: those for whom there is no room count as others.
func TestAllInUse(t *testing.T) {
	r := NewRegistry(1)
	send(r, "watch", "", "first", named("u"), 1, func(http.ResponseWriter, *http.Request) {
		send(r, "watch", "", "second", named("u"), 1, func(http.ResponseWriter, *http.Request) {
			all := r.Snapshot()
			if len(all) != 2 || all[0].UserAgent != "first" || !all[1].Others || all[1].Watching != 1 || r.Watching() != 2 {
				t.Errorf("%+v", all)
			}
		})
	})
}

// TestConcurrent counts and evicts from many goroutines.
func TestConcurrent(t *testing.T) {
	r := NewRegistry(4)
	var all sync.WaitGroup
	for g := range 8 {
		all.Go(func() {
			for i := range 200 {
				send(r, "list", "", fmt.Sprint(g, i%5), named("u"), 1, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("xy")) })
				_ = r.Snapshot()
			}
		})
	}
	all.Wait()
	var lists, bytes int64
	for _, a := range r.Snapshot() {
		lists, bytes = lists+a.Lists, bytes+a.Bytes
	}
	if lists != 1600 || bytes != 3200 {
		t.Errorf("%d lists of %d bytes, want 1600 of 3200", lists, bytes)
	}
}

func BenchmarkHandler(b *testing.B) {
	r := NewRegistry(DefaultNames)
	req := httptest.NewRequest(http.MethodPut, "/api/v1/pods/x", nil)
	ctx := request.WithRequestInfo(req.Context(), &request.RequestInfo{IsResourceRequest: true, Verb: "update", Resource: "pods"})
	req = req.WithContext(request.WithUser(ctx, named("u")))
	h := r.Handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}), func(context.Context) uint64 { return 1 })
	w := httptest.NewRecorder()
	b.ReportAllocs()
	for b.Loop() {
		h.ServeHTTP(w, req)
	}
}
