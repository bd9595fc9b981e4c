// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package lists

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/cbor"
	"k8s.io/apimachinery/pkg/runtime/serializer/cbor/direct"

	"github.com/weir-project/weir/test/etcd"
	"github.com/weir-project/weir/test/servers"
)

// values are numbers and texts of which one form or another loses something.
const values = `{"a":1,"b":1.0,"c":1000000.0,"d":-0.0,"e":0.0,"f":1e20,"g":9007199254740992.0,"h":-4611686018427387904.0,` +
	`"i":0.5,"j":1e-7,"k":9223372036854775807,"l":9223372036854775808,"m":[1,1.0,[],{},null],"n":{"x":2.0},"s":"<&>\u2028"}`

// definition is a resource that keeps whatever it is given, in two versions, with columns
// that print it.
func definition(plural, kind string, conversion map[string]any) map[string]any {
	version := func(name string, stored bool) map[string]any {
		return map[string]any{
			"name": name, "served": true, "storage": stored,
			"subresources": map[string]any{"status": map[string]any{}},
			"schema": map[string]any{"openAPIV3Schema": map[string]any{"type": "object", "properties": map[string]any{
				"spec": map[string]any{"type": "object", "x-kubernetes-preserve-unknown-fields": true, "properties": map[string]any{
					"preset": map[string]any{"type": "number", "default": json.RawMessage("1000000.0")},
				}},
				"status": map[string]any{"type": "object", "x-kubernetes-preserve-unknown-fields": true},
			}}},
			"additionalPrinterColumns": []any{
				map[string]any{"name": "C", "type": "string", "jsonPath": ".spec.c"},
				map[string]any{"name": "M", "type": "string", "jsonPath": ".spec.m"},
				map[string]any{"name": "Preset", "type": "string", "jsonPath": ".spec.preset"},
				map[string]any{"name": "Number", "type": "number", "jsonPath": ".spec.b"},
				map[string]any{"name": "Integer", "type": "integer", "jsonPath": ".spec.c"},
			},
		}
	}
	spec := map[string]any{
		"group": "exact.test", "scope": "Namespaced",
		"names":    map[string]any{"plural": plural, "singular": strings.ToLower(kind), "kind": kind, "listKind": kind + "List"},
		"versions": []any{version("v1", true), version("v2", false)},
	}
	if conversion != nil {
		spec["conversion"] = conversion
	}
	return map[string]any{
		"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
		"metadata": map[string]any{"name": plural + ".exact.test"}, "spec": spec,
	}
}

// exactly starts a pair with the given gates and a resource of its own.
func exactly(t *testing.T, gates string, conversion map[string]any) (*pair, resource) {
	t.Helper()
	p := &pair{etcd: etcd.Run(t)}
	for _, s := range []struct {
		name string
		into **servers.Server
	}{{servers.Stock, &p.stock}, {servers.Weir, &p.weir}} {
		*s.into = servers.Start(t, s.name, p.etcd.Endpoints()[0], "--feature-gates=APIServerIdentity=false,UnknownVersionInteroperabilityProxy=false"+gates)
	}
	p.stock.Wait()
	p.weir.Wait()
	r := resource{root: "/apis/exact.test/v1", version: "exact.test/v1", name: "numbers", kind: "Number", namespaced: true}
	p.stock.Must(http.MethodPost, "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", definition(r.name, r.kind, conversion))
	for _, version := range []string{"v1", "v2"} {
		for _, s := range p.both() {
			servers.Eventually(t, "numbers to be served", func() bool {
				status, _ := s.Do(http.MethodGet, "/apis/exact.test/"+version+"/numbers", nil)
				return status == http.StatusOK
			})
		}
	}
	return p, r
}

func (r resource) object(name, spec string) map[string]any {
	return map[string]any{
		"apiVersion": r.version, "kind": r.kind, "metadata": map[string]any{"name": name},
		"spec": json.RawMessage(spec),
	}
}

// telling are the forms in which a number can be seen to have changed.
var telling = slices.Concat(plain, []form{
	{accept: []string{"application/yaml"}},
	{accept: []string{"application/cbor"}},
	{accept: []string{"application/json"}, query: "pretty=true"},
	{accept: []string{"application/yaml;as=Table;v=v1" + meta}},
	{accept: []string{"application/cbor;as=Table;v=v1" + meta}},
	{accept: []string{"application/json;as=Table;v=v1" + meta}, query: "includeObject=Object"},
	{accept: []string{"application/cbor;as=Table;v=v1" + meta}, query: "includeObject=Object"},
	{accept: []string{"application/json;as=PartialObjectMetadataList;v=v1" + meta}},
	{accept: []string{"application/cbor;as=PartialObjectMetadataList;v=v1" + meta}},
})

// readers are all the ways to read a number.
func (r resource) readers(name string) []combination {
	var all []combination
	for _, version := range []string{"v1", "v2"} {
		path := "/apis/exact.test/" + version + "/namespaces/default/numbers"
		for _, f := range telling {
			for _, query := range []string{"", "resourceVersion=0", "limit=500"} {
				all = append(all, request(path, query, f))
			}
			for _, query := range []string{"", "resourceVersion=0"} {
				all = append(all, request(path+"/"+name, query, f))
			}
		}
	}
	return all
}

// events returns what a watch of everything tells, event by event.
func events(t *testing.T, s *servers.Server, path, accept string) []string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), servers.Patience)
	defer cancel()
	answer, err := s.Answer(ctx, servers.Request{Path: path + "?watch=1&resourceVersion=0&timeoutSeconds=1", Header: http.Header{"Accept": {accept}}})
	if err != nil || answer.Status != http.StatusOK {
		t.Fatalf("%s: watching %s as %s: %d %.300s, %v", s.Name, path, accept, answer.Status, answer.Body, err)
	}
	var all []string
	if !strings.Contains(accept, "cbor") {
		for line := range bytes.SplitSeq(bytes.TrimSpace(answer.Body), []byte("\n")) {
			all = append(all, string(ages.ReplaceAll(line, []byte("${1}AGE"))))
		}
		return all
	}
	frames := cbor.NewFramer().NewFrameReader(io.NopCloser(bytes.NewReader(answer.Body)))
	buf := make([]byte, len(answer.Body))
	for {
		n, err := frames.Read(buf)
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		var event any
		if err := direct.Unmarshal(buf[:n], &event); err != nil {
			t.Fatalf("%s: %v in %q", s.Name, err, buf[:n])
		}
		all = append(all, canonical(t, event))
	}
}

// canonical returns CBOR in which two values are equal only if their types are, too.
func canonical(t *testing.T, value any) string {
	t.Helper()
	data, err := direct.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func (p *pair) sameEvents(t *testing.T, path string) {
	t.Helper()
	for _, accept := range []string{"application/json", "application/cbor", "application/json;as=Table;v=v1" + meta, "application/json;as=PartialObjectMetadata;v=v1" + meta} {
		if strings.Contains(accept, "cbor") {
			ctx, cancel := context.WithTimeout(t.Context(), servers.Patience)
			answer, err := p.stock.Answer(ctx, servers.Request{Path: path + "?limit=1", Header: http.Header{"Accept": {"application/cbor"}}})
			cancel()
			if err != nil {
				t.Fatal(err)
			}
			if answer.Status != http.StatusOK {
				continue // the gate is off
			}
		}
		want, got := events(t, p.stock, path, accept), events(t, p.weir, path, accept)
		if len(want) == 0 || len(got) != len(want) {
			t.Errorf("%s as %s: %d events, stock %d", path, accept, len(got), len(want))
			continue
		}
		for i := range want {
			if got[i] != want[i] {
				t.Errorf("%s as %s:\n%.1000q, stock\n%.1000q", path, accept, got[i], want[i])
			}
		}
	}
}

// stored returns the spec of an object as it lies in etcd, and the object's generation.
func (p *pair) stored(t *testing.T, name string) (spec string, generation any) {
	t.Helper()
	r, err := p.etcd.KV.Get(t.Context(), "/registry/exact.test/numbers/default/"+name)
	if err != nil || len(r.Kvs) != 1 {
		t.Fatalf("%s: %v, %v", name, r, err)
	}
	object := map[string]any{}
	if data := r.Kvs[0].Value; data[0] == '{' {
		u := &unstructured.Unstructured{}
		if err := runtime.DecodeInto(unstructured.UnstructuredJSONScheme, data, u); err != nil {
			t.Fatal(err)
		}
		object = u.Object
	} else if err := direct.Unmarshal(data, &object); err != nil {
		t.Fatal(err)
	}
	generation, _, _ = unstructured.NestedFieldNoCopy(object, "metadata", "generation")
	return canonical(t, object["spec"]), generation
}

// TestNumbers has custom resources with numbers that are whole and no integers, and with
// what else JSON does not keep, read and written through both servers: stored as CBOR, and
// as JSON, which is the default.
func TestNumbers(t *testing.T) {
	for name, gates := range map[string]string{"CBOR": ",CBORServingAndStorage=true", "default": ""} {
		t.Run(name, func(t *testing.T) {
			p, r := exactly(t, gates, nil)
			p.resources = []resource{r}
			path := r.path("default")
			for _, s := range p.both() {
				s.Must(http.MethodPost, path, r.object("of-"+s.Name, values))
			}
			if name == "CBOR" {
				object := map[string]any{
					"apiVersion": r.version, "kind": r.kind, "metadata": map[string]any{"name": "no-text"},
					"spec": map[string]any{"text": "\xff\xfe", "\xfd": 2.0, "data": []byte("\xff")},
				}
				p.put(t, p.stock, http.MethodPost, path, "application/cbor", []byte(canonical(t, object)))
			}
			p.settle(t)
			p.compareAll(t, r.readers("of-stock"), workers)
			p.compareAll(t, r.readers("of-weir"), workers)
			p.sameEvents(t, path)
			p.sameEvents(t, strings.Replace(path, "/v1/", "/v2/", 1))

			// Writes that leave the spec alone, or write what was read.
			for _, step := range []struct {
				what  string
				write func(s *servers.Server, object string)
			}{
				{"a PUT of the status", func(s *servers.Server, object string) {
					o := s.Must(http.MethodGet, object, nil)
					o["status"] = map[string]any{"done": 1.5}
					s.Must(http.MethodPut, object+"/status", o)
				}},
				{"a PATCH of a label", func(s *servers.Server, object string) {
					s.Must(http.MethodPatch, object, map[string]any{"metadata": map[string]any{"labels": map[string]any{"a": "b"}}})
				}},
				{"a PUT of what was read", func(s *servers.Server, object string) {
					p.put(t, s, http.MethodPut, object, "application/json", p.read(t, s, object, "application/json"))
				}},
				{"a PUT of what was read as CBOR", func(s *servers.Server, object string) {
					if name == "CBOR" {
						p.put(t, s, http.MethodPut, object, "application/cbor", p.read(t, s, object, "application/cbor"))
					}
				}},
				{"another PUT of the status", func(s *servers.Server, object string) {
					s.Must(http.MethodPatch, object+"/status", map[string]any{"status": map[string]any{"done": 2}})
				}},
				{"a PATCH of the spec", func(s *servers.Server, object string) {
					s.Must(http.MethodPatch, object, map[string]any{"spec": map[string]any{"new": json.RawMessage("3.0")}})
				}},
			} {
				before, _ := p.stored(t, "of-stock")
				for _, s := range p.both() {
					p.settle(t)
					step.write(s, path+"/of-"+s.Name)
				}
				want, wantGeneration := p.stored(t, "of-stock")
				got, gotGeneration := p.stored(t, "of-weir")
				if got != want || gotGeneration != wantGeneration {
					t.Errorf("after %s, generation %v of\n%q is stored, stock %v\n%q", step.what, gotGeneration, got, wantGeneration, want)
				}
				if strings.Contains(step.what, "status") && want != before {
					t.Errorf("%s changes the spec at stock, too", step.what)
				}
			}
			p.settle(t)
			p.compareAll(t, r.readers("of-weir"), workers)
		})
	}
}

func (p *pair) read(t *testing.T, s *servers.Server, path, mediaType string) []byte {
	t.Helper()
	return p.put(t, s, http.MethodGet, path, mediaType, nil)
}

// put makes one request in a media type that has to succeed.
func (p *pair) put(t *testing.T, s *servers.Server, method, path, mediaType string, body []byte) []byte {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), servers.Patience)
	defer cancel()
	answer, err := s.Answer(ctx, servers.Request{Method: method, Path: path, Body: body, Header: http.Header{"Accept": {mediaType}, "Content-Type": {mediaType}}})
	if err != nil || answer.Status/100 != 2 {
		t.Fatalf("%s: %s %s: %d %.500s, %v", s.Name, method, path, answer.Status, answer.Body, err)
	}
	return answer.Body
}

// TestConvertedNumbers has a conversion webhook answer with numbers that are whole and no
// integers, under default gates.
func TestConvertedNumbers(t *testing.T) {
	hook := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		var review apiextensionsv1.ConversionReview
		if err := json.NewDecoder(req.Body).Decode(&review); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		response := &apiextensionsv1.ConversionResponse{UID: review.Request.UID}
		response.Result.Status = "Success"
		for _, o := range review.Request.Objects {
			var object map[string]any
			if err := json.Unmarshal(o.Raw, &object); err != nil {
				http.Error(w, err.Error(), http.StatusBadRequest)
				return
			}
			object["apiVersion"] = review.Request.DesiredAPIVersion
			object["spec"] = json.RawMessage(values)
			raw, err := json.Marshal(object)
			if err != nil {
				http.Error(w, err.Error(), http.StatusInternalServerError)
				return
			}
			// Marshal has compacted the numbers' text, but not changed it.
			response.ConvertedObjects = append(response.ConvertedObjects, runtime.RawExtension{Raw: raw})
		}
		review.Request, review.Response = nil, response
		_ = json.NewEncoder(w).Encode(review) // whoever asked sees what was wrong
	}))
	defer hook.Close()
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: hook.Certificate().Raw})
	p, r := exactly(t, "", map[string]any{"strategy": "Webhook", "webhook": map[string]any{
		"conversionReviewVersions": []any{"v1"},
		"clientConfig":             map[string]any{"url": hook.URL, "caBundle": ca},
	}})
	p.resources = []resource{r}
	for i := range 3 {
		p.stock.Must(http.MethodPost, r.path("default"), r.object(fmt.Sprint("n", i), `{"c":7}`))
	}
	p.settle(t)
	p.refresh(t, strings.Replace(r.path("default"), "/v1/", "/v2/", 1))
	p.compareAll(t, r.readers("n1"), workers)
	p.sameEvents(t, strings.Replace(r.path("default"), "/v1/", "/v2/", 1))
	table := string(p.put(t, p.weir, http.MethodGet, "/apis/exact.test/v2/namespaces/default/numbers", "application/json;as=Table;v=v1"+meta, nil))
	if !strings.Contains(table, `"1e+06"`) {
		t.Errorf("the number is not in the Table: %s", table)
	}
}

// TestShuffled asks for the same again and again, in CBOR: neither lists nor watches rely on
// an order of what is in a map, nor should clients be able to. What is decoded is the same.
func TestShuffled(t *testing.T) {
	p, r := exactly(t, ",CBORServingAndStorage=true", nil)
	const several = 10 // two encodings of one object may be alike by chance
	for i := range several {
		p.stock.Must(http.MethodPost, r.path("default"), r.object(fmt.Sprint("one", i), values))
		p.stock.Must(http.MethodPost, "/api/v1/namespaces/default/configmaps", map[string]any{
			"metadata": map[string]any{"name": fmt.Sprint("one", i)}, "data": map[string]any{"a": "1", "b": "2", "c": "3", "d": "4"},
		})
	}
	for _, path := range []string{r.path("default"), "/api/v1/namespaces/default/configmaps"} {
		for _, accept := range []string{"application/cbor", "application/cbor;as=PartialObjectMetadataList;v=v1" + meta} {
			for _, s := range p.both() {
				seen := map[string]bool{}
				for range 200 {
					answer := p.read(t, s, path+"?resourceVersion=0", accept)
					var list map[string]any
					if err := direct.Unmarshal(answer, &list); err != nil {
						t.Fatalf("%s: %s: %v", s.Name, accept, err)
					}
					// What is in front of the items and behind them is upstream's in any case.
					at := bytes.Index(answer, []byte("items"))
					seen[string(answer[at:at+several*100])] = true
					if len(seen) > 1 {
						break
					}
				}
				if len(seen) < 2 {
					t.Errorf("%s: %s as %s has its items in one way only", s.Name, path, accept)
				}
			}
		}
		objects := map[string]bool{}
		for range 40 {
			ctx, cancel := context.WithTimeout(t.Context(), servers.Patience)
			resp, err := p.weir.Open(ctx, servers.Request{Path: path + "?watch=1&resourceVersion=0", Header: http.Header{"Accept": {"application/cbor"}}})
			if err != nil {
				t.Fatal(err)
			}
			buf := make([]byte, 1<<20)
			n, err := cbor.NewFramer().NewFrameReader(resp.Body).Read(buf)
			cancel()
			_ = resp.Body.Close() // it is not read to its end
			if err != nil {
				t.Fatal(err)
			}
			objects[string(buf[:n])] = true
		}
		if len(objects) < 2 {
			t.Errorf("a watch of %s sends one encoding only", path)
		}
	}
}
