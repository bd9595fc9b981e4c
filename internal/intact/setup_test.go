// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package intact_test

import (
	"bytes"
	"encoding/json"
	"maps"
	"reflect"
	"testing"
	"time"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apiextensionsapiserver "k8s.io/apiextensions-apiserver/pkg/apiserver"
	structuralschema "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/defaulting"
	"k8s.io/apiextensions-apiserver/pkg/client/clientset/clientset/fake"
	"k8s.io/apiextensions-apiserver/pkg/client/informers/externalversions"
	"k8s.io/apiextensions-apiserver/pkg/cmd/server/options"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utiljson "k8s.io/apimachinery/pkg/util/json"
	"k8s.io/apiserver/pkg/registry/generic"
	genericoptions "k8s.io/apiserver/pkg/server/options"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/storagebackend"
	"k8s.io/apiserver/pkg/storage/storagebackend/factory"
	"k8s.io/client-go/tools/cache"

	"github.com/weir-project/weir/internal/intact"
)

// definition is a definition with versions v1, which is stored, v1beta1, which has the same schema, and v1alpha1. Objects in JSON are of
// the group example.io and of the kind Thing.
type definition struct {
	name      string
	schema    apiextensionsv1.JSONSchemaProps
	alpha     apiextensionsv1.JSONSchemaProps
	preserves bool
	webhook   bool
}

// twin has a codec of upstream's for each version, and a Judge for each.
type twin struct {
	name   string
	codecs map[string]runtime.Codec
	judges map[string]*intact.Judge
}

// getter has storages of no use be made, and keeps their codecs.
type getter struct {
	generic.RESTOptionsGetter
	codecs map[string]runtime.Codec
}

func (g getter) GetRESTOptions(resource schema.GroupResource, example runtime.Object) (generic.RESTOptions, error) {
	o, err := g.RESTOptionsGetter.GetRESTOptions(resource, example)
	o.CountMetricPollPeriod = 0
	o.Decorator = func(config *storagebackend.ConfigForResource, _ string, _ func(runtime.Object) (string, error), newFunc, _ func() runtime.Object,
		_ storage.AttrFunc, _ storage.IndexerFuncs, _ *cache.Indexers) (storage.Interface, factory.DestroyFunc, error) {
		g.codecs[newFunc().GetObjectKind().GroupVersionKind().Version] = config.Codec
		return struct{ storage.Interface }{}, func() {}, nil
	}
	return o, err
}

// newTwin has upstream's own handler make the codecs of a definition.
func newTwin(tb testing.TB, d definition) twin {
	tb.Helper()
	crd := &apiextensionsv1.CustomResourceDefinition{
		ObjectMeta: metav1.ObjectMeta{Name: "things.example.io", UID: "u"},
		Spec: apiextensionsv1.CustomResourceDefinitionSpec{
			Group: "example.io", Scope: apiextensionsv1.NamespaceScoped, PreserveUnknownFields: d.preserves,
			Names:      apiextensionsv1.CustomResourceDefinitionNames{Plural: "things", Singular: "thing", Kind: "Thing", ListKind: "ThingList"},
			Conversion: &apiextensionsv1.CustomResourceConversion{Strategy: apiextensionsv1.NoneConverter},
		},
	}
	if d.webhook {
		url := "https://127.0.0.1:1/convert"
		crd.Spec.Conversion = &apiextensionsv1.CustomResourceConversion{Strategy: apiextensionsv1.WebhookConverter, Webhook: &apiextensionsv1.WebhookConversion{
			ClientConfig: &apiextensionsv1.WebhookClientConfig{URL: &url}, ConversionReviewVersions: []string{"v1"},
		}}
	}
	rules := intact.Rules{Group: "example.io", Kind: "Thing", Schemas: map[string]*structuralschema.Structural{}, Renames: !d.webhook, PreservesUnknown: d.preserves}
	for name, props := range map[string]apiextensionsv1.JSONSchemaProps{"v1": d.schema, "v1beta1": d.schema, "v1alpha1": d.alpha} {
		crd.Spec.Versions = append(crd.Spec.Versions, apiextensionsv1.CustomResourceDefinitionVersion{
			Name: name, Served: true, Storage: name == "v1", Schema: &apiextensionsv1.CustomResourceValidation{OpenAPIV3Schema: props.DeepCopy()},
		})
		internal := &apiextensions.JSONSchemaProps{}
		if err := apiextensionsv1.Convert_v1_JSONSchemaProps_To_apiextensions_JSONSchemaProps(props.DeepCopy(), internal, nil); err != nil {
			tb.Fatal(err)
		}
		structural, err := structuralschema.NewStructural(internal)
		if err != nil {
			tb.Fatal(err)
		}
		structural = structural.DeepCopy()
		if !d.preserves {
			if err := defaulting.PruneDefaults(structural); err != nil {
				tb.Fatal(err)
			}
		}
		rules.Schemas[name] = structural
	}
	crd.Status.AcceptedNames = crd.Spec.Names
	informer := externalversions.NewSharedInformerFactory(fake.NewSimpleClientset(), 0).Apiextensions().V1().CustomResourceDefinitions()
	if err := informer.Informer().GetIndexer().Add(crd); err != nil {
		tb.Fatal(err)
	}
	etcd := genericoptions.NewEtcdOptions(&storagebackend.Config{Prefix: "/registry"})
	g := getter{options.NewCRDRESTOptionsGetter(*etcd, nil, nil), map[string]runtime.Codec{}}
	handler, err := apiextensionsapiserver.NewCustomResourceDefinitionHandler(nil, nil, informer, nil, g, nil, nil, nil, nil, 1, nil, time.Minute, time.Minute, nil, 0)
	if err != nil {
		tb.Fatal(err)
	}
	if _, err := handler.GetCustomResourceListerCollectionDeleter(crd); err != nil {
		tb.Fatal(err)
	}
	x := twin{name: d.name, codecs: g.codecs, judges: map[string]*intact.Judge{}}
	for version := range g.codecs {
		of := rules
		of.Version = version
		x.judges[version] = intact.NewJudge(of)
	}
	return x
}

// look has the Judge of a version look at data, and holds a yes against upstream's codec.
func (x twin) look(tb testing.TB, version string, data []byte) bool {
	tb.Helper()
	before := bytes.Clone(data)
	sameMetadata(tb, data)
	o, ok := x.judges[version].Look(data)
	if !bytes.Equal(data, before) {
		tb.Fatalf("looking at %s changed it to %s", before, data)
	}
	if !ok {
		return false
	}
	const revision = 9007199254740993
	obj, err := runtime.Decode(x.codecs[version], data)
	if err != nil {
		tb.Errorf("%s, %s: %s is intact, and cannot be decoded: %v", x.name, version, data, err)
		return true
	}
	u, single := obj.(*unstructured.Unstructured)
	if !single {
		tb.Errorf("%s, %s: %s is intact, and decoded as a %T", x.name, version, data, obj)
		return true
	}
	if err := (storage.APIObjectVersioner{}).UpdateObject(u, revision); err != nil {
		tb.Fatal(err)
	}
	var want bytes.Buffer
	if err := unstructured.UnstructuredJSONScheme.Encode(u, &want); err != nil {
		tb.Fatal(err)
	}
	got := append(bytes.Join(o.Parts(nil, revision), nil), '\n')
	if !bytes.Equal(got, want.Bytes()) {
		tb.Errorf("%s, %s: %s is intact, and gives %s, while upstream makes %s", x.name, version, data, got, want.Bytes())
		return true
	}
	if !sameMetadata(tb, got) {
		tb.Errorf("%s: the metadata of %s have to be decoded with the rest", x.name, got)
	}
	labels := map[string]string{}
	last := ""
	for key, value := range o.Labels() {
		if string(key) <= last && len(labels) > 0 {
			tb.Errorf("%s: labels are not in order", data)
		}
		last = string(key)
		labels[string(key)] = string(value)
	}
	if string(o.Name) != u.GetName() || string(o.Namespace) != u.GetNamespace() || string(o.UID) != string(u.GetUID()) ||
		o.APIVersion != u.GetAPIVersion() || o.Kind != u.GetKind() || !maps.Equal(labels, u.GetLabels()) {
		tb.Errorf("%s, %s: %s is %+v with labels %v", x.name, version, data, o, labels)
	}
	// It has to be the same when it is read again: whole numbers are a float64 in places.
	again := &unstructured.Unstructured{}
	if err := runtime.DecodeInto(unstructured.UnstructuredJSONScheme, got, again); err != nil || !reflect.DeepEqual(again, u) {
		tb.Errorf("%s, %s: %s is not the same when it is read again: %v", x.name, version, data, err)
	}
	return true
}

// sameMetadata tells whether the metadata of an object can be decoded alone, and if so holds them against those of the decoded object.
func sameMetadata(tb testing.TB, data []byte) bool {
	tb.Helper()
	metadata, ok := intact.Metadata(data)
	if !ok {
		return false
	}
	obj := &unstructured.Unstructured{}
	if err := runtime.DecodeInto(unstructured.UnstructuredJSONScheme, data, obj); err != nil {
		return true // there is more behind the metadata, which are looked at alone
	}
	want := meta.AsPartialObjectMetadata(obj).ObjectMeta
	var got metav1.ObjectMeta
	if err := utiljson.Unmarshal(metadata, &got); err != nil || !reflect.DeepEqual(got, want) {
		tb.Errorf("%s has the metadata %+v, %v, want %+v", data, got, err, want)
	}
	return true
}

func raw(value any) *apiextensionsv1.JSON {
	data, err := json.Marshal(value)
	if err != nil {
		panic(err)
	}
	return &apiextensionsv1.JSON{Raw: data}
}
