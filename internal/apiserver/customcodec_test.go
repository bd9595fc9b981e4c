// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	structuralschema "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/storage"

	"github.com/weir-project/weir/internal/frame"
	"github.com/weir-project/weir/internal/intact"
)

// byWebhook has a definition be converted by a webhook, which is not there.
func byWebhook(crd *apiextensionsv1.CustomResourceDefinition, reviews ...string) *apiextensionsv1.CustomResourceDefinition {
	url := "https://127.0.0.1:1/convert"
	crd.Spec.Conversion = &apiextensionsv1.CustomResourceConversion{Strategy: apiextensionsv1.WebhookConverter, Webhook: &apiextensionsv1.WebhookConversion{
		ClientConfig: &apiextensionsv1.WebhookClientConfig{URL: &url}, ConversionReviewVersions: reviews,
	}}
	return crd
}

// TestRules holds what is read off the codecs of a definition against the definition, and that a codec which looks otherwise has no rules.
func TestRules(t *testing.T) {
	preserving := gadgets()
	preserving.Spec.PreserveUnknownFields = true
	for what, test := range map[string]struct {
		crd                *apiextensionsv1.CustomResourceDefinition
		known              bool
		renames, preserves bool
	}{
		"conversion None":       {gadgets(), true, true, false},
		"by webhook":            {byWebhook(gadgets(), "v1"), true, false, false},
		"by an unknown webhook": {byWebhook(gadgets(), "v9"), false, false, false},
		"preserving":            {preserving, true, true, true},
	} {
		t.Run(what, func(t *testing.T) {
			for version, made := range storagesOf(t, test.crd) {
				rules, known := intactRules(made.config, made.newFunc)
				if known != test.known {
					t.Fatalf("the rules of %s are known: %v, want %v", version, known, test.known)
				}
				if !known {
					continue
				}
				if rules.Group != "example.io" || rules.Kind != "Gadget" || rules.Version != version || rules.Renames != test.renames || rules.PreservesUnknown != test.preserves {
					t.Errorf("the rules of %s are %+v", version, rules)
				}
				if len(rules.Schemas) != len(test.crd.Spec.Versions) {
					t.Errorf("there are %d schemas", len(rules.Schemas))
				}
				for _, v := range test.crd.Spec.Versions {
					internal := &apiextensions.JSONSchemaProps{}
					if err := apiextensionsv1.Convert_v1_JSONSchemaProps_To_apiextensions_JSONSchemaProps(v.Schema.OpenAPIV3Schema, internal, nil); err != nil {
						t.Fatal(err)
					}
					want, err := structuralschema.NewStructural(internal)
					if err != nil {
						t.Fatal(err)
					}
					if !reflect.DeepEqual(rules.Schemas[v.Name], want) {
						t.Errorf("the schema of %s is %+v, want %+v", v.Name, rules.Schemas[v.Name], want)
					}
				}
			}
		})
	}
	made := storagesOf(t, gadgets())
	v1 := made["v1"]
	for what, codec := range map[string]runtime.Codec{
		"no":      nil,
		"another": unstructured.UnstructuredJSONScheme,
		"wrapped": runtime.NewCodec(v1.config.Codec, v1.config.Codec),
	} {
		config := *v1.config
		config.Codec = codec
		if _, known := intactRules(&config, v1.newFunc); known {
			t.Errorf("with %s codec the rules are known", what)
		}
	}
	if _, known := intactRules(v1.config, made["v1beta1"].newFunc); known {
		t.Error("a codec of one version has rules for another")
	}
	if _, known := intactRules(v1.config, func() runtime.Object { return &apiextensionsv1.CustomResourceDefinition{} }); known {
		t.Error("a definition has rules")
	}
}

// TestTakenUndecoded holds frames of objects that are taken as they are stored against frames of what upstream's codec decodes; some have to be
// taken.
func TestTakenUndecoded(t *testing.T) {
	for what, crd := range map[string]*apiextensionsv1.CustomResourceDefinition{"None": unselected(gadgets()), "webhook": byWebhook(unselected(gadgets()), "v1")} {
		taken := 0
		for version, made := range storagesOf(t, crd) {
			x := newTaking(t, made)
			for _, stored := range []string{"v1", "v1beta1", "v1alpha1"} {
				for _, data := range append(gadgetsIn(stored), asWritten(stored)...) {
					if what == "webhook" && stored != version {
						if _, ok := x.judge.Look([]byte(data)); ok {
							t.Errorf("%s is intact, and has to be converted to %s", data, version)
						}
						continue
					}
					if x.take(t, []byte(data)) {
						taken++
					}
				}
			}
		}
		if want := map[string]int{"None": 9, "webhook": 3}[what]; taken < want {
			t.Errorf("%s: %d objects were taken as they are stored, want %d", what, taken, want)
		}
	}
}

// unselected has a definition have no selectable fields.
func unselected(crd *apiextensionsv1.CustomResourceDefinition) *apiextensionsv1.CustomResourceDefinition {
	for i := range crd.Spec.Versions {
		crd.Spec.Versions[i].SelectableFields = nil
	}
	return crd
}

// asWritten are objects as the server writes them.
func asWritten(version string) []string {
	return []string{fmt.Sprintf(`{"apiVersion":"example.io/%s","kind":"Gadget","metadata":{"creationTimestamp":"2026-01-02T03:04:05Z","generation":1,"labels":{"x":"y"},"name":"a","namespace":"b","uid":"u"},`+
		`"spec":{"any":{"a":[1,null]},"list":[{"a":"x"}],"map":{"a":1,"b":"2"},"n":3,"s":"\u003c"},"status":{"a":null}}`+"\n", version)}
}

// taking has what makes frames of the objects of a version, in both ways.
type taking struct {
	madeStorage
	judge *intact.Judge
	codec *frame.Codec
}

func newTaking(tb testing.TB, made madeStorage) taking {
	tb.Helper()
	rules, ok := intactRules(made.config, made.newFunc)
	if !ok || !frame.PlainAttrs(made.attrs, made.newFunc) {
		tb.Fatal("nothing can be taken")
	}
	return taking{made, intact.NewJudge(rules), frame.NewCodec(frame.Config{
		Codec: made.config.Codec, NewFunc: made.newFunc, Attrs: made.attrs, Versioner: storage.APIObjectVersioner{}, Store: frame.NewStore(0, nil),
	})}
}

// decoded makes a frame of what the codec decodes.
func (x taking) decoded(data []byte, revision uint64) (*frame.Frame, error) {
	obj, err := runtime.Decode(x.config.Codec, data)
	if err != nil {
		return nil, err
	}
	if err := (storage.APIObjectVersioner{}).UpdateObject(obj, revision); err != nil {
		return nil, err
	}
	return x.codec.Encode("/a", obj)
}

// take tells whether data is intact, and compares the frames if it is.
func (x taking) take(tb testing.TB, data []byte) bool {
	tb.Helper()
	o, ok := x.judge.Look(data)
	if !ok {
		return false
	}
	want, err := x.decoded(data, 7)
	if err != nil {
		tb.Errorf("%s is intact, and cannot be decoded: %v", data, err)
		return true
	}
	got := x.codec.Take("/a", 7, &o)
	var a, b bytes.Buffer
	for buf, f := range map[*bytes.Buffer]*frame.Frame{&a: got, &b: want} {
		if err := f.CacheEncode(unstructured.UnstructuredJSONScheme.Identifier(), unstructured.UnstructuredJSONScheme.Encode, buf); err != nil {
			tb.Fatal(err)
		}
	}
	if !bytes.Equal(a.Bytes(), b.Bytes()) || !got.SelectedAs(want) || got.Size() != want.Size() || got.Exact() != want.Exact() || got.Revision() != want.Revision() ||
		got.GetObjectKind().GroupVersionKind() != want.GetObjectKind().GroupVersionKind() {
		tb.Errorf("%s is taken as %s, want %s", data, a.Bytes(), b.Bytes())
	}
	return true
}

// BenchmarkTaken compares what it takes to make a frame of 1.75 KB that is intact, in both ways.
func BenchmarkTaken(b *testing.B) {
	x := newTaking(b, storagesOf(b, unselected(gadgets()))["v1"])
	var fields []string
	for i := range 24 {
		fields = append(fields, fmt.Sprintf(`"field%02d":"some text of an object"`, i))
	}
	set := map[string]any{"f:metadata": map[string]any{"f:labels": map[string]any{}}, "f:spec": map[string]any{}}
	for i := range 12 {
		set["f:spec"].(map[string]any)[fmt.Sprintf("f:field%02d", i)] = map[string]any{}
	}
	managed, err := json.Marshal(set)
	if err != nil {
		b.Fatal(err)
	}
	slices.Sort(fields)
	data := []byte(`{"apiVersion":"example.io/v1","kind":"Gadget","metadata":{"annotations":{"example.io/a":"some text"},"creationTimestamp":"2026-01-02T03:04:05Z","generation":1,"labels":{"app":"web","tier":"front"},` +
		`"managedFields":[{"apiVersion":"example.io/v1","fieldsType":"FieldsV1","fieldsV1":` + string(managed) + `,"manager":"kubectl","operation":"Update","time":"2026-01-02T03:04:05Z"}],` +
		`"name":"gadget-000001","namespace":"default","uid":"0b5c8d5e-5b9e-4f5e-8f1d-3b0b5c8d5e5b"},"spec":{"any":{` + strings.Join(fields, ",") + `},"list":[{"a":"x"},{"a":"y"}],"map":{"a":1,"b":"2"},"n":3,"s":"text"},"status":{"phase":"Ready"}}` + "\n")
	if !x.take(b, data) {
		b.Fatalf("%s is not intact", data)
	}
	b.Logf("%d bytes", len(data))
	b.Run("decoded", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := x.decoded(data, 7); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("as stored", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			o, ok := x.judge.Look(data)
			if !ok {
				b.Fatal("not intact")
			}
			x.codec.Take("/a", 7, &o)
		}
	})
	b.Run("looked at", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			x.judge.Look(data)
		}
	})
}
