// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package compact

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"reflect"
	"testing"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/client/clientset/clientset"
	"k8s.io/apiextensions-apiserver/pkg/client/clientset/clientset/scheme"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	"k8s.io/client-go/rest"

	"google.golang.org/protobuf/encoding/protowire"
)

func upstreams() runtime.Serializer { return protobuf.NewSerializer(scheme.Scheme, scheme.Scheme) }

// encoded is obj as a server sends it.
func encoded(t *testing.T, obj runtime.Object) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := scheme.Codecs.EncoderForVersion(upstreams(), apiextensionsv1.SchemeGroupVersion).Encode(obj, &b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// TestDecode holds what is decoded against what upstream decodes, bare: definitions by themselves, again with another status, in lists, and
// what is no definition.
func TestDecode(t *testing.T) {
	for seed := range uint64(10) {
		g, ours := newGenerator(seed), compacting{upstreams(), NewTable()}
		decode := func(obj runtime.Object) runtime.Object {
			t.Helper()
			data := encoded(t, obj)
			got, gotKind, err := ours.Decode(data, nil, nil)
			if err != nil {
				t.Fatal(err)
			}
			want, wantKind, err := ours.Serializer.Decode(data, nil, nil)
			if err != nil {
				t.Fatal(err)
			}
			switch want := want.(type) {
			case *definition:
				want.ManagedFields = nil
				twin := bare(t, want)
				twin.TypeMeta = want.TypeMeta
				if !equality.Semantic.DeepEqual(withoutDigests(got.(*definition)), withoutDigests(twin)) {
					t.Fatalf("seed %d: %v and not %v", seed, got, twin)
				}
			case *apiextensionsv1.CustomResourceDefinitionList:
				items := got.(*apiextensionsv1.CustomResourceDefinitionList).Items
				if len(items) != len(want.Items) {
					t.Fatalf("%d items and not %d", len(items), len(want.Items))
				}
				for i := range want.Items {
					want.Items[i].ManagedFields = nil
					if !equality.Semantic.DeepEqual(withoutDigests(&items[i]), withoutDigests(bare(t, &want.Items[i]))) {
						t.Fatalf("seed %d, item %d: %v and not %v", seed, i, items[i], want.Items[i])
					}
				}
			default:
				if !equality.Semantic.DeepEqual(got, want) {
					t.Fatalf("%v and not %v", got, want)
				}
			}
			if *gotKind != *wantKind {
				t.Fatalf("%v and not %v", gotKind, wantKind)
			}
			return got
		}
		var list apiextensionsv1.CustomResourceDefinitionList
		for i := range 6 {
			name := fmt.Sprint("d", i)
			decode(g.definition(t, name))
			crd := g.definition(t, name)
			g.filler.Fill(&crd.ObjectMeta)
			crd.Name = name
			crd.ManagedFields = []metav1.ManagedFieldsEntry{{Manager: "somebody", FieldsV1: metav1.NewFieldsV1("{}")}}
			first := decode(crd).(*definition)
			crd.Status.Conditions = append(crd.Status.Conditions, apiextensionsv1.CustomResourceDefinitionCondition{Type: "Established", Status: "True"})
			crd.ResourceVersion += "0"
			second := decode(crd).(*definition)
			if reflect.ValueOf(first.Spec.Versions).Pointer() != reflect.ValueOf(second.Spec.Versions).Pointer() {
				t.Error("a specification that has not changed is held twice")
			}
			list.Items = append(list.Items, *crd)
			listed := decode(&list).(*apiextensionsv1.CustomResourceDefinitionList).Items
			ours.table.Retain(func(string) bool { return false })
			again := decode(&list).(*apiextensionsv1.CustomResourceDefinitionList).Items
			if ours.table.last[name].spec == &again[len(again)-1].Spec {
				t.Error("the table keeps the list that a definition came in")
			}
			if last := listed[len(listed)-1]; reflect.ValueOf(first.Spec.Versions).Pointer() != reflect.ValueOf(last.Spec.Versions).Pointer() {
				t.Error("one that was decoded by itself is held once more when it is listed")
			}
		}
		decode(&definition{ObjectMeta: metav1.ObjectMeta{ResourceVersion: "7"}}) // a bookmark
		decode(&apiextensionsv1.CustomResourceDefinitionList{})
		decode(&metav1.Status{Message: "no"})
	}
}

// TestSplit: what has a part twice, or more than is known, is left to upstream.
func TestSplit(t *testing.T) {
	crd := &definition{}
	crd.Name = "d"
	crd.Spec.Group = "example.com"
	whole := func(object []byte, more ...byte) []byte {
		out := append([]byte(nil), prefix...)
		out = protowire.AppendBytes(protowire.AppendTag(out, unknownTypeMeta, protowire.BytesType), typeMeta)
		return append(protowire.AppendBytes(protowire.AppendTag(out, unknownRaw, protowire.BytesType), object), more...)
	}
	object, err := crd.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	field := func(number protowire.Number, value string) []byte {
		return protowire.AppendString(protowire.AppendTag(nil, number, protowire.BytesType), value)
	}
	meta, err := crd.ObjectMeta.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	spec, err := crd.Spec.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	for what, c := range map[string]struct {
		data []byte
		ok   bool
	}{
		"a definition":            {whole(object), true},
		"with a content type":     {whole(object, field(4, "x")...), true},
		"with two specifications": {whole(append(bytes.Clone(object), field(objectSpec, string(spec))...)), false},
		"with two metadata":       {whole(append(bytes.Clone(object), field(objectMetadata, string(meta))...)), false},
		"with two objects":        {whole(object, field(unknownRaw, string(object))...), false},
		"with two types":          {whole(object, field(unknownTypeMeta, string(typeMeta))...), false},
		"with no specification":   {whole(field(objectMetadata, string(meta))), false},
		"with managed fields that are a number": {whole(append(field(objectMetadata, string(protowire.AppendVarint(protowire.AppendTag(bytes.Clone(meta), metadataManagedFields, protowire.VarintType), 1))),
			field(objectSpec, string(spec))...)), false},
	} {
		m, ok := split(c.data)
		if ok != c.ok {
			t.Errorf("%s: %v", what, ok)
		}
		if ok && (!bytes.Equal(m.spec, spec) || what == "with a content type" && !bytes.HasSuffix(m.rest, field(4, "x"))) {
			t.Errorf("%s: %q and %q", what, m.spec, m.rest)
		}
	}
}

// FuzzDecode has damaged definitions be decoded: what upstream refuses is refused, and nothing panics.
func FuzzDecode(f *testing.F) {
	g := newGenerator(1)
	for i := range 5 {
		crd := &definition{}
		crd.Name = fmt.Sprint("d", i)
		crd.Spec.Group = "example.com"
		crd.Spec.Versions = []apiextensionsv1.CustomResourceDefinitionVersion{{Name: "v1", Schema: &apiextensionsv1.CustomResourceValidation{
			OpenAPIV3Schema: &props{Type: "object", Description: "words", Properties: map[string]props{"a": {Type: fmt.Sprint(g.random.IntN(9))}}}}}}
		var b bytes.Buffer
		if err := scheme.Codecs.EncoderForVersion(upstreams(), apiextensionsv1.SchemeGroupVersion).Encode(crd, &b); err != nil {
			f.Fatal(err)
		}
		f.Add(b.Bytes())
		for n := range b.Len() {
			f.Add(b.Bytes()[:n])
			damaged := bytes.Clone(b.Bytes())
			damaged[n] ^= 1 << g.random.IntN(8)
			f.Add(damaged)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		ours := compacting{upstreams(), NewTable()}
		got, _, err := ours.Decode(data, nil, nil)
		want, _, wantErr := ours.Serializer.Decode(data, nil, nil)
		if err == nil && wantErr != nil {
			// Managed fields are not looked at.
			if m, ok := split(data); ok {
				_, _, wantErr = ours.Serializer.Decode(m.rest, nil, nil)
				wantErr = errors.Join(wantErr, (&spec{}).Unmarshal(m.spec))
			}
		}
		if (err == nil) != (wantErr == nil) {
			t.Fatalf("%v, and upstream says %v", err, wantErr)
		}
		crd, ok := want.(*definition)
		if err != nil || !ok {
			return
		}
		crd.ManagedFields = nil
		if got := got.(*definition); got.Name != crd.Name || !equality.Semantic.DeepEqual(got.Status, crd.Status) || !equality.Semantic.DeepEqual(got.ObjectMeta, crd.ObjectMeta) ||
			!equality.Semantic.DeepEqual(withoutDigests(got).Spec, withoutDigests(bare(t, crd)).Spec) {
			t.Fatalf("%v and not %v", got, crd)
		}
	})
}

type responding func(*http.Request) *http.Response

func (r responding) RoundTrip(req *http.Request) (*http.Response, error) { return r(req), nil }

// TestRenaming has only what is about definitions and in protobuf be called by our name, with its parameters.
func TestRenaming(t *testing.T) {
	for _, c := range []struct{ path, is, want string }{
		{path, "application/vnd.kubernetes.protobuf", mediaType},
		{path, "application/vnd.kubernetes.protobuf;stream=watch", mediaType + "; stream=watch"},
		{path + "/a.example.com/status", "application/vnd.kubernetes.protobuf", mediaType},
		{path + "s", "application/vnd.kubernetes.protobuf", "application/vnd.kubernetes.protobuf"},
		{path, "application/json", "application/json"},
		{path, "", ""},
		{"/api/v1/pods", "application/vnd.kubernetes.protobuf", "application/vnd.kubernetes.protobuf"},
	} {
		upstream := responding(func(*http.Request) *http.Response {
			return &http.Response{Header: http.Header{"Content-Type": {c.is}}, Body: io.NopCloser(&bytes.Buffer{})}
		})
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://localhost"+c.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := renaming{upstream}.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if got := resp.Header.Get("Content-Type"); got != c.want {
			t.Errorf("%s of %s is called %q and not %q", c.is, c.path, got, c.want)
		}
	}
}

// TestClient has upstream's clientset read a definition and write its status, and refuses it everything else.
func TestClient(t *testing.T) {
	crd := newGenerator(3).definition(t, "d.example.com")
	crd.TypeMeta = metav1.TypeMeta{APIVersion: apiextensionsv1.SchemeGroupVersion.String(), Kind: "CustomResourceDefinition"}
	crd.Annotations = map[string]string{"kubectl.kubernetes.io/last-applied-configuration": "{}"}
	crd.ManagedFields = []metav1.ManagedFieldsEntry{{Manager: "somebody", FieldsV1: metav1.NewFieldsV1("{}")}}
	answer := encoded(t, crd)
	var requests []*http.Request
	var bodies [][]byte
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		requests, bodies = append(requests, r), append(bodies, body)
		w.Header().Set("Content-Type", runtime.ContentTypeProtobuf)
		_, _ = w.Write(answer)
	}))
	defer server.Close()
	plain := &rest.Config{Host: server.URL, ContentConfig: rest.ContentConfig{ContentType: runtime.ContentTypeProtobuf}}
	all, err := clientset.NewForConfig(Client(plain))
	if err != nil {
		t.Fatal(err)
	}
	client := all.ApiextensionsV1().CustomResourceDefinitions()
	got, err := client.Get(t.Context(), crd.Name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if got.ManagedFields != nil || !equality.Semantic.DeepEqual(withoutDigests(got).Spec, withoutDigests(bare(t, crd)).Spec) {
		t.Errorf("read as %v, and not as %v", got, bare(t, crd))
	}
	if accept := requests[0].Header.Get("Accept"); accept != "application/vnd.kubernetes.protobuf, */*" {
		t.Errorf("it asks for %s", accept)
	}

	got = got.DeepCopy()
	got.Status.StoredVersions = []string{"v7"}
	if _, err := client.UpdateStatus(t.Context(), got, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if kind := requests[1].Header.Get("Content-Type"); kind != runtime.ContentTypeProtobuf {
		t.Errorf("it sends %s", kind)
	}
	sent, _, err := upstreams().Decode(bodies[1], nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	want := bare(t, crd)
	want.TypeMeta, want.ManagedFields, want.Status = crd.TypeMeta, nil, got.Status
	for i := range want.Spec.Versions {
		want.Spec.Versions[i].Schema = nil
	}
	if !equality.Semantic.DeepEqual(sent, want) {
		t.Errorf("sent is %v and not %v", sent, want)
	}
	if got.Spec.Versions[0].Schema == nil {
		t.Error("an object that is sent is changed")
	}

	for what, write := range map[string]func() error{
		"create": func() error { _, err := client.Create(t.Context(), got, metav1.CreateOptions{}); return err },
		"update": func() error { _, err := client.Update(t.Context(), got, metav1.UpdateOptions{}); return err },
	} {
		if err := write(); err == nil || len(requests) != 2 {
			t.Errorf("%s: %v, after %d requests", what, err, len(requests))
		}
	}
	if c := Client(&rest.Config{Host: server.URL}); c.ContentType != "" || c.WrapTransport != nil {
		t.Errorf("a client that is not for protobuf is changed: %v", c)
	}
}
