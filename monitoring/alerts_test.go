// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package monitoring

import (
	"context"
	"log/slog"
	"maps"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/template"
)

// operate is where the runbooks are.
const operate = "https://github.com/weir-project/weir/blob/main/docs/operate.md"

// alerts returns the alerts by name, as Prometheus reads them.
func alerts(t *testing.T) map[string]rulefmt.Rule {
	t.Helper()
	groups, errs := rulefmt.ParseFile("alerts.yaml", false, model.UTF8Validation, parse, slog.New(slog.DiscardHandler))
	for _, err := range errs {
		t.Error(err)
	}
	if groups == nil {
		t.FailNow()
	}
	found := map[string]rulefmt.Rule{}
	for _, g := range groups.Groups {
		for _, r := range g.Rules {
			if _, twice := found[r.Alert]; twice || r.Alert == "" {
				t.Errorf("the alert %q of %s is no alert, or there are two of it", r.Alert, g.Name)
			}
			found[r.Alert] = r
		}
	}
	return found
}

// anchors returns the headings of a document, as GitHub links to them.
func anchors(t *testing.T, file string) map[string]bool {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^#+ (.+)$`).FindAllStringSubmatch(string(text), -1) {
		name := regexp.MustCompile(`[^\w\- ]`).ReplaceAllString(strings.ToLower(m[1]), "")
		found[strings.ReplaceAll(name, " ", "-")] = true
	}
	return found
}

// TestAlertsSayWhatToDo: each has a severity, a summary, a description, and a section of docs/operate.md, and each
// such section an alert.
func TestAlertsSayWhatToDo(t *testing.T) {
	sections := anchors(t, "../docs/operate.md")
	all := alerts(t)
	for name, a := range all {
		if !slices.Contains([]string{"critical", "warning", "info"}, a.Labels["severity"]) {
			t.Errorf("%s has the severity %q", name, a.Labels["severity"])
		}
		if a.Annotations["summary"] == "" || a.Annotations["description"] == "" {
			t.Errorf("%s does not say what it is", name)
		}
		anchor, ok := strings.CutPrefix(a.Annotations["runbook_url"], operate+"#")
		if !ok || anchor != strings.ToLower(name) || !sections[anchor] {
			t.Errorf("%s leads to %q, which is not its section of docs/operate.md", name, a.Annotations["runbook_url"])
		}
		delete(sections, anchor)
	}
	for anchor := range sections {
		if strings.HasPrefix(anchor, "weir") && !strings.Contains(anchor, "-") {
			t.Errorf("docs/operate.md is about an alert %s that is not there", anchor)
		}
	}
}

// trial is an alert on series, each of which Prometheus' notation for tests describes: `metric{label="value"} 0+1x10`, a
// value for each minute.
type trial struct {
	alert string
	// fires has the alert fire after a time; it does not fire then of quiet.
	after        time.Duration
	fires, quiet []string
}

const target = `cluster="c", job="weir", instance="one"`

// limit says that there is a weir with a memory limit of 1 GB.
const limit = `weir_memory_limit_bytes{` + target + `} 1e9x60`

// trials has each alert at least once.
var trials = []trial{
	{"WeirObjectsNearMemoryLimit", 16 * time.Minute,
		[]string{limit, `weir_memory_bytes{purpose="frames", ` + target + `} 6e8x60`},
		[]string{limit, `weir_memory_bytes{purpose="frames", ` + target + `} 4e8x60`, `weir_memory_bytes{purpose="history", ` + target + `} 6e8x60`}},
	{"WeirObjectsNearMemoryLimit", 16 * time.Minute,
		[]string{limit, `weir_memory_bytes{purpose="frames", ` + target + `} 6e8x60`},
		[]string{`weir_memory_limit_bytes{` + target + `} 0x60`, `weir_memory_bytes{purpose="frames", ` + target + `} 6e8x60`}},
	{"WeirMemoryNearLimit", 11 * time.Minute,
		[]string{limit, `process_resident_memory_bytes{` + target + `} 9.5e8x60`},
		[]string{limit, `process_resident_memory_bytes{` + target + `} 9e8x60`}},
	{"WeirMemoryNearLimit", 11 * time.Minute, // of another process, and for a moment
		[]string{limit, `process_resident_memory_bytes{` + target + `} 9.5e8x60`},
		[]string{limit, `process_resident_memory_bytes{cluster="c", job="other", instance="two"} 9.5e8x60`, `process_resident_memory_bytes{` + target + `} 9.5e8x5 5e8x50`}},
	{"WeirCollectorAtItsLimit", 20 * time.Minute,
		[]string{limit, `go_gc_limiter_last_enabled_gc_cycle{` + target + `} 100+5x60`},
		[]string{limit, `go_gc_limiter_last_enabled_gc_cycle{` + target + `} 100x15 101x45`}},
	{"WeirCollectorAtItsLimit", 20 * time.Minute, // started anew
		[]string{limit, `go_gc_limiter_last_enabled_gc_cycle{` + target + `} 100+5x60`},
		[]string{limit, `go_gc_limiter_last_enabled_gc_cycle{` + target + `} 100x10 0x45`}},
	{"WeirCollectorExpensive", 26 * time.Minute,
		collector(30, 5), collector(9, 5)},
	{"WeirCollectorExpensive", 26 * time.Minute, // on idle processors
		collector(30, 5), collector(30, 28)},
	{"WeirRefusesForMemory", 16 * time.Minute,
		[]string{`weir_memory_rejected_requests_total{reason="time-out", ` + target + `} 0+1x60`},
		[]string{`weir_memory_rejected_requests_total{reason="time-out", ` + target + `} 7x60`, `weir_memory_rejected_requests_total{reason="cancelled", ` + target + `} 0+1x60`}},
	{"WeirRequestsWaitForMemory", 16 * time.Minute,
		[]string{`weir_memory_requests_waiting{` + target + `} 3x60`},
		[]string{`weir_memory_requests_waiting{` + target + `} 3 3 0 3 3 3 0 3 3 3 0 3 3 3 0 3 3 3`}},
	{"WeirCacheNotReady", 6 * time.Minute,
		[]string{`weir_cache_ready{group="apps", resource="deployments", ` + target + `} 0x60`},
		[]string{`weir_cache_ready{group="", resource="pods", ` + target + `} 0x3 1x60`}},
	{"WeirCacheReadAnew", 31 * time.Minute,
		[]string{limit, `apiserver_watch_cache_initializations_total{group="", resource="pods", ` + target + `} 1x10 2x5 3x5 4x5 5x5 6x30`},
		[]string{limit, `apiserver_watch_cache_initializations_total{group="", resource="pods", ` + target + `} 1x10 2x5 1x30`}},
	{"WeirCacheBehindEtcd", 12 * time.Minute,
		[]string{limit, consistent("true", 5), consistent("false", 1)},
		[]string{limit, consistent("true", 500), consistent("false", 1)}},
	{"WeirHistoryShort", 16 * time.Minute,
		[]string{`weir_cache_history_cut_total{group="", resource="pods", ` + target + `} 0+50x60`},
		[]string{`weir_cache_history_cut_total{group="", resource="pods", ` + target + `} 50x60`}},
	{"WeirSlowWatchesEnded", 20 * time.Minute,
		[]string{limit, `apiserver_terminated_watchers_total{group="", resource="pods", ` + target + `} 0+1x60`},
		[]string{limit, `apiserver_terminated_watchers_total{group="", resource="pods", ` + target + `} 0x10 1x10 2x40`}},
	{"WeirSlowWatchesEnded", 20 * time.Minute, // of kube-apiserver
		[]string{limit, `apiserver_terminated_watchers_total{group="", resource="pods", ` + target + `} 0+1x60`},
		[]string{limit, `apiserver_terminated_watchers_total{group="", resource="pods", cluster="c", job="apiserver", instance="two"} 0+1x60`}},
	{"WeirWatchesBehind", 25 * time.Minute,
		[]string{watches(100), parked("20x60")}, []string{watches(100), parked("20 20 20 95 20 20 20 20 90 20 20 20 20 95 20 20 20 20 20 95 20 20 20 20 99 20 20")}},
	{"WeirWatchesBehind", 25 * time.Minute, // of a few
		[]string{watches(100), parked("20x60")}, []string{watches(10), parked("2x60")}},
	{"WeirListsDecoded", 50 * time.Minute,
		[]string{lists("decoded", 100), lists("streamed", 20)}, []string{lists("decoded", 20), lists("streamed", 100)}},
	{"WeirListsDecoded", 50 * time.Minute, // few lists
		[]string{lists("decoded", 100), lists("streamed", 20)}, []string{lists("decoded", 20), lists("streamed", 0)}},
	{"WeirRestarts", 20 * time.Minute,
		[]string{limit, `process_start_time_seconds{` + target + `} 1x3 2x3 3x3 4x50`},
		[]string{limit, `process_start_time_seconds{` + target + `} 1x3 2x57`}},
	{"WeirEtcdSlow", 20 * time.Minute,
		[]string{limit, etcd("get", "1.0", 90), etcd("get", "2.0", 100), etcd("get", "+Inf", 100)},
		[]string{limit, etcd("get", "1.0", 100), etcd("get", "2.0", 100), etcd("get", "+Inf", 100)}},
	{"WeirEtcdSlow", 20 * time.Minute, // the read of a whole resource
		[]string{limit, etcd("update", "1.0", 90), etcd("update", "2.0", 100), etcd("update", "+Inf", 100)},
		[]string{limit, etcd("listStream", "1.0", 90), etcd("listStream", "2.0", 100), etcd("listStream", "+Inf", 100)}},
	{"WeirEtcdLarge", 31 * time.Minute,
		[]string{limit, `apiserver_storage_size_bytes{storage_cluster_id="etcd-0", ` + target + `} 1.7e9x60`},
		[]string{limit, `apiserver_storage_size_bytes{storage_cluster_id="etcd-0", ` + target + `} 1.5e9x60`}},
}

// TestAlertsFire: each alert fires when it should, not before, and not of what is as it should be.
func TestAlertsFire(t *testing.T) {
	all := alerts(t)
	tried := map[string]bool{}
	for _, tr := range trials {
		rule, ok := all[tr.alert]
		if !ok {
			t.Errorf("there is no alert %s", tr.alert)
			continue
		}
		tried[tr.alert] = true
		fired := firing(t, rule, described(t, tr.fires), tr.after)
		if len(fired) != 1 {
			t.Errorf("%s: %d alerts after %v of\n%s", tr.alert, len(fired), tr.after, strings.Join(tr.fires, "\n"))
		}
		for _, f := range fired {
			told(t, rule, f)
		}
		if quiet := firing(t, rule, described(t, tr.quiet), tr.after); len(quiet) > 0 {
			t.Errorf("%s: %d alerts after %v of\n%s", tr.alert, len(quiet), tr.after, strings.Join(tr.quiet, "\n"))
		}
		if early := time.Duration(rule.For) - time.Minute; early > 0 {
			if f := firing(t, rule, described(t, tr.fires), early); len(f) > 0 {
				t.Errorf("%s fires after %v already", tr.alert, early)
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if !tried[name] {
			t.Errorf("%s is not tried", name)
		}
	}
}

// described reads series in Prometheus' notation.
func described(t *testing.T, lines []string) series {
	t.Helper()
	var all series
	for _, line := range lines {
		metric, values, err := parse.ParseSeriesDesc(line)
		if err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		one := promql.Series{Metric: metric}
		for i, v := range values {
			one.Floats = append(one.Floats, promql.FPoint{T: at(time.Duration(i) * time.Minute).UnixMilli(), F: v.Value})
		}
		all = append(all, one)
	}
	return all
}

// firing returns what an alert fires for at a time: what its expression has had for as long as it asks for.
func firing(t *testing.T, rule rulefmt.Rule, from series, after time.Duration) promql.Matrix {
	t.Helper()
	const step = 30 * time.Second
	begin := max(0, after-time.Duration(rule.For))
	query, err := engine.NewRangeQuery(t.Context(), from, nil, rule.Expr, at(begin), at(after), step)
	if err != nil {
		t.Fatalf("%s: %v", rule.Alert, err)
	}
	defer query.Close()
	found, err := query.Exec(t.Context()).Matrix()
	if err != nil {
		t.Fatalf("%s: %v", rule.Alert, err)
	}
	var firing promql.Matrix
	for _, one := range found {
		if len(one.Floats) == int((after-begin)/step)+1 && after-begin >= time.Duration(rule.For) {
			firing = append(firing, promql.Series{Metric: one.Metric, Floats: slices.Clone(one.Floats)})
		}
	}
	return firing
}

// told sees to it that an alert says of which server it is, and that its texts can be made.
func told(t *testing.T, rule rulefmt.Rule, of promql.Series) {
	t.Helper()
	for _, l := range []string{"cluster", "job", "instance"} {
		if of.Metric.Get(l) == "" {
			t.Errorf("%s does not say the %s: %s", rule.Alert, l, of.Metric)
		}
	}
	last := of.Floats[len(of.Floats)-1]
	data := template.AlertTemplateData(of.Metric.Map(), nil, "", promql.Sample{F: last.F, Metric: of.Metric})
	for _, text := range rule.Annotations {
		head := "{{$labels := .Labels}}{{$externalLabels := .ExternalLabels}}{{$externalURL := .ExternalURL}}{{$value := .Value}}"
		none := func(context.Context, string, time.Time) (promql.Vector, error) { return nil, nil }
		said, err := template.NewTemplateExpander(t.Context(), head+text, rule.Alert, data, model.Time(last.T), none, &url.URL{}, nil).Expand()
		if err != nil || strings.Contains(said, "<no value>") || strings.Contains(said, "  ") || strings.Contains(said, "\n") {
			t.Errorf("%s says %q: %v", rule.Alert, said, err)
		}
	}
}
