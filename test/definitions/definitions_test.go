// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

// Package definitions puts OpenAPI requests to upstream's server and to weir's, over one etcd, while definitions
// of custom resources come, change and go, and holds the answers against each other.
package definitions

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/weir-project/weir/test/etcd"
	"github.com/weir-project/weir/test/servers"
)

func TestMain(m *testing.M) { servers.Main(m) }

type pair struct{ stock, weir *servers.Server }

const (
	crds  = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
	v2    = "/openapi/v2"
	v3    = "/openapi/v3"
	proto = "application/com.github.proto-openapi.spec."
)

func TestOpenAPI(t *testing.T) {
	store := etcd.Run(t)
	p := &pair{}
	p.stock = servers.Start(t, servers.Stock, store.Endpoints()[0])
	p.weir = servers.Start(t, servers.Weir, store.Endpoints()[0])
	p.stock.Wait()
	p.weir.Wait()

	t.Run("without definitions", p.same)
	first, second := kinds(), moreKinds()
	for _, crd := range first {
		p.create(t, crd)
	}
	t.Run("created", p.same)
	t.Run("headers", p.headers)
	t.Run("applied", p.applied)
	t.Run("explained", p.explained)
	for _, crd := range second {
		p.create(t, crd)
	}
	t.Run("more in the same groups", p.same)
	widgets := crds + "/widgets.a.example.com"
	version := func(name string, schema object) object {
		return object{"name": name, "served": true, "storage": name == "v1", "schema": object{"openAPIV3Schema": schema}}
	}
	p.weir.Must(http.MethodPatch, widgets, object{"spec": object{"versions": []object{version("v1", structural("changed"))}}})
	t.Run("changed", p.same)
	p.weir.Must(http.MethodPatch, widgets, object{"metadata": object{"annotations": object{"a": "b"}}})
	t.Run("annotated", p.same)
	p.weir.Must(http.MethodPatch, widgets, object{"spec": object{"versions": []object{version("v1", structural("changed")), version("v2", structural("more"))}}})
	t.Run("version added", p.same)
	for _, crd := range second {
		p.weir.Must(http.MethodDelete, crds+"/"+name(crd), nil)
	}
	t.Run("some deleted", p.same)
	p.weir.Must(http.MethodPatch, widgets, object{"spec": object{"versions": []object{version("v1", structural("changed"))}}})
	t.Run("version dropped", func(t *testing.T) { p.sameBut(t, "apis/a.example.com/v2") })
	for _, crd := range first {
		p.weir.Must(http.MethodDelete, crds+"/"+name(crd), nil)
	}
	t.Run("all deleted", p.same)
}

// same waits until both servers serve the same documents. Upstream's are some seconds late.
func (p *pair) same(t *testing.T) { p.sameBut(t) }

// sameBut leaves out documents of group versions that upstream serves though no definition has them any more.
func (p *pair) sameBut(t *testing.T, stale ...string) {
	var diff string
	defer func() {
		if t.Failed() {
			t.Log(diff)
		}
	}()
	servers.Eventually(t, "equal OpenAPI", func() bool {
		diff = p.difference(t, stale)
		return diff == ""
	})
	t.Logf("%d documents are equal", len(p.paths(t, p.weir)))
}

func (p *pair) difference(t *testing.T, stale []string) string {
	stock, weir := p.paths(t, p.stock), p.paths(t, p.weir)
	for _, path := range stale {
		if _, served := weir[path]; served {
			return path + " is served"
		}
		delete(stock, path)
	}
	if !maps.Equal(stock, weir) {
		return fmt.Sprintf("stock has %q\nweir has %q", slices.Sorted(maps.Keys(stock)), slices.Sorted(maps.Keys(weir)))
	}
	for _, r := range []servers.Request{get(v2, "application/json"), get(v2, proto+"v2.v1.0+protobuf"), get(v2, proto+"v2@v1.0+protobuf")} {
		if diff := p.compare(t, r); diff != "" {
			return diff
		}
	}
	for path := range weir {
		if !strings.Contains(path, "example") {
			continue
		}
		for _, accept := range []string{"application/json", proto + "v3.v1.0+protobuf"} {
			if diff := p.compare(t, get(v3+"/"+path, accept)); diff != "" {
				return diff
			}
		}
	}
	return ""
}

// paths returns what /openapi/v3 has.
func (p *pair) paths(t *testing.T, s *servers.Server) map[string]string {
	t.Helper()
	var root struct {
		Paths map[string]struct{ ServerRelativeURL string }
	}
	a := p.answer(t, s, get(v3, ""))
	if err := json.Unmarshal(a.Body, &root); err != nil {
		t.Fatalf("%s: %d %v", s.Name, a.Status, err)
	}
	paths := map[string]string{}
	for path, item := range root.Paths {
		paths[path] = item.ServerRelativeURL
	}
	return paths
}

func get(path, accept string) servers.Request {
	r := servers.Request{Path: path, Header: http.Header{}}
	if accept != "" {
		r.Header.Set("Accept", accept)
	}
	return r
}

func (p *pair) answer(t *testing.T, s *servers.Server, r servers.Request) servers.Response {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), servers.Patience)
	defer cancel()
	a, err := s.Answer(ctx, r)
	if err != nil {
		t.Fatal(err)
	}
	for _, changing := range []string{"Date", "Audit-Id", "Last-Modified", "Expires", "X-Kubernetes-Pf-Flowschema-Uid", "X-Kubernetes-Pf-Prioritylevel-Uid"} {
		if a.Header.Get(changing) != "" {
			a.Header.Set(changing, "(there)")
		}
	}
	return a
}

// compare tells how the answers to a request differ.
func (p *pair) compare(t *testing.T, r servers.Request) string {
	t.Helper()
	stock, weir := p.answer(t, p.stock, r), p.answer(t, p.weir, r)
	what := fmt.Sprintf("%s %v", r.Path, r.Header)
	switch {
	case stock.Status != weir.Status:
		return fmt.Sprintf("%s: status %d, stock's %d", what, weir.Status, stock.Status)
	case !maps.EqualFunc(stock.Header, weir.Header, slices.Equal):
		return fmt.Sprintf("%s: headers\n%v, stock's\n%v", what, weir.Header, stock.Header)
	case !bytes.Equal(stock.Body, weir.Body):
		at := 0
		for at < min(len(stock.Body), len(weir.Body)) && stock.Body[at] == weir.Body[at] {
			at++
		}
		return fmt.Sprintf("%s: %d bytes, stock's %d; from %d on\n%.300q, stock's\n%.300q", what,
			len(weir.Body), len(stock.Body), at, weir.Body[max(0, at-100):], stock.Body[max(0, at-100):])
	}
	return ""
}

// headers compares what requests ask for besides the document.
func (p *pair) headers(t *testing.T) {
	paths := p.paths(t, p.weir)
	document := v3 + "/apis/a.example.com/v1"
	etag2, etag3 := p.answer(t, p.weir, get(v2, "")).Header.Get("Etag"), p.answer(t, p.weir, get(document, "")).Header.Get("Etag")
	with := func(r servers.Request, name, value string) servers.Request {
		r.Header.Set(name, value)
		return r
	}
	requests := []servers.Request{
		get(paths["apis/a.example.com/v1"], ""), get(paths["apis/a.example.com/v1"], proto+"v3@v1.0+protobuf"),
		get(document+"?hash=other", ""), get(document, "text/plain"), get(document, "text/plain, application/*;q=0.5"),
		get(document, proto+"v3.v1.0+protobuf;q=0.1,application/json;q=0.2"), get(document+"/", ""), get(v3+"/", ""), get(v3+"/apis/none.example.com/v1", ""),
		with(get(document, ""), "If-None-Match", etag3), with(get(document, ""), "Range", "bytes=10-20"),
		with(get(document, ""), "Accept-Encoding", "gzip"),
		get(v2, ""), get(v2, "*/*"), get(v2, "text/plain"), get(v2, proto+"v2.v1.0+protobuf;q=0.1,application/json;q=0.2"), get(v2+"/", ""),
		with(get(v2, ""), "If-None-Match", etag2), with(get(v2, ""), "Range", "bytes=10-20"), with(get(v2, ""), "If-None-Match", `"other"`),
		with(with(get(v2, ""), "If-None-Match", etag2), "Accept-Encoding", "gzip"),
		{Method: http.MethodHead, Path: v2}, {Method: http.MethodHead, Path: document},
		{Method: http.MethodPost, Path: document}, {Path: v2, HTTP1: true},
		{Path: v2, Header: http.Header{"Authorization": {}}}, {Path: document, Header: http.Header{"Authorization": {}}},
	}
	for _, r := range requests {
		if diff := p.compare(t, r); diff != "" {
			t.Error(diff)
		}
	}
	// The same text compressed may be other bytes.
	gzip := with(get(v2, ""), "Accept-Encoding", "gzip")
	stock, weir := p.answer(t, p.stock, gzip), p.answer(t, p.weir, gzip)
	if !maps.EqualFunc(stock.Header, weir.Header, slices.Equal) {
		t.Errorf("in gzip: headers\n%v, stock's\n%v", weir.Header, stock.Header)
	}
	if plain := p.answer(t, p.weir, get(v2, "")).Body; !bytes.Equal(gunzip(t, weir.Body), plain) {
		t.Error("in gzip it is another document")
	}
}

// applied has two managers apply to one object: what they own is found out by the schema.
func (p *pair) applied(t *testing.T) {
	for manager, item := range map[string]string{"one": "a", "two": "b"} {
		body, err := json.Marshal(object{"apiVersion": "a.example.com/v1", "kind": "Widget", "metadata": object{"name": "w"},
			"spec": object{"keyed": []object{{"name": item, "value": 1}}}})
		if err != nil {
			t.Fatal(err)
		}
		a := p.answer(t, p.weir, servers.Request{Method: http.MethodPatch, Path: "/apis/a.example.com/v1/namespaces/default/widgets/w?fieldManager=" + manager,
			Header: http.Header{"Content-Type": {"application/apply-patch+yaml"}}, Body: body})
		if a.Status/100 != 2 {
			t.Fatalf("%d %s", a.Status, a.Body)
		}
	}
	w := p.weir.Must(http.MethodGet, "/apis/a.example.com/v1/namespaces/default/widgets/w", nil)
	if keyed := w["spec"].(map[string]any)["keyed"].([]any); len(keyed) != 2 {
		t.Errorf("two managers applied an item each, and it has %v", keyed)
	}
}

func (p *pair) create(t *testing.T, crd object) {
	t.Helper()
	p.weir.Must(http.MethodPost, crds, crd)
}
