// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package lists

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"path"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/util/yaml"

	"github.com/weir-project/weir/test/servers"
)

// resource is one that can be listed, in one version.
type resource struct {
	// root is the path of its group and version.
	root, version string
	name, kind    string
	namespaced    bool
}

// path is where it is in one namespace, or in all if that is "".
func (r resource) path(namespace string) string {
	if namespace == "" || !r.namespaced {
		return r.root + "/" + r.name
	}
	return r.root + "/namespaces/" + namespace + "/" + r.name
}

// paths are its collections.
func (r resource) paths() []string {
	if !r.namespaced {
		return []string{r.path("")}
	}
	return []string{r.path(""), r.path("lists")}
}

// discover returns what a server says that it can list.
func discover(t *testing.T, s *servers.Server) []resource {
	t.Helper()
	var groups struct {
		Groups []struct {
			Versions []struct{ GroupVersion string }
		}
	}
	get(t, s, "/apis", &groups)
	versions := map[string]string{"/api/v1": "v1"}
	for _, g := range groups.Groups {
		for _, v := range g.Versions {
			if strings.HasSuffix(path.Dir(v.GroupVersion), ".nowhere.weir.test") {
				continue // an APIService whose service does not exist
			}
			versions["/apis/"+v.GroupVersion] = v.GroupVersion
		}
	}
	var out []resource
	for _, root := range slices.Sorted(maps.Keys(versions)) {
		var list struct {
			Resources []struct {
				Name, Kind string
				Namespaced bool
				Verbs      []string
			}
		}
		get(t, s, root, &list)
		for _, r := range list.Resources {
			if slices.Contains(r.Verbs, "list") {
				out = append(out, resource{root: root, version: versions[root], name: r.Name, kind: r.Kind, namespaced: r.Namespaced})
			}
		}
	}
	slices.SortFunc(out, func(a, b resource) int { return strings.Compare(a.path(""), b.path("")) })
	return out
}

func get(t *testing.T, s *servers.Server, path string, into any) {
	t.Helper()
	status, answer := s.In(t).Do(http.MethodGet, path, nil)
	if status != http.StatusOK {
		t.Fatalf("%s: %s: %d %.500s", s.Name, path, status, answer)
	}
	if err := json.Unmarshal(answer, into); err != nil {
		t.Fatalf("%s: %s: %v", s.Name, path, err)
	}
}

//go:embed testdata/objects.yaml
var objects string

// copies is how often an object of testdata/objects.yaml is made.
const copies = 3

// fill makes the objects, and then changes some of them.
func (p *pair) fill(t *testing.T) {
	t.Helper()
	p.resources = discover(t, p.stock)
	turn := 0
	next := func() *servers.Server { // both are written to
		turn++
		return p.both()[turn%2].In(t)
	}
	for _, document := range strings.Split(objects, "\n---\n")[1:] { // the first says what the others are
		numbered := strings.Contains(document, "$N")
		for n := range copies {
			if n > 0 && !numbered {
				break
			}
			object := parse(t, document, n)
			r, ok := p.find(object)
			if !ok {
				t.Fatalf("%v %v is not served", object["apiVersion"], object["kind"])
			}
			p.create(t, next(), r, object)
		}
	}
	p.older = p.settle(t)

	change := map[string]any{"metadata": map[string]any{"annotations": map[string]any{"changed": "yes"}}}
	for _, c := range changing {
		r, ok := p.find(map[string]any{"apiVersion": c.version, "kind": c.kind})
		if !ok {
			t.Fatalf("%s %s is not served", c.version, c.kind)
		}
		next().Must(http.MethodPatch, r.path("lists")+"/"+c.name+"-0", change)
		next().Must(http.MethodDelete, r.path("lists")+"/"+c.name+"-1?gracePeriodSeconds=0", nil)
	}
	p.fit(t)
	p.current = p.settle(t)
}

// changing are objects of which some are changed and some are gone after revision
// older. It is these that requests are put together for with many parameters.
var changing = []struct{ version, kind, name string }{
	{"v1", "ConfigMap", "configmap"},
	{"v1", "Pod", "pod"},
	{"v1", "Node", "node"},
	{"v1", "Service", "service"},                         // a REST storage that changes objects as it reads them
	{"v1", "Event", "event"},                             // no watch cache
	{"autoscaling/v1", "HorizontalPodAutoscaler", "hpa"}, // not the version that is stored
	{"weir.test/v1", "Gate", "gate"},
	{"weir.test/v2", "Gate", "other"},
	{"weir.test/v1", "Bridge", "bridge"},
}

// find returns the resource that an object is of.
func (p *pair) find(object map[string]any) (resource, bool) {
	for _, r := range p.resources {
		if r.version == object["apiVersion"] && r.kind == object["kind"] {
			return r, true
		}
	}
	return resource{}, false
}

// parse returns copy n of a document.
func parse(t *testing.T, document string, n int) map[string]any {
	t.Helper()
	namespace := "lists"
	if n == copies-1 {
		namespace = "lists-other"
	}
	document = strings.NewReplacer("$NAMESPACE", namespace, "${N}", fmt.Sprint(n+1), "$N", fmt.Sprint(n)).Replace(document)
	data, err := yaml.ToJSON([]byte(document))
	if err != nil {
		t.Fatalf("%v in\n%s", err, document)
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber() // large integers stay what they are
	var object map[string]any
	if err := d.Decode(&object); err != nil {
		t.Fatalf("%v in\n%s", err, document)
	}
	meta := object["metadata"].(map[string]any)
	meta["labels"] = map[string]any{"app": []string{"web", "db"}[n%2], "copy": fmt.Sprint(n)}
	meta["namespace"] = namespace
	return object
}

func (p *pair) create(t *testing.T, s *servers.Server, r resource, object map[string]any) {
	t.Helper()
	meta := object["metadata"].(map[string]any)
	name, namespace := meta["name"].(string), meta["namespace"].(string)
	if !r.namespaced {
		delete(meta, "namespace")
	}
	if status, answer := s.Do(http.MethodPost, r.path(namespace), object); status != http.StatusCreated {
		t.Errorf("%s %s: %d %s", r.kind, name, status, answer)
		return
	}
	if status, ok := object["status"]; ok {
		s.Must(http.MethodPatch, r.path(namespace)+"/"+name+"/status", map[string]any{"status": status})
	}
	if r.kind != "CustomResourceDefinition" {
		return
	}
	// Its resources are there when discovery has them and both serve them.
	group, plural := object["spec"].(map[string]any)["group"].(string), strings.Split(name, ".")[0]
	servers.Eventually(t, name+" to be served", func() bool {
		for _, s := range p.both() {
			for _, version := range []string{"v1", "v2"} {
				if status, _ := s.Do(http.MethodGet, "/apis/"+group+"/"+version+"/"+plural, nil); status != http.StatusOK {
					return false
				}
			}
		}
		found := discover(t, p.weir)
		if !slices.ContainsFunc(found, func(r resource) bool { return r.name == plural && r.version == group+"/v1" }) {
			return false
		}
		p.resources = found
		return slices.Equal(found, discover(t, p.stock))
	})
}

// settle lists everything at both servers until nothing has been written meanwhile.
// The servers' caches have then seen the last revision, so that lists of any state are
// lists of the same. It returns that revision.
func (p *pair) settle(t testing.TB) int64 {
	t.Helper()
	before := p.revision(t)
	servers.Eventually(t, "servers to stop writing", func() bool {
		for _, r := range p.resources {
			p.refresh(t, r.path(""))
		}
		was := before
		before = p.revision(t)
		return before == was
	})
	return before
}

// refresh lets both servers' caches of a collection know the last revision.
func (p *pair) refresh(t testing.TB, path string) {
	t.Helper()
	for _, s := range p.both() {
		if status, answer := s.Do(http.MethodGet, path+"?limit=1", nil); status != http.StatusOK {
			t.Fatalf("%s: %s: %d %.500s", s.Name, path, status, answer)
		}
	}
}
