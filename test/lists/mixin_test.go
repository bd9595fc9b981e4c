// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package lists

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"k8s.io/client-go/util/cert"
	_ "k8s.io/component-base/metrics/prometheus/restclient" // as the program kube-apiserver has them
	_ "k8s.io/component-base/metrics/prometheus/version"

	"github.com/weir-project/weir/test/servers"
)

// read is a metric that dashboards, rules and alerts on kube-apiserver read, and what they tell its series apart by.
type read struct {
	metric string
	labels []string
	// same are those of the labels whose values have to be the same, beside those of a resource that nobody but the test asks for.
	same []string
}

// mixin is what kubernetes-mixin reads of kube-apiserver: in rules/kube_apiserver-*.libsonnet, alerts/kube_apiserver.libsonnet,
// alerts/system_alerts.libsonnet and dashboards/apiserver.libsonnet of https://github.com/kubernetes-monitoring/kubernetes-mixin
// (August 2026), but for aggregator_unavailable_apiservice_total: of two servers over one etcd only that counts an APIService which
// was the first to see it gone. Then comes what other dashboards read of it.
var mixin = []read{
	{"apiserver_request_total", []string{"verb", "code", "resource"}, nil},
	{"apiserver_request_sli_duration_seconds", []string{"verb", "scope", "resource", "subresource"}, nil},
	{"apiserver_request_terminations_total", nil, nil},
	{"apiserver_client_certificate_expiration_seconds", nil, nil},
	{"aggregator_unavailable_apiservice", []string{"name"}, []string{"name"}},
	{"workqueue_adds_total", []string{"name"}, []string{"name"}},
	{"workqueue_depth", []string{"name"}, []string{"name"}},
	{"workqueue_queue_duration_seconds", []string{"name"}, []string{"name"}},
	{"process_resident_memory_bytes", nil, nil},
	{"process_cpu_seconds_total", nil, nil},
	{"go_goroutines", nil, nil},
	{"kubernetes_build_info", []string{"git_version"}, []string{"git_version"}},
	{"rest_client_requests_total", []string{"code"}, nil},

	{"apiserver_request_duration_seconds", []string{"verb", "scope", "resource"}, nil},
	{"apiserver_response_sizes", []string{"verb", "scope", "resource"}, nil},
	{"apiserver_current_inflight_requests", []string{"request_kind"}, []string{"request_kind"}},
	{"apiserver_longrunning_requests", []string{"verb", "resource"}, nil},
	{"apiserver_flowcontrol_nominal_limit_seats", []string{"priority_level"}, []string{"priority_level"}},
	{"apiserver_flowcontrol_dispatched_requests_total", []string{"flow_schema", "priority_level"}, nil},
	{"apiserver_watch_events_total", []string{"resource"}, nil},
	{"apiserver_admission_controller_admission_duration_seconds", []string{"name", "operation"}, nil},
	{"etcd_request_duration_seconds", []string{"operation"}, nil},
	{"apiserver_storage_size_bytes", []string{"storage_cluster_id"}, []string{"storage_cluster_id"}},
	{"apiserver_resource_objects", []string{"resource"}, nil},
	{"process_start_time_seconds", nil, nil},
	{"process_open_fds", nil, nil},
	{"go_memstats_alloc_bytes", nil, nil},
	{"go_gc_duration_seconds", nil, nil},
}

// without are queues of stock that weir has no use for: it makes the OpenAPI of custom resources when somebody asks.
var without = []string{"crd_openapi_controller", "crd_openapi_v3_controller"}

// asked is the resource that nobody but TestMixin asks for.
const asked = "podtemplates"

// TestMixin: what is read of stock by those who watch it is there of weir, with the same labels, and counts the same requests the same.
func TestMixin(t *testing.T) {
	ca := filepath.Join(t.TempDir(), "ca.pem") // for the metric of certificates that clients show
	certificate, _, err := cert.GenerateSelfSignedCertKey("a-test", nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(ca, certificate, 0o600); err != nil {
		t.Fatal(err)
	}
	p := start(t, "--client-ca-file="+ca)
	const templates = "/api/v1/namespaces/default/" + asked
	template := func(name string) map[string]any {
		return map[string]any{"apiVersion": "v1", "kind": "PodTemplate", "metadata": map[string]any{"name": name}, "template": map[string]any{
			"spec": map[string]any{"containers": []any{map[string]any{"name": "c", "image": "i"}}},
		}}
	}
	p.stock.Must(http.MethodPost, "/apis/apiregistration.k8s.io/v1/apiservices", map[string]any{
		"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService", "metadata": map[string]any{"name": "v1.nowhere.example"},
		"spec": map[string]any{"group": "nowhere.example", "version": "v1", "groupPriorityMinimum": 100, "versionPriority": 100,
			"service": map[string]any{"namespace": "default", "name": "nowhere"}},
	})
	requests := 0.0
	for _, s := range p.both() {
		requests = 0
		for _, r := range []struct {
			method, path string
			object       any
			status       int
			accept       string
		}{
			{http.MethodPost, templates, template("one"), 201, ""},
			{http.MethodPost, templates, template("one"), 409, ""},
			{http.MethodPost, templates, template("Not A Name"), 422, ""},
			{http.MethodGet, templates + "/one", nil, 200, ""},
			{http.MethodGet, templates + "/two", nil, 404, ""},
			{http.MethodGet, templates, nil, 200, ""},
			{http.MethodGet, templates + "?resourceVersion=0&limit=500", nil, 200, ""},
			{http.MethodGet, templates + "?limit=1", nil, 200, ""},
			{http.MethodGet, templates + "?resourceVersion=bad", nil, 400, ""},
			{http.MethodGet, "/api/v1/" + asked, nil, 200, ""},
			{http.MethodGet, "/api/v1/" + asked + "?fieldSelector=metadata.name%3Done", nil, 200, ""},
			{http.MethodGet, "/api/v1/" + asked, nil, 200, "application/vnd.kubernetes.protobuf"},
			{http.MethodGet, "/api/v1/" + asked, nil, 200, "application/json;as=Table;v=v1;g=meta.k8s.io"},
			{http.MethodGet, "/api/v1/" + asked, nil, 406, "text/html"},
			{http.MethodGet, templates + "?watch=1&timeoutSeconds=1", nil, 200, ""},
			{http.MethodGet, "/api/v1/" + asked + "?watch=1&timeoutSeconds=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true", nil, 200, ""},
			{http.MethodGet, templates + "?watch=1&resourceVersion=bad", nil, 500, ""},
			{http.MethodPatch, templates + "/one", map[string]any{"metadata": map[string]any{"labels": map[string]string{"a": "b"}}}, 200, ""},
			{http.MethodPut, templates + "/one", template("one"), 200, ""},
			{http.MethodDelete, templates + "/one", nil, 200, ""},
			{http.MethodDelete, templates + "/one", nil, 404, ""},
			{http.MethodDelete, templates, nil, 200, ""},
		} {
			p.askFor(t, s, r.method, r.path, r.accept, r.object, r.status)
			if r.status != http.StatusNotAcceptable { // which the router says, before anything counts
				requests++
			}
		}
	}
	var stock, weir map[string][]sample
	var missing []string
	defer func() {
		if t.Failed() {
			t.Log("missing when it was last looked:", missing)
		}
	}()
	servers.Eventually(t, "all metrics to be there", func() bool {
		stock, weir = samples(t, p.stock), samples(t, p.weir)
		missing = nil
		for _, m := range mixin {
			for _, s := range p.both() {
				if all := map[*servers.Server]map[string][]sample{p.stock: stock, p.weir: weir}[s]; len(all[m.metric]) > 0 {
					continue
				}
				missing = append(missing, s.Name+" "+m.metric)
				if m.metric == "apiserver_request_terminations_total" {
					// A request whose time is up when it begins, which the server ends if it is not quicker than that.
					s.In(t).Do(http.MethodGet, "/api/v1/nodes?timeout=1ns", nil)
				}
			}
		}
		if a, b := len(stock["aggregator_unavailable_apiservice"]), len(weir["aggregator_unavailable_apiservice"]); a != b {
			missing = append(missing, fmt.Sprintf("stock has %d APIServices, weir %d", a, b))
		}
		return len(missing) == 0
	})
	// The server counts a request when the client has its answer already.
	var metric string
	defer func() {
		if got, want := ours(weir[metric]), ours(stock[metric]); !maps.Equal(got, want) {
			t.Errorf("%d requests are in %s of weir\n%s\nand of stock\n%s", int(requests), metric, lines(got, want), lines(want, got))
		}
	}()
	for _, metric = range []string{"apiserver_request_total", "apiserver_request_duration_seconds", "apiserver_request_sli_duration_seconds", "apiserver_response_sizes"} {
		servers.Eventually(t, "the last requests to be counted in "+metric, func() bool {
			stock, weir = samples(t, p.stock), samples(t, p.weir)
			return len(ours(stock[metric])) > 0 && maps.Equal(ours(stock[metric]), ours(weir[metric]))
		})
	}
	if n := total(stock["apiserver_request_total"]); n < requests {
		t.Errorf("of %v requests %v are counted: %v", requests, n, ours(stock["apiserver_request_total"]))
	}
	for _, m := range mixin {
		m.compare(t, stock[m.metric], weir[m.metric])
	}
	for _, name := range slices.Sorted(maps.Keys(stock)) {
		prefix, _, _ := strings.Cut(name, "_")
		if slices.Contains([]string{"go", "process", "workqueue", "rest"}, prefix) && len(weir[name]) == 0 {
			t.Errorf("stock has %s, weir has not", name)
		}
	}
}

// askFor makes a request whose answer has a status, in JSON if accept is empty.
func (p *pair) askFor(t *testing.T, s *servers.Server, method, path, accept string, object any, status int) {
	t.Helper()
	r := servers.Request{Method: method, Path: path, Header: http.Header{"Content-Type": {"application/json"}}}
	if accept != "" {
		r.Header.Set("Accept", accept)
	}
	if method == http.MethodPatch {
		r.Header.Set("Content-Type", "application/merge-patch+json")
	}
	if object != nil {
		var err error
		if r.Body, err = json.Marshal(object); err != nil {
			t.Fatal(err)
		}
	}
	resp, err := s.Answer(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	if resp.Status != status {
		t.Errorf("%s: %s %s: %d %.300s, want %d", s.Name, method, path, resp.Status, resp.Body, status)
	}
}

// sample is one of a metric's: a counter or gauge, or how much a histogram or summary has seen.
type sample struct {
	labels map[string]string
	value  float64
}

func samples(t *testing.T, s *servers.Server) map[string][]sample {
	t.Helper()
	status, body := s.In(t).Do(http.MethodGet, "/metrics", nil)
	if status != http.StatusOK {
		t.Fatalf("%s: /metrics: %d %.300s", s.Name, status, body)
	}
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	found := map[string][]sample{}
	for name, family := range families {
		for _, m := range family.GetMetric() {
			one := sample{labels: map[string]string{}}
			for _, l := range m.GetLabel() {
				one.labels[l.GetName()] = l.GetValue()
			}
			one.value = m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount()+m.GetSummary().GetSampleCount())
			found[name] = append(found[name], one)
		}
	}
	return found
}

// ours are the samples of the resource that nobody else asks for, with all of their labels.
func ours(all []sample) map[string]float64 {
	found := map[string]float64{}
	for _, s := range all {
		if s.labels["resource"] == asked {
			found[fmt.Sprint(s.labels)] = s.value
		}
	}
	return found
}

func total(all []sample) (sum float64) {
	for _, v := range ours(all) {
		sum += v
	}
	return sum
}

// lines are those of a that b has not.
func lines(a, b map[string]float64) string {
	var text []string
	for labels, v := range a {
		if other, there := b[labels]; !there || other != v {
			text = append(text, fmt.Sprint(labels, " ", v))
		}
	}
	slices.Sort(text)
	return strings.Join(text, "\n")
}

// compare holds weir's samples of a metric against stock's.
func (m read) compare(t *testing.T, stock, weir []sample) {
	t.Helper()
	if a, b := names(stock), names(weir); a != b {
		t.Errorf("%s: stock tells series apart by %s, weir by %s", m.metric, a, b)
	}
	for _, l := range m.labels {
		if !strings.Contains(" "+names(weir)+" ", " "+l+" ") {
			t.Errorf("%s: there is no label %s", m.metric, l)
		}
	}
	for _, l := range m.same {
		if a, b := valuesOf(stock, l), valuesOf(weir, l); !slices.Equal(a, b) {
			t.Errorf("%s: stock has the %ss\n%v, weir has\n%v", m.metric, l, a, b)
		}
	}
}

// names are those of the labels that any of the samples has.
func names(all []sample) string {
	found := map[string]bool{}
	for _, s := range all {
		for l := range s.labels {
			found[l] = true
		}
	}
	return strings.Join(slices.Sorted(maps.Keys(found)), " ")
}

// valuesOf are those of a label.
func valuesOf(all []sample, label string) []string {
	found := map[string]bool{}
	for _, s := range all {
		if v := s.labels[label]; !slices.Contains(without, v) {
			found[v] = true
		}
	}
	return slices.Sorted(maps.Keys(found))
}
