// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

// Package watches has the tests of internal/watchcache that import a whole API server:
// what watches send, held against what upstream's sends.
package watches

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/weir-project/weir/test/etcd"
	"github.com/weir-project/weir/test/servers"
)

func TestMain(m *testing.M) { servers.Main(m) }

// served is a resource as both servers serve it.
type served struct {
	// path is where its objects of one namespace are asked for, write where they are
	// written.
	path, write string
	// large says that objects may have contents of almost 1 MB: to serve those in all
	// forms takes upstream its time.
	large bool
	// object returns one with some content.
	object func(name, content string) map[string]any
}

func object(apiVersion, kind, name string, more map[string]any) map[string]any {
	o := map[string]any{"apiVersion": apiVersion, "kind": kind, "metadata": map[string]any{
		"name": name, "labels": map[string]any{"app": "web"}, "annotations": map[string]any{"z": "<&>", "a": "é"},
	}}
	for k, v := range more {
		o[k] = v
	}
	return o
}

const crdName = "gates.weir.test"

var resources = map[string]served{
	"configmaps": {
		path: "/api/v1/namespaces/default/configmaps", large: true,
		object: func(name, content string) map[string]any {
			return object("v1", "ConfigMap", name, map[string]any{"data": map[string]any{"content": content}})
		},
	},
	"secrets": {
		path: "/api/v1/namespaces/default/secrets", large: true,
		object: func(name, content string) map[string]any {
			return object("v1", "Secret", name, map[string]any{"type": "Opaque", "stringData": map[string]any{"content": content}})
		},
	},
	"pods": {
		path: "/api/v1/namespaces/default/pods",
		object: func(name, content string) map[string]any {
			o := object("v1", "Pod", name, map[string]any{"spec": map[string]any{
				"nodeName": "n1", "containers": []any{map[string]any{"name": "c", "image": "i"}},
			}})
			o["metadata"].(map[string]any)["annotations"] = map[string]any{"content": content}
			return o
		},
	},
	"deployments": {
		path: "/apis/apps/v1/namespaces/default/deployments",
		object: func(name, content string) map[string]any {
			labels := map[string]any{"app": "web"}
			return object("apps/v1", "Deployment", name, map[string]any{"spec": map[string]any{
				"selector": map[string]any{"matchLabels": labels},
				"template": map[string]any{"metadata": map[string]any{"labels": labels}, "spec": map[string]any{
					"containers": []any{map[string]any{"name": "c", "image": "i", "args": []any{content}}},
				}},
			}})
		},
	},
	"horizontalpodautoscalers of another version": {
		path:  "/apis/autoscaling/v1/namespaces/default/horizontalpodautoscalers",
		write: "/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers",
		object: func(name, content string) map[string]any {
			return object("autoscaling/v2", "HorizontalPodAutoscaler", name, map[string]any{"spec": map[string]any{
				"maxReplicas":    9,
				"scaleTargetRef": map[string]any{"apiVersion": "apps/v1", "kind": "Deployment", "name": content[:min(len(content), 10)] + "d"},
			}})
		},
	},
	"events": {
		path: "/api/v1/namespaces/default/events",
		object: func(name, content string) map[string]any {
			return object("v1", "Event", name, map[string]any{"message": content, "involvedObject": map[string]any{"kind": "Pod", "namespace": "default", "name": "p"}})
		},
	},
	"custom": {
		path: "/apis/weir.test/v1/namespaces/default/gates",
		object: func(name, content string) map[string]any {
			return object("weir.test/v1", "Gate", name, map[string]any{"spec": map[string]any{"content": content, "n": 1.5, "list": []any{1, "a", nil}}})
		},
	},
	"custom of another version": {
		path:  "/apis/weir.test/v2/namespaces/default/gates",
		write: "/apis/weir.test/v1/namespaces/default/gates",
		object: func(name, content string) map[string]any {
			return object("weir.test/v1", "Gate", "other-"+name, map[string]any{"spec": map[string]any{"content": content}})
		},
	},
}

func customResource() map[string]any {
	version := func(name string, storage bool) map[string]any {
		return map[string]any{
			"name": name, "served": true, "storage": storage,
			"schema": map[string]any{"openAPIV3Schema": map[string]any{"type": "object", "properties": map[string]any{
				"spec": map[string]any{"type": "object", "x-kubernetes-preserve-unknown-fields": true},
			}}},
			"additionalPrinterColumns": []any{map[string]any{"name": "Content", "type": "string", "jsonPath": ".spec.content"}},
		}
	}
	return map[string]any{
		"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": map[string]any{"name": crdName},
		"spec": map[string]any{
			"group": "weir.test", "scope": "Namespaced",
			"names":    map[string]any{"plural": "gates", "singular": "gate", "kind": "Gate", "listKind": "GateList"},
			"versions": []any{version("v1", true), version("v2", false)},
		},
	}
}

// ages are the cells of Tables that tell how old something is.
var ages = regexp.MustCompile(`"([0-9]+m)?[0-9]+[sm]"|"<invalid>"`)

// comparableStream returns a stream up to its marker, without what the time makes different.
func comparableStream(body []byte, marker string) []byte {
	body = ages.ReplaceAll(body, []byte(`"AGE"`))
	if i := bytes.Index(body, []byte(marker)); i >= 0 {
		body = body[:i+len(marker)]
	}
	return body
}

// writtenContents are around those that buffers have, as far as a request may be large.
func writtenContents() []string {
	out := []string{"", "x", "<script>&amp;</script> \"q\" \\ / \t\r\n \u2028\u2029 é 漢字 😀", strings.Repeat("0123456789", 90<<10)}
	for _, n := range []int{-700, -300, 0, 1} {
		out = append(out, strings.Repeat("a", 64<<10+n))
	}
	return out
}

// pairOf are upstream's server and weir's, over one etcd.
type pairOf struct {
	t           *testing.T
	stock, weir *servers.Server
	// inCBOR counts the streams of CBOR that were compared.
	inCBOR *int
}

// TestHTTPStreamsAreUpstreams has kube-apiserver and weir, both over one etcd, serve
// the same watches over TLS, and compares the bytes: of initial events, of history
// and of what happens meanwhile.
func TestHTTPStreamsAreUpstreams(t *testing.T) {
	t.Parallel()
	if n := compareServers(t, slices.Sorted(maps.Keys(resources))); n != 0 {
		t.Errorf("%d streams were in CBOR without its gate", n)
	}
}

// TestHTTPStreamsInCBOR does the same where servers store and serve CBOR.
func TestHTTPStreamsInCBOR(t *testing.T) {
	t.Parallel()
	if compareServers(t, []string{"custom", "custom of another version", "configmaps"}, "--feature-gates=CBORServingAndStorage=true") == 0 {
		t.Error("nothing was compared in CBOR")
	}
}

// compareServers compares what both serve of the named resources, and returns how many
// streams were in CBOR.
func compareServers(t *testing.T, names []string, args ...string) (inCBOR int) {
	t.Helper()
	endpoint := etcd.Run(t).Endpoints()[0]
	p := &pairOf{t: t, inCBOR: &inCBOR}
	p.stock = servers.Start(t, servers.Stock, endpoint, args...).Wait()
	p.weir = servers.Start(t, servers.Weir, endpoint, args...).Wait()
	p.stock.Must(http.MethodPost, "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", customResource())
	for _, s := range []*servers.Server{p.stock, p.weir} {
		for _, r := range resources {
			servers.Eventually(t, s.Name+" to serve "+r.path, func() bool {
				status, _ := s.Do(http.MethodGet, r.path, nil)
				return status == http.StatusOK
			})
		}
	}
	servers.Eventually(t, "the namespace to be there", func() bool {
		status, _ := p.weir.Do(http.MethodGet, "/api/v1/namespaces/default", nil)
		return status == http.StatusOK
	})
	if _, metrics := p.weir.Do(http.MethodGet, "/metrics", nil); !regexp.MustCompile(`weir_memory_bytes\{purpose="frames"\} [1-9]`).Match(metrics) {
		t.Error("weir's cache holds nothing: this would compare upstream with itself")
	}
	for _, name := range names {
		t.Run(name, func(t *testing.T) {
			r := resources[name]
			if r.write == "" {
				r.write = r.path
			}
			q := &pairOf{t: t, stock: p.stock.In(t), weir: p.weir.In(t), inCBOR: p.inCBOR}
			q.history(r)
			q.live(r)
		})
	}
	return inCBOR
}

// relabelled is a patch.
func relabelled(labels map[string]any) map[string]any {
	return map[string]any{"metadata": map[string]any{"labels": labels}}
}

// history writes, and then compares what watches tell of it.
func (p *pairOf) history(r served) {
	p.t.Helper()
	before := servers.ResourceVersion(p.weir.Must(http.MethodGet, r.path, nil))
	both := []*servers.Server{p.weir, p.stock}
	for i, content := range writtenContents() {
		if !r.large {
			content = content[:min(len(content), 100<<10)]
		}
		o := r.object(fmt.Sprintf("a%d", i), content)
		name := o["metadata"].(map[string]any)["name"].(string)
		both[i%2].Must(http.MethodPost, r.write, o)
		both[(i+1)%2].Must(http.MethodPatch, r.write+"/"+name, relabelled(map[string]any{"app": "db"}))
		if i%3 == 0 {
			both[i%2].Must(http.MethodDelete, r.write+"/"+name+"?gracePeriodSeconds=0", nil)
		}
	}
	const marker = "zz-end-of-history"
	last := p.mark(r, marker)
	for _, s := range both {
		// Any state will do from here on, so both have to have the last.
		s.Must(http.MethodGet, r.path+"?resourceVersionMatch=NotOlderThan&resourceVersion="+last, nil)
	}
	for _, form := range forms {
		for _, from := range []string{
			"resourceVersion=" + before,
			"resourceVersion=0",
			"resourceVersion=0&labelSelector=app%3Dweb",
			"resourceVersion=" + before + "&labelSelector=app%3Dweb",
			"sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true",
		} {
			path := r.path + "?watch=1&" + from + form.query
			ctx, cancel := context.WithTimeout(p.t.Context(), servers.Patience)
			stockType, stock, stockErr := stream(ctx, p.stock, path, form.accept, marker+after, nil)
			weirType, weir, weirErr := stream(ctx, p.weir, path, form.accept, marker+after, nil)
			cancel()
			p.compare(form.name+" from "+from, marker, stockType, weirType, stock, weir, stockErr, weirErr)
		}
	}
}

// after is what the name of the object after the marker ends in: when that has come,
// the marker's event is complete.
const after = "-after"

// mark creates the marker and the object after it, and returns the latter's
// resourceVersion.
func (p *pairOf) mark(r served, marker string) string {
	p.t.Helper()
	p.stock.Must(http.MethodPost, r.write, r.object(marker, "end"))
	return servers.ResourceVersion(p.stock.Must(http.MethodPost, r.write, r.object(marker+after, "end")))
}

// stream reads a response up to where it names the marker, and returns it with what
// else had come by then.
func stream(ctx context.Context, s *servers.Server, path, accept, marker string, opened func()) (contentType string, body []byte, err error) {
	resp, err := s.Open(ctx, servers.Request{Path: path, Header: http.Header{"Accept": {accept}}})
	if opened != nil {
		opened()
	}
	if err != nil {
		return "", nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	buf := make([]byte, 64<<10)
	for !bytes.Contains(body[max(0, len(body)-len(buf)-len(marker)):], []byte(marker)) {
		n, err := resp.Body.Read(buf)
		body = append(body, buf[:n]...)
		if err != nil {
			if resp.StatusCode != http.StatusOK && err == io.EOF {
				return fmt.Sprint(resp.StatusCode, " ", resp.Header.Get("Content-Type")), body, nil
			}
			return "", body, fmt.Errorf("%s: %s: ended after %d bytes: %w", s.Name, path, len(body), err)
		}
	}
	return fmt.Sprint(resp.StatusCode, " ", resp.Header.Get("Content-Type")), body, nil
}

func (p *pairOf) compare(what, marker, stockType, weirType string, stock, weir []byte, stockErr, weirErr error) {
	p.t.Helper()
	if stockErr != nil || weirErr != nil {
		p.t.Errorf("%s: %v; stock %v", what, weirErr, stockErr)
		return
	}
	if strings.HasPrefix(what, "JSON") && !strings.HasPrefix(stockType, "200") {
		p.t.Errorf("%s: stock answers %s: %.300s", what, stockType, stock)
		return
	}
	if weirType != stockType {
		p.t.Errorf("%s: %s, stock %s", what, weirType, stockType)
		return
	}
	if strings.Contains(stockType, "cbor") {
		*p.inCBOR++
		if diff := cmp.Diff(readCBOR(p.t, stock, marker), readCBOR(p.t, weir, marker)); diff != "" {
			p.t.Errorf("%s: events differ (-stock +weir):\n%.2000s", what, diff)
		}
		return
	}
	got, want := comparableStream(weir, marker), comparableStream(stock, marker)
	if bytes.Equal(got, want) {
		return
	}
	i := 0
	for i < min(len(got), len(want)) && got[i] == want[i] {
		i++
	}
	from := max(0, i-80)
	p.t.Errorf("%s: %d bytes, stock %d; at %d:\n%.200q, stock\n%.200q", what, len(got), len(want), i, got[from:], want[from:])
}

// live compares what several watches at once tell of changes that come after them.
func (p *pairOf) live(r served) {
	p.t.Helper()
	const marker = "zz-end-of-live"
	at := servers.ResourceVersion(p.stock.Must(http.MethodGet, r.path, nil))
	type watched struct {
		what, contentType string
		table             bool
		body              []byte
		err               error
	}
	ctx, cancel := context.WithTimeout(p.t.Context(), servers.Patience)
	defer cancel()
	var streams [2][]*watched
	var opened, ended sync.WaitGroup
	for i, s := range []*servers.Server{p.stock, p.weir} {
		for _, form := range forms {
			for _, selector := range []string{"", "&labelSelector=app%3Dweb"} {
				// Two of each, so that what one has had made is what the other gets.
				for range 2 {
					st := &watched{what: form.name + " live" + selector, table: strings.Contains(form.accept, "as=Table")}
					streams[i] = append(streams[i], st)
					opened.Add(1)
					ended.Go(func() {
						st.contentType, st.body, st.err = stream(ctx, s, r.path+"?watch=1&resourceVersion="+at+form.query+selector, form.accept, marker+after, opened.Done)
					})
				}
			}
		}
	}
	opened.Wait()
	for i, content := range []string{"", strings.Repeat("b", 70<<10)} {
		o := r.object(fmt.Sprintf("live%d", i), content)
		name := o["metadata"].(map[string]any)["name"].(string)
		p.weir.Must(http.MethodPost, r.write, o)
		for n, app := range []string{"web", "db", "web"} { // it leaves the selector and comes back
			p.weir.Must(http.MethodPatch, r.write+"/"+name, relabelled(map[string]any{"app": app, "n": fmt.Sprint(n)}))
		}
		p.weir.Must(http.MethodDelete, r.write+"/"+name+"?gracePeriodSeconds=0", nil)
	}
	p.mark(r, marker)
	ended.Wait()
	for i, weir := range streams[1] {
		stock := streams[0][i]
		if weir.table {
			// Stock repeats the columns in later events, or not, as it comes.
			stock.body = withoutColumns(stock.body)
			columns := len(columnsOf.FindAll(weir.body, -1))
			if weir.err == nil && strings.HasPrefix(weir.contentType, "200") && columns != 1 {
				p.t.Errorf("%s: columns are sent %d times", weir.what, columns)
			}
			weir.body = withoutColumns(weir.body)
		}
		p.compare(weir.what, marker, stock.contentType, weir.contentType, stock.body, weir.body, stock.err, weir.err)
	}
}

// columnsOf finds the columns of a Table where it has any.
var columnsOf = regexp.MustCompile(`"columnDefinitions":\[\{.*?\}\],"rows"`)

func withoutColumns(body []byte) []byte {
	return columnsOf.ReplaceAll(body, []byte(`"columnDefinitions":null,"rows"`))
}
