// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package frame

import (
	"bytes"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"

	"go.uber.org/goleak"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	_ "k8s.io/kubernetes/pkg/apis/apps/install"
	_ "k8s.io/kubernetes/pkg/apis/autoscaling/install"
	_ "k8s.io/kubernetes/pkg/apis/core/install"

	"github.com/weir-project/weir/internal/ledger"
	"github.com/weir-project/weir/internal/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// random returns a source of random numbers. Its seed is printed, and taken from
// WEIR_SEED to repeat a run.
func random(t *testing.T) *rand.Rand {
	seed := rand.Uint64()
	if s := os.Getenv("WEIR_SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatalf("WEIR_SEED=%q is not a number: %v", s, err)
		}
	}
	t.Logf("WEIR_SEED=%d repeats this run", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

type legacyTypes struct{ *runtime.Scheme }

func (t legacyTypes) Internal(obj runtime.Object) (runtime.Object, error) {
	t.Default(obj)
	return t.UnsafeConvertToVersion(obj, schema.GroupVersion{Group: obj.GetObjectKind().GroupVersionKind().Group, Version: runtime.APIVersionInternal})
}

func (legacyTypes) Encoder(format wire.Format, gv schema.GroupVersion) runtime.Encoder {
	mediaType := map[wire.Format]string{wire.JSON: runtime.ContentTypeJSON, wire.Protobuf: runtime.ContentTypeProtobuf}[format]
	info, ok := runtime.SerializerInfoForMediaType(legacyscheme.Codecs.SupportedMediaTypes(), mediaType)
	if !ok {
		return nil
	}
	return legacyscheme.Codecs.EncoderForVersion(info.Serializer, gv)
}

// resource is what the tests know of a resource.
type resource struct {
	// stored is the version that objects are stored in, served the one that they are
	// asked for in.
	stored, served schema.GroupVersionKind
	plural         string
	// mediaType is what objects are stored as.
	mediaType string
}

func core(kind, plural string) resource {
	gvk := schema.GroupVersionKind{Version: "v1", Kind: kind}
	return resource{stored: gvk, served: gvk, plural: plural, mediaType: runtime.ContentTypeProtobuf}
}

// storageCodec returns a codec like the one that the resource's storage has.
func (r resource) storageCodec(t testing.TB) runtime.Codec {
	t.Helper()
	info, ok := runtime.SerializerInfoForMediaType(legacyscheme.Codecs.SupportedMediaTypes(), r.mediaType)
	if !ok {
		t.Fatalf("no serializer for %s", r.mediaType)
	}
	internal := schema.GroupVersion{Group: r.stored.Group, Version: runtime.APIVersionInternal}
	return legacyscheme.Codecs.CodecForVersions(info.Serializer, legacyscheme.Codecs.UniversalDeserializer(), r.stored.GroupVersion(), internal)
}

// codec returns the Codec of the resource's frames, with a ledger of its own.
func (r resource) codec(t testing.TB, budget int64) (*Codec, *ledger.Ledger) {
	l := &ledger.Ledger{}
	return NewCodec(Config{
		Types: legacyTypes{legacyscheme.Scheme},
		Codec: r.storageCodec(t),
		NewFunc: func() runtime.Object {
			obj, err := legacyscheme.Scheme.New(schema.GroupVersionKind{Group: r.stored.Group, Version: runtime.APIVersionInternal, Kind: r.stored.Kind})
			if err != nil {
				t.Fatal(err)
			}
			return obj
		},
		Attrs:     attrsOf,
		Versioner: storage.APIObjectVersioner{},
		Store:     NewStore(budget, l),
	}), l
}

func attrsOf(obj runtime.Object) (labels.Set, fields.Set, error) {
	accessor, err := meta.Accessor(obj)
	if err != nil {
		return nil, nil, err
	}
	return accessor.GetLabels(), fields.Set{"metadata.name": accessor.GetName(), "metadata.namespace": accessor.GetNamespace()}, nil
}

// internal returns a versioned object as it comes from storage: of the internal
// version, and with defaults.
func internal(t testing.TB, obj runtime.Object) runtime.Object {
	t.Helper()
	obj = obj.DeepCopyObject()
	legacyscheme.Scheme.Default(obj)
	gvks, _, err := legacyscheme.Scheme.ObjectKinds(obj)
	if err != nil {
		t.Fatal(err)
	}
	out, err := legacyscheme.Scheme.ConvertToVersion(obj, schema.GroupVersion{Group: gvks[0].Group, Version: runtime.APIVersionInternal})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// equal compares two streams.
func equal(t testing.TB, what string, got, want []byte) {
	t.Helper()
	if bytes.Equal(got, want) {
		return
	}
	i := 0
	for i < len(got) && i < len(want) && got[i] == want[i] {
		i++
	}
	from := max(0, i-40)
	t.Errorf("%s: %d bytes, want %d; they differ at %d:\n%.120q, want\n%.120q", what, len(got), len(want), i, got[from:], want[from:])
}

// frameOf encodes a versioned or custom object.
func frameOf(t testing.TB, c *Codec, obj runtime.Object) *Frame {
	t.Helper()
	if _, ok := obj.(*unstructured.Unstructured); !ok {
		obj = internal(t, obj)
	}
	f, err := c.Encode("/things/a", obj)
	if err != nil {
		t.Fatal(err)
	}
	return f
}
