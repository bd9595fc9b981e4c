// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

// Package unreadable has objects in etcd that cannot be decrypted or decoded, and holds
// what weir's server answers meanwhile against what upstream's does.
package unreadable

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"go.etcd.io/etcd/client/v3/kubernetes"

	"github.com/weir-project/weir/test/etcd"
	"github.com/weir-project/weir/test/servers"
)

func TestMain(m *testing.M) { servers.Main(m) }

// Leases of the servers' identities are off: nothing is to be written but by the test.
const gates = "APIServerIdentity=false,UnknownVersionInteroperabilityProxy=false"

// encryption is the configuration of a server that encrypts Secrets with one key.
const encryption = `{"kind": "EncryptionConfiguration", "apiVersion": "apiserver.config.k8s.io/v1", "resources": [
  {"resources": ["secrets"], "providers": [{"aesgcm": {"keys": [{"name": "%s", "secret": "%s"}]}}]}]}`

const namespace = "unreadable"

// collection is a resource with the objects o0 to o3, of which o1 becomes unreadable.
type collection struct {
	path, key string
	object    map[string]any
	// spoil makes what is stored unreadable.
	spoil func(stored string) string
}

func collections() []collection {
	template := map[string]any{
		"metadata": map[string]any{"labels": map[string]any{"a": "b"}},
		"spec":     map[string]any{"containers": []any{map[string]any{"name": "c", "image": "i"}}},
	}
	return []collection{
		{
			path: "/apis/apps/v1/namespaces/" + namespace + "/daemonsets", key: "/registry/daemonsets/" + namespace + "/",
			object: map[string]any{"apiVersion": "apps/v1", "kind": "DaemonSet", "spec": map[string]any{
				"selector": map[string]any{"matchLabels": map[string]any{"a": "b"}}, "template": template}},
			spoil: func(string) string { return "garbage" },
		},
		{
			path: "/api/v1/namespaces/" + namespace + "/secrets", key: "/registry/secrets/" + namespace + "/",
			object: map[string]any{"apiVersion": "v1", "kind": "Secret"},
			spoil:  func(stored string) string { return stored[:len(stored)-1] },
		},
		{
			path: "/apis/weir.test/v1/namespaces/" + namespace + "/gates", key: "/registry/weir.test/gates/" + namespace + "/",
			object: map[string]any{"apiVersion": "weir.test/v1", "kind": "Gate", "spec": map[string]any{"n": 1}},
			spoil:  func(stored string) string { return stored[:len(stored)/2] },
		},
	}
}

var definition = map[string]any{
	"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
	"metadata": map[string]any{"name": "gates.weir.test"},
	"spec": map[string]any{
		"group": "weir.test", "scope": "Namespaced",
		"names": map[string]any{"plural": "gates", "singular": "gate", "kind": "Gate", "listKind": "GateList"},
		"versions": []any{map[string]any{"name": "v1", "served": true, "storage": true, "schema": map[string]any{
			"openAPIV3Schema": map[string]any{"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}},
	},
}

// cluster is upstream's server and weir's over one etcd.
type cluster struct {
	etcd        *kubernetes.Client
	stock, weir *servers.Server
}

// start starts both with a key of this name to encrypt Secrets with.
func start(t *testing.T, client *kubernetes.Client, name, secret string) *cluster {
	t.Helper()
	file := filepath.Join(t.TempDir(), "encryption.json")
	if err := os.WriteFile(file, fmt.Appendf(nil, encryption, name, secret), 0o600); err != nil {
		t.Fatal(err)
	}
	flags := []string{"--feature-gates=" + gates, "--encryption-provider-config=" + file}
	endpoint := client.Endpoints()[0]
	return &cluster{
		etcd:  client,
		stock: servers.Start(t, servers.Stock, endpoint, flags...),
		weir:  servers.Start(t, servers.Weir, endpoint, flags...),
	}
}

// fill makes the objects, through both servers.
func (c *cluster) fill(t *testing.T) {
	t.Helper()
	c.weir.Must(http.MethodPost, "/api/v1/namespaces", map[string]any{
		"apiVersion": "v1", "kind": "Namespace", "metadata": map[string]any{"name": namespace}})
	c.stock.Must(http.MethodPost, "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", definition)
	for _, r := range collections() {
		for _, s := range []*servers.Server{c.stock, c.weir} {
			servers.Eventually(t, s.Name+" to serve "+r.path, func() bool {
				status, _ := s.Do(http.MethodGet, r.path, nil)
				return status == http.StatusOK
			})
		}
		for i := range 4 {
			r.object["metadata"] = map[string]any{"name": fmt.Sprintf("o%d", i), "labels": map[string]any{"odd": fmt.Sprint(i % 2)}}
			[]*servers.Server{c.stock, c.weir}[i%2].Must(http.MethodPost, r.path, r.object)
		}
	}
}

// stored returns what etcd has under a key.
func (c *cluster) stored(t *testing.T, key string) string {
	t.Helper()
	got, err := c.etcd.KV.Get(t.Context(), key)
	if err != nil || len(got.Kvs) != 1 {
		t.Fatalf("reading %s from etcd: %v, %v", key, got, err)
	}
	return string(got.Kvs[0].Value)
}

func (c *cluster) put(t *testing.T, key, value string) {
	t.Helper()
	if _, err := c.etcd.Put(t.Context(), key, value); err != nil {
		t.Fatal(err)
	}
}

// requests are reads of a collection.
var requests = []string{
	"",
	"?resourceVersion=0",
	"?limit=1",
	"?limit=2",
	"?fieldSelector=metadata.name%3Do2",
	"?fieldSelector=metadata.name%3Do1",
	"?fieldSelector=metadata.name%3Do2&resourceVersion=0",
	"?labelSelector=odd%3D0",
	"?labelSelector=odd%3D0&limit=1",
	"?labelSelector=odd%3D0&resourceVersion=0",
	"/o2", "/o1", "/o2?resourceVersion=0", "/o1?resourceVersion=0",
	"?watch=1&resourceVersion=0&timeoutSeconds=5",
	"?watch=1&timeoutSeconds=5&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true",
}

// answer is what a client goes by.
type answer struct {
	Status     int
	RetryAfter string
	Body       string
}

func (a answer) String() string { return fmt.Sprintf("%d %s %.900s", a.Status, a.RetryAfter, a.Body) }

// revisions finds those at which servers are, which need not be the same at once, and
// tokens made of them.
var revisions = regexp.MustCompile(`"metadata":{"resourceVersion":"\d+"|"continue":"[^"]+"|version: \d+, current: \d+`)

func ask(s *servers.Server, method, path string, body []byte) (answer, error) {
	ctx, cancel := context.WithTimeout(context.Background(), servers.Patience)
	defer cancel()
	r, err := s.Answer(ctx, servers.Request{Method: method, Path: path, Body: body, Header: http.Header{
		"Accept": {"application/json"}, "Content-Type": {"application/json"}}})
	if err != nil {
		return answer{}, err
	}
	text := strings.ReplaceAll(string(r.Body), `failed to list \u003cunspecified\u003e: `, "")
	text = listing.ReplaceAllString(text, "")
	return answer{r.Status, r.Header.Get("Retry-After"), revisions.ReplaceAllString(text, "REVISION")}, nil
}

// listing finds what the cache was doing; upstream's does not say to which resource.
var listing = regexp.MustCompile(`failed to list [a-z.]+: `)

// compare puts all requests for some collections to both servers at once, and returns
// upstream's answers. Where the answers differ, better says whether weir's is.
func (c *cluster) compare(t *testing.T, of []collection, better func(path string, weir answer) bool) map[string]answer {
	t.Helper()
	var mu sync.Mutex
	var wg sync.WaitGroup
	all := map[string]answer{}
	for _, r := range of {
		for _, request := range requests {
			path := r.path + request
			wg.Go(func() {
				stock, stockErr := ask(c.stock, "", path, nil)
				weir, weirErr := ask(c.weir, "", path, nil)
				mu.Lock()
				defer mu.Unlock()
				all[path] = stock
				if stockErr != nil || weirErr != nil {
					t.Errorf("%s: stock %v, weir %v", path, stockErr, weirErr)
				} else if weir != stock && !better(path, weir) {
					t.Errorf("%s\nweir:  %s\nstock: %s", path, weir, stock)
				}
			})
		}
	}
	wg.Wait()
	return all
}

func never(string, answer) bool { return false }

// refused waits until both servers refuse a list and say why.
func (c *cluster) refused(t *testing.T, path, why string) {
	t.Helper()
	for _, s := range []*servers.Server{c.stock, c.weir} {
		servers.Eventually(t, s.Name+" to refuse "+path+" because of "+why, func() bool {
			a, err := ask(s, "", path+"?resourceVersion=0", nil)
			return err == nil && a.Status == http.StatusTooManyRequests && strings.Contains(a.Body, why)
		})
	}
}

// TestUnreadable has an object of each of three resources become unreadable while the
// servers run, keeps it so until their caches have given up, and mends it in three ways.
// Then the servers are started with another key for Secrets.
func TestUnreadable(t *testing.T) {
	client := etcd.Run(t)
	c := start(t, client, "key1", "c2VjcmV0IGlzIHNlY3VyZQ==")
	c.stock.Wait()
	c.weir.Wait()
	c.fill(t)
	c.compare(t, collections(), never) // the caches have all of it
	was := map[string]string{}
	for _, r := range collections() {
		key := r.key + "o1"
		was[key] = c.stored(t, key)
		c.put(t, key, r.spoil(was[key]))
	}
	var following map[string]answer
	t.Run("Following", func(t *testing.T) {
		following = c.compare(t, collections(), never)
		for _, r := range collections() {
			if a := following[r.path]; a.Status != http.StatusInternalServerError || !strings.Contains(a.Body, r.key+"o1") {
				t.Errorf("%s: %s, want 500 and the key", r.path, a)
			}
			if a := following[r.path+"?limit=1"]; a.Status != http.StatusOK {
				t.Errorf("%s: a page: %s, want 200", r.path, a)
			}
		}
	})
	t.Run("Given up", func(t *testing.T) {
		for _, r := range collections() {
			c.refused(t, r.path, "Key: "+r.key+"o1")
		}
		c.compare(t, collections(), func(path string, weir answer) bool {
			// What etcd says of one object, instead of "come back later".
			return strings.Contains(path, "fieldSelector") && weir == following[strings.TrimSuffix(path, "&resourceVersion=0")]
		})
	})
	t.Run("Mended", func(t *testing.T) { c.mend(t, was) })
	t.Run("Lost key", func(t *testing.T) { lostKey(t, client) })
}

// mend deletes one object by its name, deletes one from etcd and puts one back there.
func (c *cluster) mend(t *testing.T, was map[string]string) {
	all := collections()
	daemonset := all[0].path + "/o1"
	// Not with less than it takes: the servers refuse alike.
	unsafe := func(dryRun bool) []byte {
		options := map[string]any{"apiVersion": "v1", "kind": "DeleteOptions", "ignoreStoreReadErrorWithClusterBreakingPotential": true}
		if dryRun {
			options["dryRun"] = []any{"All"}
		}
		data, err := json.Marshal(options)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	for name, body := range map[string][]byte{"a deletion": nil, "an unsafe deletion, tried": unsafe(true)} {
		stock, err := ask(c.stock, http.MethodDelete, daemonset, body)
		if err != nil {
			t.Fatal(err)
		}
		weir, err := ask(c.weir, http.MethodDelete, daemonset, body)
		if err != nil || weir != stock {
			t.Errorf("%s:\nweir:  %s %v\nstock: %s", name, weir, err, stock)
		}
	}
	if a, err := ask(c.weir, http.MethodDelete, daemonset, unsafe(false)); err != nil || a.Status != http.StatusOK {
		t.Errorf("an unsafe deletion: %s, %v, want 200", a, err)
	}
	if _, err := c.etcd.KV.Delete(t.Context(), all[1].key+"o1"); err != nil {
		t.Fatal(err)
	}
	c.put(t, all[2].key+"o1", was[all[2].key+"o1"])
	for _, s := range []*servers.Server{c.stock, c.weir} {
		for _, r := range all {
			servers.Eventually(t, s.Name+" to serve "+r.path, func() bool {
				a, err := ask(s, "", r.path+"?resourceVersion=0", nil)
				return err == nil && a.Status == http.StatusOK
			})
		}
	}
	c.compare(t, collections(), never)
}

// lostKey has servers that cannot decrypt what is there when they start.
func lostKey(t *testing.T, client *kubernetes.Client) {
	c := start(t, client, "key2", "c2VjcmV0IGlzIHNlY3VyYQ==")
	secrets := collections()[1]
	c.refused(t, secrets.path, "Key: "+secrets.key+"o0")
	c.compare(t, []collection{secrets}, func(path string, weir answer) bool {
		_, name, one := strings.Cut(path, "fieldSelector=metadata.name%3D")
		name, _, _ = strings.Cut(name, "&")
		if name == "o1" { // it has been deleted
			return one && weir.Status == http.StatusOK && strings.Contains(weir.Body, `"items":[]`)
		}
		return one && weir.Status == http.StatusInternalServerError && strings.Contains(weir.Body, "Key: "+secrets.key+name)
	})
	if said := c.weir.Said(); !strings.Contains(said, "unreadable=[\""+secrets.key+"o0\"") {
		t.Errorf("the log does not name the keys")
	}
}
