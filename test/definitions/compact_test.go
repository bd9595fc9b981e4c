// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package definitions

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net/http"
	"reflect"
	"strings"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/weir-project/weir/test/etcd"
	"github.com/weir-project/weir/test/servers"
)

// TestCompactDefinitions has upstream's server and weir's, over an etcd for each, bring definitions to life, change and delete them, and holds what etcd has then
// against each other: weir's controllers write their status from definitions without prose and without managed fields.
func TestCompactDefinitions(t *testing.T) {
	var both []*servers.Server
	programs := []string{servers.Stock, servers.Weir}
	for _, program := range programs {
		both = append(both, servers.Start(t, program, etcd.Run(t).Endpoints()[0]))
	}
	for _, s := range both {
		s.Wait()
	}
	moths := define("compact.example.com", "Moth", "Namespaced",
		version("v1", true, structural("of the first version"), object{"subresources": object{"status": object{}}}),
		version("v2", false, structural("of the second version"), nil))
	moths["metadata"].(object)["annotations"] = object{"kubectl.kubernetes.io/last-applied-configuration": "{}", "who": "somebody"}
	clash := define("compact.example.com", "Moth", "Namespaced", version("v1", true, structural("whose kind is taken"), nil)) // NamesAccepted: False
	clash["metadata"].(object)["name"] = "others.compact.example.com"
	clash["spec"].(object)["names"] = object{"plural": "others", "kind": "Moth"}
	path := crds + "/" + name(moths)
	objects := "/apis/compact.example.com/v1/namespaces/default/moths"

	// stored is a definition as a client reads it, without what differs between any two servers.
	stored := func(s *servers.Server, path string) map[string]any {
		t.Helper()
		crd := s.Must(http.MethodGet, path, nil)
		meta := crd["metadata"].(map[string]any)
		for _, own := range []string{"uid", "resourceVersion", "creationTimestamp", "deletionTimestamp"} {
			delete(meta, own)
		}
		managed, _ := meta["managedFields"].([]any)
		for _, m := range managed {
			delete(m.(map[string]any), "time")
			if m.(map[string]any)["subresource"] == "status" {
				m.(map[string]any)["manager"] = "the server" // it is called after the program
			}
		}
		conditions, _ := crd["status"].(map[string]any)["conditions"].([]any)
		for _, c := range conditions {
			delete(c.(map[string]any), "lastTransitionTime")
		}
		return crd
	}
	same := func(when, path string) {
		t.Helper()
		servers.Eventually(t, when, func() bool {
			return reflect.DeepEqual(stored(both[0], path), stored(both[1], path))
		})
	}
	for _, s := range both {
		s.Must(http.MethodPost, crds, moths)
		servers.Eventually(t, "the definition to be served", func() bool {
			status, _ := s.Do(http.MethodGet, objects, nil)
			return status == http.StatusOK
		})
		s.Must(http.MethodPost, crds, clash)
	}
	same("the same to be stored of a definition that was established", path)
	same("the same to be stored of a definition whose names were not accepted", crds+"/"+name(clash))
	if crd := stored(both[1], path); !strings.Contains(fmt.Sprint(crd), "of the second version") || !strings.Contains(fmt.Sprint(crd), "f:versions") {
		t.Errorf("what was written is lost: %v", crd)
	}

	// A change of nothing but prose ends watches, as any change of the definition does; a change of none does not. What is left is held against upstream's.
	for _, change := range []struct {
		what  string
		patch object
		ends  bool
	}{
		{"an annotation", object{"metadata": object{"annotations": object{"who": "somebody else"}}}, false},
		{"prose", object{"spec": object{"versions": []object{
			version("v1", true, structural("other words"), object{"subresources": object{"status": object{}}}),
			version("v2", false, structural("of the second version"), nil)}}}, true},
	} {
		for i, s := range both {
			resp, err := s.Open(t.Context(), get(objects+"?watch=1&resourceVersion=0", ""))
			if err != nil {
				t.Fatal(err)
			}
			events := bufio.NewReader(resp.Body)
			marker := func(name string) object {
				return object{"apiVersion": "compact.example.com/v1", "kind": "Moth", "metadata": object{"name": name}, "spec": object{}}
			}
			seen := func(name string) bool { // until the watch ends
				for {
					line, err := events.ReadBytes('\n')
					if err != nil {
						return false
					}
					var event struct {
						Object struct{ Metadata struct{ Name string } }
					}
					if err := json.Unmarshal(line, &event); err != nil {
						t.Fatal(err)
					}
					if event.Object.Metadata.Name == name {
						return true
					}
				}
			}
			before := fmt.Sprint("before-", i, strings.ReplaceAll(change.what, " ", ""))
			s.Must(http.MethodPost, objects, marker(before))
			if !seen(before) {
				t.Fatalf("%s, %s: the watch does not go on before anything has changed", change.what, programs[i])
			}
			s.Must(http.MethodPatch, path, change.patch)
			if change.ends {
				if seen("what never comes") {
					t.Fatal("it came")
				}
			} else {
				after := strings.Replace(before, "before", "after", 1)
				s.Must(http.MethodPost, objects, marker(after))
				if !seen(after) {
					t.Errorf("%s, %s: the watch has ended", change.what, programs[i])
				}
			}
			_ = resp.Body.Close()
		}
		same("the same to be stored after a change of "+change.what, path)
	}
	for _, s := range both {
		for _, crd := range []string{path, crds + "/" + name(clash)} {
			s.Must(http.MethodDelete, crd, nil)
			servers.Eventually(t, crd+" to be gone", func() bool { status, _ := s.Do(http.MethodGet, crd, nil); return status == http.StatusNotFound })
		}
	}
}

// TestCompactOrNot starts weir so that it cannot have compact definitions, or that nobody but upstream makes documents: each is as with upstream's server.
func TestCompactOrNot(t *testing.T) {
	moths := define("compact.example.com", "Moth", "Namespaced", version("v1", true, properties(object{"spec": object{"type": "object", "description": "words of spec"}}), nil))
	for _, arg := range []string{
		"--watch-cache-sizes=customresourcedefinitions.apiextensions.k8s.io#0", "--watch-cache=false",
		"--feature-gates=ClientsAllowCBOR=true", "--feature-gates=OpenAPIOnDemand=false", "--feature-gates=CompactDefinitions=false", "--feature-gates=WatchListClient=false",
	} {
		t.Run(arg, func(t *testing.T) {
			s := servers.Start(t, servers.Weir, etcd.Run(t).Endpoints()[0], arg).Wait()
			s.Must(http.MethodPost, crds, moths)
			servers.Eventually(t, "the definition to have documents", func() bool {
				status, v3 := s.Do(http.MethodGet, "/openapi/v3/apis/compact.example.com/v1", nil)
				return status == http.StatusOK && strings.Contains(string(v3), "words of spec")
			})
			servers.Eventually(t, "its words to be in /openapi/v2", func() bool {
				_, v2 := s.Do(http.MethodGet, v2, nil)
				return strings.Contains(string(v2), "words of spec")
			})
		})
	}
}

// TestCompactLegacy has a definition be in etcd that a server of long ago has let in: with prose where it is forbidden today.
// Upstream says so in a condition, and applies to its objects as to such that have no schema.
func TestCompactLegacy(t *testing.T) {
	var conditions, conflicts []string
	for _, program := range []string{servers.Stock, servers.Weir} {
		store := etcd.Run(t)
		s := servers.Start(t, program, store.Endpoints()[0]).Wait()
		schema := properties(object{"spec": object{
			"type": "object", "anyOf": []object{{"required": []string{"items"}}, {"required": []string{"b"}}},
			"properties": object{"b": object{"type": "string"}, "items": object{
				"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": []string{"k"},
				"items": object{"type": "object", "required": []string{"k"}, "properties": object{"k": object{"type": "string"}}}}},
		}})
		crd := define("compact.example.com", "Moth", "Namespaced", version("v1", true, schema, nil))
		s.Must(http.MethodPost, crds, crd)
		objects := "/apis/compact.example.com/v1/namespaces/default/moths"
		servers.Eventually(t, "the definition to be served", func() bool { status, _ := s.Do(http.MethodGet, objects, nil); return status == http.StatusOK })

		client, err := clientv3.New(clientv3.Config{Endpoints: store.Endpoints()})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = client.Close() }()
		all, err := client.Get(t.Context(), "/", clientv3.WithPrefix(), clientv3.WithKeysOnly())
		if err != nil {
			t.Fatal(err)
		}
		key := ""
		for _, kv := range all.Kvs {
			if strings.HasSuffix(string(kv.Key), "/customresourcedefinitions/"+name(crd)) {
				key = string(kv.Key)
			}
		}
		for { // until no controller has written in between
			was, err := client.Get(t.Context(), key)
			if err != nil || len(was.Kvs) != 1 {
				t.Fatal(key, err)
			}
			kv := was.Kvs[0]
			legacy := strings.Replace(string(kv.Value), `"anyOf":[{`, `"anyOf":[{"description":"words",`, 1)
			legacy = strings.Replace(legacy, `"generation":1`, `"generation":2`, 1)
			put, err := client.Txn(t.Context()).If(clientv3.Compare(clientv3.ModRevision(key), "=", kv.ModRevision)).Then(clientv3.OpPut(key, legacy)).Commit()
			if err != nil {
				t.Fatal(err)
			}
			if put.Succeeded {
				break
			}
		}
		condition := ""
		servers.Eventually(t, program+" to say what is wrong with the definition", func() bool {
			for _, c := range s.Must(http.MethodGet, crds+"/"+name(crd), nil)["status"].(map[string]any)["conditions"].([]any) {
				if c := c.(map[string]any); c["type"] == "NonStructuralSchema" {
					condition = fmt.Sprint(c["status"], c["reason"], c["message"])
				}
			}
			return condition != ""
		})
		conditions = append(conditions, condition)
		last := servers.Response{}
		for i, manager := range []string{"a", "b"} {
			r := servers.Request{
				Method: http.MethodPatch, Path: objects + "/m?fieldManager=" + manager, Header: http.Header{"Content-Type": {"application/apply-patch+yaml"}},
				Body: fmt.Appendf(nil, `{"apiVersion":"compact.example.com/v1","kind":"Moth","metadata":{"name":"m"},"spec":{"items":[{"k":"%d"}]}}`, i),
			}
			if last, err = s.Answer(t.Context(), r); err != nil {
				t.Fatal(err)
			}
		}
		conflicts = append(conflicts, fmt.Sprintf("%d %s", last.Status, last.Body))
	}
	if conditions[0] != conditions[1] {
		t.Errorf("the condition is %s, and upstream's %s", conditions[1], conditions[0])
	}
	if conflicts[0] != conflicts[1] || !strings.HasPrefix(conflicts[0], "409 ") {
		t.Errorf("the second who applies gets %s, and from upstream %s", conflicts[1], conflicts[0])
	}
}

// TestCompactAdmission has a policy look at what the server's own controllers write: it sees specifications as they are.
func TestCompactAdmission(t *testing.T) {
	policies := "/apis/admissionregistration.k8s.io/v1/mutatingadmissionpolic"
	for _, program := range []string{servers.Stock, servers.Weir} {
		s := servers.Start(t, program, etcd.Run(t).Endpoints()[0]).Wait()
		policy := func(name, group, resource, operation, condition, label string) {
			s.Must(http.MethodPost, policies+"ies", object{
				"apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingAdmissionPolicy", "metadata": object{"name": name},
				"spec": object{
					"matchConstraints": object{"resourceRules": []object{{"apiGroups": []string{group}, "apiVersions": []string{"*"}, "operations": []string{operation}, "resources": []string{resource}}}},
					"matchConditions":  []object{{"name": "c", "expression": condition}}, "failurePolicy": "Fail", "reinvocationPolicy": "Never",
					"mutations": []object{{"patchType": "ApplyConfiguration", "applyConfiguration": object{
						"expression": `Object{metadata: Object.metadata{labels: Object.metadata.labels{` + label + `: "yes"}}}`}}},
				}})
			s.Must(http.MethodPost, policies+"ybindings", object{
				"apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingAdmissionPolicyBinding", "metadata": object{"name": name}, "spec": object{"policyName": name}})
		}
		policy("changed", "apiextensions.k8s.io", "customresourcedefinitions/status", "UPDATE", "object.spec != oldObject.spec", "changed")
		policy("seen", "apiextensions.k8s.io", "customresourcedefinitions/status", "UPDATE", "object.spec.versions[0].schema.openAPIV3Schema.description.contains('of the first version')", "seen")
		policy("active", "", "configmaps", "CREATE", "true", "active")
		for i := 0; ; i++ {
			made := s.Must(http.MethodPost, "/api/v1/namespaces/default/configmaps", object{"apiVersion": "v1", "kind": "ConfigMap", "metadata": object{"name": fmt.Sprint("c", i)}})
			if labels, _ := made["metadata"].(map[string]any)["labels"].(map[string]any); labels["active"] == "yes" {
				break
			}
		}
		crd := define("compact.example.com", "Moth", "Namespaced", version("v1", true, structural("of the first version"), nil))
		s.Must(http.MethodPost, crds, crd)
		servers.Eventually(t, "the definition to be served", func() bool {
			status, _ := s.Do(http.MethodGet, "/apis/compact.example.com/v1/moths", nil)
			return status == http.StatusOK
		})
		labels := s.Must(http.MethodGet, crds+"/"+name(crd), nil)["metadata"].(map[string]any)["labels"]
		if want := map[string]any{"seen": "yes"}; !reflect.DeepEqual(labels, want) {
			t.Errorf("%s: the policies have set %v and not %v", program, labels, want)
		}
	}
}
