// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package frame

import (
	"reflect"
	"testing"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/storage"

	"github.com/weir-project/weir/internal/ledger"
)

// TestDecodeMetadata holds the metadata that are decoded alone against those of the decoded object, and which objects it is done for.
func TestDecodeMetadata(t *testing.T) {
	c := NewCodec(Config{
		Codec: unstructured.UnstructuredJSONScheme, NewFunc: func() runtime.Object { return &unstructured.Unstructured{} },
		Attrs: attrsOf, Versioner: storage.APIObjectVersioner{}, Store: NewStore(1<<20, &ledger.Ledger{}), Versions: true,
	})
	whole := map[string]any{"name": "w", "namespace": "n", "uid": "u-7", "resourceVersion": "9", "generation": int64(2), "generateName": "w-",
		"creationTimestamp": "2026-01-02T03:04:05Z", "deletionTimestamp": "2026-01-02T03:04:06Z", "deletionGracePeriodSeconds": int64(0),
		"labels": map[string]any{"a": "b"}, "annotations": map[string]any{"a": "<&>\"\n"}, "finalizers": []any{"x/y"},
		"ownerReferences": []any{map[string]any{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u", "controller": true}},
		"managedFields": []any{map[string]any{"manager": "m", "operation": "Update", "apiVersion": "example.io/v1", "time": "2026-01-02T03:04:05Z", "fieldsType": "FieldsV1",
			"fieldsV1": map[string]any{"f:spec": map[string]any{".": map[string]any{}, `k:{"a":"<"}`: map[string]any{}}}}}}
	for what, test := range map[string]struct {
		metadata, spec map[string]any
		alone          bool
	}{
		"whole":           {whole, map[string]any{"a": "b"}, true},
		"the least":       {map[string]any{"name": "w", "resourceVersion": "1"}, nil, true},
		"more":            {map[string]any{"name": "w", "resourceVersion": "1", "more": int64(1)}, nil, false},
		"null":            {map[string]any{"name": "w", "resourceVersion": "1", "labels": nil}, nil, false},
		"an odd time":     {map[string]any{"name": "w", "resourceVersion": "1", "creationTimestamp": "2026"}, nil, false},
		"kept exactly":    {map[string]any{"name": "w", "resourceVersion": "1"}, map[string]any{"f": 1.0}, false},
		"without a name":  {map[string]any{"resourceVersion": "1"}, nil, false},
		"an empty object": {map[string]any{"name": "w", "resourceVersion": "1", "annotations": map[string]any{}}, nil, false},
	} {
		f := frameOf(t, c, &unstructured.Unstructured{Object: map[string]any{"Aa": "before", "apiVersion": "example.io/v1", "kind": "Widget", "metadata": test.metadata, "spec": test.spec}})
		for _, f := range []*Frame{f, f.In(c.Version("example.io/v1beta1"))} {
			got, err := f.DecodeMetadata()
			if err != nil {
				t.Fatal(err)
			}
			want, err := f.Decode()
			if err != nil {
				t.Fatal(err)
			}
			if _, alone := got.(*metav1.PartialObjectMetadata); alone != test.alone {
				t.Errorf("%s: the metadata are decoded alone: %v, want %v", what, alone, test.alone)
			}
			if got, want := metadataOf(t, got), metadataOf(t, want); !reflect.DeepEqual(got, want) {
				t.Errorf("%s: the metadata are %+v, want %+v", what, got, want)
			}
		}
	}
	builtIn, _ := core("ConfigMap", "configmaps").codec(t, 1<<20)
	if got, err := frameOf(t, builtIn, configMap).DecodeMetadata(); err != nil || metadataOf(t, got).Name != "a" {
		t.Errorf("a ConfigMap has the metadata of %+v, %v", got, err)
	}
}

func metadataOf(t *testing.T, obj runtime.Object) *metav1.PartialObjectMetadata {
	t.Helper()
	m, err := meta.Accessor(obj)
	if err != nil {
		t.Fatal(err)
	}
	return meta.AsPartialObjectMetadata(m)
}
