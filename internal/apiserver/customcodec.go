// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"reflect"

	structuralschema "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/storage/storagebackend"

	"github.com/weir-project/weir/internal/intact"
)

const (
	apiextensionsServer     = "k8s.io/apiextensions-apiserver/pkg/apiserver."
	apiextensionsConversion = "k8s.io/apiextensions-apiserver/pkg/apiserver/conversion."
)

// customCodec is the storage codec of a custom resource, as upstream's handler makes it for a version of a definition: a codec (versioning.NewCodec)
// of decoder, convertor and defaulter. Its parts are given by the names of their fields.
//
// What it decodes with is in no exported thing, and cannot be taken from the definition: that may have changed since the handler has read it, and nothing
// tells. So its fields are read by reflection, here alone. What does not look exactly as it does at v1.37.2 is no customCodec; TestSharingKey and
// TestRules fail then.
type customCodec struct {
	codec, decoder, defaulter, converter map[string]reflect.Value
	// decoded and converted are what coerces objects when they have been decoded, and when they have been converted.
	decoded, converted map[string]reflect.Value
	// schemas is the map that all of them have.
	schemas reflect.Value
}

// customCodecOf returns what a codec is that decodes to a kind, nil if that is not known.
func customCodecOf(codec reflect.Value, served schema.GroupVersionKind) *customCodec {
	c := &customCodec{codec: fieldsOf(codec, "k8s.io/apimachinery/pkg/runtime/serializer/versioning.codec",
		"encoder", "decoder", "convertor", "creater", "typer", "defaulter", "encodeVersion", "decodeVersion", "identifier", "originalSchemeName")}
	c.decoder = fieldsOf(c.codec["decoder"], apiextensionsServer+"schemaCoercingDecoder", "delegate", "validator")
	convertor := fieldsOf(c.codec["convertor"], apiextensionsServer+"schemaCoercingConverter", "delegate", "validator")
	safe := fieldsOf(convertor["delegate"], apiextensionsConversion+"safeConverterWrapper", "unsafe")
	c.converter = fieldsOf(safe["unsafe"], apiextensionsConversion+"crConverter",
		"convertScale", "converter", "validVersions", "clusterScoped", "selectableFields")
	c.defaulter = fieldsOf(c.codec["defaulter"], apiextensionsServer+"unstructuredDefaulter", "delegate", "structuralSchemas", "structuralSchemaGK")
	coercer := func(v reflect.Value) map[string]reflect.Value {
		return fieldsOf(v, apiextensionsServer+"unstructuredSchemaCoercer",
			"dropInvalidMetadata", "repairGeneration", "structuralSchemas", "structuralSchemaGK", "preserveUnknownFields", "returnUnknownFieldPaths")
	}
	c.decoded, c.converted = coercer(c.decoder["validator"]), coercer(convertor["validator"])
	if c.decoded == nil || c.converted == nil || c.defaulter == nil || c.converter == nil {
		return nil
	}
	c.schemas = c.decoded["structuralSchemas"]
	for _, other := range []reflect.Value{c.converted["structuralSchemas"], c.defaulter["structuralSchemas"]} {
		if other.Type() != reflect.TypeFor[map[string]*structuralschema.Structural]() || other.Type() != c.schemas.Type() || other.Pointer() != c.schemas.Pointer() {
			return nil
		}
	}
	version, ok := inner(c.codec["decodeVersion"])
	if !ok || version.Type() != reflect.TypeFor[schema.GroupVersion]() ||
		version.FieldByName("Group").String() != served.Group || version.FieldByName("Version").String() != served.Version {
		return nil
	}
	return c
}

// renames tells whether conversion does nothing but set apiVersion.
func (c *customCodec) renames() bool {
	return fieldsOf(c.converter["converter"], apiextensionsConversion+"nopConverter") != nil
}

// intactRules implements watchcache.Options.Rules.
func intactRules(config *storagebackend.ConfigForResource, newFunc func() runtime.Object) (intact.Rules, bool) {
	example := newFunc()
	if _, custom := example.(runtime.Unstructured); !custom {
		return intact.Rules{}, false
	}
	served := example.GetObjectKind().GroupVersionKind()
	c := customCodecOf(reflect.ValueOf(config.Codec), served)
	if c == nil || !readsJSON(c.decoder["delegate"]) {
		return intact.Rules{}, false
	}
	for _, gk := range []reflect.Value{c.decoded["structuralSchemaGK"], c.converted["structuralSchemaGK"], c.defaulter["structuralSchemaGK"]} {
		if gk.Type() != reflect.TypeFor[schema.GroupKind]() || gk.FieldByName("Group").String() != served.Group || gk.FieldByName("Kind").String() != served.Kind {
			return intact.Rules{}, false
		}
	}
	for _, coercer := range []map[string]reflect.Value{c.decoded, c.converted} {
		for _, name := range []string{"preserveUnknownFields", "returnUnknownFieldPaths"} {
			if coercer[name].Kind() != reflect.Bool {
				return intact.Rules{}, false
			}
		}
	}
	preserves := c.decoded["preserveUnknownFields"].Bool()
	if c.converted["preserveUnknownFields"].Bool() != preserves || c.decoded["returnUnknownFieldPaths"].Bool() || c.converted["returnUnknownFieldPaths"].Bool() {
		return intact.Rules{}, false
	}
	renames := c.renames()
	valid := c.converter["validVersions"]
	if !renames && !leavesAlone(c.converter["converter"]) || valid.Type() != reflect.TypeFor[map[schema.GroupVersion]bool]() {
		return intact.Rules{}, false
	}
	schemas := map[string]*structuralschema.Structural{}
	for entry := c.schemas.MapRange(); entry.Next(); {
		version := schema.GroupVersion{Group: served.Group, Version: entry.Key().String()}
		if ok := valid.MapIndex(reflect.ValueOf(version)); ok.IsValid() && ok.Bool() {
			schemas[version.Version] = (*structuralschema.Structural)(entry.Value().UnsafePointer())
		}
	}
	if _, ok := schemas[served.Version]; !ok {
		return intact.Rules{}, false
	}
	return intact.Rules{Group: served.Group, Kind: served.Kind, Version: served.Version, Schemas: schemas, Renames: renames, PreservesUnknown: preserves}, true
}

// readsJSON tells whether a decoder reads what begins as JSON with UnstructuredJSONScheme; what begins with CBOR's own tag is read as that.
func readsJSON(decoder reflect.Value) bool {
	if entry := fieldsOf(decoder, "github.com/weir-project/weir/internal/conversion.entry", "Codec", "batches"); entry != nil {
		decoder = entry["Codec"]
	}
	c := fieldsOf(decoder, "k8s.io/apimachinery/pkg/runtime.codec", "Encoder", "Decoder")
	recognizes := fieldsOf(c["Decoder"], "k8s.io/apimachinery/pkg/runtime/serializer/recognizer.decoder", "decoders")
	if recognizes == nil || recognizes["decoders"].Kind() != reflect.Slice || recognizes["decoders"].Len() != 2 {
		return false
	}
	for i, want := range []string{"k8s.io/apimachinery/pkg/runtime/serializer/cbor.serializer", "k8s.io/apimachinery/pkg/apis/meta/v1/unstructured.unstructuredJSONScheme"} {
		if v, ok := inner(recognizes["decoders"].Index(i)); !ok || v.Type().PkgPath()+"."+v.Type().Name() != want {
			return false
		}
	}
	return true
}

// leavesAlone tells whether a converter is that of a webhook, which returns objects as they are that have the version already, if it is
// one that can be asked at all.
func leavesAlone(converter reflect.Value) bool {
	measured := fieldsOf(converter, apiextensionsConversion+"converterMetric", "delegate", "latencies", "crdName")
	webhook := fieldsOf(measured["delegate"], apiextensionsConversion+"webhookConverter",
		"clientManager", "restClient", "name", "nopConverter", "conversionReviewVersions")
	if webhook == nil || webhook["conversionReviewVersions"].Type() != reflect.TypeFor[[]string]() {
		return false
	}
	for i := range webhook["conversionReviewVersions"].Len() {
		switch webhook["conversionReviewVersions"].Index(i).String() {
		case "v1", "v1beta1":
			return true
		}
	}
	return false
}

// inner returns what an interface or pointer has in it.
func inner(v reflect.Value) (reflect.Value, bool) {
	for v.IsValid() && (v.Kind() == reflect.Interface || v.Kind() == reflect.Pointer) {
		v = v.Elem()
	}
	return v, v.IsValid()
}

// fieldsOf returns the fields of a struct of a type, by name; nil if it is another or does not have exactly these.
func fieldsOf(v reflect.Value, typ string, names ...string) map[string]reflect.Value {
	v, ok := inner(v)
	if !ok || v.Kind() != reflect.Struct || v.Type().PkgPath()+"."+v.Type().Name() != typ || v.NumField() != len(names) {
		return nil
	}
	fields := map[string]reflect.Value{}
	for _, name := range names {
		field := v.FieldByName(name)
		if !field.IsValid() {
			return nil
		}
		fields[name] = field
	}
	return fields
}
