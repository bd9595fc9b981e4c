// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package lists

import (
	"fmt"
	"net/http"
	"testing"

	"github.com/weir-project/weir/test/servers"
)

const defaultedNamespace = "lists-defaulted"

// services are specs of Services, in all combinations of the fields that depend on each other.
func services() (out []map[string]any) {
	for _, kind := range []string{"ClusterIP", "NodePort", "LoadBalancer", "ExternalName"} {
		for _, policy := range []string{"", "Cluster", "Local"} {
			for _, address := range []string{"", "None"} {
				for _, families := range []string{"", "SingleStack", "PreferDualStack"} {
					for _, selector := range []map[string]any{nil, {"a": "b"}} {
						spec := map[string]any{"type": kind, "ports": []any{map[string]any{"port": 80}}}
						for name, value := range map[string]string{"internalTrafficPolicy": policy, "clusterIP": address, "ipFamilyPolicy": families} {
							if value != "" {
								spec[name] = value
							}
						}
						if selector != nil {
							spec["selector"] = selector
						}
						if kind == "ExternalName" {
							spec["externalName"] = "example.com"
						}
						out = append(out, spec)
					}
				}
			}
		}
	}
	return out
}

// becoming are changes of a Service's type.
var becoming = []map[string]any{
	{"type": "ExternalName", "externalName": "example.com"},
	{"type": "ExternalName", "externalName": "example.com", "internalTrafficPolicy": "Local"},
	{"type": "ClusterIP", "externalName": nil},
	{"type": "NodePort", "externalName": nil},
	{"internalTrafficPolicy": "Cluster"},
	{"internalTrafficPolicy": nil},
	{"clusterIP": "", "clusterIPs": nil},
	{"ipFamilies": nil, "ipFamilyPolicy": nil},
}

// claims are specs of PersistentVolumeClaims with what they may be filled from.
func claims() (out []map[string]any) {
	sources := []map[string]any{
		nil,
		{"kind": "PersistentVolumeClaim", "name": "other"},
		{"kind": "VolumeSnapshot", "apiGroup": "snapshot.storage.k8s.io", "name": "snapshot"},
		{"kind": "Populator", "apiGroup": "weir.test", "name": "populator"},
		{"kind": "Pod", "name": "pod"},
		{"kind": "PersistentVolumeClaim", "name": "other", "namespace": "lists"},
	}
	for _, source := range sources {
		for _, ref := range sources {
			spec := map[string]any{"accessModes": []any{"ReadWriteOnce"}, "resources": map[string]any{"requests": map[string]any{"storage": "1Gi"}}}
			if source != nil {
				spec["dataSource"] = source
			}
			if ref != nil {
				spec["dataSourceRef"] = ref
			}
			out = append(out, spec)
		}
	}
	return out
}

// testDefaulted searches what the API accepts, in the two resources whose REST storage changes
// objects as it reads them, and compares how it is listed.
func (p *pair) testDefaulted(t *testing.T) {
	p.stock.In(t).Must(http.MethodPost, "/api/v1/namespaces", map[string]any{"metadata": map[string]any{"name": defaultedNamespace}})
	turn := 0
	next := func() *servers.Server { // both are written to
		turn++
		return p.both()[turn%2].In(t)
	}
	const root = "/api/v1/namespaces/" + defaultedNamespace
	accepted, changed, dropped := 0, 0, 0
	create := func(resource string, i int, spec map[string]any) (string, bool) {
		name := fmt.Sprintf("%.3s-%03d", resource, i)
		status, _ := next().Do(http.MethodPost, root+"/"+resource, map[string]any{
			"metadata": map[string]any{"name": name, "labels": map[string]any{"a": fmt.Sprint(i % 3)}}, "spec": spec})
		if status == http.StatusCreated {
			accepted++
		}
		return root + "/" + resource + "/" + name, status == http.StatusCreated
	}
	for i, spec := range services() {
		object, ok := create("services", i, spec)
		if !ok {
			continue
		}
		if spec["type"] == "ExternalName" && spec["internalTrafficPolicy"] != nil {
			dropped++
		}
		// What REST storage does not complete becomes so when its type changes.
		if i%3 == 0 {
			continue
		}
		change := becoming[i%len(becoming)]
		if status, _ := next().Do(http.MethodPatch, object, map[string]any{"spec": change}); status == http.StatusOK {
			changed++
			if change["type"] == "ExternalName" && spec["type"] != "ExternalName" {
				dropped++
			}
		}
	}
	for i, spec := range claims() {
		create("persistentvolumeclaims", i, spec)
	}
	t.Logf("%d objects are accepted, %d changes of them; of %d REST storage drops a field", accepted, changed, dropped)
	if accepted < 80 || changed < 30 || dropped < 5 {
		t.Error("that is too few")
	}
	p.current = p.settle(t)

	var all []combination
	for _, resource := range []string{"services", "persistentvolumeclaims"} {
		for _, path := range []string{root + "/" + resource, "/api/v1/" + resource} {
			for _, f := range forms {
				for _, q := range []string{"", "resourceVersion=0", "limit=7", "labelSelector=a%3D1", "limit=5&labelSelector=a%21%3D1",
					fmt.Sprintf("resourceVersionMatch=Exact&resourceVersion=%d", p.current)} {
					all = append(all, request(path, q, f))
				}
				one := request(path, "limit=10", f)
				one.pages = true
				all = append(all, one)
			}
			all = append(all, p.compressedOf(path)...)
		}
	}
	p.compareAll(t, all, workers)
}

// compressedOf are requests for a collection of clients that can inflate.
func (p *pair) compressedOf(path string) (out []combination) {
	for _, f := range []form{
		{accept: []string{"application/json"}, gzip: true},
		{accept: []string{"application/vnd.kubernetes.protobuf"}, gzip: true},
		{accept: []string{"application/yaml"}, gzip: true},
		{accept: []string{"application/json;as=Table;v=v1" + meta}, query: "includeObject=Object", gzip: true},
	} {
		out = append(out, request(path, "", f))
	}
	return out
}
