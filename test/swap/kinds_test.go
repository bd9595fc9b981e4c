// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package swap

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"

	"github.com/weir-project/weir/internal/rig"
	"github.com/weir-project/weir/test/servers"
)

func TestMain(m *testing.M) { servers.Main(m) }

const (
	namespace = "swap"
	group     = "swap.weir.test"
	markKey   = group + "/mark" // an annotation
)

// kind is what is written and read of one resource.
type kind struct {
	schema.GroupVersionResource
	kind string
	// builtin says that there is a typed client for it.
	builtin bool
	// keys begin so in etcd; a name follows.
	keys string
	// body is what an object has beside its metadata.
	body map[string]any
}

var kinds = []*kind{
	{schema.GroupVersionResource{Version: "v1", Resource: "configmaps"}, "ConfigMap", true, "/registry/configmaps/" + namespace + "/",
		map[string]any{"data": map[string]any{"fill": strings.Repeat("x", 2000)}}},
	{schema.GroupVersionResource{Version: "v1", Resource: "secrets"}, "Secret", true, "/registry/secrets/" + namespace + "/",
		map[string]any{"data": map[string]any{"word": "c2VzYW1l"}}},
	{schema.GroupVersionResource{Group: "coordination.k8s.io", Version: "v1", Resource: "leases"}, "Lease", true, "/registry/leases/" + namespace + "/",
		map[string]any{"spec": map[string]any{"holderIdentity": "nobody"}}},
	{schema.GroupVersionResource{Version: "v1", Resource: "pods"}, "Pod", true, "/registry/pods/" + namespace + "/",
		map[string]any{"spec": map[string]any{"containers": []any{map[string]any{"name": "c", "image": "i"}}}}},
	widgets("widgets", "Widget"),
}

func widgets(resource, name string) *kind {
	return &kind{schema.GroupVersionResource{Group: group, Version: "v1", Resource: resource}, name, false,
		"/registry/" + group + "/" + resource + "/" + namespace + "/", map[string]any{"spec": map[string]any{"size": int64(3), "words": []any{"a", "b"}}}}
}

// object makes one that has not been written.
func (k *kind) object(name, mark string) *unstructured.Unstructured {
	o := &unstructured.Unstructured{Object: maps.Clone(k.body)}
	o = o.DeepCopy()
	o.SetAPIVersion(k.GroupVersion().String())
	o.SetKind(k.kind)
	o.SetName(name)
	o.SetNamespace(namespace)
	o.SetAnnotations(map[string]string{markKey: mark})
	return o
}

// path is where all of it is read in the API.
func (k *kind) path() string {
	base := "/apis/" + k.Group
	if k.Group == "" {
		base = "/api"
	}
	return fmt.Sprintf("%s/%s/namespaces/%s/%s", base, k.Version, namespace, k.Resource)
}

var definitions = schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}

// define makes a definition of k and waits until it is served.
func define(ctx context.Context, t *testing.T, client dynamic.Interface, k *kind) {
	t.Helper()
	open := map[string]any{"type": "object", "x-kubernetes-preserve-unknown-fields": true}
	o := &unstructured.Unstructured{Object: map[string]any{
		"spec": map[string]any{
			"group": k.Group, "scope": "Namespaced",
			"names":    map[string]any{"plural": k.Resource, "singular": strings.ToLower(k.kind), "kind": k.kind, "listKind": k.kind + "List"},
			"versions": []any{map[string]any{"name": k.Version, "served": true, "storage": true, "schema": map[string]any{"openAPIV3Schema": open}}},
		},
	}}
	o.SetAPIVersion(definitions.GroupVersion().String())
	o.SetKind("CustomResourceDefinition")
	o.SetName(k.Resource + "." + k.Group)
	if _, err := client.Resource(definitions).Create(ctx, o, metav1.CreateOptions{}); err != nil {
		t.Fatalf("define %s: %v", k.Resource, err)
	}
	servers.Eventually(t, k.Resource+" to be served", func() bool {
		_, err := client.Resource(k.GroupVersionResource).Namespace(namespace).List(ctx, metav1.ListOptions{})
		return err == nil
	})
}

func makeNamespace(ctx context.Context, t *testing.T, client dynamic.Interface) {
	t.Helper()
	o := &unstructured.Unstructured{}
	o.SetAPIVersion("v1")
	o.SetKind("Namespace")
	o.SetName(namespace)
	if _, err := client.Resource(corev1.SchemeGroupVersion.WithResource("namespaces")).Create(ctx, o, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// revisions reads from etcd which objects of k there are, by name, and the revision of each.
func (k *kind) revisions(ctx context.Context, client *clientv3.Client) (map[string]string, error) {
	resp, err := client.Get(ctx, k.keys, clientv3.WithPrefix(), clientv3.WithKeysOnly())
	if err != nil {
		return nil, fmt.Errorf("read %s from etcd: %w", k.keys, err)
	}
	found := map[string]string{}
	for _, kv := range resp.Kvs {
		found[strings.TrimPrefix(string(kv.Key), k.keys)] = fmt.Sprint(kv.ModRevision)
	}
	return found, nil
}

// encryption is a file that has Secrets and widgets encrypted with a key of a server's own; the others' keys are there to read with.
func encryption(t *testing.T, room *rig.Room, first, keys int) (flag string) {
	t.Helper()
	var list []any
	for i := range keys {
		n := (first + i) % keys
		secret := fmt.Sprintf("%-32d", n)
		list = append(list, map[string]any{"secretbox": map[string]any{"keys": []any{map[string]any{"name": keyName(n), "secret": []byte(secret)}}}})
	}
	data, err := json.Marshal(map[string]any{
		"kind": "EncryptionConfiguration", "apiVersion": "apiserver.config.k8s.io/v1",
		"resources": []any{map[string]any{"resources": []any{"secrets", "widgets." + group}, "providers": list}},
	})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(room.Dir(), fmt.Sprintf("encryption-%d.json", first))
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return "--encryption-provider-config=" + file
}

func keyName(n int) string { return fmt.Sprintf("key-%d", n) }

// encrypted holds that all Secrets and widgets are encrypted in etcd, and that some are with the key of that number.
func encrypted(ctx context.Context, client *clientv3.Client, key int) error {
	var failures []error
	for _, k := range kinds {
		if k.Resource != "secrets" && k.Resource != "widgets" {
			continue
		}
		resp, err := client.Get(ctx, k.keys, clientv3.WithPrefix())
		if err != nil {
			return err
		}
		own := 0
		for _, kv := range resp.Kvs {
			if !strings.HasPrefix(string(kv.Value), "k8s:enc:secretbox:v1:key-") {
				failures = append(failures, fmt.Errorf("%s is not encrypted in etcd", kv.Key))
			}
			if strings.HasPrefix(string(kv.Value), "k8s:enc:secretbox:v1:"+keyName(key)+":") {
				own++
			}
		}
		if own == 0 {
			failures = append(failures, fmt.Errorf("no %s of %d is encrypted with the key of the server that serves now", k.Resource, len(resp.Kvs)))
		}
	}
	return errors.Join(failures...)
}

// difference says where two maps differ, a few names of many.
func difference(have, want map[string]string) string {
	var list []string
	for _, name := range slices.Sorted(maps.Keys(want)) {
		if have[name] != want[name] {
			list = append(list, fmt.Sprintf("%s: %q, want %q", name, have[name], want[name]))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(have)) {
		if _, there := want[name]; !there {
			list = append(list, fmt.Sprintf("%s: %q, which is not there", name, have[name]))
		}
	}
	if len(list) > 5 {
		list = append(list[:5], fmt.Sprintf("and %d more", len(list)-5))
	}
	return strings.Join(list, "; ")
}
