// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package definitions

import (
	"fmt"
	"net/http"
	"regexp"
	"strconv"
	"testing"

	"github.com/weir-project/weir/test/etcd"
	"github.com/weir-project/weir/test/servers"
)

// TestTakenAsStored writes custom resources as clients do, through upstream's server and weir's, and holds that weir takes all of them as they are
// stored, with each change and when it reads them at a start; that one whose gate is off takes none so; and that all answer alike. Then the schema changes, so that
// what is stored is no longer what is served.
func TestTakenAsStored(t *testing.T) {
	store := etcd.Run(t)
	p := &pair{}
	p.stock = servers.Start(t, servers.Stock, store.Endpoints()[0])
	p.weir = servers.Start(t, servers.Weir, store.Endpoints()[0])
	p.stock.Wait()
	p.weir.Wait()

	yes := object{"type": "object", "x-kubernetes-preserve-unknown-fields": true}
	spec := func(more object) object {
		of := object{
			"n": object{"type": "integer", "default": 3}, "float": object{"type": "number"}, "text": object{"type": "string"}, "color": object{"type": "string"}, "any": yes,
			"list":   object{"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": []string{"name"}, "items": object{"type": "object", "required": []string{"name"}, "properties": object{"name": object{"type": "string"}, "port": object{"type": "integer", "default": 80}}}},
			"either": object{"x-kubernetes-int-or-string": true}, "words": object{"type": "object", "additionalProperties": object{"type": "string"}},
		}
		for name, property := range more {
			of[name] = property
		}
		return properties(object{"spec": properties(of), "status": yes})
	}
	subresources := object{"subresources": object{"status": object{}}}
	define := define("stored.example.com", "Thing", "Namespaced", version("v1", true, spec(nil), subresources), version("v1beta1", false, spec(nil), subresources))
	p.weir.Must(http.MethodPost, crds, define)
	path := func(version string) string {
		return "/apis/stored.example.com/" + version + "/namespaces/default/things"
	}
	for _, s := range []*servers.Server{p.stock, p.weir} {
		for _, version := range []string{"v1", "v1beta1"} {
			servers.Eventually(t, "the definition to be served", func() bool {
				status, _ := s.Do(http.MethodGet, path(version), nil)
				return status == http.StatusOK
			})
		}
	}

	const objects, changes = 20, 4
	for i := range objects {
		s := []*servers.Server{p.weir, p.stock}[i%2]
		at := fmt.Sprintf("%s/t%d", path("v1"), i)
		s.Must(http.MethodPost, path("v1")+"?fieldManager=creator", object{"apiVersion": "stored.example.com/v1", "kind": "Thing", "metadata": object{
			"name": fmt.Sprintf("t%d", i), "labels": object{"a": "x", "app.kubernetes.io/name": "thing"}, "annotations": object{"a": "<\"é\\n\u2028>"},
			"finalizers":      []string{"example.com/keep"},
			"ownerReferences": []object{{"apiVersion": "v1", "kind": "ConfigMap", "name": "c", "uid": "u", "controller": true}},
		}, "spec": object{"float": 0.25, "text": "<&>", "any": object{"b": nil, "a": []any{1, "x", object{}}}, "list": []object{{"name": "http"}, {"name": "https", "port": 443}}, "either": "50%", "words": object{"a": "", "b.c/d": "y"}}})
		s.Must(http.MethodPatch, at+"?fieldManager=changer", object{"spec": object{"n": i, "color": "red"}})
		s.Must(http.MethodPatch, at+"/status?fieldManager=stater", object{"status": object{"conditions": []object{{"type": "Ready", "status": "True"}}}})
		apply := fmt.Sprintf(`{"apiVersion":"stored.example.com/v1","kind":"Thing","metadata":{"name":"t%d","labels":{"applied":"yes"}},"spec":{"list":[{"name":"applied","port":%d}]}}`, i, i)
		a := p.answer(t, s, servers.Request{Method: http.MethodPatch, Path: at + "?force=true&fieldManager=applier",
			Header: http.Header{"Content-Type": {"application/apply-patch+yaml"}}, Body: []byte(apply)})
		if a.Status/100 != 2 {
			t.Fatalf("%d %s", a.Status, a.Body)
		}
	}
	v := &versioned{pair: *p}
	same := func(t *testing.T) {
		t.Helper()
		for _, version := range []string{"v1", "v1beta1"} {
			for _, form := range v.forms() {
				for _, query := range []string{"", "?resourceVersion=0", "?labelSelector=a%3Dx", "?fieldSelector=metadata.name%3Dt3"} {
					diff := ""
					servers.Eventually(t, "an equal answer", func() bool {
						diff = v.compareGadgets(t, get(path(version)+query, form))
						return diff == ""
					})
				}
			}
		}
	}
	t.Run("written", same)
	// Each of the two versions has a cache, unless they share one.
	if stored, decoded := takenBy(t, v.weir); stored < objects*changes || decoded != 0 {
		t.Errorf("of what was written %d were taken as they are stored, and %d decoded; want %d at least, and none", stored, decoded, objects*changes)
	}
	on := v.weir
	for what, gates := range map[string]string{
		"from the watch":              "UndecodedCustomResources=true",
		"from a list":                 "WatchList=false",
		"from a list of a while ago":  "CustomResourceCachesOnDemand=true",
		"for each version by itself":  "SharedCustomResourceStore=false",
		"by a server that has it off": "UndecodedCustomResources=false",
	} {
		t.Run("read at a start "+what, func(t *testing.T) {
			v.weir = servers.Start(t, servers.Weir, store.Endpoints()[0], "--feature-gates="+gates)
			v.weir.Wait()
			same(t)
			stored, decoded := takenBy(t, v.weir)
			if what == "by a server that has it off" {
				stored, decoded = decoded, stored
			}
			if stored < objects || decoded != 0 {
				t.Errorf("%d were taken as they are meant to be, and %d in the other way; want %d at least, and none", stored, decoded, objects)
			}
		})
	}

	v.weir = on
	_, before := takenBy(t, v.weir)
	more := spec(object{"late": object{"type": "string", "default": "l"}, "color": yes})
	v.weir.Must(http.MethodPatch, crds+"/"+name(define), object{"spec": object{"versions": []object{version("v1", true, more, subresources), version("v1beta1", false, spec(nil), subresources)}}})
	servers.Eventually(t, "the default to be there", func() bool {
		_, answer := v.weir.Do(http.MethodGet, path("v1")+"/t3", nil)
		_, other := v.stock.Do(http.MethodGet, path("v1")+"/t3", nil)
		late := regexp.MustCompile(`"late":"l"`)
		return late.Match(answer) && late.Match(other)
	})
	t.Run("of another schema", same)
	if _, decoded := takenBy(t, v.weir); decoded < before+objects {
		t.Error("objects that a default is to be added to were taken as they are stored")
	}
}

// takenBy returns how many custom resources weir has taken as they are stored, and how many it has decoded.
func takenBy(t *testing.T, s *servers.Server) (stored, decoded int) {
	t.Helper()
	_, metrics := s.Do(http.MethodGet, "/metrics", nil)
	count := func(way string) int {
		found := regexp.MustCompile(`(?m)^weir_custom_resources_read_total\{way="` + way + `"\} (\d+)$`).FindSubmatch(metrics)
		if found == nil {
			t.Fatalf("there is no count of objects that were %s", way)
		}
		n, err := strconv.Atoi(string(found[1]))
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	return count("stored"), count("decoded")
}
