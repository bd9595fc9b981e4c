// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package lists

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/weir-project/weir/test/servers"
)

// kept finds the frames of what belongs to weir's cache, and of what serves watches.
var kept = regexp.MustCompile(`weir/internal/(liststream|watchcache|coalesce)`)

// goroutines returns how many goroutines of weir's answer lists, how many others have to
// do with its cache, and where the former are.
func (p *pair) goroutines(t *testing.T) (answering, others int, where string) {
	t.Helper()
	status, body := p.weir.In(t).Do(http.MethodGet, "/debug/pprof/goroutine?debug=1", nil)
	if status != http.StatusOK {
		t.Fatalf("the profile of goroutines: %d %.300s", status, body)
	}
	for stack := range strings.SplitSeq(strings.TrimSpace(string(body)), "\n\n") {
		count, _, ok := strings.Cut(stack, " @ ")
		n, err := strconv.Atoi(count[strings.LastIndex(count, "\n")+1:])
		switch {
		case !ok || err != nil:
			t.Fatalf("the profile of goroutines does not read as expected: %.300s", stack)
		case strings.Contains(stack, "handlers.ListResource") && !strings.Contains(stack, "handlers.handleWatch"):
			answering += n
			where += stack + "\n\n"
		case kept.MatchString(stack):
			others += n
		}
	}
	return answering, others, where
}

// streams returns the bytes of buffers that weir says it holds.
func (p *pair) streams(t *testing.T) float64 {
	t.Helper()
	bytes := -1.0
	metrics(t, p.weir, func(name, labels string, value float64) {
		if name == "weir_memory_bytes" && strings.Contains(labels, `purpose="streams"`) {
			bytes = value
		}
	})
	if bytes < 0 {
		t.Fatal("weir does not say what its streams hold")
	}
	return bytes
}

// testLeft ends lists in all ways but the good one, and sees to it that nothing of them
// is left. It lists what testSlow has made.
func (p *pair) testLeft(t *testing.T) {
	_, baseline, _ := p.goroutines(t)
	for name, client := range clients(t) {
		for _, f := range []form{
			{accept: []string{"application/json"}},
			{accept: []string{"application/json"}, gzip: true},
			{accept: []string{"application/vnd.kubernetes.protobuf"}},
			{accept: []string{"application/json"}, query: "limit=900"},
			{accept: []string{"application/yaml"}, query: "limit=900"},
			{accept: []string{"application/json;as=Table;v=v1" + meta}, query: "includeObject=Object"},
		} {
			t.Run(fmt.Sprint(name, f.accept, f.query, f.gzip), func(t *testing.T) {
				defer func() {
					if t.Failed() {
						answering, others, where := p.goroutines(t)
						t.Logf("%d lists are being answered, %d goroutines are others of the cache (%d at first), %v bytes are in streams\n%.4000s",
							answering, others, baseline, p.streams(t), where)
					}
				}()
				p.giveUp(t, client, f)
				servers.Eventually(t, "the goroutines to be gone", func() bool {
					answering, others, _ := p.goroutines(t)
					return answering == 0 && others <= baseline
				})
				servers.Eventually(t, "the buffers to be gone", func() bool { return p.streams(t) == 0 })
			})
		}
	}
}

// giveUp begins lists and does not read them to the end.
func (p *pair) giveUp(t *testing.T, client *http.Client, f form) {
	t.Helper()
	const times = 5
	open := func(ctx context.Context, query string) *http.Response {
		r := request(slowPath, query, f).Request
		resp, err := p.weir.OpenWith(ctx, client, r)
		if err != nil {
			t.Fatal(err)
		}
		if resp.StatusCode != http.StatusOK {
			t.Fatalf("%s: %s", r.Path, resp.Status)
		}
		return resp
	}
	for range times {
		// Cancelled at once, by somebody who has the head of the answer and no more.
		ctx, cancel := context.WithCancel(t.Context())
		resp := open(ctx, "")
		cancel()
		_ = resp.Body.Close()

		// Half read.
		resp = open(t.Context(), "")
		if _, err := io.CopyN(io.Discard, resp.Body, 1<<20); err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()

		// Never heard of again, before the head has come.
		ctx, cancel = context.WithCancel(t.Context())
		gone := make(chan struct{})
		go func() {
			defer close(gone)
			if resp, err := p.weir.OpenWith(ctx, client, request(slowPath, "", f).Request); err == nil {
				_ = resp.Body.Close() // it came nevertheless
			}
		}()
		cancel()
		<-gone
	}
	// Not read until the server gives up, as it has been told to. It must end them all,
	// and none may then look like a whole list.
	var stalled []*http.Response
	for range times {
		stalled = append(stalled, open(t.Context(), "timeout=1s"))
	}
	servers.Eventually(t, "the lists that are not read to be given up", func() bool {
		answering, _, _ := p.goroutines(t)
		return answering == 0
	})
	for _, resp := range stalled {
		if n, err := io.Copy(io.Discard, resp.Body); err == nil {
			t.Errorf("the server has given up a list, but what there is of it, %d bytes, ends as if it were all", n)
		}
		_ = resp.Body.Close()
	}
}
