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
