// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package frame

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/endpoints/handlers"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/kubernetes/pkg/api/legacyscheme"

	"github.com/weir-project/weir/internal/ledger"
	"github.com/weir-project/weir/internal/wire"
)

// eventsWatcher is a storage whose watch tells the given events and ends.
type eventsWatcher []watch.Event

func (w eventsWatcher) Watch(context.Context, *internalversion.ListOptions) (watch.Interface, error) {
	events := make(chan watch.Event, len(w))
	for _, e := range w {
		events <- e
	}
	close(events)
	return watch.NewProxyWatcher(events), nil
}

// serve has upstream's own handler serve a watch of the resource.
func (r resource) serve(t testing.TB, accept string, events ...watch.Event) []byte {
	t.Helper()
	scheme := legacyscheme.Scheme
	scope := &handlers.RequestScope{
		Namer:            handlers.ContextBasedNaming{Namer: runtime.Namer(meta.NewAccessor())},
		Serializer:       legacyscheme.Codecs,
		ParameterCodec:   legacyscheme.ParameterCodec,
		Creater:          scheme,
		Convertor:        scheme,
		Defaulter:        scheme,
		Typer:            scheme,
		TableConvertor:   rest.NewDefaultTableConvertor(schema.GroupResource{Group: r.served.Group, Resource: r.plural}),
		Resource:         r.served.GroupVersion().WithResource(r.plural),
		Kind:             r.served,
		MetaGroupVersion: metav1.SchemeGroupVersion,
		HubGroupVersion:  schema.GroupVersion{Group: r.served.Group, Version: runtime.APIVersionInternal},
	}
	req := httptest.NewRequest(http.MethodGet, "/?watch=1", nil)
	req.Header.Set("Accept", accept)
	req = req.WithContext(request.WithRequestInfo(req.Context(), &request.RequestInfo{IsResourceRequest: true, Verb: "watch", Resource: r.plural}))
	w := httptest.NewRecorder()
	handlers.ListResource(nil, eventsWatcher(events), scope, true, time.Minute)(w, req)
	if w.Code != http.StatusOK {
		t.Fatalf("%s as %s: %d %s", r.plural, accept, w.Code, w.Body)
	}
	return w.Body.Bytes()
}

// asked is a Frame that writes down how it is asked to encode itself.
type asked struct {
	*Frame
	ids *[]runtime.Identifier
}

func (a asked) CacheEncode(id runtime.Identifier, encode func(runtime.Object, io.Writer) error, w io.Writer) error {
	*a.ids = append(*a.ids, id)
	return a.Frame.CacheEncode(id, encode, w)
}

const (
	inJSON     = runtime.ContentTypeJSON
	inProtobuf = runtime.ContentTypeProtobuf
	asTable    = ";as=Table;v=v1;g=meta.k8s.io"
	asPartial  = ";as=PartialObjectMetadata;v=v1;g=meta.k8s.io"
)

// TestVariants holds how the identifiers read that upstream's handler asks with.
func TestVariants(t *testing.T) {
	hpa := resource{
		stored:    schema.GroupVersionKind{Group: "autoscaling", Version: "v2", Kind: "HorizontalPodAutoscaler"},
		served:    schema.GroupVersionKind{Group: "autoscaling", Version: "v1", Kind: "HorizontalPodAutoscaler"},
		plural:    "horizontalpodautoscalers",
		mediaType: inProtobuf,
	}
	scaler := &autoscalingv1.HorizontalPodAutoscaler{ObjectMeta: metav1.ObjectMeta{Name: "h", Namespace: "n", ResourceVersion: "3"}}
	for _, test := range []struct {
		r      resource
		obj    runtime.Object
		accept string
		want   []variant // for ADDED, MODIFIED, DELETED; object is compared for being there
	}{
		{core("ConfigMap", "configmaps"), configMap, inJSON, slices.Repeat([]variant{{envelope: wire.JSON, plain: true, objectFormat: wire.JSON, apiVersion: "v1"}}, 3)},
		{core("ConfigMap", "configmaps"), configMap, inProtobuf, slices.Repeat([]variant{{envelope: wire.Protobuf, plain: true, objectFormat: wire.Protobuf, apiVersion: "v1"}}, 3)},
		{hpa, scaler, inProtobuf, slices.Repeat([]variant{{envelope: wire.Protobuf, plain: true, objectFormat: wire.Protobuf, apiVersion: "autoscaling/v1"}}, 3)},
		{core("ConfigMap", "configmaps"), configMap, inJSON + asTable, []variant{{envelope: wire.JSON, table: true, columns: true}, {envelope: wire.JSON, table: true}, {envelope: wire.JSON, table: true}}},
		{core("ConfigMap", "configmaps"), configMap, inJSON + asPartial, slices.Repeat([]variant{{envelope: wire.JSON, metadata: true}}, 3)},
		{core("ConfigMap", "configmaps"), configMap, inProtobuf + asPartial, slices.Repeat([]variant{{envelope: wire.Protobuf, metadata: true}}, 3)},
	} {
		t.Run(test.r.served.Version+test.r.plural+" "+test.accept, func(t *testing.T) {
			c, _ := test.r.codec(t, 1<<20)
			f := frameOf(t, c, test.obj)
			types := []watch.EventType{watch.Added, watch.Modified, watch.Deleted}
			var ids []runtime.Identifier
			var events, decoded []watch.Event
			for _, eventType := range types {
				events = append(events, watch.Event{Type: eventType, Object: asked{f, &ids}})
				decoded = append(decoded, watch.Event{Type: eventType, Object: internal(t, test.obj)})
			}
			equal(t, "the stream", test.r.serve(t, test.accept, events...), test.r.serve(t, test.accept, decoded...))
			if len(ids) != 3 {
				t.Fatalf("the frame was asked %d times", len(ids))
			}
			for i, id := range ids {
				v := *variantOf(id)
				if v.object == "" {
					t.Errorf("%s: no identifier of the object", id)
				}
				v.object = ""
				test.want[i].watch, test.want[i].eventType = true, string(types[i])
				if v != test.want[i] {
					t.Errorf("%s reads as\n%+v, want\n%+v", id, v, test.want[i])
				}
			}
		})
	}
}

// TestStrangeIdentifiers are none that this package may answer from shared bytes.
func TestStrangeIdentifiers(t *testing.T) {
	for _, id := range []string{
		"", "json", "{}", "[1]", `{"name":"watch"}`,
		`{"name":"watch","embeddedEncoder":"e"}`,
		`{"name":"watch","eventType":"ADDED"}`,
		`{"name":"other","embeddedEncoder":"e","encoder":"f","eventType":"ADDED"}`,
		`{"name":"watch","embeddedEncoder":"e","eventType":1}`,
	} {
		if v := parseVariant(runtime.Identifier(id)); *v != (variant{}) {
			t.Errorf("%s reads as %+v", id, v)
		}
	}
	quote := func(v any) string {
		text, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	versioning := func(serializer string) string {
		return quote(codecIdentifier{Name: "versioning", EncodeGV: "v1", Encoder: serializer})
	}
	const plainJSON = `{"name":"json","pretty":"false","strict":"false","yaml":"false"}`
	for _, test := range []struct {
		object, envelope string
		want             variant
	}{
		{versioning(plainJSON), versioning(plainJSON), variant{envelope: wire.JSON, plain: true, objectFormat: wire.JSON, apiVersion: "v1"}},
		// Pretty JSON, YAML and what there may be one day.
		{versioning(`{"name":"json","pretty":"true","yaml":"false"}`), versioning(plainJSON), variant{envelope: wire.JSON, apiVersion: "v1"}},
		{versioning(`{"name":"json","pretty":"false","yaml":"true"}`), versioning(plainJSON), variant{envelope: wire.JSON, apiVersion: "v1"}},
		{versioning("cbor"), versioning("cbor"), variant{apiVersion: "v1", shuffled: true}},
		// An object in one format in an event of another.
		{versioning("protobuf"), versioning(plainJSON), variant{envelope: wire.JSON, objectFormat: wire.Protobuf, apiVersion: "v1"}},
		{versioning(plainJSON), versioning("raw-protobuf"), variant{envelope: wire.Protobuf, objectFormat: wire.JSON, apiVersion: "v1"}},
		// The serializer of objects is not that of events, and the other way round.
		{versioning("raw-protobuf"), versioning("protobuf"), variant{apiVersion: "v1"}},
		{"e", "f", variant{}},
	} {
		id := quote(watchIdentifier{Name: "watch", EmbeddedEncoder: test.object, Encoder: test.envelope, EventType: "ADDED"})
		test.want.watch, test.want.eventType, test.want.object = true, "ADDED", runtime.Identifier(test.object)
		if v := parseVariant(runtime.Identifier(id)); *v != test.want {
			t.Errorf("%s reads as\n%+v, want\n%+v", id, v, test.want)
		}
	}
}

// TestServedByAll has many watches of all kinds ask for the same few frames at the
// same time: each gets what it would get alone, and in the end nothing is kept.
func TestServedByAll(t *testing.T) {
	r := core("Pod", "pods")
	c, l := r.codec(t, 20_000) // less than all encodings together
	var events, decoded []watch.Event
	for i := range 8 {
		pod := &v1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("p", i), Namespace: "n", UID: "u", ResourceVersion: fmt.Sprint(i + 1), Annotations: map[string]string{"a": strings.Repeat("<x>", 300*i)}},
			Spec:       v1.PodSpec{NodeName: "node", Containers: []v1.Container{{Name: "c", Image: "i"}}},
		}
		eventType := []watch.EventType{watch.Added, watch.Modified, watch.Deleted}[i%3]
		events = append(events, watch.Event{Type: eventType, Object: frameOf(t, c, pod)})
		decoded = append(decoded, watch.Event{Type: eventType, Object: internal(t, pod)})
	}
	var all sync.WaitGroup
	for _, accept := range []string{inJSON, inProtobuf, inJSON + asTable, inJSON + asPartial, inProtobuf + asPartial} {
		want := r.serve(t, accept, decoded...)
		for range 4 {
			all.Go(func() {
				for range 5 {
					equal(t, accept, r.serve(t, accept, events...), want)
				}
			})
		}
	}
	all.Wait()
	store := c.store
	kept := func(shelf *shelf) int64 { return shelf.single.bytes + shelf.shared.bytes }
	if all := kept(&store.kept) + kept(&store.brief); kept(&store.kept) > store.kept.budget || l.Bytes(ledger.Derived) != all {
		t.Errorf("the store keeps %d bytes of %d, and %d are booked", all, store.kept.budget, l.Bytes(ledger.Derived))
	}
	store.sweepAll() // what was used since the last sweep stays
	store.sweepAll()
	if kept(&store.kept)+kept(&store.brief) != 0 || l.Bytes(ledger.Derived) != 0 || store.kept.sweep != nil || store.brief.sweep != nil {
		t.Errorf("an idle store keeps %d bytes, and %d are booked", kept(&store.kept)+kept(&store.brief), l.Bytes(ledger.Derived))
	}
	for _, e := range events {
		if d := e.Object.(*Frame).derived.Load(); d != nil {
			t.Errorf("a frame keeps its %s", d.name.id)
		}
	}
}

// BenchmarkCacheEncode is one event to one more watch.
func BenchmarkCacheEncode(b *testing.B) {
	r := core("ConfigMap", "configmaps")
	for _, bench := range []struct {
		name, accept string
		eventType    watch.EventType
	}{
		{"primary", inProtobuf, watch.Added},
		{"primary modified", inProtobuf, watch.Modified},
		{"derived", inJSON, watch.Added},
		{"derived modified", inJSON, watch.Modified},
	} {
		b.Run(bench.name, func(b *testing.B) {
			c, _ := r.codec(b, 1<<20)
			f := frameOf(b, c, configMap)
			var ids []runtime.Identifier
			r.serve(b, bench.accept, watch.Event{Type: bench.eventType, Object: asked{f, &ids}})
			encode := func(runtime.Object, io.Writer) error {
				b.Error("the frame encodes anew")
				return nil
			}
			b.ReportAllocs()
			for b.Loop() {
				if err := f.CacheEncode(ids[0], encode, io.Discard); err != nil {
					b.Fatal(err)
				}
			}
			c.store.sweepAll()
			c.store.sweepAll()
		})
	}
}

// undecodable knows types, but cannot say what is in an object.
type undecodable struct{ legacyTypes }

func (undecodable) Internal(runtime.Object) (runtime.Object, error) {
	return nil, errors.New("this would be decoding")
}

// TestJSONWithoutDecoding: what is kept in protobuf is sent as JSON without being decoded,
// in watches and in lists, unless there is something that protobuf does not keep.
func TestJSONWithoutDecoding(t *testing.T) {
	r := core("ConfigMap", "configmaps")
	want := r.serve(t, inJSON, watch.Event{Type: watch.Added, Object: internal(t, configMap)})
	c, _ := r.codec(t, 1<<20)
	f := frameOf(t, c, configMap)
	c.cfg.Types = undecodable{legacyTypes{legacyscheme.Scheme}}
	equal(t, "a watch", r.serve(t, inJSON, watch.Event{Type: watch.Added, Object: f}), want)

	info, _ := runtime.SerializerInfoForMediaType(legacyscheme.Codecs.SupportedMediaTypes(), inJSON)
	encoder := legacyscheme.Codecs.EncoderForVersion(info.Serializer, v1.SchemeGroupVersion)
	object, err := f.As(wire.JSON, "v1", encoder)
	if err != nil {
		t.Fatal(err)
	}
	var event struct{ Object json.RawMessage }
	if err := json.Unmarshal(want, &event); err != nil {
		t.Fatal(err)
	}
	equal(t, "an object", object, event.Object)

	set := resource{stored: appsv1.SchemeGroupVersion.WithKind("StatefulSet"), served: appsv1.SchemeGroupVersion.WithKind("StatefulSet"), plural: "statefulsets", mediaType: inProtobuf}
	claims := &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Name: "s", Namespace: "n", ResourceVersion: "3"}}
	claims.Spec.VolumeClaimTemplates = []v1.PersistentVolumeClaim{{ObjectMeta: metav1.ObjectMeta{Name: "data"}}}
	want = set.serve(t, inJSON, watch.Event{Type: watch.Added, Object: internal(t, claims)})
	if !bytes.Contains(want, []byte(`"kind":"PersistentVolumeClaim"`)) {
		t.Fatalf("upstream does not name the kind of claims: %s", want)
	}
	c, _ = set.codec(t, 1<<20)
	f = frameOf(t, c, claims)
	equal(t, "a watch of what protobuf does not keep", set.serve(t, inJSON, watch.Event{Type: watch.Added, Object: f}), want)
}
