// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apiextensionsapiserver "k8s.io/apiextensions-apiserver/pkg/apiserver"
	"k8s.io/apiextensions-apiserver/pkg/client/clientset/clientset/fake"
	"k8s.io/apiextensions-apiserver/pkg/client/informers/externalversions"
	"k8s.io/apiextensions-apiserver/pkg/cmd/server/options"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/registry/generic"
	genericoptions "k8s.io/apiserver/pkg/server/options"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/storagebackend"
	"k8s.io/apiserver/pkg/storage/storagebackend/factory"
	"k8s.io/client-go/tools/cache"

	"github.com/weir-project/weir/internal/conversion"
)

// madeStorage is what upstream's handler gives the decorator of the storage of a version.
type madeStorage struct {
	config               *storagebackend.ConfigForResource
	newFunc, newListFunc func() runtime.Object
	attrs                storage.AttrFunc
}

func (m madeStorage) key() (string, bool) { return sharingKey(m.config, m.newFunc, m.newListFunc) }

// capturing has storages of no use be made, and keeps what of.
type capturing struct {
	generic.RESTOptionsGetter
	made map[string]madeStorage
}

func (c capturing) GetRESTOptions(resource schema.GroupResource, example runtime.Object) (generic.RESTOptions, error) {
	o, err := c.RESTOptionsGetter.GetRESTOptions(resource, example)
	o.CountMetricPollPeriod = 0
	o.Decorator = func(config *storagebackend.ConfigForResource, _ string, _ func(runtime.Object) (string, error), newFunc, newListFunc func() runtime.Object,
		attrs storage.AttrFunc, _ storage.IndexerFuncs, _ *cache.Indexers) (storage.Interface, factory.DestroyFunc, error) {
		c.made[newFunc().GetObjectKind().GroupVersionKind().Version] = madeStorage{config, newFunc, newListFunc, attrs}
		return struct{ storage.Interface }{}, func() {}, nil
	}
	return o, err
}

// gadgets returns a definition with two versions of one schema, and one of another. v1 is stored.
func gadgets() *apiextensionsv1.CustomResourceDefinition {
	yes := true
	props := func() *apiextensionsv1.JSONSchemaProps {
		return &apiextensionsv1.JSONSchemaProps{Type: "object", Description: "a gadget", Properties: map[string]apiextensionsv1.JSONSchemaProps{
			"spec": {Type: "object", Required: []string{"n"}, Properties: map[string]apiextensionsv1.JSONSchemaProps{
				"n":     {Type: "integer", Default: &apiextensionsv1.JSON{Raw: []byte("3")}},
				"s":     {Type: "string", Nullable: true, Description: "text"},
				"any":   {Type: "object", XPreserveUnknownFields: &yes},
				"embed": {Type: "object", XPreserveUnknownFields: &yes, XEmbeddedResource: true},
				"list":  {Type: "array", Items: &apiextensionsv1.JSONSchemaPropsOrArray{Schema: &apiextensionsv1.JSONSchemaProps{Type: "object", Properties: map[string]apiextensionsv1.JSONSchemaProps{"a": {Type: "string", Default: &apiextensionsv1.JSON{Raw: []byte(`"x"`)}}}}}},
				"map":   {Type: "object", AdditionalProperties: &apiextensionsv1.JSONSchemaPropsOrBool{Schema: &apiextensionsv1.JSONSchemaProps{XIntOrString: true}}},
			}},
			"status": {Type: "object", XPreserveUnknownFields: &yes},
		}}
	}
	version := func(name string) apiextensionsv1.CustomResourceDefinitionVersion {
		return apiextensionsv1.CustomResourceDefinitionVersion{
			Name: name, Served: true, Schema: &apiextensionsv1.CustomResourceValidation{OpenAPIV3Schema: props()},
			SelectableFields: []apiextensionsv1.SelectableField{{JSONPath: ".spec.s"}},
		}
	}
	crd := &apiextensionsv1.CustomResourceDefinition{
		ObjectMeta: metav1.ObjectMeta{Name: "gadgets.example.io", UID: "u"},
		Spec: apiextensionsv1.CustomResourceDefinitionSpec{
			Group: "example.io", Scope: apiextensionsv1.NamespaceScoped,
			Names:      apiextensionsv1.CustomResourceDefinitionNames{Plural: "gadgets", Singular: "gadget", Kind: "Gadget", ListKind: "GadgetList"},
			Conversion: &apiextensionsv1.CustomResourceConversion{Strategy: apiextensionsv1.NoneConverter},
			Versions:   []apiextensionsv1.CustomResourceDefinitionVersion{version("v1"), version("v1beta1"), version("v1alpha1")},
		},
	}
	crd.Spec.Versions[0].Storage = true
	crd.Spec.Versions[2].Schema.OpenAPIV3Schema.Properties["spec"].Properties["more"] = apiextensionsv1.JSONSchemaProps{Type: "string"}
	crd.Status.AcceptedNames = crd.Spec.Names
	return crd
}

// storagesOf has upstream's own handler make the storages of a definition.
func storagesOf(t testing.TB, crd *apiextensionsv1.CustomResourceDefinition) map[string]madeStorage {
	t.Helper()
	informer := externalversions.NewSharedInformerFactory(fake.NewSimpleClientset(), 0).Apiextensions().V1().CustomResourceDefinitions()
	if err := informer.Informer().GetIndexer().Add(crd); err != nil {
		t.Fatal(err)
	}
	etcd := genericoptions.NewEtcdOptions(&storagebackend.Config{Prefix: "/registry"})
	getter := capturing{enteredRESTOptions{options.NewCRDRESTOptionsGetter(*etcd, nil, nil), &conversion.Batches{}}, map[string]madeStorage{}}
	handler, err := apiextensionsapiserver.NewCustomResourceDefinitionHandler(nil, nil, informer, nil, getter, nil, nil, nil, nil, 1, nil, time.Minute, time.Minute, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := handler.GetCustomResourceListerCollectionDeleter(crd); err != nil {
		t.Fatal(err)
	}
	return getter.made
}

// TestSharingKey changes a definition in one way after the other, and holds which of its versions have one key, and which keep the key that
// they had. Whatever has one key has to decode whatever is stored as the same.
func TestSharingKey(t *testing.T) {
	spec := func(v *apiextensionsv1.CustomResourceDefinitionVersion, field string, change func(*apiextensionsv1.JSONSchemaProps)) {
		of := v.Schema.OpenAPIV3Schema.Properties["spec"].Properties
		props := of[field]
		change(&props)
		of[field] = props
	}
	yes := true
	before := storagesOf(t, gadgets())
	for _, test := range []struct {
		what   string
		change func(c *apiextensionsv1.CustomResourceDefinition, v *apiextensionsv1.CustomResourceDefinitionVersion)
		// shared says that v1 and v1beta1 have one key when v1beta1 was changed so, kept that v1 has the one that it had.
		shared, kept bool
	}{
		{"nothing", func(*apiextensionsv1.CustomResourceDefinition, *apiextensionsv1.CustomResourceDefinitionVersion) {}, true, true},
		{"a column", func(_ *apiextensionsv1.CustomResourceDefinition, v *apiextensionsv1.CustomResourceDefinitionVersion) {
			v.AdditionalPrinterColumns = []apiextensionsv1.CustomResourceColumnDefinition{{Name: "N", Type: "integer", JSONPath: ".spec.n"}}
		}, true, true},
		{"a description", func(_ *apiextensionsv1.CustomResourceDefinition, v *apiextensionsv1.CustomResourceDefinitionVersion) {
			spec(v, "n", func(p *apiextensionsv1.JSONSchemaProps) { p.Description, p.Title = "how many", "N" })
		}, true, true},
		{"validation", func(_ *apiextensionsv1.CustomResourceDefinition, v *apiextensionsv1.CustomResourceDefinitionVersion) {
			spec(v, "s", func(p *apiextensionsv1.JSONSchemaProps) {
				p.MaxLength, p.Enum = new(int64), []apiextensionsv1.JSON{{Raw: []byte(`"a"`)}}
				p.XValidations = apiextensionsv1.ValidationRules{{Rule: "self != 'b'"}}
			})
		}, true, true},
		{"subresources", func(_ *apiextensionsv1.CustomResourceDefinition, v *apiextensionsv1.CustomResourceDefinitionVersion) {
			v.Subresources = &apiextensionsv1.CustomResourceSubresources{Status: &apiextensionsv1.CustomResourceSubresourceStatus{}}
		}, true, true},
		{"deprecated", func(_ *apiextensionsv1.CustomResourceDefinition, v *apiextensionsv1.CustomResourceDefinitionVersion) {
			v.Deprecated = true
		}, true, true},
		{"a default", func(_ *apiextensionsv1.CustomResourceDefinition, v *apiextensionsv1.CustomResourceDefinitionVersion) {
			spec(v, "n", func(p *apiextensionsv1.JSONSchemaProps) { p.Default.Raw = []byte("4") })
		}, false, false},
		{"a type", func(_ *apiextensionsv1.CustomResourceDefinition, v *apiextensionsv1.CustomResourceDefinitionVersion) {
			spec(v, "s", func(p *apiextensionsv1.JSONSchemaProps) { p.Type = "integer" })
		}, false, false},
		{"not nullable", func(_ *apiextensionsv1.CustomResourceDefinition, v *apiextensionsv1.CustomResourceDefinitionVersion) {
			spec(v, "s", func(p *apiextensionsv1.JSONSchemaProps) { p.Nullable = false })
		}, false, false},
		{"a field", func(_ *apiextensionsv1.CustomResourceDefinition, v *apiextensionsv1.CustomResourceDefinitionVersion) {
			spec(v, "t", func(p *apiextensionsv1.JSONSchemaProps) { p.Type = "string" })
		}, false, false},
		{"a field of items", func(_ *apiextensionsv1.CustomResourceDefinition, v *apiextensionsv1.CustomResourceDefinitionVersion) {
			spec(v, "list", func(p *apiextensionsv1.JSONSchemaProps) {
				p.Items.Schema.Properties["b"] = apiextensionsv1.JSONSchemaProps{Type: "string"}
			})
		}, false, false},
		{"pruned", func(_ *apiextensionsv1.CustomResourceDefinition, v *apiextensionsv1.CustomResourceDefinitionVersion) {
			spec(v, "any", func(p *apiextensionsv1.JSONSchemaProps) { p.XPreserveUnknownFields = nil })
		}, false, false},
		{"preserved", func(_ *apiextensionsv1.CustomResourceDefinition, v *apiextensionsv1.CustomResourceDefinitionVersion) {
			v.Schema.OpenAPIV3Schema.XPreserveUnknownFields = &yes
		}, false, false},
		{"no embedded resource", func(_ *apiextensionsv1.CustomResourceDefinition, v *apiextensionsv1.CustomResourceDefinitionVersion) {
			spec(v, "embed", func(p *apiextensionsv1.JSONSchemaProps) { p.XEmbeddedResource = false })
		}, false, false},
		{"values of a map", func(_ *apiextensionsv1.CustomResourceDefinition, v *apiextensionsv1.CustomResourceDefinitionVersion) {
			spec(v, "map", func(p *apiextensionsv1.JSONSchemaProps) {
				p.AdditionalProperties.Schema = &apiextensionsv1.JSONSchemaProps{Type: "string"}
			})
		}, false, false},
		{"selectable fields", func(_ *apiextensionsv1.CustomResourceDefinition, v *apiextensionsv1.CustomResourceDefinitionVersion) {
			v.SelectableFields = append(v.SelectableFields, apiextensionsv1.SelectableField{JSONPath: ".spec.n"})
		}, false, true},
		{"another storage version", func(c *apiextensionsv1.CustomResourceDefinition, v *apiextensionsv1.CustomResourceDefinitionVersion) {
			c.Spec.Versions[0].Storage, v.Storage = false, true
		}, true, false},
		{"a version more", func(c *apiextensionsv1.CustomResourceDefinition, v *apiextensionsv1.CustomResourceDefinitionVersion) {
			more := v.DeepCopy()
			more.Name = "v2"
			c.Spec.Versions = append(c.Spec.Versions, *more)
		}, true, false},
		{"another kind", func(c *apiextensionsv1.CustomResourceDefinition, _ *apiextensionsv1.CustomResourceDefinitionVersion) {
			c.Status.AcceptedNames.Kind = "Widget"
		}, true, false},
		{"another kind of list", func(c *apiextensionsv1.CustomResourceDefinition, _ *apiextensionsv1.CustomResourceDefinitionVersion) {
			c.Status.AcceptedNames.ListKind = "Gadgets"
		}, true, false},
		{"another group", func(c *apiextensionsv1.CustomResourceDefinition, _ *apiextensionsv1.CustomResourceDefinitionVersion) {
			c.Name, c.Spec.Group = "gadgets.example.com", "example.com"
		}, true, false},
		{"of the cluster", func(c *apiextensionsv1.CustomResourceDefinition, _ *apiextensionsv1.CustomResourceDefinitionVersion) {
			c.Spec.Scope = apiextensionsv1.ClusterScoped
		}, true, false},
		{"nothing pruned", func(c *apiextensionsv1.CustomResourceDefinition, _ *apiextensionsv1.CustomResourceDefinitionVersion) {
			c.Spec.PreserveUnknownFields = true
		}, true, false},
	} {
		t.Run(test.what, func(t *testing.T) {
			crd := gadgets()
			test.change(crd, &crd.Spec.Versions[1])
			after := storagesOf(t, crd)
			keys := map[string]string{}
			for version, made := range after {
				key, ok := made.key()
				if !ok {
					t.Fatalf("%s has no key: the codec is not as it was when this was written", version)
				}
				keys[version] = key
			}
			was, _ := before["v1"].key()
			if shared := keys["v1"] == keys["v1beta1"]; shared != test.shared {
				t.Errorf("v1 and v1beta1 have one key: %v, want %v", shared, test.shared)
			}
			if kept := keys["v1"] == was; kept != test.kept {
				t.Errorf("v1 has the key that it had: %v, want %v", kept, test.kept)
			}
			if keys["v1alpha1"] == keys["v1"] || keys["v1alpha1"] == keys["v1beta1"] {
				t.Error("a version with another schema has the key of one of the others")
			}
			for _, version := range []string{"v1", "v1beta1"} {
				for _, of := range []madeStorage{after["v1"], before["v1"], before["v1beta1"]} {
					if key, _ := of.key(); key == keys[version] {
						decodeAlike(t, of, after[version])
					}
				}
			}
		})
	}
}

// TestUnsharedKey: a webhook may make anything, and what is built in has no key.
func TestUnsharedKey(t *testing.T) {
	crd := gadgets()
	url := "https://127.0.0.1/convert"
	crd.Spec.Conversion = &apiextensionsv1.CustomResourceConversion{Strategy: apiextensionsv1.WebhookConverter, Webhook: &apiextensionsv1.WebhookConversion{
		ClientConfig: &apiextensionsv1.WebhookClientConfig{URL: &url}, ConversionReviewVersions: []string{"v1"},
	}}
	for version, made := range storagesOf(t, crd) {
		if _, ok := made.key(); ok {
			t.Errorf("%s has a key, and is converted by a webhook", version)
		}
	}
	made := storagesOf(t, gadgets())["v1"]
	for what, codec := range map[string]runtime.Codec{"none": nil, "another": unstructured.UnstructuredJSONScheme} {
		config := *made.config
		config.Codec = codec
		if _, ok := sharingKey(&config, made.newFunc, made.newListFunc); ok {
			t.Errorf("with %s codec there is a key", what)
		}
	}
	if _, ok := sharingKey(made.config, func() runtime.Object { return &apiextensionsv1.CustomResourceDefinition{} }, made.newListFunc); ok {
		t.Error("a definition has a key")
	}
	if _, ok := sharingKey(made.config, storagesOf(t, gadgets())["v1beta1"].newFunc, made.newListFunc); ok {
		t.Error("a codec of one version has a key for another")
	}
}

// gadgetsIn are objects as etcd may have them, in any version of a definition.
func gadgetsIn(version string) []string {
	var all []string
	for _, rest := range []string{
		`"spec":{"n":9007199254740993,"s":null,"x":1,"any":{"y":null,"z":[1.0,{}]},"embed":{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p","bad":1},"z":1},"list":[{},{"a":"<>&","b":1}],"map":{"a":1,"b":"2"},"more":"m"},"status":{"a":null}`,
		`"spec":{},"Aa":1`, `"spec":null`, `"spec":{"n":null,"s":"","list":null,"t":"u"},"status":null`, `"spec":{"s":5,"n":"text","map":{"a":null}}`,
	} {
		all = append(all, fmt.Sprintf(`{"apiVersion":"example.io/%s","kind":"Gadget","metadata":{"name":"a","namespace":"b","labels":{"x":"y"},"unknown":1,"managedFields":[{"apiVersion":"example.io/v1beta1","manager":"m"}]},%s}`, version, rest))
	}
	return append(all, `{"apiVersion":"example.io/v9","kind":"Gadget","metadata":{"name":"a"}}`, `{"apiVersion":"example.io/v1","kind":"Other","metadata":{"name":"a"}}`, `{}`)
}

// decodeAlike holds that two storages make the same of what is stored, whichever of the codecs they have, but for apiVersion; and store the same.
func decodeAlike(t *testing.T, one, other madeStorage) {
	t.Helper()
	decode := func(codec runtime.Codec, as madeStorage, data string, into bool) (any, string, string) {
		var out runtime.Object
		if into {
			out = as.newFunc()
		}
		obj, _, err := codec.Decode([]byte(data), nil, out)
		if err != nil {
			version := as.newFunc().(*unstructured.Unstructured).GetAPIVersion()
			return nil, "", strings.ReplaceAll(err.Error(), fmt.Sprintf("to %q", version), "to the version")
		}
		u := obj.(*unstructured.Unstructured)
		if into && u.GetAPIVersion() != as.newFunc().(*unstructured.Unstructured).GetAPIVersion() {
			t.Errorf("%s is decoded as %s", data, u.GetAPIVersion())
		}
		attrs, fields, err := as.attrs(u)
		if err != nil {
			t.Fatal(err)
		}
		encoded, err := runtime.Encode(codec, u)
		if err != nil {
			t.Fatal(err)
		}
		u.SetAPIVersion("any")
		return []any{u.Object, attrs, fields}, string(encoded), ""
	}
	for _, version := range []string{"v1", "v1beta1", "v1alpha1"} {
		for _, data := range gadgetsIn(version) {
			want, wantStored, wantErr := decode(one.config.Codec, one, data, true)
			// The codec of one is what both are read and written by, if they are shared.
			for _, got := range []struct {
				codec runtime.Codec
				as    madeStorage
				into  bool
			}{{other.config.Codec, other, true}, {other.config.Codec, other, false}, {one.config.Codec, other, true}} {
				obj, stored, err := decode(got.codec, got.as, data, got.into)
				if !reflect.DeepEqual(obj, want) || stored != wantStored || err != wantErr {
					a, _ := json.Marshal(obj)
					b, _ := json.Marshal(want)
					t.Errorf("%s is %s, stored as %s, %q; want %s, stored as %s, %q", data, a, stored, err, b, wantStored, wantErr)
				}
			}
		}
	}
}
