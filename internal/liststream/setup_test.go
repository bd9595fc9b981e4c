// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package liststream

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync/atomic"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/runtime/serializer/cbor"
	"k8s.io/apiserver/pkg/endpoints/handlers"
	"k8s.io/apiserver/pkg/endpoints/handlers/negotiation"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/features"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/storage"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/client-go/kubernetes/scheme"
	featuregatetesting "k8s.io/component-base/featuregate/testing"

	"github.com/weir-project/weir/internal/frame"
	"github.com/weir-project/weir/internal/ledger"
	"github.com/weir-project/weir/internal/wire"
)

// The server of these tests has upstream's handler of lists over a storage that has ConfigMaps
// in memory. Those with the label defaulted are DefaultedOnRead: REST storage, here the
// lister, adds something to their data.

var (
	codecs = serializer.NewCodecFactory(scheme.Scheme, serializer.WithSerializer(cbor.NewSerializerInfo))
	maps   = schema.GroupResource{Resource: "configmaps"}
)

const (
	defaulted = "defaulted"
	// unreadable, as a label, makes an object fail to be decoded.
	unreadable = "unreadable"
)

func newMap(name, content string, marks ...string) *corev1.ConfigMap {
	m := &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "n", ResourceVersion: "5", UID: "u", Labels: map[string]string{}},
		Data:       map[string]string{"content": content},
	}
	for _, mark := range marks {
		m.Labels[mark] = "yes"
	}
	return m
}

func isDefaulted(obj runtime.Object) bool { return obj.(*corev1.ConfigMap).Labels[defaulted] != "" }

// readCodec is a storage codec that counts what it decodes, and fails for what is unreadable.
type readCodec struct {
	runtime.Codec
	decoded *atomic.Int64
}

func (c readCodec) Decode(data []byte, kind *schema.GroupVersionKind, into runtime.Object) (runtime.Object, *schema.GroupVersionKind, error) {
	c.decoded.Add(1)
	obj, k, err := c.Codec.Decode(data, kind, into)
	if m, ok := obj.(*corev1.ConfigMap); ok && m.Labels[unreadable] != "" {
		return nil, nil, errors.New("it is unreadable")
	}
	return obj, k, err
}

// world is a storage, and the servers over it.
type world struct {
	frames  []*frame.Frame
	decoded atomic.Int64
	scope   *handlers.RequestScope
	tables  []Table
	// returned is how many objects the storage has returned.
	returned int
	// elsewhere has the storage answer without being asked for the list in place.
	elsewhere bool
	// omit makes REST storage lose an item.
	omit bool
	// confiners is how many have confined the heap now, confined how often anybody has.
	confiners, confined atomic.Int64
	// reading is how many plans have been taken and are not done.
	reading atomic.Int64
}

func newWorld(t testing.TB, objects ...*corev1.ConfigMap) *world {
	t.Helper()
	featuregatetesting.SetFeatureGateDuringTest(t, utilfeature.DefaultFeatureGate, features.CBORServingAndStorage, true)
	info, _ := runtime.SerializerInfoForMediaType(codecs.SupportedMediaTypes(), runtime.ContentTypeProtobuf)
	w := &world{}
	table := rest.NewDefaultTableConvertor(maps)
	w.tables = []Table{{ID: "default", TableConvertor: table}}
	w.scope = &handlers.RequestScope{
		Namer:            handlers.ContextBasedNaming{Namer: runtime.Namer(nil)},
		Serializer:       codecs,
		ParameterCodec:   scheme.ParameterCodec,
		Convertor:        scheme.Scheme,
		TableConvertor:   table,
		Resource:         corev1.SchemeGroupVersion.WithResource("configmaps"),
		Kind:             corev1.SchemeGroupVersion.WithKind("ConfigMap"),
		MetaGroupVersion: metav1.SchemeGroupVersion,
	}
	codec := frame.NewCodec(frame.Config{
		Codec:   readCodec{codecs.CodecForVersions(info.Serializer, codecs.UniversalDeserializer(), corev1.SchemeGroupVersion, corev1.SchemeGroupVersion), &w.decoded},
		NewFunc: func() runtime.Object { return &corev1.ConfigMap{} },
		Attrs: func(obj runtime.Object) (labels.Set, fields.Set, error) {
			return obj.(*corev1.ConfigMap).Labels, fields.Set{}, nil
		},
		Versioner:       storage.APIObjectVersioner{},
		Store:           frame.NewStore(frame.DefaultBudget, &ledger.Ledger{}),
		DefaultedOnRead: isDefaulted,
	})
	for _, obj := range objects {
		f, err := codec.Encode("/configmaps/n/"+obj.Name, obj)
		if err != nil {
			t.Fatal(err)
		}
		w.frames = append(w.frames, f)
	}
	return w
}

// NewList and ConvertToTable are not called.
func (w *world) NewList() runtime.Object { return &corev1.ConfigMapList{} }

// ConvertToTable implements rest.Lister.
func (w *world) ConvertToTable(ctx context.Context, obj, options runtime.Object) (*metav1.Table, error) {
	return w.scope.TableConvertor.ConvertToTable(ctx, obj, options)
}

// List implements rest.Lister as REST storage over a cache does.
func (w *world) List(ctx context.Context, _ *internalversion.ListOptions) (runtime.Object, error) {
	list := &corev1.ConfigMapList{ListMeta: metav1.ListMeta{ResourceVersion: "7"}, Items: []corev1.ConfigMap{}}
	plan := Plan{Frames: slices.Values(w.frames), Count: len(w.frames), Done: func() { w.reading.Add(-1) }}
	for _, f := range w.frames {
		if f.DefaultedOnRead() {
			plan.DefaultedOnRead++
		} else {
			plan.Messages += f.MessageSize()
		}
	}
	taken := !w.elsewhere && From(ctx).Take(maps, plan)
	if taken {
		w.reading.Add(1)
	}
	for _, f := range w.frames {
		if taken && !f.DefaultedOnRead() {
			continue
		}
		obj, err := f.Decode()
		if err != nil {
			return nil, err
		}
		m := obj.(*corev1.ConfigMap)
		m.TypeMeta = metav1.TypeMeta{} // as in the internal version, in which servers list
		if isDefaulted(m) {
			m.Data["added"] = "as it is read"
		}
		list.Items = append(list.Items, *m)
	}
	if w.returned = len(list.Items); w.omit && taken {
		list.Items = list.Items[1:]
	}
	return list, nil
}

var _ Types = (*world)(nil)

// Negotiate implements Types.
func (w *world) Negotiate(req *http.Request, _ *request.RequestInfo) (string, *schema.GroupVersionKind, bool) {
	options, info, err := negotiation.NegotiateOutputMediaType(req, codecs, w.scope)
	return info.MediaType, options.Convert, err == nil
}

// Encoder implements Types.
func (w *world) Encoder(format wire.Format, version schema.GroupVersion) runtime.Encoder {
	mediaType := map[wire.Format]string{wire.JSON: runtime.ContentTypeJSON, wire.Protobuf: runtime.ContentTypeProtobuf}[format]
	info, _ := runtime.SerializerInfoForMediaType(codecs.SupportedMediaTypes(), mediaType)
	return codecs.EncoderForVersion(info.Serializer, version)
}

// Convert implements Types.
func (w *world) Convert(obj runtime.Object, version schema.GroupVersion) (runtime.Object, error) {
	return scheme.Scheme.UnsafeConvertToVersion(obj, version)
}

// Tables implements Types.
func (w *world) Tables(*request.RequestInfo, runtime.Object) []Table { return w.tables }

// confine counts.
func (w *world) confine() (lift func()) {
	w.confiners.Add(1)
	w.confined.Add(1)
	return func() { w.confiners.Add(-1) }
}

// upstream is the handler without anything of this package.
func (w *world) upstream() http.Handler {
	return handlers.ListResource(w, nil, w.scope, false, 0)
}

// streaming is the handler with it.
func (w *world) streaming() http.Handler { return Handler(w.upstream(), w, w.confine, true) }

// withInfo does what the filters before a handler do.
func withInfo(next http.Handler) http.Handler {
	return http.HandlerFunc(func(rw http.ResponseWriter, req *http.Request) {
		info := &request.RequestInfo{IsResourceRequest: true, Path: req.URL.Path, Verb: "list", APIVersion: "v1", Namespace: "n", Resource: "configmaps"}
		next.ServeHTTP(rw, req.WithContext(request.WithRequestInfo(req.Context(), info)))
	})
}

func (f form) request() *http.Request {
	req := httptest.NewRequest(http.MethodGet, "/api/v1/namespaces/n/configmaps?"+f.query, nil)
	req.Header.Set("Accept", f.accept)
	if f.gzip {
		req.Header.Set("Accept-Encoding", "gzip")
	}
	return req
}

// form is a way to ask for a list.
type form struct {
	accept, query string
	gzip          bool
}

func (f form) String() string { return fmt.Sprintf("%s %s gzip=%v", f.accept, f.query, f.gzip) }

const (
	asTable = ";as=Table;v=v1;g=meta.k8s.io"
	asMeta  = ";as=PartialObjectMetadataList;v=v1;g=meta.k8s.io"
	asBeta  = ";as=PartialObjectMetadataList;v=v1beta1;g=meta.k8s.io"
)

var forms = func() (out []form) {
	for _, accept := range []string{
		"application/json", "application/yaml", "application/vnd.kubernetes.protobuf", "application/cbor",
		"application/json" + asTable, "application/yaml" + asTable,
		"application/json" + asMeta, "application/yaml" + asMeta, "application/vnd.kubernetes.protobuf" + asMeta, "application/cbor" + asMeta,
		"application/json" + asBeta, "application/vnd.kubernetes.protobuf" + asBeta, "application/cbor" + asBeta,
	} {
		for _, query := range []string{"", "pretty=true", "includeObject=Object", "includeObject=None"} {
			out = append(out, form{accept: accept, query: query}, form{accept: accept, query: query, gzip: true})
		}
	}
	return out
}()
