// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package authz

import (
	"fmt"
	"strings"
)

// kind is a resource whose objects are written and read.
type kind struct {
	name, group string
	// versions are those that it is served in; the first is written.
	versions []string
	// apiKind is what its objects say that they are.
	apiKind string
	// namespaces its objects are written in; none for one without.
	namespaces []string
	names      []string
	// fixed says that its objects are there from the start, and are not deleted.
	fixed        bool
	subresources []string
	// fields are selectors beside those by name and namespace.
	fields []fieldSelector
	// secret makes what stands outside of the metadata, with a word of s's in it that only a reader of all of it may see.
	secret func(s *state) map[string]any
	// shown says that a Table shows that word in its cells.
	shown bool
	// uncached says that it is read from etcd.
	uncached bool
}

// fieldSelector is one, with what an object is like that it selects.
type fieldSelector struct {
	text string
	// name and fields are of such an object; any if they are empty.
	name   string
	fields map[string]string
}

const (
	nodeLeases = "kube-node-lease"
	group      = "authz.test"
	crdName    = "passes." + group
)

var namespaces = []string{"a", "b", "c"}

// numbered are names of n objects.
func numbered(prefix string, n int) (out []string) {
	for i := range n {
		out = append(out, fmt.Sprint(prefix, i))
	}
	return out
}

// nodes are the names of Nodes.
var nodes = numbered("n-", 4)

// word is what an object holds outside of its metadata: a valid name of a port, and of an image.
func word(id int) string { return fmt.Sprintf("deep-%d-z", id) }

// large is enough content for a list to be compressed.
var large = strings.Repeat("0123456789abcdef", 9<<10)

var pods = &kind{
	name: "pods", versions: []string{"v1"}, apiKind: "Pod", namespaces: namespaces, names: numbered("p-", 6),
	subresources: []string{"status", "log", "ephemeralcontainers", "binding"},
	fields: []fieldSelector{
		{text: "spec.nodeName=n-0", fields: map[string]string{nodeName: "n-0"}},
		{text: "spec.nodeName=n-1", fields: map[string]string{nodeName: "n-1"}},
		{text: "spec.nodeName=n-2", fields: map[string]string{nodeName: "n-2"}},
		{text: "spec.nodeName=n-3", fields: map[string]string{nodeName: "n-3"}},
		{text: "spec.nodeName=n-9", fields: map[string]string{nodeName: "n-9"}},
		{text: "spec.nodeName=", fields: map[string]string{nodeName: ""}},
		{text: "spec.nodeName!=n-0", fields: map[string]string{nodeName: "n-1"}},
		{text: "spec.nodeName=n-1,metadata.name=p-2", name: "p-2", fields: map[string]string{nodeName: "n-1"}},
		{text: "metadata.name=p-1,spec.nodeName=n-0", name: "p-1", fields: map[string]string{nodeName: "n-0"}},
		{text: "spec.colour=red"},
	},
	secret: func(s *state) map[string]any {
		volume := func(name, source, key, value string) any {
			return map[string]any{"name": name, source: map[string]any{key: value}}
		}
		spec := map[string]any{
			"containers":                    []any{map[string]any{"name": "c", "image": word(s.id)}},
			"terminationGracePeriodSeconds": 0,
			"serviceAccountName":            s.refers["serviceaccounts"],
			"volumes": []any{
				volume("s", "secret", "secretName", s.refers["secrets"]),
				volume("c", "configMap", "name", s.refers["configmaps"]),
			},
		}
		if s.fields[nodeName] != "" {
			spec["nodeName"] = s.fields[nodeName]
		}
		return map[string]any{"spec": spec}
	},
}

// nodeName is the field of a Pod that the node authorizer looks at.
const nodeName = "spec.nodeName"

var kinds = []*kind{
	pods,
	{
		name: "configmaps", versions: []string{"v1"}, apiKind: "ConfigMap", namespaces: namespaces, names: numbered("cm-", 5),
		fields: []fieldSelector{{text: "spec.colour=red"}},
		secret: func(s *state) map[string]any {
			data := map[string]any{"content": word(s.id)}
			if s.name == "cm-4" && s.namespace == "c" {
				data["large"] = large
			}
			return map[string]any{"data": data}
		},
	},
	{
		name: "secrets", versions: []string{"v1"}, apiKind: "Secret", namespaces: namespaces, names: numbered("s-", 5),
		fields: []fieldSelector{{text: "type=Opaque"}, {text: "type!=other"}},
		secret: func(s *state) map[string]any {
			return map[string]any{"type": "Opaque", "data": map[string]any{"content": []byte(word(s.id))}}
		},
	},
	{
		name: "services", versions: []string{"v1"}, apiKind: "Service", namespaces: namespaces, names: numbered("svc-", 3),
		subresources: []string{"status"},
		secret: func(s *state) map[string]any {
			return map[string]any{"spec": map[string]any{"clusterIP": "None", "ports": []any{map[string]any{"name": word(s.id), "port": 80}}}}
		},
	},
	{
		name: "nodes", versions: []string{"v1"}, apiKind: "Node", names: nodes, fixed: true,
		subresources: []string{"status"},
		fields: []fieldSelector{
			{text: "spec.unschedulable=true", fields: map[string]string{"spec.unschedulable": "true"}},
			{text: "spec.unschedulable=false", fields: map[string]string{"spec.unschedulable": "false"}},
		},
		secret: func(s *state) map[string]any {
			return map[string]any{"spec": map[string]any{
				"unschedulable": s.fields["spec.unschedulable"] == "true",
				"taints":        []any{map[string]any{"key": word(s.id), "effect": "PreferNoSchedule"}},
			}}
		},
	},
	{
		name: "namespaces", versions: []string{"v1"}, apiKind: "Namespace", names: namespaces, fixed: true,
		subresources: []string{"status", "finalize"},
		fields:       []fieldSelector{{text: "status.phase=Active"}},
	},
	{
		name: "leases", group: "coordination.k8s.io", versions: []string{"v1"}, apiKind: "Lease",
		namespaces: []string{nodeLeases, "a"}, names: nodes, shown: true,
		secret: func(s *state) map[string]any {
			return map[string]any{"spec": map[string]any{"holderIdentity": word(s.id), "leaseDurationSeconds": 10}}
		},
	},
	{
		name: "events", versions: []string{"v1"}, apiKind: "Event", namespaces: []string{"a", "b"}, names: numbered("ev-", 3), shown: true, uncached: true,
		fields: []fieldSelector{
			{text: "type=Warning", fields: map[string]string{"type": "Warning"}},
			{text: "type!=Warning", fields: map[string]string{"type": "Normal"}},
		},
		secret: func(s *state) map[string]any {
			return map[string]any{
				"message": word(s.id), "reason": "Tested", "type": s.fields["type"],
				"involvedObject": map[string]any{"kind": "Pod", "namespace": s.namespace, "name": "p-0"},
			}
		},
	},
	{
		name: "serviceaccounts", versions: []string{"v1"}, apiKind: "ServiceAccount", namespaces: []string{"a", "b"}, names: numbered("sa-", 3),
		subresources: []string{"token"},
	},
	{
		name: "roles", group: "rbac.authorization.k8s.io", versions: []string{"v1"}, apiKind: "Role", namespaces: []string{"a", "b"}, names: numbered("r-", 3),
		secret: func(s *state) map[string]any {
			return map[string]any{"rules": []any{map[string]any{
				"apiGroups": []any{""}, "resources": []any{"pods"}, "verbs": []any{"get"}, "resourceNames": []any{word(s.id)},
			}}}
		},
	},
	{
		name: "passes", group: group, versions: []string{"v1", "v2"}, apiKind: "Pass", namespaces: namespaces, names: numbered("pass-", 4),
		subresources: []string{"status", "scale"},
		fields: []fieldSelector{
			{text: "spec.colour=red", fields: map[string]string{"spec.colour": "red"}},
			{text: "spec.colour!=red", fields: map[string]string{"spec.colour": "blue"}},
			{text: "spec.colour=blue,metadata.name=pass-1", name: "pass-1", fields: map[string]string{"spec.colour": "blue"}},
		},
		secret: func(s *state) map[string]any {
			return map[string]any{"spec": map[string]any{"colour": s.fields["spec.colour"], "content": word(s.id)}}
		},
	},
}

// values of the fields that objects are drawn with.
var values = map[string][]string{
	nodeName:             {"", "n-0", "n-1", "n-2", "n-3"},
	"spec.unschedulable": {"true", "false"},
	"type":               {"Warning", "Normal"},
	"spec.colour":        {"red", "blue"},
}

// has are the fields that objects of a kind are drawn with.
var has = map[string]string{"pods": nodeName, "nodes": "spec.unschedulable", "events": "type", "passes": "spec.colour"}

func kindOf(name string) *kind {
	for _, k := range kinds {
		if k.name == name {
			return k
		}
	}
	panic("no kind " + name) // a name in this package
}

// root is the path of its group in a version.
func (k *kind) root(version string) string {
	if k.group == "" {
		return "/api/" + version
	}
	return "/apis/" + k.group + "/" + version
}

// path is where it is in one namespace, or in all of them if that is "".
func (k *kind) path(namespace string) string {
	if namespace == "" || k.namespaces == nil {
		return k.root(k.versions[0]) + "/" + k.name
	}
	return k.root(k.versions[0]) + "/namespaces/" + namespace + "/" + k.name
}

// definition is that of the custom resource.
func definition() map[string]any {
	version := func(name string, stored bool) map[string]any {
		return map[string]any{
			"name": name, "served": true, "storage": stored,
			"subresources": map[string]any{"status": map[string]any{}},
			"schema": map[string]any{"openAPIV3Schema": map[string]any{"type": "object", "properties": map[string]any{
				"spec": map[string]any{"type": "object", "properties": map[string]any{
					"colour": map[string]any{"type": "string"}, "content": map[string]any{"type": "string"},
				}},
				"status": map[string]any{"type": "object", "x-kubernetes-preserve-unknown-fields": true},
			}}},
			"selectableFields":         []any{map[string]any{"jsonPath": ".spec.colour"}},
			"additionalPrinterColumns": []any{map[string]any{"name": "Colour", "type": "string", "jsonPath": ".spec.colour"}},
		}
	}
	return map[string]any{
		"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": map[string]any{"name": crdName},
		"spec": map[string]any{
			"group": group, "scope": "Namespaced",
			"names":    map[string]any{"plural": "passes", "singular": "pass", "kind": "Pass", "listKind": "PassList"},
			"versions": []any{version("v1", true), version("v2", false)},
		},
	}
}
