// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"

	"github.com/weir-project/weir/internal/status"
)

// statusOf runs weir status against a stand-alone server and returns what it writes.
func statusOf(t *testing.T, dir string, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	cmd := command(t, "weir", append([]string{"status", "--kubeconfig=" + filepath.Join(dir, "admin.kubeconfig")}, args...)...)
	var out, errs logBuffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err = run(t, cmd)
	return out.String(), errs.String(), err
}

func reportOf(t *testing.T, dir string, args ...string) *status.Report {
	t.Helper()
	out, errs, err := statusOf(t, dir, append(args, "-o", "json")...)
	if err != nil {
		t.Fatalf("weir status: %v\n%s", err, errs)
	}
	r := &status.Report{}
	if err := json.Unmarshal([]byte(out), r); err != nil {
		t.Fatalf("%v:\n%s", err, out)
	}
	return r
}

// TestStatus: the numbers are those of the ledger, and what clients did.
func TestStatus(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	c := standalone(t, dir)
	config := rest.CopyConfig(c.config)
	config.UserAgent = "a-test/1"
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"one", "two", "three"} {
		cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: map[string]string{"x": strings.Repeat("x", 1000)}}
		if _, err := client.CoreV1().ConfigMaps("kube-system").Create(t.Context(), cm, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	var size int64
	for range 2 {
		body, err := client.CoreV1().RESTClient().Get().AbsPath("/api/v1/namespaces/kube-system/configmaps").Do(t.Context()).Raw()
		if err != nil {
			t.Fatal(err)
		}
		size += int64(len(body))
	}
	yes := true
	watchList, err := client.CoreV1().ConfigMaps("kube-system").Watch(t.Context(), metav1.ListOptions{
		SendInitialEvents: &yes, ResourceVersionMatch: metav1.ResourceVersionMatchNotOlderThan, AllowWatchBookmarks: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer watchList.Stop()
	for event := range watchList.ResultChan() {
		if event.Type == "BOOKMARK" {
			break
		}
	}
	watch, err := client.CoreV1().Nodes().Watch(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	watch.Stop()
	// A table of storage classes is one that weir does not answer in place.
	if _, err := client.StorageV1().StorageClasses().List(t.Context(), metav1.ListOptions{}); err != nil {
		t.Fatal(err)
	}

	r := reportOf(t, dir)
	var mine *status.Client
	for i := range r.Clients {
		if r.Clients[i].UserAgent == config.UserAgent {
			mine = &r.Clients[i]
		}
	}
	if mine == nil {
		t.Fatalf("who asked is not there: %+v", r.Clients)
	}
	if mine.User != "weir-admin" || mine.Lists != 3 || mine.ListsStreamed != 2 || mine.ListsDecoded != 1 || mine.WatchLists != 1 ||
		mine.Watches != 1 || mine.OtherRequests != 3 || mine.Bytes < size || mine.Bytes > size+20_000 || mine.Watching < 1 || mine.Watching > 2 {
		t.Errorf("%+v; the lists were %d bytes", *mine, size)
	}
	for _, resource := range r.Resources {
		if resource.Behind != 0 && resource.Ready {
			t.Errorf("%s is behind by %d of a server that does nothing", resource.Name, resource.Behind)
		}
		if resource.Name != "configmaps" {
			continue
		}
		list, err := client.CoreV1().ConfigMaps("").List(t.Context(), metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if resource.Objects != len(list.Items) || resource.Bytes < 3000 || resource.Watches < 1 || resource.History.Events < 3 {
			t.Errorf("%d ConfigMaps are %+v", len(list.Items), resource)
		}
	}
	metrics := c.get("/metrics")
	for _, p := range r.Memory.Purposes {
		if p.Name != "frames" {
			continue // they change by themselves
		}
		m := regexp.MustCompile(`weir_memory_bytes\{purpose="frames"\} (\S+)`).FindStringSubmatch(metrics)
		if n, err := strconv.ParseFloat(m[1], 64); err != nil || int64(n) != p.Bytes {
			// A lease of the server's may have come in between; once more, then.
			again := reportOf(t, dir).Memory.Purposes[0].Bytes
			if int64(n) != again {
				t.Errorf("the frames are %d bytes, and %s in the metrics", p.Bytes, m[1])
			}
		}
	}

	// As a table, whatever a client calls itself.
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, config.Host+"/api/v1/nodes", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("User-Agent", "\x9b31m\u202e\xff"+strings.Repeat("long", 200))
	transport, err := rest.TransportFor(rest.CopyConfig(c.config))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	_ = resp.Body.Close()
	out, errs, err := statusOf(t, dir, "--all", "--sort=lists")
	if err != nil {
		t.Fatalf("%v: %s", err, errs)
	}
	if !strings.Contains(out, "a-test/1") || !strings.Contains(out, "configmaps") || !strings.Contains(out, `\u009b31m`) && !strings.Contains(out, `\ufffd`) {
		t.Errorf("the table lacks something:\n%s", out)
	}
	if strings.ContainsAny(out, "\x1b\x9b\u202e") {
		t.Errorf("the table has control characters: %q", out)
	}
	if out, _, err := statusOf(t, dir, "-o", "yaml"); err != nil || yaml.Unmarshal([]byte(out), &status.Report{}) != nil || !strings.Contains(out, "etcdRevision: ") {
		t.Errorf("as YAML: %v\n%s", err, out)
	}
	statusOfOthers(t, c, dir)
	documented(t, metrics)
	page := dashboardOf(t, dir)
	page.sameStatus(dir, config.UserAgent)
	nobodys := dashboardOf(t, dir, "--as=nobody")
	nobodys.refused()

	if code := c.stop(syscall.SIGINT); code != 0 {
		t.Errorf("exit status %d", code)
	}
	if _, errs, err := statusOf(t, dir); err == nil || !strings.Contains(errs, "cannot reach") || strings.Count(errs, "\n") != 1 {
		t.Errorf("of a server that is gone: %v, %s", err, errs)
	}
	page.gone()
	nobodys.gone()
}

// statusOfOthers: who has no right gets none; the ClusterRole of the docs gives it.
func statusOfOthers(t *testing.T, c *child, dir string) {
	t.Helper()
	if _, errs, err := statusOf(t, dir, "--as=somebody"); err == nil || !strings.Contains(errs, "forbidden") || !strings.Contains(errs, status.Path) {
		t.Errorf("somebody without the right: %v, %s", err, errs)
	}
	text, err := os.ReadFile(filepath.Join(source(t), "docs", "operate.md"))
	if err != nil {
		t.Fatal(err)
	}
	block := regexp.MustCompile("(?s)```yaml\n(apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\n.*?)```").FindSubmatch(text)
	if block == nil {
		t.Fatal("docs/operate.md has no ClusterRole")
	}
	role := &rbacv1.ClusterRole{}
	if err := yaml.UnmarshalStrict(block[1], role); err != nil {
		t.Fatal(err)
	}
	if _, err := c.client.RbacV1().ClusterRoles().Create(t.Context(), role, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	_, err = c.client.RbacV1().ClusterRoleBindings().Create(t.Context(), &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "somebody"},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role.Name},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: "somebody"}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var errs string
	for range 100 { // the authorizer learns of it by a watch
		if _, errs, err = statusOf(t, dir, "--as=somebody"); err == nil {
			return
		}
	}
	t.Errorf("somebody with the right: %v, %s", err, errs)
}

// documented: docs/metrics.md names the metrics that there are, and no others.
func documented(t *testing.T, metrics string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(source(t), "docs", "metrics.md"))
	if err != nil {
		t.Fatal(err)
	}
	there, said := map[string]bool{}, map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^# HELP (weir_\w+)`).FindAllStringSubmatch(metrics, -1) {
		there[m[1]] = true
	}
	for _, m := range regexp.MustCompile(`(?m)^\| \x60(weir_\w+)\x60 \|`).FindAllStringSubmatch(string(text), -1) {
		said[m[1]] = true
	}
	if len(there) < 5 {
		t.Errorf("only %d metrics of weir's", len(there))
	}
	for name := range there {
		if !said[name] {
			t.Errorf("docs/metrics.md does not have %s", name)
		}
	}
	for name := range said {
		if !there[name] {
			t.Errorf("docs/metrics.md has %s, the server has not", name)
		}
	}
}

// source is the directory of the repository.
func source(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs(filepath.Join("..", ".."))
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestStatusWithoutWeir: a server that has no status is named as such.
func TestStatusWithoutWeir(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	standalone(t, dir, "--feature-gates=EncodedWatchCache=false")
	if _, errs, err := statusOf(t, dir); err == nil || !strings.Contains(errs, "it is not weir") || strings.Count(errs, "\n") != 1 {
		t.Errorf("%v, %s", err, errs)
	}
}

func TestVersion(t *testing.T) {
	t.Parallel()
	var stderr logBuffer
	for _, test := range []struct {
		args, want string
	}{
		{"version", `(?m)^weir +\S+\ncommit +\S+.*\nKubernetes +v1\.37\.2\nGo +go1\S+ \S+/\S+\n`},
		{"version -o json", `"kubernetes": "v1\.37\.2"`},
		{"version -o yaml", `kubernetes: v1\.37\.2`},
	} {
		cmd := command(t, "weir", strings.Fields(test.args)...)
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		if err != nil || !regexp.MustCompile(test.want).Match(out) {
			t.Errorf("weir %s: %v, %s", test.args, err, out)
		}
	}
	cmd := command(t, "weir", "version", "-o", "xml")
	if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), "takes json or yaml") {
		t.Errorf("%v: %s", err, out)
	}
}
