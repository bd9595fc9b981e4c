// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package frame

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/storage"

	"github.com/weir-project/weir/internal/wire"
)

var configMap = &v1.ConfigMap{
	ObjectMeta: metav1.ObjectMeta{
		Name: "a", Namespace: "b", UID: "u-1", ResourceVersion: "42",
		Labels: map[string]string{"app": "web", "tier": "<front>"},
	},
	Data: map[string]string{"k": "v"},
}

func TestIdentify(t *testing.T) {
	for _, test := range []struct {
		object string
		format wire.Format
		typ    typeMeta
	}{
		{``, wire.Other, typeMeta{}},
		{`{}`, wire.JSON, typeMeta{}},
		{`{"kind":"Pod","apiVersion":"v1"}`, wire.JSON, typeMeta{"v1", "Pod"}},
		{`{"metadata":{"kind":"no","apiVersion":"no"},"spec":[{"kind":"no"}],"apiVersion":"a/v1","x":null,"kind":"K"}`, wire.JSON, typeMeta{"a/v1", "K"}},
		{`{"kind":"Pod"}`, wire.JSON, typeMeta{"", "Pod"}},
		{`{"kind":null,"apiVersion":"v1"}`, wire.JSON, typeMeta{"v1", ""}},
		// The rest is not read once the type is known.
		{`{"apiVersion":"v1","kind":"Pod","broken`, wire.JSON, typeMeta{"v1", "Pod"}},
		{`{"apiVersion":"v1","broken`, wire.Other, typeMeta{}},
		{`{"apiVersion":1,"kind":"Pod"}`, wire.Other, typeMeta{}},
		{`{"apiVersion":{"a":1},"kind":"Pod"}`, wire.Other, typeMeta{}},
		{`{`, wire.JSON, typeMeta{}},
		{`[]`, wire.Other, typeMeta{}},
		{"apiVersion: v1\nkind: Pod\n", wire.Other, typeMeta{"v1", "Pod"}},
		{"apiVersion: a/v1\ndata:\n  kind: |\n    kind: no\nkind: K\nmetadata:\n  kind: no\n", wire.Other, typeMeta{"a/v1", "K"}},
		{"data: {}\n", wire.Other, typeMeta{}},
		{"kind: [\n", wire.Other, typeMeta{}},
		{"k8s\x00\x0a\x09\x0a\x02v1\x12\x03Pod\x12\x00", wire.Protobuf, typeMeta{"v1", "Pod"}},
		{"k8s\x00\x0a\x04\x0a\x00\x12\x00", wire.Protobuf, typeMeta{}},
		{"k8s\x00", wire.Other, typeMeta{}},
		{"k8s\x00\x0a\x09\x0a\x02v1\x12\x03Po", wire.Other, typeMeta{}},
		{"k8s\x00\x0a\x09\x0a\x09v1\x12\x03Pod", wire.Other, typeMeta{}},
		{"k8s\x00\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", wire.Other, typeMeta{}},
		{"k8s\x00\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", wire.Other, typeMeta{}},
		{"k8s\x00\x12\x09\x0a\x02v1\x12\x03Pod", wire.Other, typeMeta{}},
		{"k8s\x00\x0a\x05\x12\x03Pod", wire.Other, typeMeta{}},
		{"k8s", wire.Other, typeMeta{}},
	} {
		format, typ := identify([]byte(test.object))
		if format != test.format || typ != test.typ {
			t.Errorf("%q is %v %+v, want %v %+v", test.object, format, typ, test.format, test.typ)
		}
	}
}

// TestEncode makes frames of an object stored in each media type.
func TestEncode(t *testing.T) {
	for mediaType, format := range map[string]wire.Format{
		runtime.ContentTypeProtobuf: wire.Protobuf,
		runtime.ContentTypeJSON:     wire.JSON,
		runtime.ContentTypeYAML:     wire.Other,
	} {
		t.Run(format.String(), func(t *testing.T) {
			r := core("ConfigMap", "configmaps")
			r.mediaType = mediaType
			c, _ := r.codec(t, 1<<20)
			f := frameOf(t, c, configMap)
			for range 3 { // scratch buffers are used again
				frameOf(t, c, &v1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: strings.Repeat("x", 1000), ResourceVersion: "1"}})
			}
			if f.primary.format != format {
				t.Errorf("the frame is in %v, want %v", f.primary.format, format)
			}
			if gvk := f.GetObjectKind().GroupVersionKind(); gvk != r.stored || f.Kind() != r.stored.Kind {
				t.Errorf("the frame is a %v, %s, want %v", gvk, f.Kind(), r.stored)
			}
			if f.Key() != "/things/a" || f.Revision() != 42 {
				t.Errorf("the frame is of %q at %d", f.Key(), f.Revision())
			}
			if f.Labels().Get("tier") != "<front>" || f.Fields().Get("metadata.name") != "a" {
				t.Error("the frame's labels or fields are wrong")
			}
			if least := int64(len(f.Key()) + len(f.primary.data)); f.Size() < least {
				t.Errorf("the frame says that it keeps %d bytes, the encoding alone has %d", f.Size(), least)
			}
			want := internal(t, configMap)
			obj, err := f.Decode()
			if err != nil || !apiequality.Semantic.DeepEqual(obj, want) {
				t.Errorf("decoding gives %+v, %v, want %+v", obj, err, want)
			}
			again, err := f.Decode()
			if err != nil || again == obj {
				t.Errorf("decoding again gives the same object, or %v", err)
			}
			if f.DeepCopyObject() != runtime.Object(f) {
				t.Error("a copy of a frame is another frame")
			}
			if f2 := frameOf(t, c, configMap); f2.typ != f.typ || &f2.names[0] != &f.names[0] {
				t.Error("two frames of one resource keep their type or field names twice")
			}
		})
	}
}

// TestEncodeCustom makes a frame of a custom resource: what is kept is the object as
// it is served, whatever the storage codec makes of it.
func TestEncodeCustom(t *testing.T) {
	c := NewCodec(Config{
		Codec:     brokenCodec{unstructured.UnstructuredJSONScheme, errors.New("this encodes to the stored version")},
		NewFunc:   func() runtime.Object { return &unstructured.Unstructured{} },
		Attrs:     attrsOf,
		Versioner: storage.APIObjectVersioner{},
		Store:     NewStore(0, nil),
		KeepUIDs:  true,
	})
	obj := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "example.com/v1", "kind": "Widget",
		"metadata": map[string]any{"name": "w", "namespace": "n", "uid": "u-7", "resourceVersion": "9"},
		"spec":     map[string]any{"html": "<b>&\u2028"},
	}}
	f := frameOf(t, c, obj)
	if f.primary.format != wire.JSON || f.typ.typeMeta != (typeMeta{"example.com/v1", "Widget"}) {
		t.Errorf("the frame is %v %+v", f.primary.format, f.typ)
	}
	const want = `{"apiVersion":"example.com/v1","kind":"Widget","metadata":{"name":"w","namespace":"n","resourceVersion":"9","uid":"u-7"},"spec":{"html":"\u003cb\u003e\u0026\u2028"}}`
	if got := string(f.primary.object()); got != want {
		t.Errorf("the frame holds\n%s, want\n%s", got, want)
	}
	id := f.Identity()
	if id.UID != "u-7" || id.Name != "w" || id.Namespace != "n" {
		t.Errorf("the frame's identity is %+v", id)
	}
	if f.GetObject().(*unstructured.Unstructured).GetName() != "w" {
		t.Error("GetObject does not give the object")
	}
}

// TestEncodeErrors has each step of Encode fail; the error says on what.
func TestEncodeErrors(t *testing.T) {
	r := core("ConfigMap", "configmaps")
	c, _ := r.codec(t, 0)
	good := internal(t, configMap)

	bad := configMap.DeepCopy()
	bad.ResourceVersion = "x"
	if _, err := c.Encode("/configmaps/b/a", internal(t, bad)); err == nil || !strings.Contains(err.Error(), "/configmaps/b/a") {
		t.Errorf("an object without a resourceVersion: %v", err)
	}

	broken := errors.New("broken")
	c.cfg.Attrs = func(runtime.Object) (labels.Set, fields.Set, error) { return nil, nil, broken }
	if _, err := c.Encode("/configmaps/b/a", good); !errors.Is(err, broken) || !strings.Contains(err.Error(), "/configmaps/b/a") {
		t.Errorf("an object without labels and fields: %v", err)
	}

	c.cfg.Attrs = attrsOf
	c.cfg.Codec = brokenCodec{c.cfg.Codec, broken}
	if _, err := c.Encode("/configmaps/b/a", good); !errors.Is(err, broken) || !strings.Contains(err.Error(), "/configmaps/b/a") {
		t.Errorf("an object that cannot be encoded: %v", err)
	}
}

// TestSharedBytes holds that an ADDED event is written from the frame itself, and any
// event with one Write: upstream's framers make one message of each.
func TestSharedBytes(t *testing.T) {
	c, _ := core("ConfigMap", "configmaps").codec(t, 0)
	f := frameOf(t, c, configMap)
	for _, eventType := range []string{"ADDED", "MODIFIED", "DELETED"} {
		var writes writes
		if err := f.primary.writeEvent(eventType, &writes); err != nil || len(writes) != 1 {
			t.Fatalf("%s: %d writes, %v", eventType, len(writes), err)
		}
		if shared := &writes[0][0] == &f.primary.data[0]; shared != (eventType == "ADDED") {
			t.Errorf("%s is written from the frame itself: %v", eventType, shared)
		}
	}
}

// writes keeps what is written, not a copy of it.
type writes [][]byte

func (w *writes) Write(p []byte) (int, error) {
	*w = append(*w, p)
	return len(p), nil
}

type brokenCodec struct {
	runtime.Codec
	err error
}

func (b brokenCodec) Encode(runtime.Object, io.Writer) error { return b.err }

// TestUndecodable holds what becomes of a frame whose bytes have been spoilt.
func TestUndecodable(t *testing.T) {
	c, _ := core("ConfigMap", "configmaps").codec(t, 1<<20)
	f := frameOf(t, c, configMap)
	f.primary = enclose(wire.Protobuf, []byte("k8s\x00 no object"))
	if _, err := f.Decode(); err == nil || !strings.Contains(err.Error(), f.Key()) {
		t.Errorf("decoding gives %v", err)
	}
	status, ok := f.GetObject().(*metav1.Status)
	if !ok || status.Code != 500 || !strings.Contains(status.Message, f.Key()) {
		t.Errorf("GetObject gives %+v", f.GetObject())
	}
	for _, id := range []string{"unknown", fmt.Sprintf(`{"name":"watch","embeddedEncoder":"e","encoder":"%s","eventType":"ADDED"}`, "x")} {
		err := f.CacheEncode(runtime.Identifier(id), func(runtime.Object, io.Writer) error {
			t.Error("something was encoded")
			return nil
		}, io.Discard)
		if err == nil {
			t.Errorf("%s: no error", id)
		}
	}
	if f.derived.Load() != nil {
		t.Error("the failure is kept")
	}
}
