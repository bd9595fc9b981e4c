// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package watchcache

import (
	"reflect"
	"testing"

	structuralschema "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/storage"

	"github.com/weir-project/weir/internal/intact"
)

// TestStoredCodec holds what a storage gets for whom it decodes: what is intact is left as it is stored for the source, and for nobody else.
func TestStoredCodec(t *testing.T) {
	newFunc := func() runtime.Object {
		return &unstructured.Unstructured{Object: map[string]any{"apiVersion": "example.io/v1", "kind": "Widget"}}
	}
	codec := &storedCodec{Codec: unstructured.UnstructuredJSONScheme, judge: intact.NewJudge(intact.Rules{Group: "example.io", Kind: "Widget", Version: "v1", Schemas: map[string]*structuralschema.Structural{
		"v1": {Extensions: structuralschema.Extensions{XPreserveUnknownFields: true}},
	}}), newFunc: newFunc}
	const asStored = `{"apiVersion":"example.io/v1","kind":"Widget","metadata":{"generation":1,"name":"w","namespace":"n","uid":"u"}}` + "\n"
	const not = `{"kind":"Widget","apiVersion":"example.io/v1","metadata":{"name":"w","namespace":"n","uid":"u"}}`
	f := &follower{cfg: Config{Versioner: storage.APIObjectVersioner{}, GroupResource: schema.GroupResource{Group: "example.io", Resource: "widgets"}}}
	for _, data := range []string{asStored, not} {
		for what, into := range map[string]runtime.Object{"a watch": nil, "the source": &stored{}, "a list": newFunc()} {
			obj, _, err := codec.Decode([]byte(data), nil, into)
			if err != nil {
				t.Fatalf("%s: %s: %v", what, data, err)
			}
			if into != nil && obj != into {
				t.Errorf("%s: %s is decoded into another object", what, data)
			}
			if err := f.cfg.Versioner.UpdateObject(obj, 7); err != nil {
				t.Fatal(err)
			}
			_, undecoded := obj.(*stored)
			if want := into != nil && what == "the source" || what == "a watch" && data == asStored; undecoded != want {
				t.Errorf("%s: %s becomes a %T", what, data, obj)
			}
			told, err := f.listed(obj.DeepCopyObject())
			if err != nil {
				t.Fatal(err)
			}
			if _, undecoded := told.(*stored); undecoded != (data == asStored && what != "a list") {
				t.Errorf("%s: of %s the source makes a %T", what, data, told)
			}
			m, err := meta.Accessor(told)
			if err != nil {
				t.Fatal(err)
			}
			if m.GetName() != "w" || m.GetNamespace() != "n" || m.GetUID() != "u" || m.GetResourceVersion() != "7" {
				t.Errorf("%s: %s has the metadata %+v", what, data, m)
			}
		}
	}
	for what, into := range map[string]runtime.Object{"a watch": nil, "the source": &stored{}, "a list": newFunc()} {
		if _, _, err := codec.Decode([]byte("{"), nil, into); err == nil {
			t.Errorf("%s: what is no JSON is decoded", what)
		}
	}

	list := &storedList{Items: []stored{{decoded: newFunc()}, {}}}
	list.ResourceVersion, list.Items[1].Name = "9", "w"
	c := list.DeepCopyObject().(*storedList)
	if !reflect.DeepEqual(c, list) || c.Items[0].decoded == list.Items[0].decoded {
		t.Errorf("a copy of %+v is %+v", list, c)
	}
}
