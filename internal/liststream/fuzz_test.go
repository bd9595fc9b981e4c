// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package liststream

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/weir-project/weir/internal/ledger"
)

// FuzzAccept asks for a list with any headers and query: upstream's handler and the one that
// answers in place agree about status, headers and body.
//
//	go test -fuzz=FuzzAccept ./internal/liststream
func FuzzAccept(f *testing.F) {
	for i, form := range forms {
		f.Add(form.accept, form.query, []string{"", "gzip"}[i%2], "", i%8 == 1)
	}
	for _, accept := range []string{
		"", "*/*", "application/*", "text/plain", "application/json;q=0.1, application/yaml;q=0.9", "application/json;as=Table;v=v2;g=meta.k8s.io, application/json",
		"application/vnd.kubernetes.protobuf;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1;g=meta.k8s.io,application/json", "application/json;pretty=1",
		"application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io", "application/json;stream=watch", "application/cbor-seq", "application/json;sv=v1;export=1;profile=x",
	} {
		f.Add(accept, "", "deflate, gzip;q=0.5", "curl/8", false)
		f.Add(accept, "pretty=0&includeObject=Metadata&limit=1", "*", "Mozilla/5.0", false)
	}
	small := newWorld(f, compositions()["read first"]...)
	// What is large is compressed, which takes long.
	compressed := newWorld(f, append(compositions()["mixed"], newMap("large", string(bytes.Repeat([]byte("x"), 140<<10))))...)
	f.Fuzz(func(t *testing.T, accept, query, encoding, agent string, large bool) {
		w := small
		if large {
			w = compressed
		}
		compare(t, func() *http.Request {
			req := form{accept: accept}.request()
			req.URL.RawQuery = query
			req.Header.Set("Accept-Encoding", encoding)
			req.Header.Set("User-Agent", agent)
			return req
		}, w.upstream(), w.streaming())
	})
}

// compare puts a request to two handlers.
func compare(t *testing.T, request func() *http.Request, upstream, streaming http.Handler) {
	t.Helper()
	want, got := httptest.NewRecorder(), httptest.NewRecorder()
	withInfo(upstream).ServeHTTP(want, request())
	withInfo(streaming).ServeHTTP(got, request())
	same(t, fmt.Sprintf("%q, %q", request().Header, request().URL.RawQuery), want, got)
}

// FuzzContent lists two objects with any content, in any form: one that goes out from its
// frame, and one that REST storage has completed, in both orders.
func FuzzContent(f *testing.F) {
	for i, content := range []string{odd, "a\n\u2028b", "\n\u2029", "\u2028", "- a\n- b\n", "a\u2028b'\"", "\x7f", "\xff", "\ufeff", " x", "x \n", "\n\n", "|\n", "items:\n- x", "<>&", "0x1f", "~", "2001-01-01", "=", "<<"} {
		f.Add(byte(2*i), "key", content, "label", "annotation\n"+content)
		f.Add(byte(1+8*i), "items", content, content, content)
	}
	f.Fuzz(func(t *testing.T, which byte, key, value, label, annotation string) {
		one, two := newMap("a", value), newMap("b", value, defaulted)
		for _, m := range []*corev1.ConfigMap{one, two} {
			m.Data[key] = value
			m.Labels["l"] = label
			m.Annotations = map[string]string{key: annotation}
		}
		objects := []*corev1.ConfigMap{one, two}
		if which&1 != 0 {
			objects = []*corev1.ConfigMap{two, one}
		}
		if which&2 != 0 {
			objects = append(objects, newMap("c", annotation))
		}
		w := newWorld(t, objects...)
		w.check(t, forms[int(which>>2)%len(forms)])
	})
}

// pieces is a response whose handler is made to write in other pieces than it would. What the
// handler has been told is what it gave.
type pieces struct {
	http.ResponseWriter
	sizes []byte
	next  int
}

func (p *pieces) Write(data []byte) (int, error) {
	for rest := data; len(rest) > 0; {
		n := len(rest)
		if p.next < len(p.sizes) {
			n = min(n, 1+int(p.sizes[p.next]))
			p.next++
		}
		if _, err := p.ResponseWriter.Write(rest[:n]); err != nil {
			return 0, err
		}
		rest = rest[n:]
	}
	return len(data), nil
}

// FuzzPieces has upstream's handler write its list in any pieces: its end is recognized
// wherever it comes, and not before. YAML is left out: upstream writes it at once, and weir relies on that.
func FuzzPieces(f *testing.F) {
	for i := range forms {
		f.Add(byte(i), byte(i), []byte{0, 1, 2, 3, 200, 100, 1, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255})
	}
	var worlds []*world
	for _, name := range []string{"nothing", "plain", "read", "mixed", "read first"} {
		worlds = append(worlds, newWorld(f, compositions()[name]...))
	}
	f.Fuzz(func(t *testing.T, which, composition byte, sizes []byte) {
		form, w := forms[int(which)%len(forms)], worlds[int(composition)%len(worlds)]
		if strings.Contains(form.accept, "yaml") {
			t.Skip("is not written in pieces")
		}
		split := http.HandlerFunc(func(rw http.ResponseWriter, req *http.Request) {
			w.upstream().ServeHTTP(&pieces{ResponseWriter: rw, sizes: sizes}, req)
		})
		compare(t, form.request, w.upstream(), Handler(split, w, w.confine, true))
	})
}

// FuzzOutput writes pieces of any sizes: they come out one after the other, compressed if they
// are asked to be and are large, and no buffer stays behind.
func FuzzOutput(f *testing.F) {
	f.Add([]byte{1, 2, 3}, true)
	f.Add(bytes.Repeat([]byte{255}, 12), true)
	f.Add(bytes.Repeat([]byte{255}, 12), false)
	f.Add([]byte{0, 255, 180, 181, 182, 1, 0, 0}, true)
	f.Fuzz(func(t *testing.T, sizes []byte, compress bool) {
		for _, shared := range []bool{true, false} {
			writesOutput(t, sizes, compress, shared)
		}
	})
}

func writesOutput(t *testing.T, sizes []byte, compress, shared bool) {
	t.Helper()
	before := ledger.Process.Bytes(ledger.Streams)
	r := httptest.NewRecorder()
	req := form{gzip: compress}.request()
	o := newOutput(r, req, func() {}, shared)
	var want bytes.Buffer
	for i, size := range sizes[:min(len(sizes), 60)] {
		p := bytes.Repeat([]byte{byte('a' + i%26)}, int(size)*int(size)*5/4)
		n, err := o.Write(p)
		if err != nil || n != len(p) {
			t.Fatalf("%v: piece %d of %d bytes: %d, %v", sizes, i, len(p), n, err)
		}
		want.Write(p)
	}
	if err := o.finish(); err != nil {
		t.Fatal(err)
	}
	sent := o.sent
	o.close()
	if sent != r.Body.Len() {
		t.Errorf("%v: %d bytes are said to be sent, of %d", sizes, sent, r.Body.Len())
	}
	got := r.Body.Bytes()
	if compressed := r.Header().Get("Content-Encoding") == "gzip"; compressed != (compress && want.Len() > gzipThreshold) {
		t.Errorf("%v: %d bytes are compressed: %v", sizes, want.Len(), compressed)
	} else if compressed {
		z, err := gzip.NewReader(r.Body)
		if err != nil {
			t.Fatal(err)
		}
		if got, err = io.ReadAll(z); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(got, want.Bytes()) {
		t.Errorf("%v: %d bytes come out, want %d", sizes, len(got), want.Len())
	}
	if after := ledger.Process.Bytes(ledger.Streams); after != before {
		t.Errorf("%v: %d bytes of buffers are left", sizes, after-before)
	}
}
