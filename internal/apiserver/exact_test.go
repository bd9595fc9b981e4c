// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"bytes"
	"math/rand"
	"testing"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/fuzzer"
	apitesting "k8s.io/apimachinery/pkg/api/apitesting/fuzzer"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/storage"
	kapitesting "k8s.io/kubernetes/pkg/api/testing"

	"github.com/weir-project/weir/internal/frame"
	"github.com/weir-project/weir/internal/ledger"
	"github.com/weir-project/weir/internal/wire"
)

// TestStoredInAnotherForm: what etcd holds may have been stored in another media type than
// the server stores now, and each of them keeps something that another does not (protobuf
// no empty lists, JSON nothing that is no UTF-8). Objects of every built-in type, stored in
// each media type by servers that store in each, are answered as upstream does in every
// version, in JSON and in protobuf: by encoding what the storage codec has decoded.
func TestStoredInAnotherForm(t *testing.T) {
	seed := rand.Int63()
	t.Logf("seed %d", seed)
	mediaTypes := []string{runtime.ContentTypeProtobuf, runtime.ContentTypeJSON, runtime.ContentTypeYAML}
	kinds, kept := 0, 0
	for _, s := range schemes {
		filler := apitesting.FuzzerFor(apitesting.MergeFuzzerFuncs(kapitesting.FuzzerFuncs, fuzzer.Funcs), rand.NewSource(seed), s.codecs).NilChance(0.4).NumElements(0, 2)
		for _, gv := range s.PrioritizedVersionsAllGroups() {
			hub := schema.GroupVersion{Group: gv.Group, Version: runtime.APIVersionInternal}
			codecs := map[string]runtime.Codec{}
			for _, mediaType := range mediaTypes {
				info, _ := runtime.SerializerInfoForMediaType(s.codecs.SupportedMediaTypes(), mediaType)
				codecs[mediaType] = s.codecs.CodecForVersions(info.Serializer, s.codecs.UniversalDeserializer(), gv, hub)
			}
			for kind := range s.KnownTypes(gv) {
				newFunc := func() runtime.Object {
					obj, err := s.New(hub.WithKind(kind))
					if err != nil {
						return nil
					}
					return obj
				}
				if obj := newFunc(); obj == nil || !stored(obj) {
					continue
				}
				kinds++
				for n := range 4 {
					filled := newFunc()
					filler.Fill(filled)
					accessor, err := meta.Accessor(filled)
					if err != nil {
						t.Fatal(err)
					}
					accessor.SetResourceVersion("7")
					if n%2 == 0 {
						accessor.SetAnnotations(map[string]string{"text": "no UTF-8: \xff\xfe"})
					}
					for storing, in := range codecs {
						data, err := runtime.Encode(in, filled)
						if err != nil {
							continue // YAML cannot have every character
						}
						obj, err := runtime.Decode(in, data)
						if err != nil {
							continue // a random object that is not valid
						}
						for now, codec := range codecs {
							c := frame.NewCodec(frame.Config{
								Codec: codec, NewFunc: newFunc, Attrs: noAttrs, Versioner: storage.APIObjectVersioner{},
								Store: frame.NewStore(1<<20, &ledger.Ledger{}), Types: builtIn{},
							})
							f, err := c.Encode("/k", obj)
							if err != nil {
								if now == runtime.ContentTypeYAML {
									continue
								}
								t.Fatalf("%s %s: %v", gv, kind, err)
							}
							if f.Exact() {
								kept++
							}
							for _, served := range s.PrioritizedVersionsForGroup(gv.Group) {
								for _, format := range []wire.Format{wire.JSON, wire.Protobuf} {
									encoder := builtIn{}.Encoder(format, served)
									want, wantErr := runtime.Encode(encoder, obj)
									got, gotErr := f.As(format, served.String(), encoder)
									if (wantErr == nil) != (gotErr == nil) {
										t.Fatalf("%s %s as %s %s: %v, upstream %v", gv, kind, served, format, gotErr, wantErr)
									}
									if want = bytes.TrimSuffix(want, []byte("\n")); !bytes.Equal(got, want) {
										t.Fatalf("%s %s, stored as %s, now as %s, %s %s:\n%.3000q, upstream\n%.3000q", gv, kind, storing, now, served, format, got, want)
									}
								}
							}
						}
					}
				}
			}
		}
	}
	if kinds < 90 {
		t.Errorf("only %d kinds were looked at", kinds)
	}
	t.Logf("%d kinds, %d frames keep a second form", kinds, kept)
}
