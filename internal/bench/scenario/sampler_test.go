// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weir-project/weir/internal/bench/report"
	"github.com/weir-project/weir/internal/rig"
)

func TestSamplerKnowsThePeak(t *testing.T) {
	var rss atomic.Int64
	rss.Store(500)
	broken := errors.New("gone")
	var failing atomic.Bool
	s := startSampler(usage{every: time.Hour, read: func() (rig.Usage, error) {
		if failing.Load() {
			return rig.Usage{}, broken
		}
		return rig.Usage{RSS: rss.Load(), CPU: 3}, nil
	}}, time.Now())
	take := func(v int64) {
		t.Helper()
		rss.Store(v)
		if got, err := s.take(); err != nil || got.RSS != v || got.CPU != 3 {
			t.Errorf("sample %+v, %v; want %d", got, err, v)
		}
	}
	take(900)
	take(700)
	if p, l := s.peakRSS(), s.latestRSS(); p != 900 {
		t.Errorf("peak %d, latest %d", p, l)
	}
	s.resetPeak()
	take(800)
	take(600)
	if p := s.peakRSS(); p != 800 {
		t.Errorf("peak of the second stretch: %d", p)
	}
	failing.Store(true)
	if _, err := s.take(); !errors.Is(err, broken) {
		t.Errorf("error %v", err)
	}
	if _, err := s.waitQuiet(t.Context()); !errors.Is(err, broken) {
		t.Errorf("waiting: error %v", err)
	}
	if n := len(s.stop()); n < 4 || n > 5 { // the sampler's own first one may have come at any time
		t.Errorf("%d samples", n)
	}
}

func TestWaitQuietEndsWithTheContext(t *testing.T) {
	s := startSampler(usage{every: time.Hour, limit: time.Hour, read: func() (rig.Usage, error) { return rig.Usage{}, nil }}, time.Now())
	defer s.stop()
	why := errors.New("the server died")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(why)
	if _, err := s.waitQuiet(ctx); !errors.Is(err, why) {
		t.Errorf("error %v", err)
	}
}

// A server that bench did not start is known by its metrics only, and it must stay the same one.
func TestUsageOfACluster(t *testing.T) {
	var text atomic.Value
	const first = "# TYPE process_resident_memory_bytes gauge\nprocess_resident_memory_bytes 4096\n" +
		"# TYPE process_cpu_seconds_total counter\nprocess_cpu_seconds_total 2.5\n" +
		"# TYPE process_start_time_seconds gauge\nprocess_start_time_seconds 77\n"
	text.Store("go_goroutines 5\n")
	h := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.URL.Path != "/metrics" || req.Header.Get("Authorization") != "Bearer me" {
			http.Error(w, "no", http.StatusForbidden)
			return
		}
		fmt.Fprint(w, text.Load())
	}))
	defer h.Close()
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: h.Certificate().Raw})
	s, err := NewServer(report.Target{Name: "cluster"}, nil, rig.Access{URL: h.URL, CA: ca, Token: "me"})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Stop()
	if _, err := s.usage(t.Context()); err == nil || !strings.Contains(err.Error(), "metrics of cluster: no process_resident_memory_bytes") {
		t.Errorf("without figures: %v", err)
	}
	text.Store(first)
	of, err := s.usage(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if u, err := of.read(); err != nil || u.RSS != 4096 || u.CPU != 2.5 {
		t.Errorf("%+v, %v", u, err)
	}
	text.Store(strings.Replace(first, "77", "78", 1))
	if _, err := of.read(); err == nil || !strings.Contains(err.Error(), "another process") {
		t.Errorf("of another process: %v", err)
	}
	if err := s.Died(); err != nil {
		t.Error(err)
	}
}

// Results of two scenarios must not be written to one file.
func TestScenariosTellOfThemselves(t *testing.T) {
	labels := map[string]bool{}
	for _, sc := range append(Writing(), &Start{}, &Storm{Dataset: "b", Format: "json"}, &Watchers{Scope: ScopeAll},
		&Read{Command: "list", Dataset: "b", Format: "json"}, &Read{Command: "list", Dataset: "b", Format: "json", Gzip: true},
		&Read{Command: "list", Dataset: "b", Format: "json", Consistent: true}, &Read{Command: "list", Dataset: "a", Format: "json"},
		&Informers{Command: "pods", Format: "json"}, &Informers{Command: "pods", Format: "json", WatchList: true}) {
		a := sc.About()
		if a.Name == "" || a.Rounds < 1 || labels[a.Label] || strings.ContainsAny(a.Label, "/ ") {
			t.Errorf("%T: %+v", sc, a)
		}
		labels[a.Label] = true
	}
}
