// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package compact

import (
	"crypto/sha256"
	"fmt"
	"io"
	"mime"
	"net/http"
	"slices"
	"strings"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/client/clientset/clientset/scheme"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	"k8s.io/client-go/rest"
)

// mediaType is what responses are called that are decoded by way of Process. It never leaves the process.
const mediaType = "application/vnd.weir.compact.protobuf"

// Process is the table of the clients in this process.
var Process = NewTable()

// The codecs of upstream's clientset learn one media type more. Clients that were not made by Client never see it.
func init() {
	scheme.Codecs = serializer.NewCodecFactory(scheme.Scheme, serializer.WithSerializer(serializerInfo))
}

func serializerInfo(creater runtime.ObjectCreater, typer runtime.ObjectTyper) runtime.SerializerInfo {
	kind, subkind, _ := strings.Cut(mediaType, "/")
	s := compacting{protobuf.NewSerializer(creater, typer), Process}
	return runtime.SerializerInfo{
		MediaType: mediaType, MediaTypeType: kind, MediaTypeSubType: subkind,
		Serializer: s, StrictSerializer: s,
		StreamSerializer: &runtime.StreamSerializerInfo{
			Serializer: protobuf.NewRawSerializer(creater, typer),
			Framer:     protobuf.LengthDelimitedFramer,
		},
	}
}

// Possible tells whether clients can be had whose definitions are compact: client-go makes codecs of its own while its gate ClientsAllowCBOR is on.
func Possible() bool {
	known := rest.CodecFactoryForGeneratedClient(scheme.Scheme, scheme.Codecs).SupportedMediaTypes()
	_, ok := runtime.SerializerInfoForMediaType(known, mediaType)
	return ok
}

// Client returns a configuration like config for clients of upstream's clientset for definitions, and for no others. If config is for protobuf, what
// they read is compact. What they write lacks schemas and managed fields, so that it may be nothing but a status, of which upstream takes
// neither: any other write of a definition is refused.
func Client(config *rest.Config) *rest.Config {
	c := rest.CopyConfig(config)
	if c.ContentType != runtime.ContentTypeProtobuf {
		return c
	}
	if c.AcceptContentTypes == "" {
		c.AcceptContentTypes = c.ContentType + ", */*" // as client-go has it
	}
	c.ContentType = mediaType
	c.Wrap(func(next http.RoundTripper) http.RoundTripper { return renaming{next} })
	return c
}

// renaming has protobuf about definitions be called by our name on this side, and by its own on the other.
type renaming struct{ next http.RoundTripper }

const path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"

func (r renaming) RoundTrip(req *http.Request) (*http.Response, error) {
	below, ok := strings.CutPrefix(req.URL.Path, path)
	ok = ok && (below == "" || below[0] == '/')
	if req.Header.Get("Content-Type") == mediaType {
		if !ok || req.Method != http.MethodPut || !strings.HasSuffix(below, "/status") {
			if req.Body != nil {
				_ = req.Body.Close()
			}
			return nil, fmt.Errorf("%s %s with a definition that lacks schemas: only its status can be written", req.Method, req.URL.Path)
		}
		req = req.Clone(req.Context())
		req.Header.Set("Content-Type", runtime.ContentTypeProtobuf)
	}
	resp, err := r.next.RoundTrip(req)
	if err != nil || !ok {
		return resp, err
	}
	// With its parameters, which say whether this is a stream.
	if kind, params, err := mime.ParseMediaType(resp.Header.Get("Content-Type")); err == nil && kind == runtime.ContentTypeProtobuf {
		resp.Header.Set("Content-Type", mime.FormatMediaType(mediaType, params))
	}
	return resp, nil
}

// WrappedRoundTripper lets client-go find the transport below.
func (r renaming) WrappedRoundTripper() http.RoundTripper { return r.next }

// compacting is a serializer whose definitions are compact.
type compacting struct {
	runtime.Serializer
	table *Table
}

// Encode leaves schemas out, which with a status nobody reads.
func (s compacting) Encode(obj runtime.Object, w io.Writer) error {
	if crd, ok := obj.(*apiextensionsv1.CustomResourceDefinition); ok {
		outline := *crd
		outline.Spec.Versions = slices.Clone(crd.Spec.Versions)
		for i := range outline.Spec.Versions {
			outline.Spec.Versions[i].Schema = nil
		}
		obj = &outline
	}
	return s.Serializer.Encode(obj, w)
}

func (s compacting) Decode(data []byte, defaults *schema.GroupVersionKind, into runtime.Object) (runtime.Object, *schema.GroupVersionKind, error) {
	if _, fits := into.(*apiextensionsv1.CustomResourceDefinition); fits || into == nil {
		if m, ok := split(data); ok {
			return s.decode(m, defaults, into)
		}
	}
	obj, gvk, err := s.Serializer.Decode(data, defaults, into)
	if list, ok := obj.(*apiextensionsv1.CustomResourceDefinitionList); ok && err == nil {
		for i := range list.Items {
			s.compact(&list.Items[i])
		}
	}
	return obj, gvk, err
}

// decode decodes a definition.
func (s compacting) decode(m message, defaults *schema.GroupVersionKind, into runtime.Object) (runtime.Object, *schema.GroupVersionKind, error) {
	obj, gvk, err := s.Serializer.Decode(m.rest, defaults, into)
	if err != nil {
		return nil, gvk, err
	}
	crd, ok := obj.(*apiextensionsv1.CustomResourceDefinition)
	if !ok {
		return nil, gvk, fmt.Errorf("a definition of a custom resource was decoded into %T", obj)
	}
	compact, err := s.table.decode(crd.Name, m.spec)
	if err != nil {
		return nil, gvk, fmt.Errorf("decoding the specification of %s: %w", crd.Name, err)
	}
	crd.Spec = *compact
	return crd, gvk, nil
}

// compact compacts a definition that has been decoded as a part of a list.
func (s compacting) compact(crd *apiextensionsv1.CustomResourceDefinition) {
	crd.ManagedFields = nil
	// Encoded, it is as it comes by itself, so that a later state is recognized.
	message, err := crd.Spec.Marshal()
	if err != nil {
		return // then it is held as it is
	}
	encoded := digest(sha256.Sum256(message))
	if last := s.table.known(crd.Name, encoded); last != nil {
		crd.Spec = *last
		return
	}
	kept := crd.Spec // or else it would keep the whole list
	s.table.compact(crd.Name, encoded, &kept)
	crd.Spec = kept
}

// RecognizesData says no: who does not know what data is was not told of our media type.
func (s compacting) RecognizesData([]byte) (ok, unknown bool, err error) { return false, false, nil }
