// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package lists

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"github.com/weir-project/weir/test/servers"
)

// metrics calls visit for what a server says of itself, sample by sample.
func metrics(t *testing.T, s *servers.Server, visit func(name, labels string, value float64)) {
	t.Helper()
	status, body := s.In(t).Do(http.MethodGet, "/metrics", nil)
	if status != http.StatusOK {
		t.Fatalf("%s: /metrics: %d %.300s", s.Name, status, body)
	}
	for line := range strings.SplitSeq(string(body), "\n") {
		name, rest, ok := strings.Cut(line, "{")
		labels, number, ok2 := strings.Cut(rest, "} ")
		if !ok || !ok2 || strings.HasPrefix(line, "#") {
			continue // a comment, or what has no labels
		}
		value, err := strconv.ParseFloat(number, 64)
		if err != nil {
			t.Fatalf("%s: /metrics: %v", s.Name, err)
		}
		visit(name, labels, value)
	}
}

// account is what a server has counted of the lists of one resource.
type account struct {
	// Answers by status, and of what all of them have in common how often it was noted.
	OK, Other, Durations, Sizes float64
	// Bytes are those of all bodies.
	Bytes float64
}

func (a account) minus(b account) account {
	return account{OK: a.OK - b.OK, Other: a.Other - b.Other, Durations: a.Durations - b.Durations, Sizes: a.Sizes - b.Sizes, Bytes: a.Bytes - b.Bytes}
}

func (a account) String() string {
	return fmt.Sprintf("%v with status 200, %v others, %v durations, %v sizes, %.0f bytes", a.OK, a.Other, a.Durations, a.Sizes, a.Bytes)
}

func accountOf(t *testing.T, s *servers.Server, resource string) (a account) {
	t.Helper()
	metrics(t, s, func(name, labels string, value float64) {
		if !strings.Contains(labels, `resource="`+resource+`"`) || !strings.Contains(labels, `verb="LIST"`) {
			return
		}
		switch name {
		case "apiserver_request_total":
			if strings.Contains(labels, `code="200"`) {
				a.OK += value
			} else {
				a.Other += value
			}
		case "apiserver_request_duration_seconds_count":
			a.Durations += value
		case "apiserver_response_sizes_count":
			a.Sizes += value
		case "apiserver_response_sizes_sum":
			a.Bytes += value
		}
	})
	return a
}

// testMetrics sees to it that each list counts as one, and with the bytes that went
// over the wire.
func (p *pair) testMetrics(t *testing.T) {
	for _, r := range []struct{ resource, path string }{
		{"podtemplates", "/api/v1/namespaces/lists-size/podtemplates"},
		{"horizontalpodautoscalers", "/apis/autoscaling/v1/horizontalpodautoscalers"},
		{"gates", "/apis/weir.test/v1/gates"},
		{"apiservices", "/apis/apiregistration.k8s.io/v1/apiservices"}, // rows of the aggregator's own
	} {
		for _, f := range []form{
			{accept: []string{"application/json"}},
			{accept: []string{"application/json"}, gzip: true},
			{accept: []string{"application/vnd.kubernetes.protobuf,application/json"}},
			{accept: []string{"application/json"}, query: "resourceVersion=0&limit=1"},
			{accept: []string{"application/json"}, query: "resourceVersion=bad"},
			{accept: []string{"application/yaml"}},
			{accept: []string{"application/json;as=Table;v=v1" + meta}},
		} {
			c := request(r.path, "", f)
			for _, s := range p.both() {
				p.checkMetrics(t, s, r.resource, c)
			}
		}
	}
}

func (p *pair) checkMetrics(t *testing.T, s *servers.Server, resource string, c combination) {
	t.Helper()
	const times = 3
	before := accountOf(t, s, resource)
	var want account
	for range times {
		resp, err := s.Answer(t.Context(), c.Request)
		if err != nil {
			t.Fatal(err)
		}
		if resp.Status == http.StatusOK {
			want.OK++
		} else {
			want.Other++
		}
		want.Durations++
		want.Sizes++
		want.Bytes += float64(len(resp.Body))
	}
	var got account
	// The client may have the answer before the server has counted it.
	servers.Eventually(t, fmt.Sprintf("%s to count %s", s.Name, c), func() bool {
		got = accountOf(t, s, resource).minus(before)
		return got.OK+got.Other >= times && got.Durations >= times && got.Sizes >= times
	})
	if got != want {
		t.Errorf("%s: %s: %d requests are accounted as\n%s, and should be as\n%s", s.Name, c, times, got, want)
	}
}
