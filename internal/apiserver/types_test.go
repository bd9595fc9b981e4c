// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"bytes"
	"math/rand"
	"reflect"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/api/apitesting/fuzzer"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	kapitesting "k8s.io/kubernetes/pkg/api/testing"

	"github.com/weir-project/weir/internal/frame"
	"github.com/weir-project/weir/internal/ledger"
	"github.com/weir-project/weir/internal/wire"
)

// TestDecodedWithoutStorageCodec fills objects of every built-in type with random
// contents: decoded without the storage codec they are what they are with it.
//
// It found two ways that looked shorter to be wrong: defaulting makes maps that protobuf
// does not keep (a ConfigMap's data), and conversion from the internal version makes what
// protobuf has no field for (the kind of a StatefulSet's volume claims).
func TestDecodedWithoutStorageCodec(t *testing.T) {
	seed := rand.Int63()
	t.Logf("seed %d", seed)
	filler := fuzzer.FuzzerFor(kapitesting.FuzzerFuncs, rand.NewSource(seed), legacyscheme.Codecs)
	protobuf, _ := runtime.SerializerInfoForMediaType(legacyscheme.Codecs.SupportedMediaTypes(), runtime.ContentTypeProtobuf)
	kinds := 0
	for _, gv := range legacyscheme.Scheme.PrioritizedVersionsAllGroups() {
		hub := schema.GroupVersion{Group: gv.Group, Version: runtime.APIVersionInternal}
		codec := legacyscheme.Codecs.CodecForVersions(protobuf.Serializer, legacyscheme.Codecs.UniversalDeserializer(), gv, hub)
		encoder := builtIn{}.Encoder(wire.JSON, gv)
		for kind := range legacyscheme.Scheme.KnownTypes(gv) {
			newFunc := func() runtime.Object {
				obj, err := legacyscheme.Scheme.New(hub.WithKind(kind))
				if err != nil {
					return nil
				}
				return obj
			}
			if obj := newFunc(); obj == nil || !stored(obj) {
				continue
			}
			kinds++
			config := frame.Config{
				Codec: codec, NewFunc: newFunc, Attrs: noAttrs, Versioner: storage.APIObjectVersioner{},
				Store: frame.NewStore(1<<20, &ledger.Ledger{}),
			}
			round := frame.NewCodec(config)
			config.Types = builtIn{}
			direct := frame.NewCodec(config)
			for range 10 {
				obj := newFunc()
				filler.Fill(obj)
				accessor, err := meta.Accessor(obj)
				if err != nil {
					t.Fatal(err)
				}
				accessor.SetResourceVersion("7")
				// What the cache has comes from storage, defaulted.
				kept, err := runtime.Encode(codec, obj)
				if err != nil {
					t.Fatalf("%s %s: %v", gv, kind, err)
				}
				if obj, err = runtime.Decode(codec, kept); err != nil {
					t.Fatalf("%s %s: %v", gv, kind, err)
				}
				compareFrames(t, gv.String()+" "+kind, frameOf(t, direct, obj), frameOf(t, round, obj), gv.String(), encoder)
			}
		}
	}
	if kinds < 60 {
		t.Errorf("only %d kinds were looked at", kinds)
	}
}

// stored tells whether objects of the type are kept in storage one by one.
func stored(obj runtime.Object) bool {
	if meta.IsListType(obj) {
		return false
	}
	_, err := meta.Accessor(obj)
	return err == nil
}

func noAttrs(runtime.Object) (labels.Set, fields.Set, error) { return nil, nil, nil }

func frameOf(t *testing.T, c *frame.Codec, obj runtime.Object) *frame.Frame {
	t.Helper()
	f, err := c.Encode("/k", obj)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func compareFrames(t *testing.T, what string, got, want *frame.Frame, version string, encoder runtime.Encoder) {
	t.Helper()
	g, err := got.Decode()
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	w, err := want.Decode()
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	if diff := cmp.Diff(w, g, cmp.Exporter(func(reflect.Type) bool { return true })); diff != "" {
		t.Errorf("%s decoded (-with the storage codec +without):\n%.2000s", what, diff)
	}
	if stored, ok := got.Metadata(); ok {
		var metadata metav1.ObjectMeta
		if err := metadata.Unmarshal(stored); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		decoded, err := meta.Accessor(w)
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if diff := cmp.Diff(meta.AsPartialObjectMetadata(decoded).ObjectMeta, metadata); diff != "" {
			t.Errorf("%s: metadata (-decoded +cut out):\n%.2000s", what, diff)
		}
	}
	j, err := got.As(wire.JSON, version, encoder)
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	k, err := want.As(wire.JSON, version, encoder)
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	if !bytes.Equal(j, k) {
		t.Errorf("%s in JSON:\n%.1500s\nwant\n%.1500s", what, j, k)
	}
}
