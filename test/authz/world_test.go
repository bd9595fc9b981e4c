// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package authz

import (
	"cmp"
	"encoding/base64"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"testing"

	"github.com/weir-project/weir/test/servers"
)

// object is one, whether it exists or not.
type object struct {
	kind            *kind
	namespace, name string
}

// state is an object as it was written once. The write's number, id, is in its metadata and, as another word, in what
// stands outside of them, so that an answer tells which states of which objects it was made of.
type state struct {
	object
	id     int
	labels map[string]string
	fields map[string]string
	// refers are the names of what a Pod uses, by kind.
	refers map[string]string
}

// world is all that is written, and was.
type world struct {
	rand    *rand.Rand
	servers []*servers.Server
	// states are all that ever were, or are to be; their index is their id, and there is none at 0.
	states []*state
	live   map[object]*state
	// revisions are those of the latest writes, in their order.
	revisions []string
}

// canary is what an object has in its metadata.
func canary(id int) string { return fmt.Sprintf("canary-%d-z", id) }

var (
	canaries = regexp.MustCompile(`canary-(\d+)-z`)
	words    = regexp.MustCompile(`deep-(\d+)-z`)
	// encoded finds words of Secrets in JSON: "deep-" and a digit in base64.
	encoded = regexp.MustCompile(`ZGVlcC[0-9A-Za-z+/]+=*`)
)

// ids finds the numbers that an expression finds, each once.
func ids(in []byte, expression *regexp.Regexp) (out []int) {
	for _, m := range expression.FindAllSubmatch(in, -1) {
		if id, err := strconv.Atoi(string(m[1])); err == nil && !slices.Contains(out, id) {
			out = append(out, id)
		}
	}
	return out
}

// secretIDs finds the words of what stands outside of the metadata.
func secretIDs(in []byte) []int {
	out := ids(in, words)
	for _, e := range encoded.FindAll(in, -1) {
		if plain, err := base64.StdEncoding.DecodeString(string(e)); err == nil {
			out = append(out, ids(plain, words)...)
		}
	}
	return out
}

// writer is one of the servers, by chance.
func (w *world) writer(t *testing.T) *servers.Server {
	return w.servers[w.rand.IntN(len(w.servers))].In(t)
}

func pick[T any](r *rand.Rand, from []T) T { return from[r.IntN(len(from))] }

// draw makes a state of an object by chance.
func (w *world) draw(o object) *state {
	s := &state{object: o, labels: map[string]string{}, fields: map[string]string{}}
	if app := pick(w.rand, []string{"web", "db", ""}); app != "" {
		s.labels["app"] = app
	}
	if w.rand.IntN(2) == 0 {
		s.labels["tier"] = fmt.Sprint(w.rand.IntN(3))
	}
	if f, ok := has[o.kind.name]; ok {
		s.fields[f] = pick(w.rand, values[f])
	}
	w.refer(s)
	return s
}

// refer draws what a Pod uses.
func (w *world) refer(s *state) {
	if s.kind != pods {
		return
	}
	s.refers = map[string]string{}
	for _, k := range []string{"secrets", "configmaps", "serviceaccounts"} {
		s.refers[k] = pick(w.rand, kindOf(k).names)
	}
}

// remember gives a state its id.
func (w *world) remember(s *state) {
	s.id = len(w.states)
	w.states = append(w.states, s)
}

func (o object) path() string { return o.kind.path(o.namespace) + "/" + o.name }

// put writes a state, which gets an id if it has none: by a patch where the object exists and can be made so, anew where not.
func (w *world) put(t *testing.T, s *state) {
	t.Helper()
	if s.id == 0 {
		w.remember(s)
	}
	was := w.live[s.object]
	if was != nil && s.kind == pods && (was.fields[nodeName] != s.fields[nodeName] || !maps.Equal(was.refers, s.refers)) {
		w.remove(t, s.object)
		was = nil
	}
	body := map[string]any{}
	if s.kind.secret != nil {
		body = s.kind.secret(s)
	}
	meta := map[string]any{"name": s.name, "annotations": map[string]any{"canary": canary(s.id)}}
	body["metadata"] = meta
	labels := map[string]any{}
	for k, v := range s.labels {
		labels[k] = v
	}
	meta["labels"] = labels
	if was == nil {
		body["apiVersion"], body["kind"] = s.kind.versions[0], s.kind.apiKind
		if s.kind.group != "" {
			body["apiVersion"] = s.kind.group + "/" + s.kind.versions[0]
		}
		w.wrote(w.writer(t).Must(http.MethodPost, s.kind.path(s.namespace), body))
	} else {
		for k := range was.labels {
			if _, ok := labels[k]; !ok {
				labels[k] = nil
			}
		}
		if s.kind == pods { // nothing else of a Pod can be changed
			body["spec"] = map[string]any{"containers": body["spec"].(map[string]any)["containers"]}
		}
		w.wrote(w.writer(t).Must(http.MethodPatch, s.path(), body))
	}
	w.live[s.object] = s
}

// wrote notes the revision of a write.
func (w *world) wrote(answer map[string]any) {
	if rv := servers.ResourceVersion(answer); rv != "" {
		w.revisions = append(w.revisions, rv)
	}
}

func (w *world) remove(t *testing.T, o object) {
	t.Helper()
	w.writer(t).Must(http.MethodDelete, o.path()+"?gracePeriodSeconds=0", nil)
	delete(w.live, o)
}

// bind gives a Pod to a node, as a scheduler does.
func (w *world) bind(t *testing.T, o object, node string) {
	t.Helper()
	was := w.live[o]
	s := &state{object: o, labels: was.labels, fields: map[string]string{nodeName: node}, refers: was.refers}
	w.remember(s)
	w.writer(t).Must(http.MethodPost, o.path()+"/binding", map[string]any{
		"apiVersion": "v1", "kind": "Binding",
		"metadata": map[string]any{"name": o.name, "annotations": map[string]any{"canary": canary(s.id)}},
		"target":   map[string]any{"kind": "Node", "name": node},
	})
	w.live[o] = s
}

// objects are all of a kind that random writes are made to.
func (k *kind) objects() (out []object) {
	in := k.namespaces
	if in == nil {
		in = []string{""}
	}
	for _, namespace := range in {
		for _, name := range k.names {
			out = append(out, object{k, namespace, name})
		}
	}
	return out
}

// fill makes most of all objects.
func (w *world) fill(t *testing.T) {
	t.Helper()
	for _, name := range namespaces {
		s := w.draw(object{kindOf("namespaces"), "", name})
		w.live[s.object] = nil
		w.remember(s)
		w.writer(t).Must(http.MethodPost, "/api/v1/namespaces", map[string]any{"metadata": map[string]any{
			"name": name, "labels": s.labels, "annotations": map[string]any{"canary": canary(s.id)},
		}})
		w.live[s.object] = s
	}
	for _, k := range kinds {
		for _, o := range k.objects() {
			if w.live[o] == nil && (k.fixed || w.rand.IntN(5) > 0) {
				w.put(t, w.draw(o))
			}
		}
	}
}

// churn makes n random writes: objects are changed, deleted, made again, and Pods are bound. Where there are watches, most
// are to what those may select.
func (w *world) churn(t *testing.T, n int, watches []*request) {
	t.Helper()
	for range n {
		k := pick(w.rand, kinds)
		if w.rand.IntN(3) == 0 {
			k = pods
		}
		of := k.objects()
		if len(watches) > 0 && w.rand.IntN(5) > 0 {
			r := pick(w.rand, watches)
			k = r.kind
			of = slices.DeleteFunc(k.objects(), func(o object) bool {
				named := cmp.Or(r.name, r.field.name)
				return r.namespace != "" && o.namespace != r.namespace || named != "" && o.name != named
			})
			if len(of) == 0 { // it has a name that nothing has
				continue
			}
		}
		o := pick(w.rand, of)
		was := w.live[o]
		s := w.draw(o)
		switch chance := w.rand.IntN(10); {
		case was == nil:
			w.put(t, s)
		case chance < 2 && !k.fixed:
			w.remove(t, o)
		case chance == 2 && !k.fixed:
			w.remove(t, o)
			w.put(t, s)
		case k == pods && was.fields[nodeName] == "" && chance < 7:
			w.bind(t, o, pick(w.rand, nodes))
		default:
			if k == pods && chance < 9 { // labels alone
				s.fields, s.refers = was.fields, was.refers
			}
			w.put(t, s)
		}
	}
}
