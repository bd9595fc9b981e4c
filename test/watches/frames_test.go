// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package watches

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/runtime/serializer/cbor"
	"k8s.io/apimachinery/pkg/runtime/serializer/cbor/direct"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/endpoints/handlers"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/features"
	"k8s.io/apiserver/pkg/storage"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	featuregatetesting "k8s.io/component-base/featuregate/testing"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	_ "k8s.io/kubernetes/pkg/apis/apps/install"
	_ "k8s.io/kubernetes/pkg/apis/autoscaling/install"
	_ "k8s.io/kubernetes/pkg/apis/core/install"
	_ "k8s.io/kubernetes/pkg/apis/events/install"
	"k8s.io/kubernetes/pkg/printers"
	printersinternal "k8s.io/kubernetes/pkg/printers/internalversion"
	printerstorage "k8s.io/kubernetes/pkg/printers/storage"
	"k8s.io/utils/ptr"

	"github.com/weir-project/weir/internal/frame"
	"github.com/weir-project/weir/internal/ledger"
)

// withCBOR are the codecs of a server with the gate CBORServingAndStorage.
var withCBOR = serializer.NewCodecFactory(legacyscheme.Scheme, serializer.WithSerializer(cbor.NewSerializerInfo))

// kind is a resource as it is stored and served, and what to put into its objects.
type kind struct {
	plural         string
	stored, served schema.GroupVersionKind
	// make returns an object of the served version with content somewhere in it.
	make func(meta metav1.ObjectMeta, content string) runtime.Object
}

var kinds = []kind{
	{
		plural: "configmaps",
		stored: corev1.SchemeGroupVersion.WithKind("ConfigMap"), served: corev1.SchemeGroupVersion.WithKind("ConfigMap"),
		make: func(m metav1.ObjectMeta, content string) runtime.Object {
			return &corev1.ConfigMap{ObjectMeta: m, Data: map[string]string{"content": content, "empty": ""}}
		},
	},
	{
		plural: "secrets",
		stored: corev1.SchemeGroupVersion.WithKind("Secret"), served: corev1.SchemeGroupVersion.WithKind("Secret"),
		make: func(m metav1.ObjectMeta, content string) runtime.Object {
			return &corev1.Secret{ObjectMeta: m, Type: corev1.SecretTypeOpaque, Data: map[string][]byte{"content": []byte(content)}}
		},
	},
	{
		plural: "pods",
		stored: corev1.SchemeGroupVersion.WithKind("Pod"), served: corev1.SchemeGroupVersion.WithKind("Pod"),
		make: func(m metav1.ObjectMeta, content string) runtime.Object {
			return &corev1.Pod{
				ObjectMeta: m,
				Spec: corev1.PodSpec{NodeName: "n1", Containers: []corev1.Container{{
					Name: "c", Image: "image", Env: []corev1.EnvVar{{Name: "CONTENT", Value: content}},
					Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("100m"), corev1.ResourceMemory: resource.MustParse("1.5Gi")}},
				}}},
				Status: corev1.PodStatus{Phase: corev1.PodRunning, PodIP: "10.0.0.1", PodIPs: []corev1.PodIP{{IP: "10.0.0.1"}}},
			}
		},
	},
	{
		plural: "deployments",
		stored: appsv1.SchemeGroupVersion.WithKind("Deployment"), served: appsv1.SchemeGroupVersion.WithKind("Deployment"),
		make: func(m metav1.ObjectMeta, content string) runtime.Object {
			return &appsv1.Deployment{
				ObjectMeta: m,
				Spec: appsv1.DeploymentSpec{
					Replicas: ptr.To[int32](3),
					Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}},
					Strategy: appsv1.DeploymentStrategy{RollingUpdate: &appsv1.RollingUpdateDeployment{MaxSurge: ptr.To(intstr.FromString("25%"))}},
					Template: corev1.PodTemplateSpec{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i", Args: []string{content}}}}},
				},
			}
		},
	},
	{
		// Stored in another version than it is asked for in.
		plural: "horizontalpodautoscalers",
		stored: schema.GroupVersionKind{Group: "autoscaling", Version: "v2", Kind: "HorizontalPodAutoscaler"},
		served: schema.GroupVersionKind{Group: "autoscaling", Version: "v1", Kind: "HorizontalPodAutoscaler"},
		make: func(m metav1.ObjectMeta, content string) runtime.Object {
			m.Annotations = map[string]string{"content": content}
			return &autoscalingv1.HorizontalPodAutoscaler{ObjectMeta: m, Spec: autoscalingv1.HorizontalPodAutoscalerSpec{
				ScaleTargetRef: autoscalingv1.CrossVersionObjectReference{Kind: "Deployment", Name: "d", APIVersion: "apps/v1"},
				MinReplicas:    ptr.To[int32](1), MaxReplicas: 9, TargetCPUUtilizationPercentage: ptr.To[int32](80),
			}}
		},
	},
	{
		plural: "events",
		stored: corev1.SchemeGroupVersion.WithKind("Event"), served: corev1.SchemeGroupVersion.WithKind("Event"),
		make: func(m metav1.ObjectMeta, content string) runtime.Object {
			return &corev1.Event{ObjectMeta: m, Message: content, Reason: "Scheduled", Type: "Normal", Count: 2,
				InvolvedObject: corev1.ObjectReference{Kind: "Pod", Namespace: m.Namespace, Name: "p"}, LastTimestamp: m.CreationTimestamp}
		},
	},
	{
		// One group's objects, stored as the other's.
		plural: "events",
		stored: corev1.SchemeGroupVersion.WithKind("Event"), served: eventsv1.SchemeGroupVersion.WithKind("Event"),
		make: func(m metav1.ObjectMeta, content string) runtime.Object {
			return &eventsv1.Event{ObjectMeta: m, Note: content, Reason: "Scheduled", Type: "Normal", EventTime: metav1.NewMicroTime(m.CreationTimestamp.Time),
				ReportingController: "scheduler", ReportingInstance: "s-1", Action: "Binding", Regarding: corev1.ObjectReference{Kind: "Pod", Namespace: m.Namespace, Name: "p"}}
		},
	},
}

// contents are of sizes around those that buffers have, and of every kind of
// character that some encoding treats apart.
func contents() map[string]string {
	c := map[string]string{
		"empty":      "",
		"one byte":   "x",
		"1 MB":       strings.Repeat("0123456789abcdef", 1<<16),
		"characters": "<script>&amp;</script> \"quoted\" \\ / \t\r\n \x00\x01\x1f\x7f \u2028\u2029 é 漢字 😀 \ufffd",
		"no UTF-8":   "a\xff\xfeb\xc3",
	}
	for _, n := range []int{-1000, -200, -1, 0, 1} {
		c[fmt.Sprintf("64 KiB%+d", n)] = strings.Repeat("a", 64<<10+n)
	}
	return c
}

// internalOf returns an object as storage returns it: of the internal version, with
// defaults.
func internalOf(t testing.TB, obj runtime.Object) runtime.Object {
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

// codec returns what makes the frames of the kind, over the codec that its storage has.
func (k kind) codec(t testing.TB) *frame.Codec {
	t.Helper()
	info, ok := runtime.SerializerInfoForMediaType(legacyscheme.Codecs.SupportedMediaTypes(), runtime.ContentTypeProtobuf)
	if !ok {
		t.Fatal("there is no protobuf serializer")
	}
	hub := schema.GroupVersion{Group: k.stored.Group, Version: runtime.APIVersionInternal}
	return frame.NewCodec(frame.Config{
		Codec: legacyscheme.Codecs.CodecForVersions(info.Serializer, legacyscheme.Codecs.UniversalDeserializer(), k.stored.GroupVersion(), hub),
		NewFunc: func() runtime.Object {
			obj, err := legacyscheme.Scheme.New(hub.WithKind(k.stored.Kind))
			if err != nil {
				t.Fatal(err)
			}
			return obj
		},
		Attrs: func(obj runtime.Object) (labels.Set, fields.Set, error) {
			accessor, err := meta.Accessor(obj)
			if err != nil {
				return nil, nil, err
			}
			return accessor.GetLabels(), fields.Set{"metadata.name": accessor.GetName(), "metadata.namespace": accessor.GetNamespace()}, nil
		},
		Versioner: storage.APIObjectVersioner{},
		Store:     frame.NewStore(frame.DefaultBudget, &ledger.Ledger{}),
	})
}

// told is a resource whose watch tells prepared events and ends.
type told []watch.Event

func (w told) Watch(context.Context, *internalversion.ListOptions) (watch.Interface, error) {
	events := make(chan watch.Event, len(w))
	for _, e := range w {
		events <- e
	}
	close(events)
	return watch.NewProxyWatcher(events), nil
}

// serve has upstream's own handler serve a watch over HTTP.
func (k kind) serve(t testing.TB, codecs runtime.NegotiatedSerializer, accept, query string, events []watch.Event) (status int, contentType string, body []byte) {
	t.Helper()
	scheme := legacyscheme.Scheme
	scope := &handlers.RequestScope{
		Namer:           handlers.ContextBasedNaming{Namer: runtime.Namer(meta.NewAccessor())},
		Serializer:      codecs,
		ParameterCodec:  legacyscheme.ParameterCodec,
		Creater:         scheme,
		Convertor:       scheme,
		Defaulter:       scheme,
		Typer:           scheme,
		UnsafeConvertor: runtime.UnsafeObjectConvertor(scheme),
		TableConvertor:  printerstorage.TableConvertor{TableGenerator: printers.NewTableGenerator().With(printersinternal.AddHandlers)},
		Resource:        k.served.GroupVersion().WithResource(k.plural),
		Kind:            k.served,
		HubGroupVersion: schema.GroupVersion{Group: k.served.Group, Version: runtime.APIVersionInternal},

		MetaGroupVersion: metav1.SchemeGroupVersion,
	}
	handler := handlers.ListResource(nil, told(events), scope, true, time.Minute)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		info := &request.RequestInfo{IsResourceRequest: true, Verb: "watch", APIGroup: k.served.Group, APIVersion: k.served.Version, Resource: k.plural}
		handler(w, req.WithContext(request.WithRequestInfo(req.Context(), info)))
	}))
	defer server.Close()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL+"/?watch=1"+query, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept", accept)
	resp, err := server.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err = io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, resp.Header.Get("Content-Type"), body
}

// forms are the ways in which a watch can be asked for.
var forms = []struct{ name, accept, query string }{
	{"JSON", "application/json", ""},
	{"pretty JSON", "application/json", "&pretty=true"},
	{"protobuf", "application/vnd.kubernetes.protobuf", ""},
	{"protobuf stream", "application/vnd.kubernetes.protobuf;stream=watch", ""},
	{"YAML", "application/yaml", ""}, // refused
	{"JSON Table", "application/json;as=Table;v=v1;g=meta.k8s.io", ""},
	{"JSON Table v1beta1", "application/json;as=Table;v=v1beta1;g=meta.k8s.io", ""},
	{"JSON Table with objects", "application/json;as=Table;v=v1;g=meta.k8s.io", "&includeObject=Object"},
	{"JSON Table without objects", "application/json;as=Table;v=v1;g=meta.k8s.io", "&includeObject=None"},
	{"protobuf Table", "application/vnd.kubernetes.protobuf;as=Table;v=v1;g=meta.k8s.io", ""},
	{"JSON metadata", "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io", ""},
	{"JSON metadata v1beta1", "application/json;as=PartialObjectMetadata;v=v1beta1;g=meta.k8s.io", ""},
	{"protobuf metadata", "application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;v=v1;g=meta.k8s.io", ""},
	{"CBOR", "application/cbor", ""},
	{"CBOR sequence", "application/cbor-seq", ""},
	{"CBOR Table", "application/cbor;as=Table;v=v1;g=meta.k8s.io", ""},
	{"CBOR metadata", "application/cbor;as=PartialObjectMetadata;v=v1;g=meta.k8s.io", ""},
}

// uid is every object's.
const uid = "0e6c1a53-7b1f-4d0c-8a1e-5a4f0e3f4c11"

// events returns the same events with decoded objects and with frames: an object of
// each content that is added, modified and deleted.
func (k kind) events(t testing.TB) (decoded, framed []watch.Event) {
	t.Helper()
	codec := k.codec(t)
	rev := 10
	// Tables tell an object's age; that of these does not change during a test.
	created := metav1.NewTime(time.Now().Add(-3 * 365 * 24 * time.Hour).Truncate(time.Second))
	for name, content := range contents() {
		for _, eventType := range []watch.EventType{watch.Added, watch.Modified, watch.Deleted} {
			rev++
			m := metav1.ObjectMeta{
				Namespace: "ns", Name: strings.ReplaceAll(strings.ToLower(name), " ", "-"), UID: uid,
				ResourceVersion: fmt.Sprint(rev), CreationTimestamp: created, Generation: int64(rev),
				Labels: map[string]string{"b": "2", "a": "1", "": ""}, Annotations: map[string]string{"z": "<&>"},
				ManagedFields: []metav1.ManagedFieldsEntry{{Manager: "m", Operation: metav1.ManagedFieldsOperationUpdate, APIVersion: k.served.GroupVersion().String(),
					Time: &created, FieldsType: "FieldsV1", FieldsV1: &metav1.FieldsV1{Raw: []byte(`{"f:metadata":{}}`)}}},
				OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: "n", UID: "u", Controller: ptr.To(true)}},
			}
			obj := internalOf(t, k.make(m, content))
			f, err := codec.Encode("/"+k.plural+"/ns/"+m.Name, obj)
			if err != nil {
				t.Fatalf("making a frame of %s: %v", name, err)
			}
			decoded = append(decoded, watch.Event{Type: eventType, Object: obj})
			framed = append(framed, watch.Event{Type: eventType, Object: f})
		}
	}
	// Bookmarks are objects in either case.
	bookmark := internalOf(t, k.make(metav1.ObjectMeta{ResourceVersion: fmt.Sprint(rev + 1)}, ""))
	decoded = append(decoded, watch.Event{Type: watch.Bookmark, Object: bookmark})
	framed = append(framed, watch.Event{Type: watch.Bookmark, Object: bookmark})
	return decoded, framed
}

// TestFramesAreWhatUpstreamSends compares the streams that upstream's watch handler
// makes of decoded objects and of frames, byte by byte, twice: what a first watch has
// had made is what a second one gets.
func TestFramesAreWhatUpstreamSends(t *testing.T) {
	for _, gate := range []bool{false, true} {
		codecs := legacyscheme.Codecs
		if gate {
			codecs = withCBOR
		}
		t.Run(fmt.Sprintf("CBOR=%v", gate), func(t *testing.T) {
			featuregatetesting.SetFeatureGateDuringTest(t, utilfeature.DefaultFeatureGate, features.CBORServingAndStorage, gate)
			for _, k := range kinds {
				decoded, framed := k.events(t)
				for _, form := range forms {
					t.Run(k.served.GroupVersion().String()+"/"+k.plural+"/"+form.name, func(t *testing.T) {
						status, contentType, want := k.serve(t, codecs, form.accept, form.query, decoded)
						if form.name == "JSON" && status != http.StatusOK {
							t.Fatalf("upstream answers %d: %s", status, want)
						}
						// Two streams that end early for the same reason would be equal.
						if n := bytes.Count(want, []byte(uid)); status == http.StatusOK && n != len(decoded)-1 && !strings.Contains(form.query, "None") {
							t.Fatalf("upstream tells of %d objects, want %d", n, len(decoded)-1)
						}
						for turn := range 2 {
							gotStatus, gotType, got := k.serve(t, codecs, form.accept, form.query, framed)
							if gotStatus != status || gotType != contentType {
								t.Fatalf("turn %d: %d %s, want %d %s", turn, gotStatus, gotType, status, contentType)
							}
							if strings.HasPrefix(contentType, "application/cbor") {
								equalCBOR(t, turn, got, want)
							} else {
								equalBytes(t, turn, got, want)
							}
						}
					})
				}
			}
		})
	}
}

// TestTableColumnsComeOnce has watches of Tables share frames: each has the columns
// in its first event and in no other, whichever event was the first of another.
func TestTableColumnsComeOnce(t *testing.T) {
	k := kinds[2]
	_, framed := k.events(t)
	framed = framed[:len(framed)-1] // bookmarks have no Table
	for start := range framed {
		_, _, body := k.serve(t, legacyscheme.Codecs, "application/json;as=Table;v=v1;g=meta.k8s.io", "", framed[start:])
		lines := bytes.Split(bytes.TrimSuffix(body, []byte("\n")), []byte("\n"))
		if len(lines) != len(framed)-start {
			t.Fatalf("from event %d: %d events, want %d", start, len(lines), len(framed)-start)
		}
		for i, line := range lines {
			if has := !bytes.Contains(line, []byte(`"columnDefinitions":[]`)) && bytes.Contains(line, []byte(`"name":"Status"`)); has != (i == 0) {
				t.Errorf("from event %d: event %d has columns: %v: %.300s", start, i, has, line)
			}
		}
	}
}

func equalBytes(t *testing.T, turn int, got, want []byte) {
	t.Helper()
	if bytes.Equal(got, want) {
		return
	}
	i := 0
	for i < min(len(got), len(want)) && got[i] == want[i] {
		i++
	}
	from := max(0, i-60)
	t.Errorf("turn %d: %d bytes, want %d; at %d:\n%.160q, want\n%.160q", turn, len(got), len(want), i, got[from:], want[from:])
}

// equalCBOR compares what streams of CBOR say: the order of keys is at random.
func equalCBOR(t *testing.T, turn int, got, want []byte) {
	t.Helper()
	gotEvents, wantEvents := readCBOR(t, got, ""), readCBOR(t, want, "")
	if len(wantEvents) == 0 {
		t.Fatalf("turn %d: upstream tells of no events: %q", turn, want)
	}
	if diff := cmp.Diff(wantEvents, gotEvents); diff != "" {
		t.Errorf("turn %d: events differ (-upstream +weir):\n%.2000s", turn, diff)
	}
}

// readCBOR decodes a stream of CBOR, up to the event that names the marker if there is
// one.
func readCBOR(t *testing.T, stream []byte, marker string) (events []any) {
	t.Helper()
	framer := cbor.NewFramer().NewFrameReader(io.NopCloser(bytes.NewReader(stream)))
	buf := make([]byte, 64<<10)
	for {
		var one []byte
		n, err := framer.Read(buf)
		for one = append(one, buf[:n]...); errors.Is(err, io.ErrShortBuffer); one = append(one, buf[:n]...) {
			n, err = framer.Read(buf)
		}
		if errors.Is(err, io.EOF) {
			return events
		}
		if err != nil {
			t.Fatalf("reading CBOR: %v", err)
		}
		var event any
		if err := direct.Unmarshal(one, &event); err != nil {
			t.Fatalf("decoding CBOR: %v", err)
		}
		events = append(events, event)
		if marker != "" && bytes.Contains(one, []byte(marker)) {
			return events
		}
	}
}
