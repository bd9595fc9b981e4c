// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package frame

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer/cbor/direct"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/endpoints/handlers"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/kubernetes/pkg/api/legacyscheme"

	"github.com/weir-project/weir/internal/wire"
)

// fixtures returns upstream's compatibility fixtures of a kind: one object with every field
// set, in each format.
func fixtures(f *testing.F, kind schema.GroupVersionKind) (out [][]byte) {
	f.Helper()
	dir, err := exec.CommandContext(f.Context(), "go", "list", "-m", "-f", "{{.Dir}}", "k8s.io/api").Output()
	if err != nil {
		f.Fatalf("go list -m k8s.io/api: %v", err)
	}
	group := kind.Group
	if group == "" {
		group = "core"
	}
	name := filepath.Join(strings.TrimSpace(string(dir)), "testdata", "HEAD", group+"."+kind.Version+"."+kind.Kind)
	for _, ext := range []string{".pb", ".json", ".yaml"} {
		data, err := os.ReadFile(name + ext)
		if err != nil {
			f.Fatal(err)
		}
		out = append(out, data)
	}
	return out
}

// storedKinds are types whose conversion, defaults or encoding have something of their own.
var storedKinds = []resource{
	core("Pod", "pods"), core("ConfigMap", "configmaps"), core("Secret", "secrets"), core("Service", "services"),
	core("PersistentVolumeClaim", "persistentvolumeclaims"), core("Node", "nodes"),
	inGroup("apps", "v1", "Deployment"), inGroup("apps", "v1", "StatefulSet"), inGroup("apps", "v1", "DaemonSet"),
	inGroup("autoscaling", "v2", "HorizontalPodAutoscaler"),
}

func inGroup(group, version, kind string) resource {
	gvk := schema.GroupVersionKind{Group: group, Version: version, Kind: kind}
	return resource{stored: gvk, served: gvk, plural: strings.ToLower(kind) + "s"}
}

// FuzzStored has whatever bytes in etcd, for a server that stores in any media type: what
// upstream's storage codec makes an object of is decoded from the frame as that object, and is
// answered in every version and format as upstream encodes it.
//
//	go test -fuzz=FuzzStored ./internal/frame
func FuzzStored(f *testing.F) {
	mediaTypes := []string{runtime.ContentTypeProtobuf, runtime.ContentTypeJSON, runtime.ContentTypeYAML}
	for i, r := range storedKinds {
		for _, data := range fixtures(f, r.stored) {
			f.Add(byte(i), byte(0), data)
		}
		for storing := range mediaTypes {
			for _, rest := range []string{
				`"metadata":{"name":"a","labels":{},"annotations":{"x":"\ufffd"},"finalizers":[]},"data":{},"spec":{},"status":{}`,
				`"metadata":{"name":"a"},"spec":{"containers":[],"template":{"spec":{"containers":[]}},"accessModes":[],"ports":[]},"status":{"conditions":[]}`,
			} {
				f.Add(byte(i), byte(storing), fmt.Appendf(nil, `{"apiVersion":%q,"kind":%q,%s}`, r.stored.GroupVersion().String(), r.stored.Kind, rest))
			}
		}
	}
	var codecs [][]*Codec
	for _, r := range storedKinds {
		var byMediaType []*Codec
		for _, r.mediaType = range mediaTypes {
			c, _ := r.codec(f, 1<<20)
			byMediaType = append(byMediaType, c)
		}
		codecs = append(codecs, byMediaType)
	}
	f.Add(byte(1), byte(1), []byte("k8s\x00\x0a\x0f\x0a\x02v1\x12\x09ConfigMap\x12\x0b\x0a\x03\x0a\x01a\x12\x04\x0a\x00\x12\x00\x1a\x00\x22\x00"))
	f.Fuzz(func(t *testing.T, which, storing byte, data []byte) {
		r, mediaType := storedKinds[int(which)%len(storedKinds)], mediaTypes[int(storing)%len(mediaTypes)]
		c := codecs[int(which)%len(storedKinds)][int(storing)%len(mediaTypes)]
		obj := c.cfg.NewFunc()
		out, kind, err := c.cfg.Codec.Decode(data, nil, obj)
		if err != nil || out != obj {
			return // what upstream's storage calls corrupt
		}
		if kind.Version == runtime.APIVersionInternal {
			return // it names no type, and is not defaulted: no server writes that
		}
		if err := c.cfg.Versioner.UpdateObject(obj, 7); err != nil {
			return
		}
		what := fmt.Sprintf("%v stored as %s", r.stored, mediaType)
		frame, err := c.Encode("/things/a", obj)
		if err != nil {
			if _, err := runtime.Encode(c.cfg.Codec, obj); err == nil {
				t.Fatalf("%s: %v, and upstream can store it", what, err)
			}
			return
		}
		checkAnswers(t, what, frame, obj)
		again, err := frame.Decode()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		checkAnswers(t, what+", decoded again", frame, again)
		checkCut(t, what, frame, obj)
	})
}

// checkAnswers compares what a frame is served as with what upstream encodes an object as.
func checkAnswers(t *testing.T, what string, f *Frame, obj runtime.Object) {
	t.Helper()
	for _, gv := range legacyscheme.Scheme.PrioritizedVersionsForGroup(schema.FromAPIVersionAndKind(f.typ.apiVersion, f.typ.kind).Group) {
		for _, format := range []wire.Format{wire.JSON, wire.Protobuf} {
			encoder := legacyTypes{legacyscheme.Scheme}.Encoder(format, gv)
			want, wantErr := runtime.Encode(encoder, obj)
			got, gotErr := f.As(format, gv.String(), encoder)
			if (wantErr == nil) != (gotErr == nil) {
				t.Fatalf("%s, as %v %v: error %v, upstream %v", what, gv, format, gotErr, wantErr)
			}
			if wantErr == nil {
				equal(t, fmt.Sprintf("%s, as %v %v", what, gv, format), got, bytes.TrimSuffix(want, []byte("\n")))
			}
		}
	}
}

// checkCut compares what is cut out of the frame's protobuf, and what selectors see, with the
// object.
func checkCut(t *testing.T, what string, f *Frame, obj runtime.Object) {
	t.Helper()
	accessor, err := meta.Accessor(obj)
	if err != nil {
		t.Fatal(err)
	}
	for k, v := range accessor.GetLabels() {
		if got, ok := f.Labels().Lookup(k); !ok || got != v {
			t.Errorf("%s: the label %q is %q (%v), want %q", what, k, got, ok, v)
		}
	}
	if f.Fields().Get("metadata.name") != accessor.GetName() || f.Fields().Get("metadata.namespace") != accessor.GetNamespace() {
		t.Errorf("%s: the fields name %q in %q, want %q in %q", what, f.Fields().Get("metadata.name"), f.Fields().Get("metadata.namespace"), accessor.GetName(), accessor.GetNamespace())
	}
	cut, ok := f.Metadata()
	if !ok {
		return
	}
	want, err := obj.(metav1.ObjectMetaAccessor).GetObjectMeta().(*metav1.ObjectMeta).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	equal(t, what+", metadata", cut, want)
}

// FuzzCustom has whatever JSON or CBOR in etcd for a custom resource: what is decoded of it is
// decoded of the frame, bit by bit, and its JSON is upstream's.
func FuzzCustom(f *testing.F) {
	deep := strings.Repeat(`[`, 100) + `1.0` + strings.Repeat(`]`, 100)
	for _, spec := range []string{
		`{"value":1,"text":"<a>\u2028\ufffd"}`, `1.0`, `-0.0`, `1e3`, `-1e3`, `1e30`, `0.1`, `[1,[1.0]]`, `{"items":[{"a":1}]}`, `{"deep":` + deep + `}`,
		`{"":null,"a":{},"b":[],"c":[null,{}]}`, `[]`, `9223372036854775807`, `9223372036854775808`, `-9223372036854775808.0`,
	} {
		object := `{"apiVersion":"example.com/v1","kind":"Widget","metadata":{"name":"w","labels":{"a":"b"}},"spec":` + spec + `,"items":[1]}`
		f.Add([]byte(object), false)
		var value any
		if err := json.Unmarshal([]byte(object), &value); err != nil {
			f.Fatal(err)
		}
		data, err := direct.Marshal(value) // with numbers as float64
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data, true)
	}
	f.Fuzz(func(t *testing.T, data []byte, inCBOR bool) {
		obj := &unstructured.Unstructured{}
		var err error
		if inCBOR {
			err = direct.Unmarshal(data, &obj.Object)
		} else {
			err = runtime.DecodeInto(unstructured.UnstructuredJSONScheme, data, obj)
		}
		if err != nil || obj.GetKind() == "" || obj.GetAPIVersion() == "" || !utf8.ValidString(obj.GetKind()+obj.GetAPIVersion()) {
			return // upstream's decoders refuse what has no type, and no definition has another
		}
		obj.SetResourceVersion("7")
		if obj.GetResourceVersion() != "7" {
			return // nor can its storage say at which revision it is
		}
		want := obj.DeepCopy()
		stock, stockErr := runtime.Encode(unstructured.UnstructuredJSONScheme, want)
		frame, err := customCodec().Encode("/things/a", obj)
		if err != nil || stockErr != nil {
			if (err == nil) != (stockErr == nil) {
				t.Fatalf("%q: error %v, upstream %v", data, err, stockErr)
			}
			return
		}
		got, err := frame.Decode()
		if err != nil {
			t.Fatalf("%q: %v", data, err)
		}
		if u := got.(*unstructured.Unstructured); !reflect.DeepEqual(u, want) || !sameBits(u.Object, want.Object) {
			t.Errorf("%q is decoded as %v, want %v", data, u.Object, want.Object)
		}
		// There is no encoder of built-in types for it, as in a server.
		answer, err := frame.As(wire.JSON, want.GetAPIVersion(), nil)
		if err != nil {
			t.Fatalf("%q: %v", data, err)
		}
		equal(t, "JSON", append(bytes.Clone(answer), '\n'), stock)
	})
}

// FuzzIdentity: objects that upstream's encoders write are called what they are, and what is
// written round an arbitrary type is read as encoding/json reads it.
func FuzzIdentity(f *testing.F) {
	f.Add("v1", "Pod", []byte(`{"metadata":{"kind":"x"}}`))
	f.Add("", "K", []byte(`{"b":1}`))
	f.Add("a/v1", "\"<K>\u2028", []byte(`{"a":[{"kind":"y","apiVersion":"z"}],"z":null}`))
	f.Add("", "", []byte("k8s\x00\x0a\x09\x0a\x02v1\x12\x03Pod\x12\x00"))
	f.Add("", "", []byte("apiVersion: v1\nkind: Pod\n"))
	f.Fuzz(func(t *testing.T, apiVersion, kind string, rest []byte) {
		unknown := runtime.Unknown{TypeMeta: runtime.TypeMeta{APIVersion: apiVersion, Kind: kind}, Raw: rest}
		if rest == nil {
			unknown.Raw = []byte{}
		}
		body, err := unknown.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		// Whatever else it is, it must not be called what it is not.
		if format, typ := identify(rest); format == wire.Other && typ != (typeMeta{}) && rest[0] == '{' {
			t.Errorf("%q is no JSON, but %+v", rest, typ)
		}
		want := typeMeta{apiVersion: apiVersion, kind: kind}
		if format, typ := identify(append([]byte("k8s\x00"), body...)); format != wire.Protobuf || typ != want {
			t.Errorf("protobuf of %+v is a %v %+v", want, format, typ)
		}
		object := map[string]any{}
		if json.Unmarshal(rest, &object) != nil || object == nil {
			return
		}
		delete(object, "apiVersion")
		delete(object, "kind")
		data, err := json.Marshal(struct {
			Kind       string `json:"kind"`
			APIVersion string `json:"apiVersion"`
		}{kind, apiVersion})
		if err != nil {
			t.Fatal(err)
		}
		if len(object) > 0 {
			others, err := json.Marshal(object)
			if err != nil {
				t.Fatal(err)
			}
			if len(kind)%2 == 0 {
				data, others = others, data
			}
			data = append(append(data[:len(data)-1], ','), others[1:]...)
		}
		var read struct{ APIVersion, Kind any }
		var exact map[string]any // not by folded case
		if err := json.Unmarshal(data, &exact); err != nil {
			t.Fatal(err)
		}
		read.APIVersion, read.Kind = exact["apiVersion"], exact["kind"]
		if format, typ := identify(data); format != wire.JSON || typ.apiVersion != read.APIVersion || typ.kind != read.Kind {
			t.Errorf("%s is a %v %+v", data, format, typ)
		}
	})
}

// FuzzVariant writes identifiers as upstream's encoders of watches do, of whatever parts: each
// part is read as it was, and nothing else is taken for one of them.
func FuzzVariant(f *testing.F) {
	f.Add("apps/v1", "MODIFIED", byte(0), byte(0), "meta.k8s.io/v1, Kind=Table", "x")
	f.Add("v1", "ADDED", byte(1), byte(1), "", `{"name":"watch"}`)
	f.Add("\"}", "<\u2028>", byte(2), byte(3), `meta.k8s.io/v1, Kind=PartialObjectMetadata`, `{"name":"watch","embeddedEncoder":"{}","eventType":"ADDED"}`)
	var names []string
	for _, info := range legacyscheme.Codecs.SupportedMediaTypes() {
		names = append(names, string(info.Serializer.Identifier()))
		if info.PrettySerializer != nil {
			names = append(names, string(info.PrettySerializer.Identifier()))
		}
		if info.StreamSerializer != nil {
			names = append(names, string(info.StreamSerializer.Serializer.Identifier()))
		}
	}
	names = append(names, "cbor", "")
	for i := range names {
		for j := range names {
			f.Add("v1", "DELETED", byte(i), byte(j), "", "")
		}
	}
	inJSON := string(serializerOf(f, runtime.ContentTypeJSON).Serializer.Identifier())
	inProtobuf := string(serializerOf(f, runtime.ContentTypeProtobuf).Serializer.Identifier())
	rawProtobuf := string(serializerOf(f, runtime.ContentTypeProtobuf).StreamSerializer.Serializer.Identifier())
	f.Fuzz(func(t *testing.T, apiVersion, eventType string, inner, outer byte, target, wild string) {
		if v := parseVariant(runtime.Identifier(wild)); !v.watch && *v != (variant{}) {
			t.Errorf("%q is no identifier of a watch, but %+v", wild, *v)
		}
		object, stream := names[int(inner)%len(names)], names[int(outer)%len(names)]
		marshal := func(v any) string {
			data, err := json.Marshal(v)
			if err != nil {
				t.Fatal(err)
			}
			return string(data)
		}
		embedded := marshal(map[string]any{"name": "versioning", "encodeGV": apiVersion, "encoder": object})
		if target != "" {
			embedded = marshal(map[string]any{"name": "watch-embedded", "encoder": embedded, "target": target, "noHeaders": inner%2 == 0})
		}
		id := marshal(map[string]any{"name": "watch", "embeddedEncoder": embedded, "encoder": marshal(map[string]any{"name": "versioning", "encodeGV": "v1", "encoder": stream}), "eventType": eventType})
		v := parseVariant(runtime.Identifier(id))
		if eventType == "" {
			if *v != (variant{}) {
				t.Errorf("%s has no type, and is read as %+v", id, *v)
			}
			return
		}
		// What is no UTF-8 is replaced by what writes the identifiers, too.
		valid := func(s string) string { return strings.ToValidUTF8(s, "\ufffd") }
		want := variant{watch: true, eventType: v.eventType, object: runtime.Identifier(embedded), shuffled: stream == "cbor", envelope: map[string]wire.Format{inJSON: wire.JSON, rawProtobuf: wire.Protobuf}[stream]}
		if target == "" {
			want.apiVersion, want.objectFormat = v.apiVersion, map[string]wire.Format{inJSON: wire.JSON, inProtobuf: wire.Protobuf}[object]
			want.plain = want.objectFormat != wire.Other && want.objectFormat == want.envelope
		} else {
			want.table = strings.HasSuffix(valid(target), "Kind=Table")
			want.columns = want.table && inner%2 != 0
			want.metadata = strings.HasSuffix(valid(target), "Kind=PartialObjectMetadata")
		}
		if *v != want {
			t.Errorf("%s is read as %+v, want %+v", id, *v, want)
		}
		if apiVersion == valid(apiVersion) && target == "" && v.apiVersion != apiVersion || eventType == valid(eventType) && v.eventType != eventType {
			t.Errorf("%s: %q of version %q, want %q of %q", id, v.eventType, v.apiVersion, eventType, apiVersion)
		}
	})
}

func serializerOf(t testing.TB, mediaType string) runtime.SerializerInfo {
	t.Helper()
	info, ok := runtime.SerializerInfoForMediaType(legacyscheme.Codecs.SupportedMediaTypes(), mediaType)
	if !ok {
		t.Fatalf("no serializer for %s", mediaType)
	}
	return info
}

// FuzzWatchAccept asks upstream's handler for a watch with any Accept header and query: the
// stream is the same, byte by byte, whether the events bring frames or objects, and so is the
// refusal.
func FuzzWatchAccept(f *testing.F) {
	for _, accept := range []string{
		"", "*/*", inJSON, inProtobuf, "application/yaml", inJSON + ";stream=watch", inProtobuf + ";stream=watch", "application/*",
		inJSON + asTable, inJSON + asPartial, inProtobuf + asPartial, inJSON + ";as=Table;v=v1beta1;g=meta.k8s.io, " + inJSON,
		inProtobuf + asTable + "," + inJSON + asTable, inJSON + ";pretty=1", inJSON + ";as=Table;v=v1;g=meta.k8s.io;q=0.1,*/*;q=0.5", "text/plain",
	} {
		for i, query := range []string{"watch=1", "watch=1&pretty=true", "watch=1&includeObject=Object", "watch=1&includeObject=None&timeoutSeconds=9"} {
			f.Add(accept, query, byte(i))
		}
	}
	r := inGroup("autoscaling", "v2", "HorizontalPodAutoscaler")
	older := r
	older.served.Version = "v1"
	r.mediaType, older.mediaType = inProtobuf, inProtobuf
	scaler := fixtures(f, r.stored)[1]
	obj, err := runtime.Decode(r.storageCodec(f), scaler)
	if err != nil {
		f.Fatal(err)
	}
	if err := (storage.APIObjectVersioner{}).UpdateObject(obj, 7); err != nil {
		f.Fatal(err)
	}
	c, _ := r.codec(f, 1<<20)
	frame, err := c.Encode("/things/a", obj)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, accept, query string, order byte) {
		served := r
		if order&1 != 0 {
			served = older
		}
		var shared, decoded []watch.Event
		for i := range 3 {
			eventType := []watch.EventType{watch.Added, watch.Modified, watch.Deleted}[(int(order>>1)+i*int(order>>3))%3]
			shared = append(shared, watch.Event{Type: eventType, Object: frame})
			decoded = append(decoded, watch.Event{Type: eventType, Object: obj.DeepCopyObject()})
		}
		got, want := served.watched(accept, query, shared), served.watched(accept, query, decoded)
		if got.Code != want.Code || !reflect.DeepEqual(got.Header(), want.Header()) {
			t.Fatalf("%q, %q: %d %v, upstream %d %v", accept, query, got.Code, got.Header(), want.Code, want.Header())
		}
		equal(t, fmt.Sprintf("%q, %q", accept, query), got.Body.Bytes(), want.Body.Bytes())
	})
}

// watched has upstream's own handler answer a watch.
func (r resource) watched(accept, query string, events []watch.Event) *httptest.ResponseRecorder {
	scheme := legacyscheme.Scheme
	scope := &handlers.RequestScope{
		Namer: handlers.ContextBasedNaming{Namer: runtime.Namer(meta.NewAccessor())}, Serializer: legacyscheme.Codecs, ParameterCodec: legacyscheme.ParameterCodec,
		Creater: scheme, Convertor: scheme, Defaulter: scheme, Typer: scheme,
		TableConvertor: rest.NewDefaultTableConvertor(schema.GroupResource{Group: r.served.Group, Resource: r.plural}),
		Resource:       r.served.GroupVersion().WithResource(r.plural), Kind: r.served, MetaGroupVersion: metav1.SchemeGroupVersion,
		HubGroupVersion: schema.GroupVersion{Group: r.served.Group, Version: runtime.APIVersionInternal},
	}
	req := httptest.NewRequest(http.MethodGet, "/", nil)
	req.URL.RawQuery = query
	req.Header.Set("Accept", accept)
	req = req.WithContext(request.WithRequestInfo(req.Context(), &request.RequestInfo{IsResourceRequest: true, Verb: "watch", Resource: r.plural}))
	w := httptest.NewRecorder()
	handlers.ListResource(nil, eventsWatcher(events), scope, true, time.Minute)(w, req)
	return w
}
