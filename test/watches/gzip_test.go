// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package watches

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/net/websocket"

	"github.com/weir-project/weir/test/etcd"
	"github.com/weir-project/weir/test/servers"
)

// compressing are servers over one etcd whose clients take gzip.
type compressing struct {
	stock, weir *servers.Server
	// off is weir without its gate SharedCompression.
	off *servers.Server
}

func (g *compressing) all() []*servers.Server { return []*servers.Server{g.stock, g.weir, g.off} }

const (
	// watchList asks for a watch list, as client-go does.
	watchList = "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"
	// mapsPath is where the many objects are that are only read.
	mapsNamespace = "gzip-many"
	mapsPath      = "/api/v1/namespaces/" + mapsNamespace + "/configmaps"
	// many are rows enough for every form.
	many = 2000
)

// TestGzip compares what clients get that take gzip. The tests go from those that leave the servers
// alone to the one that stops them.
func TestGzip(t *testing.T) {
	t.Parallel()
	client := etcd.Run(t)
	endpoint := client.Endpoints()[0]
	// So that revision 1 is one that no cache has, and those at which the caches begin have as many digits: errors name them, and an
	// encoding in protobuf has the length of what it says.
	for range 1000 {
		if _, err := client.KV.Put(t.Context(), "nothing", ""); err != nil {
			t.Fatal(err)
		}
	}
	// Leases of the servers' identities are off: they would be renewed while answers are compared.
	const quiet = "APIServerIdentity=false,UnknownVersionInteroperabilityProxy=false"
	g := &compressing{
		stock: servers.Start(t, servers.Stock, endpoint, "--feature-gates="+quiet),
		weir:  servers.Start(t, servers.Weir, endpoint, "--feature-gates="+quiet),
		off:   servers.Start(t, servers.Weir, endpoint, "--feature-gates="+quiet+",SharedCompression=false"),
	}
	for _, s := range g.all() {
		s.Wait()
	}
	g.fill(t)
	t.Run("Metrics", g.testMetrics) // first, while nobody else watches
	t.Run("Many", g.testMany)
	t.Run("Negotiated", g.testNegotiated)
	t.Run("Errors", g.testErrors)
	t.Run("Websockets", g.testWebsockets)
	t.Run("Gate", g.testGate)
	t.Run("EachEvent", g.testEachEvent)
}

// fill makes many objects, and sees to it that all servers know them.
func (g *compressing) fill(t *testing.T) {
	t.Helper()
	g.namespace(t, mapsNamespace)
	var failed sync.Map
	work := make(chan int)
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for i := range work {
				o := object("v1", "ConfigMap", fmt.Sprintf("map-%04d", i), map[string]any{"data": map[string]any{
					"content": text(uint64(i), 200+i%700), "more": text(uint64(i%7), 300)}})
				if i%3 == 0 {
					o["metadata"].(map[string]any)["labels"] = map[string]any{"app": "db"}
				}
				if status, answer := g.weir.Do(http.MethodPost, mapsPath, o); status != http.StatusCreated {
					failed.Store(i, fmt.Sprintf("%d %.300s", status, answer))
				}
			}
		})
	}
	for i := range many {
		work <- i
	}
	close(work)
	all.Wait()
	failed.Range(func(i, why any) bool {
		t.Fatalf("object %d: %s", i, why)
		return false
	})
	g.settle(t, mapsPath)
}

// settle has all servers' caches of a collection know what has been written.
func (g *compressing) settle(t *testing.T, path string) {
	t.Helper()
	for _, s := range g.all() {
		s.In(t).Must(http.MethodGet, path+"?limit=1", nil)
	}
}

func (g *compressing) namespace(t *testing.T, name string) {
	t.Helper()
	g.stock.In(t).Must(http.MethodPost, "/api/v1/namespaces", map[string]any{"metadata": map[string]any{"name": name}})
}

// text is n bytes that compress, the same for each seed.
func text(seed uint64, n int) string {
	r := rand.New(rand.NewPCG(seed, 1))
	words := strings.Fields("apiVersion kind metadata name namespace spec status conditions True False Running")
	var b strings.Builder
	for b.Len() < n {
		fmt.Fprintf(&b, "%s-%d ", words[r.IntN(len(words))], r.IntN(100))
	}
	return b.String()[:n]
}

// noise is n bytes that do not.
func noise(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rand.Uint32())
	}
	return b
}

// zipped is a request whose client takes gzip.
func zipped(path, accept string, http1 bool) servers.Request {
	return servers.Request{Path: path, HTTP1: http1, Header: http.Header{"Accept": {accept}, "Accept-Encoding": {"gzip"}}}
}

// plainOf returns the body of an answer. weir's is one member.
func plainOf(s *servers.Server, resp servers.Response) ([]byte, error) {
	body := io.Reader(bytes.NewReader(resp.Body))
	switch {
	case resp.Header.Get("Content-Encoding") != "gzip":
	case s.Name == servers.Weir:
		body = servers.NewMember(body)
	default:
		var err error
		if body, err = gzip.NewReader(body); err != nil {
			return nil, err
		}
	}
	return io.ReadAll(body)
}

// headersOf are the headers that two servers should have in common.
func headersOf(h http.Header) http.Header {
	h = h.Clone()
	for _, name := range []string{"Date", "Audit-Id", "Content-Length"} {
		h.Del(name)
	}
	return h
}

// differBytes tells how bytes differ: "" if they do not.
func differBytes(got, want []byte) string {
	if bytes.Equal(got, want) {
		return ""
	}
	i := 0
	for i < min(len(got), len(want)) && got[i] == want[i] {
		i++
	}
	from := max(0, i-80)
	return fmt.Sprintf("%d bytes, stock %d; at %d:\n%.200q, stock\n%.200q", len(got), len(want), i, got[from:], want[from:])
}

// testMany compares lists and watch lists of many objects.
func (g *compressing) testMany(t *testing.T) {
	accepts := map[string]string{
		"JSON": "application/json", "protobuf": "application/vnd.kubernetes.protobuf", "YAML": "application/yaml",
		"Table":             "application/json;as=Table;v=v1;g=meta.k8s.io",
		"metadata":          "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io",
		"protobuf metadata": "application/vnd.kubernetes.protobuf;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io",
	}
	for name, accept := range accepts {
		queries := []string{"", "resourceVersion=0", "labelSelector=app%3Dweb", "limit=700", "limit=700&labelSelector=app%3Ddb"}
		if name == "YAML" {
			queries = queries[2:3] // it takes its time
		}
		for i, query := range queries {
			t.Run(name+" "+query, func(t *testing.T) {
				r := zipped(mapsPath+"?"+query, accept, i%2 == 0)
				want, err := g.stock.Answer(t.Context(), r)
				if err != nil {
					t.Fatal(err)
				}
				plain, err := plainOf(g.stock, want)
				if err != nil {
					t.Fatal(err)
				}
				for _, s := range []*servers.Server{g.weir, g.weir, g.off} { // twice: the second gets what the first has had made
					got, err := s.Answer(t.Context(), r)
					if err != nil {
						t.Fatal(err)
					}
					if diff := cmp.Diff(headersOf(want.Header), headersOf(got.Header)); got.Status != want.Status || diff != "" {
						t.Errorf("%d, stock %d, headers (-stock +weir):\n%s", got.Status, want.Status, diff)
					}
					if got.Header.Get("Content-Encoding") != "gzip" {
						t.Error("it is not compressed")
					}
					body, err := plainOf(s, got)
					if err != nil {
						t.Fatalf("after %d bytes: %v", len(body), err)
					}
					if diff := differBytes(ages.ReplaceAll(body, []byte("AGE")), ages.ReplaceAll(plain, []byte("AGE"))); diff != "" {
						t.Error(diff)
					}
				}
			})
		}
	}
	// What the initial events are, for all and for a selection.
	for _, form := range forms {
		selectors := []string{"", "&labelSelector=app%3Dweb", "&labelSelector=app%3Dnobody"}
		if form.name != "JSON" && form.name != "protobuf" {
			selectors = selectors[1:2]
		}
		for i, selector := range selectors {
			t.Run(form.name+" watch"+selector, func(t *testing.T) {
				r := zipped(mapsPath+"?"+watchList+form.query+selector, form.accept, i%2 == 0)
				var events [3][][]byte
				var headers [3]http.Header
				for j, s := range []*servers.Server{g.stock, g.weir, g.weir} {
					f := g.follow(t, s, r)
					headers[j] = headersOf(f.header)
					if f.status == http.StatusOK {
						events[j] = f.initial(t)
					}
					if diff := cmp.Diff(headers[0], headers[j]); diff != "" {
						t.Errorf("headers (-stock +weir):\n%s", diff)
					}
					f.close()
					sameEvents(t, headers[0].Get("Content-Type"), events[j], events[0])
				}
				if len(events[0]) == 0 && (form.name == "JSON" || form.name == "protobuf") {
					t.Error("stock tells of nothing")
				}
			})
		}
	}
}

// sameEvents compares events of one content type.
func sameEvents(t *testing.T, contentType string, got, want [][]byte) {
	t.Helper()
	if len(got) != len(want) {
		t.Errorf("%d events, stock %d", len(got), len(want))
		return
	}
	for i := range want {
		if bytes.Contains(want[i], []byte("initial-events-end")) && bytes.Contains(got[i], []byte("initial-events-end")) {
			continue // its revision is that of when it was asked
		}
		if strings.Contains(contentType, "cbor") {
			if diff := cmp.Diff(readCBOR(t, want[i], ""), readCBOR(t, got[i], "")); diff != "" {
				t.Errorf("event %d of %d (-stock +weir):\n%.2000s", i, len(want), diff)
				return
			}
			continue
		}
		a, b := got[i], want[i]
		if !strings.Contains(contentType, "protobuf") {
			a, b = withoutColumns(ages.ReplaceAll(a, []byte(`"AGE"`))), withoutColumns(ages.ReplaceAll(b, []byte(`"AGE"`)))
		}
		if diff := differBytes(a, b); diff != "" {
			t.Errorf("event %d of %d: %s", i, len(want), diff)
			return
		}
	}
}

// testNegotiated compares what is said of the encoding, of watches of all kinds.
func (g *compressing) testNegotiated(t *testing.T) {
	for _, encoding := range []string{"gzip", "gzip, deflate, br", "deflate, gzip;q=0.5", "identity", "br", "gzip;q=0", "GZIP", "*", ""} {
		for _, query := range []string{
			watchList, "watch=1&allowWatchBookmarks=true", "watch=1&resourceVersion=0&allowWatchBookmarks=true", "watch=1&resourceVersion=0", "watch=1",
			"watch=1&resourceVersionMatch=NotOlderThan&sendInitialEvents=true",
			"watch=1&resourceVersionMatch=NotOlderThan&sendInitialEvents=false&allowWatchBookmarks=true",
			watchList + "&fieldSelector=metadata.name%3Dmap-0001",
		} {
			var headers [2]http.Header
			var status [2]int
			for i, s := range []*servers.Server{g.stock, g.weir} {
				ctx, cancel := context.WithTimeout(t.Context(), servers.Patience)
				resp, err := s.Open(ctx, servers.Request{Path: mapsPath + "?" + query, Header: http.Header{"Accept": {"application/json"}, "Accept-Encoding": {encoding}}})
				if err != nil {
					cancel()
					t.Fatal(err)
				}
				status[i], headers[i] = resp.StatusCode, headersOf(resp.Header)
				cancel()
				_ = resp.Body.Close()
			}
			if diff := cmp.Diff(headers[0], headers[1]); status[0] != status[1] || diff != "" {
				t.Errorf("%q %s: status %d, stock %d, headers (-stock +weir):\n%s", encoding, query, status[1], status[0], diff)
			}
		}
	}
}

// present is how far a server is, in the words of an error.
var present = regexp.MustCompile(`(\(|current: |current )\d+`)

// testErrors compares refusals.
func (g *compressing) testErrors(t *testing.T) {
	var all sync.WaitGroup // some of them take their time
	defer all.Wait()
	const expired = mapsPath + "?watch=1&resourceVersion=1&allowWatchBookmarks=true"
	if status, answer := g.weir.In(t).Do(http.MethodGet, expired+"&timeoutSeconds=5", nil); status != http.StatusOK || !bytes.Contains(answer, []byte(`"code":410`)) {
		t.Errorf("revision 1: %d %.300q", status, answer)
	}
	for _, path := range []string{
		expired,
		mapsPath + "?" + watchList + "&timeoutSeconds=20&resourceVersion=1000000000",
		mapsPath + "?watch=1&resourceVersion=bad&allowWatchBookmarks=true",
		mapsPath + "?watch=1&sendInitialEvents=true&allowWatchBookmarks=true",
		mapsPath + "?" + watchList + "&labelSelector=%21%21",
		mapsPath + "?" + watchList + "&fieldSelector=spec.nothing%3D1",
		"/api/v1/nothings?" + watchList,
		mapsPath + "?resourceVersion=1&resourceVersionMatch=Exact",
		mapsPath + "?resourceVersion=bad",
		mapsPath + "?continue=bad",
	} {
		for _, accept := range []string{"application/json", "application/vnd.kubernetes.protobuf", "application/yaml", "text/csv", "application/json;as=Table;v=v1;g=meta.k8s.io"} {
			for _, token := range []string{servers.Token, "wrong"} {
				r := zipped(path, accept, token == "wrong")
				r.Header.Set("Authorization", "Bearer "+token)
				all.Go(func() {
					if diff := g.differ(t.Context(), r); diff != "" {
						t.Errorf("%s, %s, by %s: %s", path, accept, token, diff)
					}
				})
			}
		}
	}
}

// differ tells how the whole answers to a request differ: "" if they do not.
func (g *compressing) differ(ctx context.Context, r servers.Request) string {
	ctx, cancel := context.WithTimeout(ctx, servers.Patience)
	defer cancel()
	var answers [2]servers.Response
	var bodies [2][]byte
	for i, s := range []*servers.Server{g.stock, g.weir} {
		var err error
		if answers[i], err = s.Answer(ctx, r); err == nil {
			bodies[i], err = plainOf(s, answers[i])
		}
		if err != nil {
			return fmt.Sprintf("%s: %v", s.Name, err)
		}
		bodies[i] = present.ReplaceAll(bodies[i], []byte("${1}NOW"))
	}
	if diff := cmp.Diff(headersOf(answers[0].Header), headersOf(answers[1].Header)); answers[0].Status != answers[1].Status || diff != "" {
		return fmt.Sprintf("status %d, stock %d, headers (-stock +weir):\n%s", answers[1].Status, answers[0].Status, diff)
	}
	return differBytes(bodies[1], bodies[0])
}

// testWebsockets compares the messages of websockets, which nobody compresses.
func (g *compressing) testWebsockets(t *testing.T) {
	const namespace, n = "gzip-websockets", 3
	path := "/api/v1/namespaces/" + namespace + "/configmaps"
	g.namespace(t, namespace)
	for i := range n {
		g.weir.In(t).Must(http.MethodPost, path, object("v1", "ConfigMap", fmt.Sprint("m-", i), map[string]any{"data": map[string]any{"content": text(1, 90<<10)}}))
	}
	g.settle(t, path)
	for _, accept := range []string{"application/json", "application/vnd.kubernetes.protobuf", "application/json;as=Table;v=v1;g=meta.k8s.io"} {
		var sockets [2]*websocket.Conn
		for i, s := range []*servers.Server{g.stock, g.weir} {
			config, err := websocket.NewConfig("wss"+strings.TrimPrefix(s.URL, "https")+path+"?"+watchList, s.URL)
			if err != nil {
				t.Fatal(err)
			}
			config.TlsConfig = &tls.Config{InsecureSkipVerify: true} // the certificate is the server's own, on loopback
			config.Header = http.Header{"Accept": {accept}, "Accept-Encoding": {"gzip"}, "Authorization": {"Bearer " + servers.Token}}
			if sockets[i], err = config.DialContext(t.Context()); err != nil {
				t.Fatalf("%s: %v", s.Name, err)
			}
			defer func() { _ = sockets[i].Close() }()
		}
		compare := func(what string) {
			var messages [2][]byte
			for i, socket := range sockets {
				if err := websocket.Message.Receive(socket, &messages[i]); err != nil {
					t.Fatalf("%s: %v", what, err)
				}
			}
			sameEvents(t, accept, [][]byte{messages[1]}, [][]byte{messages[0]})
		}
		for i := range n + 1 {
			compare(fmt.Sprintf("%s: message %d", accept, i))
		}
		g.stock.In(t).Must(http.MethodPatch, path+"/m-1", map[string]any{"data": map[string]any{"by": accept}})
		compare(accept + ": a live event")
	}
}

// members reads gzip members, one after the other, and counts.
type members struct {
	in *bufio.Reader
	z  *gzip.Reader
	n  int
}

// Read implements io.Reader.
func (m *members) Read(p []byte) (n int, err error) {
	for {
		if m.z == nil {
			if m.z, err = gzip.NewReader(m.in); err != nil {
				return 0, err
			}
			m.z.Multistream(false)
			m.n++
		}
		n, err = m.z.Read(p)
		if !errors.Is(err, io.EOF) {
			return n, err
		}
		if m.z = nil; n > 0 {
			return n, nil
		}
	}
}

// testGate sees to it that without the gate weir's response is upstream's.
func (g *compressing) testGate(t *testing.T) {
	const namespace = "gzip-gate"
	path := "/api/v1/namespaces/" + namespace + "/configmaps"
	g.namespace(t, namespace)
	for _, s := range g.all() {
		ctx, cancel := context.WithTimeout(t.Context(), servers.Patience)
		defer cancel()
		resp, err := s.Open(ctx, zipped(path+"?"+watchList, "application/json", false))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = resp.Body.Close() }()
		m := &members{in: bufio.NewReader(resp.Body)}
		next := servers.Events("application/json", m)
		read := func(want string) {
			event, err := next()
			for ; err == nil && !bytes.Contains(event, []byte(want)); event, err = next() {
			}
			if err != nil {
				t.Fatalf("%s: looking for %s: %v", s.Name, want, err)
			}
		}
		read("initial-events-end")
		const events = 3
		for i := range events {
			name := fmt.Sprintf("%s-%d-%t", s.Name, i, s == g.off)
			g.stock.In(t).Must(http.MethodPost, path, object("v1", "ConfigMap", name, nil))
			read(name)
		}
		if s == g.weir && m.n != 1 || s != g.weir && m.n < 1+events {
			t.Errorf("%s, gate off %t: %d events are in %d members", s.Name, s == g.off, events, m.n)
		}
	}
	for s, shares := range map[*servers.Server]bool{g.weir: true, g.off: false} {
		_, metrics := s.In(t).Do(http.MethodGet, "/metrics", nil)
		if got := regexp.MustCompile(`weir_memory_bytes\{purpose="compressed"\} [1-9]`).Match(metrics); got != shares {
			t.Errorf("gate off %t: compressed bytes are kept: %t", s == g.off, got)
		}
	}
}
