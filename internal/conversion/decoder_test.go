// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package conversion_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apiextensionsapiserver "k8s.io/apiextensions-apiserver/pkg/apiserver"
	"k8s.io/apiextensions-apiserver/pkg/client/clientset/clientset/fake"
	"k8s.io/apiextensions-apiserver/pkg/client/informers/externalversions"
	"k8s.io/apiextensions-apiserver/pkg/cmd/server/options"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured/unstructuredscheme"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer/cbor"
	"k8s.io/apiserver/pkg/registry/generic"
	genericoptions "k8s.io/apiserver/pkg/server/options"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/storagebackend"
	"k8s.io/apiserver/pkg/storage/storagebackend/factory"
	"k8s.io/client-go/tools/cache"

	"github.com/weir-project/weir/internal/conversion"
	"github.com/weir-project/weir/test/webhook"
)

const group = "conversion.example.com"

// capturing has upstream make storages of no use, of which it keeps the codecs by version.
type capturing struct {
	generic.RESTOptionsGetter
	batches *conversion.Batches
	codecs  map[string]runtime.Codec
}

func (c capturing) GetRESTOptions(resource schema.GroupResource, example runtime.Object) (generic.RESTOptions, error) {
	o, err := c.RESTOptionsGetter.GetRESTOptions(resource, example)
	if c.batches != nil {
		o.StorageConfig.Codec = c.batches.Codec(o.StorageConfig.Codec)
	}
	o.CountMetricPollPeriod = 0
	o.Decorator = func(config *storagebackend.ConfigForResource, _ string, _ func(runtime.Object) (string, error), newFunc, _ func() runtime.Object,
		_ storage.AttrFunc, _ storage.IndexerFuncs, _ *cache.Indexers) (storage.Interface, factory.DestroyFunc, error) {
		c.codecs[newFunc().GetObjectKind().GroupVersionKind().Version] = config.Codec
		return struct{ storage.Interface }{}, func() {}, nil
	}
	return o, err
}

// codecsOf has upstream's own handler make the storage codecs of a definition.
func codecsOf(t *testing.T, crd *apiextensionsv1.CustomResourceDefinition, batches *conversion.Batches) map[string]runtime.Codec {
	t.Helper()
	informer := externalversions.NewSharedInformerFactory(fake.NewSimpleClientset(), 0).Apiextensions().V1().CustomResourceDefinitions()
	if err := informer.Informer().GetIndexer().Add(crd); err != nil {
		t.Fatal(err)
	}
	etcd := genericoptions.NewEtcdOptions(&storagebackend.Config{Prefix: "/registry"})
	getter := capturing{options.NewCRDRESTOptionsGetter(*etcd, nil, nil), batches, map[string]runtime.Codec{}}
	handler, err := apiextensionsapiserver.NewCustomResourceDefinitionHandler(nil, nil, informer, nil, getter, nil, nil, nil, nil, 1, nil, time.Minute, time.Minute, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := handler.GetCustomResourceListerCollectionDeleter(crd); err != nil {
		t.Fatal(err)
	}
	return getter.codecs
}

// definition has three versions with schemas and defaults of their own, and is converted by conversion.
func definition(t *testing.T, conversion any) *apiextensionsv1.CustomResourceDefinition {
	t.Helper()
	version := func(name string) any {
		str := func(of string) any { return map[string]any{"type": "string", "default": of + " of " + name} }
		object := func(properties map[string]any) map[string]any {
			return map[string]any{"type": "object", "properties": properties}
		}
		free := map[string]any{"type": "object", "x-kubernetes-preserve-unknown-fields": true}
		spec := map[string]any{
			"in" + name: str("in"), "all": str("all"), "n": map[string]any{"type": "integer"}, "any": free, "either": map[string]any{"x-kubernetes-int-or-string": true},
			"nullable": map[string]any{"type": "string", "nullable": true}, "plain": map[string]any{"type": "string"},
			"list":     map[string]any{"type": "array", "items": object(map[string]any{"a": str("a"), "in" + name: str("b")})},
			"template": map[string]any{"type": "object", "x-kubernetes-embedded-resource": true, "x-kubernetes-preserve-unknown-fields": true},
		}
		return map[string]any{"name": name, "served": true, "storage": name == "v1", "schema": map[string]any{"openAPIV3Schema": object(map[string]any{"spec": object(spec), "items": free})}}
	}
	data, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"name": "gadgets." + group, "uid": "u"},
		"spec": map[string]any{
			"group": group, "scope": "Namespaced", "names": map[string]any{"plural": "gadgets", "singular": "gadget", "kind": "Gadget", "listKind": "GadgetList"},
			"conversion": conversion, "versions": []any{version("v1"), version("v2"), version("v3")},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	crd := &apiextensionsv1.CustomResourceDefinition{}
	if err := json.Unmarshal(data, crd); err != nil {
		t.Fatal(err)
	}
	crd.Status.AcceptedNames = crd.Spec.Names
	return crd
}

// convert has each object say where it has been, in fields of which not all are known to the version.
func convert(o webhook.Object, apiVersion string) error {
	spec, _ := o["spec"].(map[string]any)
	if spec == nil {
		return nil
	}
	if spec["plain"] == "refused" {
		return fmt.Errorf("%v is refused", o["metadata"].(map[string]any)["name"])
	}
	_, version, _ := strings.Cut(apiVersion, "/")
	spec["in"+version] = fmt.Sprintf("made of %v", spec["all"])
	if spec["plain"] == "without" {
		delete(spec, "all") // it has a default, but in the stored version only
		delete(spec, "in"+version)
		spec["list"] = []any{map[string]any{}}
	}
	if spec["plain"] == "dirty" {
		spec["unknown"], spec["nullable"], spec["n"] = 1, nil, nil
		spec["template"] = map[string]any{"apiVersion": "v1", "kind": "Pod", "metadata": map[string]any{"name": "x", "unknown": 1}, "extra": 1.0}
		meta := o["metadata"].(map[string]any)
		meta["labels"], meta["generation"], meta["annotations"] = map[string]any{"l": "webhook"}, 77, map[string]any{"a": "b"}
	}
	if spec["plain"] == "invalid" {
		spec["template"] = map[string]any{"apiVersion": "v1", "kind": "Pod", "metadata": map[string]any{"name": 5}}
	}
	return nil
}

// stored returns n objects of all sorts; some cannot be decoded if bad.
func stored(t *testing.T, n int, bad ...string) [][]byte {
	t.Helper()
	var all [][]byte
	for i := range n {
		version := []string{"v1", "v1", "v2", "v1", "v3"}[i%5]
		plain := []string{"x", "dirty", "without", "x"}[i%4]
		if i < len(bad) && bad[i] != "" {
			plain = bad[i]
		}
		o := map[string]any{
			"apiVersion": group + "/" + version, "kind": "Gadget",
			"metadata": map[string]any{"name": fmt.Sprintf("g%d", i), "namespace": "default", "uid": fmt.Sprintf("u%d", i), "creationTimestamp": "2026-01-02T03:04:05Z",
				"labels": map[string]any{"i": fmt.Sprint(i)}, "managedFields": []any{map[string]any{"manager": "m", "operation": "Update", "fieldsType": "FieldsV1", "fieldsV1": map[string]any{"f:spec": map[string]any{}}}}},
			"spec": map[string]any{"plain": plain, "n": 9007199254740993, "any": map[string]any{"f": 1.0, "e": 1e300, "none": nil, "big": json.Number("18446744073709551615")}, "either": "5%", "pruned": i,
				"nullable": nil, "list": []any{map[string]any{}, map[string]any{"a": "<>&\u2028"}}},
		}
		switch i % 7 {
		case 3:
			o["metadata"].(map[string]any)["labels"] = map[string]any{"ok": "yes", "bad": 5} // dropped
			delete(o, "spec")
		case 5:
			o["spec"].(map[string]any)["template"] = map[string]any{"apiVersion": "v1", "kind": "Pod", "metadata": map[string]any{"name": 7}}
			o["metadata"].(map[string]any)["generation"] = 3
		}
		data, err := json.Marshal(o)
		if err != nil {
			t.Fatal(err)
		}
		if i%6 == 4 { // by a server that stores CBOR
			obj, _, err := unstructured.UnstructuredJSONScheme.Decode(data, nil, nil)
			if err != nil {
				t.Fatal(err)
			}
			var in bytes.Buffer
			if err := cbor.NewSerializer(unstructuredscheme.NewUnstructuredCreator(), unstructuredscheme.NewUnstructuredObjectTyper()).Encode(obj, &in); err != nil {
				t.Fatal(err)
			}
			data = in.Bytes()
		}
		all = append(all, data)
	}
	return all
}

// result is what an object is decoded as.
type result struct {
	obj runtime.Object
	err string
}

// alone decodes objects as upstream does.
func alone(codec runtime.Codec, all [][]byte) (results []result) {
	for _, data := range all {
		obj, err := runtime.Decode(codec, data)
		if err != nil {
			return append(results, result{err: uids.ReplaceAllString(err.Error(), "UID")})
		}
		results = append(results, result{obj: obj})
	}
	return results
}

// uids are those of reviews.
var uids = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f-]{27}`)

// together decodes them by a Decoder, with as many to convert at once as there are.
func together(d *conversion.Decoder, all [][]byte) (results []result) {
	type begun struct {
		obj  runtime.Object
		rest *conversion.Unconverted
	}
	var failed error
	var objects []begun
	var rest []*conversion.Unconverted
	for _, data := range all {
		obj, r, err := d.Begin(data)
		if err != nil {
			failed = err
			break
		}
		if objects = append(objects, begun{obj, r}); r != nil {
			rest = append(rest, r)
		}
	}
	known := func() {
		for len(objects) > 0 && objects[0].rest == nil {
			results = append(results, result{obj: objects[0].obj})
			objects = objects[1:]
		}
	}
	known()
	for obj, err := range d.Convert(rest) {
		if err != nil {
			return append(results, result{err: uids.ReplaceAllString(err.Error(), "UID")})
		}
		results = append(results, result{obj: obj})
		objects = objects[1:]
		known()
	}
	if failed != nil {
		results = append(results, result{err: uids.ReplaceAllString(failed.Error(), "UID")})
	}
	return results
}

func same(t *testing.T, what string, got, want []result) {
	t.Helper()
	for i := range min(len(got), len(want)) {
		if !reflect.DeepEqual(got[i], want[i]) {
			t.Errorf("%s: %d is\n%+v, upstream's\n%+v", what, i, got[i], want[i])
			return
		}
	}
	if len(got) != len(want) {
		t.Errorf("%s: %d decoded, by upstream %d", what, len(got), len(want))
	}
}

// TestDecoder holds what a Decoder makes of stored objects against what upstream's codec does, in every version: the objects as they are in memory, and
// the errors.
func TestDecoder(t *testing.T) {
	hook := webhook.Start(t, convert)
	for name, by := range map[string]any{"by a webhook": hook.Conversion(), "by none": map[string]any{"strategy": "None"}} {
		crd := definition(t, by)
		codecs := codecsOf(t, crd, nil)
		batches := &conversion.Batches{}
		for version, codec := range codecsOf(t, crd, batches) {
			what := name + ", " + version
			d := batches.Decoder(codec, schema.GroupVersion{Group: group, Version: version})
			if d == nil {
				t.Fatalf("%s: there is no decoder", what)
			}
			if batches.Decoder(codecs[version], schema.GroupVersion{Group: group, Version: version}) != nil {
				t.Errorf("%s: there is a decoder for a codec of upstream's alone", what)
			}
			all := stored(t, 500)
			want := alone(codecs[version], all)
			if n := len(want); n != len(all) {
				t.Fatalf("%s: %s", what, want[n-1].err)
			}
			hook.Reset()
			same(t, what, together(d, all), want)
			if asked := hook.Asked(); asked.Requests > 100 { // a batch that takes long is followed by a smaller one
				t.Errorf("%s: the webhook has been asked %d times about %d objects", what, asked.Requests, asked.Objects)
			} else if asked.Requests > 0 {
				t.Logf("%s: the webhook has been asked %d times about %d objects, %d at once", what, asked.Requests, asked.Objects, asked.Most)
			}
			for _, bad := range []string{"refused", "invalid"} {
				all := stored(t, 120, append(make([]string, 90), bad)...)
				same(t, what+", "+bad, together(d, all), alone(codecs[version], all))
			}
			for _, odd := range []string{
				`{`, `{}`, `[]`, "", `{"kind":"Gadget"}`, `{"kind":"Gadget","apiVersion":"` + group + `/v1","metadata":{}}`, `{"kind":"Gadget","apiVersion":"` + group + `/v9","metadata":{"name":"x"}}`,
				`{"kind":"Gadget","apiVersion":"other.example.com/v1","metadata":{"name":"x"}}`, `{"kind":"Other","apiVersion":"` + group + `/v1","metadata":{"name":"x"},"spec":{"pruned":1}}`,
				`{"kind":"Gadget","apiVersion":"` + group + `/v1","metadata":{"name":"x"},"items":[{"a":1}]}`, `{"kind":"Gadget","apiVersion":"` + group + `/v1","metadata":{"name":"x"},"items":{"a":1}}`,
				`{"kind":"Gadget","apiVersion":"` + group + `/v1","metadata":{"name":"x"},"\u0069tems":null}`, `{"kind":"Gadget","apiVersion":"` + group + `/v1","metadata":5}`,
				`{"kind":"Gadget","apiVersion":"` + group + `/v1","metadata":{"name":"x","annotations":{"a":"` + "\xff" + `"}}}`,
			} {
				all := stored(t, 40)
				all[17] = []byte(odd)
				same(t, what+", "+odd, together(d, all), alone(codecs[version], all))
			}
		}
	}
}

// TestLies has the webhook lie in every way, about each object, about one of them, and only when it is asked about several.
func TestLies(t *testing.T) {
	hook := webhook.Start(t, convert)
	crd := definition(t, hook.Conversion())
	plain := codecsOf(t, crd, nil)["v2"]
	batches := &conversion.Batches{}
	codec := codecsOf(t, crd, batches)["v2"]
	all := stored(t, 30)
	for name, lie := range webhook.Lies() {
		for where, about := range map[string]func(*apiextensionsv1.ConversionRequest) bool{
			"about all":     func(*apiextensionsv1.ConversionRequest) bool { return true },
			"about one":     func(r *apiextensionsv1.ConversionRequest) bool { return webhook.Has(r, "g21") },
			"about several": func(r *apiextensionsv1.ConversionRequest) bool { return len(r.Objects) > 1 },
		} {
			hook.Says(func(r *apiextensionsv1.ConversionRequest, response *apiextensionsv1.ConversionResponse) int {
				if about(r) {
					return lie(r, response)
				}
				return 0
			})
			d := batches.Decoder(codec, schema.GroupVersion{Group: group, Version: "v2"})
			for range 2 { // again, after it has learned
				hook.Reset()
				want := alone(plain, all)
				n := hook.Asked().Requests
				hook.Reset()
				same(t, name+" "+where, together(d, all), want)
				if asked := hook.Asked().Requests; asked > n+8 {
					t.Errorf("%s %s: %d requests, one by one %d", name, where, asked, n)
				}
			}
		}
	}
}

// TestLimit has the webhook take only so many objects, and not be there.
func TestLimit(t *testing.T) {
	hook := webhook.Start(t, convert)
	crd := definition(t, hook.Conversion())
	batches := &conversion.Batches{}
	codec := codecsOf(t, crd, batches)["v2"]
	decoder := func() *conversion.Decoder {
		return batches.Decoder(codec, schema.GroupVersion{Group: group, Version: "v2"})
	}
	all := stored(t, 600)
	for _, most := range []int{1, 2, 20, 100} {
		hook.Says(func(r *apiextensionsv1.ConversionRequest, _ *apiextensionsv1.ConversionResponse) int {
			if len(r.Objects) > most {
				return http.StatusRequestEntityTooLarge
			}
			return 0
		})
		hook.Reset()
		if got := together(decoder(), all); len(got) != len(all) {
			t.Fatalf("%d at once: %d are decoded, %s", most, len(got), got[len(got)-1].err)
		}
		asked := hook.Asked()
		t.Logf("%d at once: %d requests about %d objects", most, asked.Requests, asked.Objects)
		bound := len(all)
		if most >= 20 {
			bound /= 2
		}
		if asked.Requests > bound {
			t.Errorf("%d at once: more than %d requests", most, bound)
		}
	}
	hook.Says(nil)
	d := decoder()
	together(d, all)
	hook.Stop()
	if got := together(d, all); len(got) != 1 || !strings.Contains(got[0].err, "refused") {
		t.Errorf("a webhook that is not there: %+v", got)
	}
	hook.Restart()
	if got := together(d, all); len(got) != len(all) {
		t.Errorf("a webhook that is back: %d are decoded", len(got))
	}
	if limit := d.Limit(); limit < 100 {
		t.Errorf("a webhook that is back is asked about %d at once", limit)
	}
}
