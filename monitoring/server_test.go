// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package monitoring

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/textparse"
	"github.com/prometheus/prometheus/promql"
	"sigs.k8s.io/yaml"
)

// patience bounds every wait; nothing is decided by how much of it is used.
const patience = 5 * time.Minute

// server is a stand-alone weir in a process of its own.
type server struct {
	url    string
	client *http.Client
}

// program builds weir. WEIR_PROGRAM, in the environment, names one that is built already.
func program(t *testing.T) string {
	t.Helper()
	if path := os.Getenv("WEIR_PROGRAM"); path != "" {
		return path
	}
	path := filepath.Join(t.TempDir(), "weir")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", path, "./cmd/weir")
	build.Dir = ".."
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build ./cmd/weir: %v\n%s", err, out)
	}
	return path
}

// start runs a weir with a memory limit, so that there is all that has to do with one.
func start(t *testing.T) *server {
	t.Helper()
	dir := t.TempDir()
	cmd := exec.Command(program(t), "serve", "--data-dir="+dir, "--secure-port="+freePort(t), "--memory-limit=2Gi")
	log, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = log.Close() }()
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	exited := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(exited)
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-exited:
		case <-time.After(patience):
			_ = cmd.Process.Kill()
			<-exited
		}
		if t.Failed() {
			said, _ := os.ReadFile(log.Name())
			t.Logf("the server said:\n%.3000s", said)
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		s, err := connect(filepath.Join(dir, "admin.kubeconfig"))
		if err == nil {
			if _, err = s.do(ctx, http.MethodGet, "/readyz", ""); err == nil {
				return s
			}
		}
		select {
		case <-tick.C:
		case <-exited:
			t.Fatal("the server ended before it was ready")
		case <-ctx.Done():
			t.Fatalf("the server is not ready: %v", err)
		}
	}
}

// connect reads the kubeconfig that a stand-alone weir writes for its administrator.
func connect(kubeconfig string) (*server, error) {
	text, err := os.ReadFile(kubeconfig)
	if err != nil {
		return nil, err
	}
	var config struct {
		Clusters []struct {
			Cluster struct {
				Server    string `json:"server"`
				Authority []byte `json:"certificate-authority-data"`
			} `json:"cluster"`
		} `json:"clusters"`
		Users []struct {
			User struct {
				Certificate []byte `json:"client-certificate-data"`
				Key         []byte `json:"client-key-data"`
			} `json:"user"`
		} `json:"users"`
	}
	if err := yaml.Unmarshal(text, &config); err != nil {
		return nil, err
	}
	if len(config.Clusters) != 1 || len(config.Users) != 1 {
		return nil, errors.New("not one cluster and one user")
	}
	user := config.Users[0].User
	pair, err := tls.X509KeyPair(user.Certificate, user.Key)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(config.Clusters[0].Cluster.Authority)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}, ForceAttemptHTTP2: true}
	return &server{url: config.Clusters[0].Cluster.Server, client: &http.Client{Transport: transport}}, nil
}

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return port
}

func (s *server) do(ctx context.Context, method, path, body string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, s.url+path, strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := s.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	answer, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode >= 300 {
		err = fmt.Errorf("%s %s: %s %.300s", method, path, resp.Status, answer)
	}
	return answer, err
}

// scrape adds to series what a server says of itself, as a Prometheus that scrapes it after so long.
func (s *server) scrape(t *testing.T, into map[string]*promql.Series, after time.Duration) {
	t.Helper()
	body, err := s.do(t.Context(), http.MethodGet, "/metrics", "")
	if err != nil {
		t.Fatal(err)
	}
	p := textparse.NewPromParser(body, labels.NewSymbolTable(), false)
	for {
		entry, err := p.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		if entry != textparse.EntrySeries {
			continue
		}
		var l labels.Labels
		p.Labels(&l)
		_, _, value := p.Series()
		b := labels.NewBuilder(l)
		for _, name := range targetLabels {
			b.Set(name, "of-the-target")
		}
		l = b.Labels()
		one := into[l.String()]
		if one == nil {
			one = &promql.Series{Metric: l}
			into[l.String()] = one
		}
		one.Floats = append(one.Floats, promql.FPoint{T: at(after).UnixMilli(), F: value})
	}
}

// targetLabels are those that a Prometheus gives what it scrapes.
var targetLabels = []string{"cluster", "job", "instance"}

// rare are selectors of what a server has only in trouble. The metric and the label are there before.
var rare = []string{
	`apiserver_request_total{code="429"}`,
	`apiserver_watch_cache_consistent_read_total{success="false"}`,
}

// shipped are metrics that kubernetes-mixin reads and that a program has by what it imports: test/lists, which compares all that is read of
// stock, cannot see whether weir does.
var shipped = []string{"kubernetes_build_info", "rest_client_requests_total"}

// scraped is what a weir says before, between and after requests of all kinds.
func scraped(t *testing.T) series {
	t.Helper()
	s := start(t)
	found := map[string]*promql.Series{}
	const configmaps = "/api/v1/namespaces/default/configmaps"
	for minute := range 4 {
		name := fmt.Sprint("a", minute)
		for _, r := range []struct{ method, path, body string }{
			{http.MethodPost, configmaps, `{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "` + name + `"}}`},
			{http.MethodGet, configmaps, ""},
			{http.MethodGet, configmaps + "/" + name, ""},
			{http.MethodGet, "/apis/storage.k8s.io/v1/storageclasses", ""}, // which weir decodes
			{http.MethodGet, configmaps + "?watch=1&timeoutSeconds=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true", ""},
			{http.MethodGet, configmaps + "?watch=1&timeoutSeconds=1&resourceVersion=0", ""},
			{http.MethodDelete, configmaps + "/" + name, ""},
		} {
			if _, err := s.do(t.Context(), r.method, r.path, r.body); err != nil {
				t.Fatal(err)
			}
		}
		s.scrape(t, found, time.Duration(minute)*time.Minute)
	}
	var all series
	for _, one := range found {
		all = append(all, *one)
	}
	return all
}

// TestAgainstServer: every expression of the dashboard, of the alerts and of docs/metrics.md reads metrics that a running server has, with the labels
// that it names; and has an answer, but for those that answer in trouble only.
func TestAgainstServer(t *testing.T) {
	all := scraped(t)
	byName := map[string][]labels.Labels{}
	for _, one := range all {
		name := one.Metric.Get(labels.MetricName)
		byName[name] = append(byName[name], one.Metric)
	}
	ask := func(of, expr string) {
		t.Helper()
		known, troubled := slices.Clone(targetLabels), false
		for _, s := range selectors(t, expr) {
			there := byName[s.Name]
			if len(there) == 0 {
				t.Errorf("%s: %s: the server has no %s", of, expr, s.Name)
				continue
			}
			for _, l := range there {
				l.Range(func(l labels.Label) { known = append(known, l.Name) })
			}
			one := fmt.Sprintf("%s{%s}", s.Name, ownMatchers(s.LabelMatchers))
			if slices.Contains(rare, one) {
				troubled = true
				continue
			}
			if !slices.ContainsFunc(there, func(l labels.Labels) bool {
				return !slices.ContainsFunc(s.LabelMatchers, func(m *labels.Matcher) bool { return !m.Matches(l.Get(m.Name)) })
			}) {
				t.Errorf("%s: %s: the server has no %s", of, expr, one)
			}
			for _, m := range s.LabelMatchers {
				if !slices.ContainsFunc(there, func(l labels.Labels) bool { return l.Has(m.Name) }) {
					t.Errorf("%s: %s: %s has no label %s", of, expr, s.Name, m.Name)
				}
			}
		}
		for _, l := range grouping(t, expr) {
			if !slices.Contains(known, l) {
				t.Errorf("%s: %s: nothing in it has a label %s", of, expr, l)
			}
		}
		got := evaluate(t.Context(), t, all, expr, at(3*time.Minute))
		if len(got) == 0 && !troubled && !filters(t, expr) {
			t.Errorf("%s: %s has no answer", of, expr)
		}
	}
	for title, exprs := range dashboard(t) {
		for _, e := range exprs {
			ask("the dashboard's "+title, variables.Replace(e))
		}
	}
	for name, a := range alerts(t) {
		ask(name, a.Expr)
		if got := evaluate(t.Context(), t, all, a.Expr, at(3*time.Minute)); len(got) > 0 {
			t.Errorf("%s fires of a server that does nothing: %v", name, got)
		}
	}
	for _, name := range shipped {
		if len(byName[name]) == 0 {
			t.Errorf("the server has no %s", name)
		}
	}
	for _, e := range documented(t) {
		ask("docs/metrics.md", e)
	}
}

// ownMatchers are those that are not on labels of the target.
func ownMatchers(all []*labels.Matcher) string {
	var own []string
	for _, m := range all {
		if m.Name != labels.MetricName && !slices.Contains(targetLabels, m.Name) {
			own = append(own, m.String())
		}
	}
	return strings.Join(own, ",")
}

// documented returns the expressions of docs/metrics.md.
func documented(t *testing.T) []string {
	t.Helper()
	text, err := os.ReadFile("../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, ok := strings.Cut(string(text), "## Questions that they answer")
	if !ok {
		t.Fatal("docs/metrics.md has no questions")
	}
	var found []string
	for _, m := range regexp.MustCompile("`([^`]*weir_[^`]*)`").FindAllStringSubmatch(section, -1) {
		found = append(found, m[1])
	}
	if len(found) < 5 {
		t.Errorf("docs/metrics.md has %d expressions", len(found))
	}
	return found
}

// panel is one of Grafana's, as far as it is looked at here.
type panel struct {
	ID      int    `json:"id"`
	Type    string `json:"type"`
	Title   string `json:"title"`
	GridPos struct {
		X, Y, W, H int
	} `json:"gridPos"`
	Datasource map[string]string `json:"datasource"`
	Targets    []struct {
		RefID      string            `json:"refId"`
		Expr       string            `json:"expr"`
		Datasource map[string]string `json:"datasource"`
	} `json:"targets"`
}

// dashboard returns the expressions by panel, those of the variables among them.
func dashboard(t *testing.T) map[string][]string {
	t.Helper()
	text, err := os.ReadFile("dashboard.json")
	if err != nil {
		t.Fatal(err)
	}
	var d struct {
		UID, Title string
		Panels     []panel
		Templating struct {
			List []struct {
				Name, Type string
				Query      json.RawMessage
			}
		}
	}
	if err := json.NewDecoder(bytes.NewReader(text)).Decode(&d); err != nil {
		t.Fatal(err)
	}
	found := map[string][]string{}
	var names []string
	for _, v := range d.Templating.List {
		names = append(names, v.Name)
		if v.Type != "query" {
			continue
		}
		var q struct{ Query string }
		if err := json.Unmarshal(v.Query, &q); err != nil {
			t.Fatal(err)
		}
		m := regexp.MustCompile(`^label_values\((.*), (\w+)\)$`).FindStringSubmatch(q.Query)
		if m == nil || m[2] != v.Name {
			t.Fatalf("the variable %s is %s", v.Name, q.Query)
		}
		found["variable "+v.Name] = []string{m[1]}
	}
	if !slices.Equal(names, []string{"datasource", "cluster", "job", "instance"}) || d.UID == "" || d.Title == "" {
		t.Errorf("the dashboard %q (%s) has the variables %v", d.Title, d.UID, names)
	}
	ids := map[int]bool{}
	for i, p := range d.Panels {
		if ids[p.ID] {
			t.Errorf("there are two panels %d", p.ID)
		}
		ids[p.ID] = true
		if p.GridPos.X < 0 || p.GridPos.W < 1 || p.GridPos.X+p.GridPos.W > 24 || p.GridPos.H < 1 {
			t.Errorf("%s is out of the dashboard: %+v", p.Title, p.GridPos)
		}
		for _, o := range d.Panels[:i] {
			a, b := p.GridPos, o.GridPos
			if a.X < b.X+b.W && b.X < a.X+a.W && a.Y < b.Y+b.H && b.Y < a.Y+a.H {
				t.Errorf("%s and %s overlap", p.Title, o.Title)
			}
		}
		if p.Type == "row" {
			continue
		}
		if len(p.Targets) == 0 || p.Datasource["uid"] != "${datasource}" {
			t.Errorf("%s asks nobody for anything: %+v", p.Title, p)
		}
		for _, q := range p.Targets {
			if q.Datasource["uid"] != "${datasource}" {
				t.Errorf("%s: %s does not ask the data source", p.Title, q.Expr)
			}
			if n := strings.Count(q.Expr, `cluster=~"$cluster", job=~"$job", instance=~"$instance"`); n < len(selectors(t, variables.Replace(q.Expr)))-strings.Count(q.Expr, "on (") {
				t.Errorf("%s: %s does not keep to the chosen servers", p.Title, q.Expr)
			}
			found[p.Title] = append(found[p.Title], q.Expr)
		}
	}
	return found
}
