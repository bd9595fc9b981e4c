// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package frame

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	structuralschema "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/storage"

	"github.com/weir-project/weir/internal/intact"
)

// namesOnly are the attributes of a resource of the cluster.
func namesOnly(obj runtime.Object) (labels.Set, fields.Set, error) {
	l, f, err := attrsOf(obj)
	delete(f, "metadata.namespace")
	return l, f, err
}

// TestTake holds frames of objects that are taken as they are stored against those that Encode makes of them.
func TestTake(t *testing.T) {
	anything := &structuralschema.Structural{Extensions: structuralschema.Extensions{XPreserveUnknownFields: true}}
	judge := intact.NewJudge(intact.Rules{
		Group: "example.io", Kind: "Widget", Version: "v1", Renames: true,
		Schemas: map[string]*structuralschema.Structural{"v1": anything, "v1beta1": anything},
	})
	many := `"a":""`
	for i := range fewLabels + 4 {
		many += fmt.Sprintf(`,"l%02d":"%s"`, i, strings.Repeat("v", 40*i))
	}
	metadata := []string{
		`"generation":1,"name":"w"`,
		`"generation":1,"name":"w","namespace":"n","uid":"u-7"`,
		`"generation":1,"labels":{"a":"","b":"é"},"name":"w","namespace":"n"`,
		`"generation":1,"labels":{` + many + `},"name":"w","namespace":"n","uid":"u-7"`,
		`"annotations":{"\"":"\u003c\u003e\u0026\u2028\n"},"generation":1,"name":"w","namespace":"n"`,
	}
	rest := []string{``, `,"spec":{"f":1.5,"list":[1,{"a":null}],"n":9007199254740993,"s":"\u003cé"}`, `,"spec":"` + strings.Repeat("x", 5000) + `"`}
	for what, cfg := range map[string]Config{
		"namespaced":      {Attrs: attrsOf},
		"of the cluster":  {Attrs: namesOnly},
		"with UIDs":       {Attrs: attrsOf, KeepUIDs: true},
		"of many a store": {Attrs: attrsOf, Versions: true},
		"all":             {Attrs: namesOnly, KeepUIDs: true, Versions: true},
	} {
		t.Run(what, func(t *testing.T) {
			cfg.Codec, cfg.Versioner, cfg.Store = unstructured.UnstructuredJSONScheme, storage.APIObjectVersioner{}, NewStore(0, nil)
			cfg.NewFunc = func() runtime.Object {
				return &unstructured.Unstructured{Object: map[string]any{"apiVersion": "example.io/v1", "kind": "Widget"}}
			}
			if !PlainAttrs(cfg.Attrs, cfg.NewFunc) {
				t.Fatal("the attributes are not plain")
			}
			c := NewCodec(cfg)
			for _, version := range []string{"v1", "v1beta1"} {
				for _, m := range metadata {
					for _, r := range rest {
						for _, revision := range []uint64{1, 18446744073709551615} {
							data := []byte(`{"apiVersion":"example.io/` + version + `","kind":"Widget","metadata":{` + m + `}` + r + "}\n")
							o, ok := judge.Look(data)
							if !ok {
								t.Fatalf("%s is not intact", data)
							}
							u := &unstructured.Unstructured{}
							if err := runtime.DecodeInto(unstructured.UnstructuredJSONScheme, data, u); err != nil {
								t.Fatal(err)
							}
							u.SetAPIVersion("example.io/v1")
							if err := cfg.Versioner.UpdateObject(u, revision); err != nil {
								t.Fatal(err)
							}
							want, err := c.Encode("/widgets/w", u)
							if err != nil {
								t.Fatal(err)
							}
							f := c.Take("/widgets/w", revision, &o)
							sameFrame(t, f, want)
							if stored, ok := f.Stored(); !ok || !bytes.Equal(stored, data) {
								t.Errorf("it is stored as %s, want %s", stored, data)
							}
							if stored, ok := want.Stored(); ok {
								t.Errorf("what was decoded is known to be stored as %s", stored)
							}
						}
					}
				}
			}
		})
	}
}

// sameFrame holds that two frames differ in nothing but their id.
func sameFrame(t *testing.T, got, want *Frame) {
	t.Helper()
	if !bytes.Equal(got.primary.data, want.primary.data) || cap(got.primary.data) != cap(want.primary.data) {
		t.Errorf("the frame has %d of %d bytes %s, want %d of %d: %s", len(got.primary.data), cap(got.primary.data), got.primary.data,
			len(want.primary.data), cap(want.primary.data), want.primary.data)
	}
	if got.primary.format != want.primary.format || got.primary.offset != want.primary.offset || got.primary.message != want.primary.message || got.primary.segment != want.primary.segment {
		t.Errorf("the frame is encoded as %+v, want %+v", got.primary, want.primary)
	}
	if got.typ != want.typ || got.key != want.key || got.rev != want.rev || got.codec != want.codec || got.Size() != want.Size() {
		t.Errorf("the frame is a %+v at %s, %d, of %d bytes; want %+v at %s, %d, of %d", got.typ.typeMeta, got.key, got.rev, got.Size(), want.typ.typeMeta, want.key, want.rev, want.Size())
	}
	if !slices.Equal(got.names, want.names) || got.packed != want.packed || got.labels != want.labels || (got.starts == nil) != (want.starts == nil) ||
		got.starts != nil && !slices.Equal(*got.starts, *want.starts) {
		t.Errorf("the frame has labels and fields %v, %q, %d; want %v, %q, %d", got.names, got.packed, got.labels, want.names, want.packed, want.labels)
	}
	if got.exact != nil || want.exact != nil || got.base != nil || got.apiVersionAt != want.apiVersionAt || got.ownMetadata != want.ownMetadata || got.defaultedOnRead != want.defaultedOnRead {
		t.Errorf("the frame is %+v, want %+v", got, want)
	}
}

// TestPlainAttrs: what selects by anything else than labels, name and namespace has to be decoded.
func TestPlainAttrs(t *testing.T) {
	custom := func() runtime.Object { return &unstructured.Unstructured{} }
	changed := func(change func(labels.Set, fields.Set)) storage.AttrFunc {
		return func(obj runtime.Object) (labels.Set, fields.Set, error) {
			l, f, err := attrsOf(obj)
			change(l, f)
			return l, f, err
		}
	}
	for what, test := range map[string]struct {
		attrs   storage.AttrFunc
		newFunc func() runtime.Object
		plain   bool
	}{
		"namespaced":          {attrsOf, custom, true},
		"of the cluster":      {namesOnly, custom, true},
		"another field":       {changed(func(_ labels.Set, f fields.Set) { f["spec.x"] = "" }), custom, false},
		"another name":        {changed(func(_ labels.Set, f fields.Set) { f["metadata.name"] += "x" }), custom, false},
		"no field":            {changed(func(_ labels.Set, f fields.Set) { clear(f) }), custom, false},
		"another label":       {changed(func(l labels.Set, _ fields.Set) { l["x"] = "y" }), custom, false},
		"no label":            {changed(func(l labels.Set, _ fields.Set) { clear(l) }), custom, false},
		"an error":            {func(runtime.Object) (labels.Set, fields.Set, error) { return nil, nil, errors.New("no") }, custom, false},
		"no custom resources": {attrsOf, func() runtime.Object { return configMap.DeepCopy() }, false},
	} {
		if plain := PlainAttrs(test.attrs, test.newFunc); plain != test.plain {
			t.Errorf("%s: plain is %v, want %v", what, plain, test.plain)
		}
	}
}
