// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package definitions

import (
	"bytes"
	"compress/gzip"
	"io"
	"strings"
	"testing"
)

type object = map[string]any

// define returns a definition of a kind. Each version has a schema.
func define(group, kind, scope string, versions ...object) object {
	plural := strings.ToLower(kind) + "s"
	return object{
		"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
		"metadata": object{"name": plural + "." + group},
		"spec": object{
			"group": group, "scope": scope, "versions": versions,
			"names": object{"plural": plural, "singular": strings.ToLower(kind), "kind": kind, "listKind": kind + "List", "shortNames": []string{"x" + strings.ToLower(kind)}},
		},
	}
}

func name(crd object) string { return crd["metadata"].(object)["name"].(string) }

// version is one that is served; more has what it has besides a schema.
func version(name string, storage bool, schema, more object) object {
	v := object{"name": name, "served": true, "storage": storage, "schema": object{"openAPIV3Schema": schema}}
	for key, value := range more {
		v[key] = value
	}
	return v
}

func properties(of object) object { return object{"type": "object", "properties": of} }

// structural has every kind of thing that a structural schema may have.
func structural(description string) object {
	integers := object{"type": "integer", "format": "int64", "minimum": -3, "maximum": 9007199254740993, "multipleOf": 2, "default": 4}
	return object{
		"type": "object", "description": description + " <b>&amp;\u2028 ü 漢字 \U0001F600 \"quoted\" \\ \t",
		"required": []string{"spec"},
		"properties": object{
			"spec": object{
				"type": "object", "minProperties": 0, "maxProperties": 100,
				"x-kubernetes-validations": []object{{"rule": "!has(self.number) || self.number < 1e10", "message": "too <large>"}},
				"properties": object{
					"number":   object{"type": "number", "format": "double", "minimum": 1e-7, "exclusiveMinimum": true, "maximum": 1e21, "default": 0.5},
					"integer":  integers,
					"flag":     object{"type": "boolean", "default": false, "nullable": true},
					"text":     object{"type": "string", "pattern": "^[a-z<>&]+$", "minLength": 1, "maxLength": 63, "enum": []string{"a", "b", "<"}},
					"date":     object{"type": "string", "format": "date-time", "title": "A date", "example": "2020-01-01T00:00:00Z"},
					"either":   object{"x-kubernetes-int-or-string": true, "default": "50%"},
					"anyOf":    object{"x-kubernetes-int-or-string": true, "anyOf": []object{{"type": "integer"}, {"type": "string"}}},
					"anything": object{"type": "object", "x-kubernetes-preserve-unknown-fields": true},
					"within":   object{"type": "object", "x-kubernetes-preserve-unknown-fields": true, "properties": object{"known": object{"type": "string"}}},
					"embedded": object{"type": "object", "x-kubernetes-embedded-resource": true, "properties": object{
						"apiVersion": object{"type": "string"}, "kind": object{"type": "string"}, "metadata": object{"type": "object"}, "spec": object{"type": "object", "x-kubernetes-preserve-unknown-fields": true},
					}},
					"openEmbedded": object{"type": "object", "x-kubernetes-embedded-resource": true, "x-kubernetes-preserve-unknown-fields": true},
					"map":          object{"type": "object", "additionalProperties": object{"type": "string", "maxLength": 5}, "x-kubernetes-map-type": "granular"},
					"atomicMap":    object{"type": "object", "additionalProperties": integers, "x-kubernetes-map-type": "atomic", "default": object{"z": 8, "a": 2}},
					"open":         object{"type": "object", "additionalProperties": true},
					"set":          object{"type": "array", "items": object{"type": "string"}, "x-kubernetes-list-type": "set", "maxItems": 5, "minItems": 0, "default": []string{}},
					"keyed": object{
						"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": []string{"name"},
						"items": object{"type": "object", "required": []string{"name"}, "properties": object{"name": object{"type": "string"}, "value": object{"type": "integer"}}},
					},
					"nested": object{"type": "array", "items": object{"type": "array", "x-kubernetes-list-type": "atomic", "items": object{
						"type": "object", "properties": object{"deep": properties(object{"deeper": structuralLeaf()})},
					}}},
					"logic": object{
						"type":  "object",
						"oneOf": []object{{"required": []string{"a"}}, {"required": []string{"b"}}}, "not": object{"required": []string{"a", "b"}},
						"allOf":      []object{{"properties": object{"a": object{"minLength": 2}}}},
						"properties": object{"a": object{"type": "string"}, "b": object{"type": "string"}},
					},
				},
			},
			"status": properties(object{"replicas": object{"type": "integer"}, "selector": object{"type": "string"}}),
		},
	}
}

func structuralLeaf() object {
	return object{"type": "string", "format": "byte", "externalDocs": object{"url": "https://example.com/<docs>", "description": "docs"}}
}

// kinds are definitions of all kinds.
func kinds() []object {
	unserved := version("v1alpha1", false, structural("not served"), nil)
	unserved["served"] = false
	return []object{
		define("a.example.com", "Widget", "Namespaced", version("v1", true, structural("Widget"), object{
			"subresources":     object{"status": object{}, "scale": object{"specReplicasPath": ".spec.integer", "statusReplicasPath": ".status.replicas", "labelSelectorPath": ".status.selector"}},
			"selectableFields": []object{{"jsonPath": ".spec.text"}, {"jsonPath": ".spec.flag"}},
			"additionalPrinterColumns": []object{
				{"name": "Text", "type": "string", "jsonPath": ".spec.text", "description": "<text>"},
			},
		})),
		define("b.example.com", "Gadget", "Cluster",
			version("v1", true, structural("v1"), object{"subresources": object{"status": object{}}}),
			version("v1beta1", false, properties(object{"spec": properties(object{"x": object{"type": "string", "default": "y"}})}), object{"deprecated": true, "deprecationWarning": "old"}),
			unserved),
		define("c.example.com", "Anything", "Namespaced", version("v1", true, object{"type": "object", "x-kubernetes-preserve-unknown-fields": true}, nil)),
		define("c.example.com", "Nothing", "Cluster", version("v1", true, object{"type": "object"}, nil), version("v2", false, object{"type": "object"}, nil)),
		define("long.group.name.d.example.com", "HTTPThing", "Namespaced", version("v2alpha1", true, properties(object{"spec": object{"type": "object", "additionalProperties": object{"type": "string"}}}), nil)),
	}
}

// pods is a definition whose type has the name of a built-in one in OpenAPI v2. Upstream's merge gives it another.
func pods() object {
	crd := define("core.api.k8s.io", "Pod", "Namespaced", version("v1", true, structural("not that Pod"), nil))
	crd["metadata"].(object)["annotations"] = object{"api-approved.kubernetes.io": "unapproved, for tests"}
	return crd
}

// moreKinds are definitions in groups in which there are some already.
func moreKinds() []object {
	return []object{
		pods(),
		define("a.example.com", "Another", "Cluster", version("v1", true, structural("Another"), object{"subresources": object{"status": object{}}})),
		define("c.example.com", "Aardvark", "Namespaced", version("v2", true, structural("Aardvark"), object{
			"subresources": object{"scale": object{"specReplicasPath": ".spec.integer", "statusReplicasPath": ".status.replicas"}}})),
		define("a.example.com", "Zebra", "Namespaced", version("v1", true, structural("Zebra"), nil), version("v3", false, structural("Zebra 3"), nil)),
	}
}

func gunzip(t *testing.T, compressed []byte) []byte {
	t.Helper()
	r, err := gzip.NewReader(bytes.NewReader(compressed))
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return text
}
