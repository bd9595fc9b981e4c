// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package lists

import (
	"net/http"
	"strings"
	"testing"

	"github.com/weir-project/weir/test/etcd"
)

// TestStoredAs compares lists of what is not stored as protobuf, as it is by default. What
// the servers make themselves is enough for that.
func TestStoredAs(t *testing.T) {
	for _, mediaType := range []string{"application/json", "application/yaml"} {
		t.Run(mediaType, func(t *testing.T) {
			p := start(t, "--storage-media-type="+mediaType)
			p.resources = discover(t, p.stock)
			p.settle(t)

			stored, err := p.etcd.KV.Get(t.Context(), "/registry/namespaces/default")
			if err != nil || len(stored.Kvs) != 1 || strings.HasPrefix(string(stored.Kvs[0].Value), "k8s\x00") {
				t.Fatalf("%v is stored, %v", stored, err)
			}
			full := 0
			var all []combination
			for _, r := range p.resources {
				if r.name == "componentstatuses" {
					continue
				}
				var list struct{ Items []any }
				get(t, p.weir, r.path(""), &list)
				if len(list.Items) > 0 {
					full++
				}
				for _, f := range forms {
					all = append(all, request(r.path(""), "", f))
				}
			}
			if full < 10 {
				t.Errorf("there are objects of %d resources only", full)
			}
			p.compareAll(t, all, workers)
		})
	}
}

// empties are objects with lists and maps that are empty, or none at all: JSON and YAML tell
// them apart, protobuf does not.
var empties = []struct{ path, object string }{
	{"/apis/rbac.authorization.k8s.io/v1/clusterroles", `{"metadata":{"name":"empty"},"rules":[]}`},
	{"/apis/rbac.authorization.k8s.io/v1/clusterroles", `{"metadata":{"name":"none","labels":{},"annotations":{},"finalizers":[]},"rules":null}`},
	{"/apis/rbac.authorization.k8s.io/v1/clusterroles", `{"metadata":{"name":"inner"},"rules":[{"verbs":["get"],"nonResourceURLs":["/a"],"apiGroups":[],"resources":[]}]}`},
	{"/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", `{"metadata":{"name":"empty"},"subjects":[],"roleRef":{"apiGroup":"rbac.authorization.k8s.io","kind":"ClusterRole","name":"empty"}}`},
	{"/apis/discovery.k8s.io/v1/namespaces/default/endpointslices", `{"metadata":{"name":"empty"},"addressType":"IPv4","endpoints":[],"ports":[]}`},
	{"/apis/discovery.k8s.io/v1/namespaces/default/endpointslices", `{"metadata":{"name":"none"},"addressType":"IPv4","endpoints":null,"ports":null}`},
	{"/apis/networking.k8s.io/v1/namespaces/default/networkpolicies", `{"metadata":{"name":"empty"},"spec":{"podSelector":{"matchLabels":{},"matchExpressions":[]},"ingress":[{"from":[],"ports":[]}],"egress":[],"policyTypes":[]}}`},
	{"/api/v1/namespaces/default/configmaps", `{"metadata":{"name":"empty"},"data":{},"binaryData":{}}`},
	{"/api/v1/namespaces/default/secrets", `{"metadata":{"name":"empty"},"data":{"none":null,"empty":"","some":"YQ=="}}`},
	{"/api/v1/namespaces/default/endpoints", `{"metadata":{"name":"empty"},"subsets":[]}`},
	{"/api/v1/namespaces/default/pods", `{"metadata":{"name":"empty"},"spec":{"containers":[{"name":"c","image":"i","args":[],"env":[]}],"volumes":[],"tolerations":[],"nodeSelector":{}}}`},
	{"/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations", `{"metadata":{"name":"empty"},"webhooks":[]}`},
	{"/apis/flowcontrol.apiserver.k8s.io/v1/flowschemas", `{"metadata":{"name":"empty"},"spec":{"priorityLevelConfiguration":{"name":"global-default"},"rules":[{"subjects":[{"kind":"User","user":{"name":"nobody"}}],"resourceRules":[],"nonResourceRules":[{"verbs":["get"],"nonResourceURLs":["/a"]}]}]}}`},
	{"/apis/autoscaling/v1/namespaces/default/horizontalpodautoscalers", `{"metadata":{"name":"empty"},"spec":{"scaleTargetRef":{"apiVersion":"apps/v1","kind":"Deployment","name":"d"},"maxReplicas":3}}`},
}

// TestStoredBefore compares what is read of objects that were stored in one media type by
// servers that store in another, as after a change of --storage-media-type.
func TestStoredBefore(t *testing.T) {
	const protobuf, json, yaml = "application/vnd.kubernetes.protobuf", "application/json", "application/yaml"
	for _, media := range [][2]string{{json, protobuf}, {yaml, protobuf}, {protobuf, json}} {
		t.Run(media[0]+" and then "+media[1], func(t *testing.T) {
			over := etcd.Run(t)
			t.Run("before", func(t *testing.T) {
				p := startOver(t, over, "--storage-media-type="+media[0])
				for _, e := range empties {
					p.put(t, p.stock, http.MethodPost, e.path, json, []byte(e.object))
				}
			})
			p := startOver(t, over, "--storage-media-type="+media[1])
			p.resources = discover(t, p.stock)
			p.settle(t)
			var all []combination
			add := func(object string) {
				for _, f := range telling {
					for _, query := range []string{"", "resourceVersion=0"} {
						all = append(all, request(object, query, f))
					}
				}
			}
			for _, e := range empties {
				add(e.path)
				add(e.path + "/" + name(e.object))
			}
			p.compareAll(t, all, workers)
			p.sameEvents(t, "/apis/rbac.authorization.k8s.io/v1/clusterroles")
			p.sameEvents(t, "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices")

			// What is written must be what upstream writes.
			label := map[string]any{"metadata": map[string]any{"labels": map[string]any{"by": "both"}}}
			for _, path := range []string{"/apis/rbac.authorization.k8s.io/v1/clusterroles/", "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/"} {
				stock := p.stock.Must(http.MethodPatch, path+"empty?dryRun=All", label)
				weir := p.weir.Must(http.MethodPatch, path+"empty?dryRun=All", label)
				for _, o := range []map[string]any{stock, weir} {
					delete(o["metadata"].(map[string]any), "managedFields") // when
				}
				if a, b := canonical(t, stock), canonical(t, weir); a != b {
					t.Errorf("patching %sempty gives\n%q, stock\n%q", path, b, a)
				}
			}
		})
	}
}

// name reads the name of an object.
func name(object string) string {
	_, rest, _ := strings.Cut(object, `"name":"`)
	name, _, _ := strings.Cut(rest, `"`)
	return name
}
