// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package liststream

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"reflect"
	"regexp"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/cbor/direct"
	"sigs.k8s.io/yaml"
)

// inflated returns a body as it was before it was compressed.
func inflated(t *testing.T, r *httptest.ResponseRecorder) []byte {
	t.Helper()
	if r.Header().Get("Content-Encoding") != "gzip" {
		return r.Body.Bytes()
	}
	z, err := gzip.NewReader(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return body
}

func ask(handler http.Handler, f form) *httptest.ResponseRecorder {
	r := httptest.NewRecorder()
	withInfo(handler).ServeHTTP(r, f.request())
	return r
}

// check compares what the two handlers answer.
func (w *world) check(t *testing.T, f form) {
	t.Helper()
	same(t, f.String(), ask(w.upstream(), f), ask(w.streaming(), f))
}

// same compares two answers. CBOR is compared when it is decoded: upstream shuffles its maps.
func same(t *testing.T, what string, want, got *httptest.ResponseRecorder) {
	t.Helper()
	if got.Code != want.Code || !reflect.DeepEqual(got.Header(), want.Header()) {
		t.Errorf("%s: %d %v, upstream %d %v", what, got.Code, got.Header(), want.Code, want.Header())
	}
	a, b := ages.ReplaceAll(inflated(t, want), []byte("AGE")), ages.ReplaceAll(inflated(t, got), []byte("AGE"))
	if got.Header().Get("Content-Type") == runtime.ContentTypeCBOR && want.Code == http.StatusOK {
		var x, y any
		if err := errors.Join(direct.Unmarshal(a, &x), direct.Unmarshal(b, &y)); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		if !reflect.DeepEqual(x, y) {
			t.Errorf("%s: %.300v\nupstream: %.300v", what, y, x)
		}
		return
	}
	if !bytes.Equal(a, b) {
		i := 0
		for i < min(len(a), len(b)) && a[i] == b[i] {
			i++
		}
		from := max(0, i-50)
		t.Errorf("%s: %d bytes, upstream %d; from %d:\n%.200q\nupstream: %.200q", what, len(b), len(a), from, b[from:], a[from:])
	}
}

var ages = regexp.MustCompile(`<unknown>|\b\d+y\d+d\b`)

// odd is content that JSON, YAML and each of their layouts write in ways of their own.
const odd = "a line\nanother\n\n- no item\nitems:\n  more \"quoted\" \\ é 世 \u2028 <&>\ttab: x # no comment "

// compositions are lists in which objects of both sorts stand in all places.
func compositions() map[string][]*corev1.ConfigMap {
	plain := func(i int) *corev1.ConfigMap { return newMap(fmt.Sprintf("plain-%d", i), odd) }
	read := func(i int) *corev1.ConfigMap { return newMap(fmt.Sprintf("read-%d", i), odd, defaulted) }
	large := []*corev1.ConfigMap{newMap("large", strings.Repeat("x", 200<<10)), newMap("large-read", strings.Repeat("y", 200<<10), defaulted)}
	for i := range 30 {
		large = append(large, newMap(fmt.Sprintf("content-%d", i), strings.Repeat("long words ", i*i*10)))
	}
	return map[string][]*corev1.ConfigMap{
		"nothing":    {},
		"plain":      {plain(1), plain(2), plain(3)},
		"read":       {read(1), read(2)},
		"read first": {read(1), plain(1), plain(2)},
		"read last":  {plain(1), plain(2), read(1)},
		"mixed":      {plain(1), read(1), read(2), plain(2), read(3), plain(3)},
		"one of 30":  large,
		// In YAML these are lines that begin with the end of a line, or end without a newline.
		"line separators": {newMap("read-1", "a\n\u2028b", defaulted), plain(1)},
	}
}

// TestSame compares lists in all forms.
func TestSame(t *testing.T) {
	for name, objects := range compositions() {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, objects...)
			for _, f := range forms {
				w.check(t, f)
			}
		})
	}
}

// TestDecoded counts what is decoded: the objects that REST storage has to see, and no
// others, in forms that need no decoding.
func TestDecoded(t *testing.T) {
	var objects []*corev1.ConfigMap
	for i := range 1000 {
		m := newMap(fmt.Sprint("m-", i), "content")
		if i%400 == 7 {
			m = newMap(fmt.Sprint("m-", i), "content", defaulted)
		}
		objects = append(objects, m)
	}
	const few = 3
	w := newWorld(t, objects...)
	for _, f := range forms {
		if strings.Contains(f.accept, "Table") || strings.Contains(f.accept, "cbor") {
			continue // rows are printed from decoded objects; CBOR has two variants, of which chance takes one
		}
		ask(w.streaming(), f) // derived encodings are made once
		w.decoded.Store(0)
		if r := ask(w.streaming(), f); r.Code != http.StatusOK {
			t.Fatalf("%s: %d %.300q", f, r.Code, r.Body)
		}
		if n := w.decoded.Load(); n != few || w.returned != few {
			t.Errorf("%s: %d objects are decoded and %d returned by the storage, want %d", f, n, w.returned, few)
		}
	}
}

// TestElsewhere: a list that is not answered in place, since the cache has etcd answer it,
// say, is compressed as upstream does.
func TestElsewhere(t *testing.T) {
	var objects []*corev1.ConfigMap
	for i := range 100 {
		objects = append(objects, newMap(fmt.Sprint("m-", i), strings.Repeat("content", 1000)))
	}
	w := newWorld(t, objects...)
	w.elsewhere = true
	compressed := 0
	for _, f := range forms {
		got, want := ask(w.streaming(), f), ask(w.upstream(), f)
		if g, w := got.Header().Get("Content-Encoding"), want.Header().Get("Content-Encoding"); g != w {
			t.Errorf("%s: encoded as %q, upstream's as %q", f, g, w)
		} else if g == "gzip" {
			compressed++
		}
	}
	if compressed == 0 {
		t.Error("nothing is compressed")
	}
}

// TestWhole: what cannot be answered in place is answered as upstream does, from inside of the
// handler, so that what instruments the handler sees it once.
func TestWhole(t *testing.T) {
	for name, c := range map[string]struct {
		objects []*corev1.ConfigMap
		spoil   func(*world)
		forms   []form
	}{
		"a Table of a convertor that is not known": {
			objects: compositions()["mixed"], spoil: func(w *world) { w.tables = nil },
			forms: []form{{accept: "application/json" + asTable}, {accept: "application/yaml" + asTable, gzip: true}},
		},
		"REST storage that loses an item": {
			objects: compositions()["one of 30"], spoil: func(w *world) { w.omit = true }, forms: forms[:16:16],
		},
		"what YAML cannot write, alone": {
			objects: []*corev1.ConfigMap{newMap("bad", "\x7f")}, forms: []form{{accept: "application/yaml"}, {accept: "application/yaml", gzip: true}},
		},
		"what YAML cannot write, behind much that it can": {
			objects: append(compositions()["one of 30"], newMap("bad", "\x7f")),
			forms:   []form{{accept: "application/yaml"}, {accept: "application/yaml", gzip: true}},
		},
		"an object that cannot be decoded": {
			objects: append(compositions()["one of 30"], newMap("bad", "", unreadable)),
			forms:   []form{{accept: "application/yaml"}, {accept: "application/json", query: "pretty=true"}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, c.objects...)
			if c.spoil != nil {
				c.spoil(w)
			}
			for _, f := range c.forms {
				w.check(t, f)
				returned := 0
				counted := http.HandlerFunc(func(rw http.ResponseWriter, req *http.Request) {
					w.upstream().ServeHTTP(rw, req)
					returned++
				})
				ask(Handler(counted, w, w.confine, true), f)
				if returned > 1 && !strings.Contains(f.accept, "cbor") {
					t.Errorf("%s: upstream's handler has returned %d times", f, returned)
				}
			}
		})
	}
}

// TestEndedInTheMiddle: a list of which a part has been sent when an object turns out to be
// unreadable does not end like a whole one.
func TestEndedInTheMiddle(t *testing.T) {
	objects := append(compositions()["one of 30"], newMap("bad", "", unreadable))
	w := newWorld(t, objects...)
	defer func() {
		if r := recover(); r != http.ErrAbortHandler {
			t.Errorf("the handler ended with %v", r)
		}
	}()
	ask(w.streaming(), form{accept: "application/json"})
}

// TestPanicsPass: only the one panic of this package is recovered.
func TestPanicsPass(t *testing.T) {
	w := newWorld(t)
	defer func() {
		if r := recover(); r != "mine" {
			t.Errorf("the handler ended with %v", r)
		}
	}()
	ask(Handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("mine") }), w, w.confine, true), forms[0])
}

// TestPlainYAML: what is called plain can be turned into YAML.
func TestPlainYAML(t *testing.T) {
	deep := strings.Repeat("[", 12000) + strings.Repeat("]", 12000)
	for object, want := range map[string]bool{
		`{"a":"b\u007f\n","c":[1,2.5,null,true]}`:   true,
		`{"a":"` + strings.Repeat("x", 5000) + `"}`: true,
		`{"` + strings.Repeat("x", 1030) + `":1}`:   false,
		"{\"a\":\"\x7f\"}":                          false,
		"{\"a\":\"\ufeff\"}":                        false,
		deep:                                        false,
	} {
		if got := plainYAML([]byte(object)); got != want {
			t.Errorf("%.40q: %v, want %v", object, got, want)
		}
		if _, err := yaml.JSONToYAML([]byte(object)); want && err != nil {
			t.Errorf("%.40q is called plain: %v", object, err)
		}
	}
}

// FuzzPlainYAML looks for JSON that is called plain and is not.
func FuzzPlainYAML(f *testing.F) {
	f.Add(`a b`, "c\"\\: - {} [] # & * ! | > ' % @ `", 3)
	f.Add("<<", "=", 4999)
	f.Fuzz(func(t *testing.T, key, value string, depth int) {
		var object any = map[string]any{key: value, "n": -1.5e300, "": []any{nil, value, true, "2001-01-01", "0x1", "~"}}
		for range min(max(depth, 0), deepest) % 100 {
			object = []any{object}
		}
		var buf bytes.Buffer
		if err := inJSON.marshal(object, &buf); err != nil {
			t.Fatal(err)
		}
		if !plainYAML(buf.Bytes()) {
			return
		}
		if _, err := yaml.JSONToYAML(buf.Bytes()); err != nil {
			t.Errorf("%q is called plain: %v", buf.Bytes(), err)
		}
	})
}

// BenchmarkDefaultedOnRead lists 10,000 objects, of which as many have to be decoded as it says.
func BenchmarkDefaultedOnRead(b *testing.B) {
	for _, n := range []int{0, 1, 100, 10000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			var objects []*corev1.ConfigMap
			for i := range 10000 {
				m := newMap(fmt.Sprint("m-", i), strings.Repeat("x", 500))
				if i < n {
					m.Labels[defaulted] = "yes"
				}
				objects = append(objects, m)
			}
			w := newWorld(b, objects...)
			handler := withInfo(w.streaming())
			req := form{accept: runtime.ContentTypeProtobuf}.request()
			b.ReportAllocs()
			for b.Loop() {
				w.decoded.Store(0)
				handler.ServeHTTP(discarded{http.Header{}}, req)
			}
			b.ReportMetric(float64(w.decoded.Load()), "decoded/op")
		})
	}
}

// discarded is a response that nobody reads.
type discarded struct{ header http.Header }

func (d discarded) Header() http.Header         { return d.header }
func (d discarded) Write(p []byte) (int, error) { return len(p), nil }
func (d discarded) WriteHeader(int)             {}
