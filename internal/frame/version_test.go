// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package frame

import (
	"bytes"
	"fmt"
	"io"
	"reflect"
	"strings"
	"sync"
	"testing"
	"unicode/utf8"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/cbor/direct"
	"k8s.io/apiserver/pkg/storage"

	"github.com/weir-project/weir/internal/ledger"
	"github.com/weir-project/weir/internal/wire"
)

// versionedCodec returns the Codec of a custom resource that is served in several versions.
func versionedCodec(budget int64) (*Codec, *ledger.Ledger) {
	l := &ledger.Ledger{}
	return NewCodec(Config{
		Versions: true,
		Codec:    unstructured.UnstructuredJSONScheme, NewFunc: func() runtime.Object { return &unstructured.Unstructured{} },
		Attrs: attrsOf, Versioner: storage.APIObjectVersioner{}, Store: NewStore(budget, l),
	}), l
}

// FuzzVersion has whatever custom resource be seen in another version: it is written, in every way in which frames are written, and decoded as
// the object with that apiVersion is by upstream.
func FuzzVersion(f *testing.F) {
	for _, object := range []string{
		`{"apiVersion":"example.io/v1","kind":"K","metadata":{"name":"a"}}`,
		`{"aFirst":{"apiVersion":"example.io/v1","x":["}",{"apiVersion":"example.io/v1"}]},"API":1,"Kind":null,"apiVersion":"example.io/v1","kind":"K","metadata":{"name":"a","managedFields":[{"apiVersion":"example.io/v1","fieldsV1":{"f:apiVersion":{}}}]},"z":9007199254740993}`,
		`{"apiVersio":"","apiVersion":"example.io/v1","apiVersion2":"example.io/v1","kind":"K"}`,
		`{"kind":"K","apiVersion":"a","b":[1.0,1e300,"\u2028<>&\ud800",null,{}],"\u0000":"example.io/v1","":"x"}`,
		`{"apiVersion":"<\u2028\"","kind":"K"}`,
		`{"apiVersion":"","kind":"K"}`,
		"{\"\xff\":1,\"apiVersion\":\"v1\",\"kind\":\"\xff\"}",
	} {
		for _, version := range []string{"example.io/v1beta1", "v", "example.io/v1", `<"`, ""} {
			f.Add([]byte(object), version, false)
		}
	}
	for _, value := range []any{1.0, "\xff", int64(1), map[string]any{"\xff": nil}} {
		data, err := direct.Marshal(map[string]any{"a": value, "apiVersion": "example.io/v1", "kind": "K", "z": value})
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data, "example.io/v2", true)
	}
	f.Fuzz(func(t *testing.T, data []byte, version string, inCBOR bool) {
		obj := &unstructured.Unstructured{}
		var err error
		if inCBOR {
			err = direct.Unmarshal(data, &obj.Object)
		} else {
			err = runtime.DecodeInto(unstructured.UnstructuredJSONScheme, data, obj)
		}
		if err != nil || obj.GetKind() == "" || obj.GetAPIVersion() == "" || !utf8.ValidString(obj.GetKind()+obj.GetAPIVersion()+version) {
			return // see FuzzCustom
		}
		obj.SetResourceVersion("7")
		if obj.GetResourceVersion() != "7" {
			return
		}
		want := obj.DeepCopy()
		want.SetAPIVersion(version)
		stock, err := runtime.Encode(unstructured.UnstructuredJSONScheme, want)
		if err != nil {
			return
		}
		stock = bytes.TrimSuffix(stock, []byte("\n"))
		c, _ := versionedCodec(1 << 20)
		kept, err := c.Encode("/things/a", obj)
		if err != nil {
			t.Fatalf("%q: %v", data, err)
		}
		own := bytes.Clone(kept.primary.object())
		view := kept.In(c.Version(version))
		if view.typ.apiVersion != version || view.Kind() != kept.Kind() || view.Exact() != kept.Exact() || view.Size() != kept.Size() || !view.SelectedAs(kept) {
			t.Errorf("%q is seen as %v %v", data, view.typ.typeMeta, view)
		}
		got, err := view.Decode()
		if err != nil {
			t.Fatalf("%q: %v", data, err)
		}
		again, err := kept.DecodeIn(c.Version(version))
		if err != nil {
			t.Fatalf("%q: %v", data, err)
		}
		for _, got := range []runtime.Object{got, again} {
			if u := got.(*unstructured.Unstructured); !reflect.DeepEqual(u, want) || !sameBits(u.Object, want.Object) {
				t.Errorf("%q is decoded as %v, want %v", data, u.Object, want.Object)
			}
		}
		answer, err := view.As(wire.JSON, version, nil)
		if err != nil {
			t.Fatalf("%q: %v", data, err)
		}
		equal(t, "JSON", answer, stock)
		if !view.View() {
			return // it is the version that it is kept in
		}
		answer, err = view.AppendView([]byte("x"))
		if err != nil {
			t.Fatalf("%q: %v", data, err)
		}
		equal(t, "appended", answer, append([]byte("x"), stock...))
		for _, typ := range []string{"ADDED", "MODIFIED", "DELETED"} {
			event := fmt.Appendf(nil, "{\"type\":%q,\"object\":%s}\n", typ, stock)
			var written bytes.Buffer
			if err := view.writeKept(typ, &written); err != nil {
				t.Fatalf("%q: %v", data, err)
			}
			equal(t, typ, written.Bytes(), event)
			written.Reset()
			row := Events{frames: []*Frame{view, view}, v: &variant{watch: true, eventType: typ, envelope: wire.JSON, plain: true, objectFormat: wire.JSON, apiVersion: version}}
			if err := row.Write(&written); err != nil {
				t.Fatalf("%q: %v", data, err)
			}
			equal(t, "a row of "+typ, written.Bytes(), append(bytes.Clone(event), event...))
		}
		equal(t, "what is kept", kept.primary.object(), own)
	})
}

// TestViewIsTheSame: a view is the same one for all who ask while it is kept, and has the same name in rows whenever it is made. What is derived of one version
// is not what is derived of another.
func TestViewIsTheSame(t *testing.T) {
	c, _ := versionedCodec(1 << 20)
	f := frameOf(t, c, custom("x"))
	beta, alpha := c.Version("g/v1beta1"), c.Version("g/v1alpha1")
	if c.Version("g/v1beta1") != beta || f.In(nil) != f || f.In(c.Version(f.typ.apiVersion)) != f {
		t.Error("the version that is kept, or a version asked for twice, is another")
	}
	var wg sync.WaitGroup
	views := make([]*Frame, 16)
	for i := range views {
		wg.Go(func() { views[i] = f.In(beta) })
	}
	wg.Wait()
	for _, view := range views {
		if view != views[0] || view.In(beta) != view || view.In(alpha) != f.In(alpha) {
			t.Error("two who ask at the same time see two views")
		}
	}
	if f.In(alpha).id == views[0].id || f.In(alpha).id == f.id {
		t.Error("views of two versions have one id")
	}
	derive := func(f *Frame) string {
		data, err := f.Derive("row", true, func(f *Frame, w io.Writer) error {
			obj, err := f.Decode()
			if err != nil {
				return err
			}
			_, err = w.Write([]byte(obj.(*unstructured.Unstructured).GetAPIVersion()))
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	for f, want := range map[*Frame]string{f: f.typ.apiVersion, f.In(beta): "g/v1beta1", f.In(alpha): "g/v1alpha1"} {
		if got := derive(f); got != want {
			t.Errorf("what is derived of %s is that of %s", want, got)
		}
	}
	c.store.Keep(0)
	if again := f.In(beta); again == views[0] || again.id != views[0].id {
		t.Errorf("a view that is made again is %v with id %x, want another with %x", again, again.id, views[0].id)
	}
}

// TestLargeViews has several write an event of one large object at the same time: it is put together once.
func TestLargeViews(t *testing.T) {
	c, _ := versionedCodec(1 << 20)
	f := frameOf(t, c, custom(strings.Repeat("x", 2*largeEvent)))
	view := f.In(c.Version("g/v2"))
	before := ledger.Process.Bytes(ledger.Streams)
	var seen [][]byte
	var inner writerFunc = func(p []byte) (int, error) {
		seen = append(seen, p)
		return len(p), nil
	}
	var outer writerFunc = func(p []byte) (int, error) {
		if held := ledger.Process.Bytes(ledger.Streams) - before; held < int64(len(p)) {
			t.Errorf("%d bytes are booked while an event of %d is written", held, len(p))
		}
		seen = append(seen, p)
		return len(p), view.writeKept("ADDED", inner)
	}
	if err := view.writeKept("ADDED", outer); err != nil {
		t.Fatal(err)
	}
	if len(seen) != 2 || &seen[0][0] != &seen[1][0] {
		t.Error("the event is there twice")
	}
	if held := ledger.Process.Bytes(ledger.Streams) - before; held != 0 {
		t.Errorf("%d bytes are booked when nobody writes", held)
	}
}

type writerFunc func([]byte) (int, error)

func (w writerFunc) Write(p []byte) (int, error) { return w(p) }

// TestViewsAreBooked holds what views are booked with against the heap.
func TestViewsAreBooked(t *testing.T) {
	c, l := versionedCodec(1 << 30)
	const n = 20_000
	frames := make([]*Frame, n)
	for i := range frames {
		frames[i] = frameOf(t, c, custom(fmt.Sprint("x", i)))
	}
	v := c.Version("g/v2")
	before, booked := heap(), l.Bytes(ledger.Derived)
	for _, f := range frames {
		f.In(v)
	}
	holds(t, "views", l.Bytes(ledger.Derived)-booked, heap()-before)
	c.store.Keep(0)
	if left := l.Bytes(ledger.Derived); left != 0 {
		t.Errorf("%d bytes are booked when nothing is kept", left)
	}
	for _, f := range frames { // they are alive until here
		if f.derived.Load() != nil {
			t.Fatal("a view is left")
		}
	}
}
