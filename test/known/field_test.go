// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package known

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"

	"github.com/weir-project/weir/test/robustness/history"
	"github.com/weir-project/weir/test/servers"
)

func definition(versions ...string) map[string]any {
	var all []any
	for i, v := range versions {
		all = append(all, map[string]any{"name": v, "served": true, "storage": i == len(versions)-1, "schema": map[string]any{
			"openAPIV3Schema": map[string]any{"type": "object", "x-kubernetes-preserve-unknown-fields": true}}})
	}
	return object("apiextensions.k8s.io/v1", "CustomResourceDefinition", "knowns.weir.test", map[string]any{"spec": map[string]any{
		"group": "weir.test", "scope": "Namespaced", "versions": all,
		"names": map[string]any{"plural": "knowns", "singular": "known", "kind": "Known", "listKind": "KnownList"}}})
}

// changingDefinition has a definition change while its objects are written and watched: each change begins a new cache, over
// what is there. A watch goes on or ends, and no list is without what was acknowledged.
func changingDefinition(w *world) {
	ns := w.namespace()
	const definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
	path := "/apis/weir.test/v1/namespaces/" + ns + "/knowns"
	w.b.Must(http.MethodPost, definitions, definition("v1"))
	for _, s := range []*servers.Server{w.a, w.b} {
		servers.Eventually(w, s.Name+" to serve "+path, func() bool {
			status, _ := w.list(s, path)
			return status == http.StatusOK
		})
	}
	have := map[string]int64{}
	n := 0
	create := func(s *servers.Server) {
		name := fmt.Sprintf("o-%d", n)
		n++
		var rev int64
		// While the definition changes, a server may refuse; it must not lose.
		servers.Eventually(w, s.Name+" to take "+name, func() bool {
			status, body := s.Do(http.MethodPost, path, object("weir.test/v1", "Known", name, map[string]any{"spec": map[string]any{"n": n}}))
			if status == http.StatusConflict {
				have[name] = 0 // it was taken before, and the answer was lost
				return true
			}
			if status != http.StatusCreated {
				w.Logf("%s: %d %.200s", s.Name, status, body)
				return false
			}
			rev = revisionIn(w, body)
			return true
		})
		have[name] = rev
	}
	create(w.b)
	steps := [][]string{{"v1", "v2"}, {"v2", "v1"}, {"v1", "v2", "v3"}}
	for i, versions := range steps {
		l := w.mustList(w.b, path)
		var watches []*watching
		for _, s := range []*servers.Server{w.a, w.b} {
			watches = append(watches,
				w.beginPath(s, path, url.Values{}, history.Watch{Start: history.AtRevision, From: l.rev}),
				w.beginPath(s, path, url.Values{}, history.Watch{Start: history.WatchList}))
		}
		for _, r := range watches {
			r.answered()
		}
		next := definition(versions...)
		stored := w.b.Must(http.MethodGet, definitions+"/knowns.weir.test", nil)
		next["metadata"] = map[string]any{"name": "knowns.weir.test", "resourceVersion": servers.ResourceVersion(stored)}
		w.b.Must(http.MethodPut, definitions+"/knowns.weir.test", next)
		var names []string
		for range 12 {
			names = append(names, fmt.Sprintf("o-%d", n))
			create([]*servers.Server{w.b, w.a}[n%2])
		}
		for _, s := range []*servers.Server{w.a, w.b} {
			var l listed
			servers.Eventually(w, s.Name+" to list", func() bool {
				var status int
				status, l = w.list(s, path)
				return status == http.StatusOK
			})
			for name, rev := range have {
				if got, ok := l.names[name]; !ok || rev > 0 && got != rev {
					w.Errorf("%s at revision %d has no %s of revision %d: %d", s.Name, l.rev, name, rev, got)
				}
			}
			if len(l.names) != len(have) {
				w.Errorf("%s lists %d objects, want %d", s.Name, len(l.names), len(have))
			}
		}
		for _, r := range watches {
			// Either it has ended, or it tells all, each once and in order.
			open := r.wait("all that was created", func(h *history.Watch) bool {
				return len(h.Events) > 0 && h.Events[len(h.Events)-1].Key.Name == names[len(names)-1]
			})
			r.stop()
			seen, last := map[string]int{}, int64(0)
			h := r.record()
			initial := h.Start == history.WatchList
			for _, e := range h.Events {
				if e.InitialEnd {
					initial = false
				}
				if e.Kind == history.Error || e.Kind == history.Bookmark {
					continue
				}
				if seen[e.Key.Name]++; seen[e.Key.Name] > 1 || e.Kind != history.Added || !initial && e.Revision <= last {
					w.Errorf("step %d: %s of %s at revision %d after %d, for the %d. time", i, e.Kind, e.Key.Name, e.Revision, last, seen[e.Key.Name])
				}
				last = max(last, e.Revision)
			}
			missing := false
			for _, name := range names {
				if seen[name] == 0 {
					missing = true
				} else if missing {
					w.Errorf("step %d: a watch told %s, and not what came before: %v", i, name, seen)
				}
			}
			if open && missing {
				w.Errorf("step %d: a watch is open and has told %v only", i, seen)
			}
		}
	}
	w.b.Must(http.MethodDelete, definitions+"/knowns.weir.test", nil)
}

func revisionIn(w *world, body []byte) int64 {
	w.Helper()
	var o item
	if err := unmarshal(body, &o); err != nil {
		w.Fatal(err)
	}
	rev, err := strconv.ParseInt(o.Metadata.ResourceVersion, 10, 64)
	if err != nil {
		w.Fatal(err)
	}
	return rev
}

func unmarshal(body []byte, o *item) error { return json.Unmarshal(body, o) }
