// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package intact_test

import (
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
)

type (
	props  = apiextensionsv1.JSONSchemaProps
	fields = map[string]props
)

var yes = true

func object(f fields) props          { return props{Type: "object", Properties: f} }
func kind(t string) props            { return props{Type: t} }
func nullable(p props) props         { p.Nullable = true; return p }
func defaulted(p props, v any) props { p.Default = raw(v); return p }
func preserving(p props) props       { p.XPreserveUnknownFields = &yes; return p }
func embedded(p props) props         { p.XEmbeddedResource = true; return preserving(p) }
func list(p props) props {
	return props{Type: "array", Items: &apiextensionsv1.JSONSchemaPropsOrArray{Schema: &p}}
}
func values(p props) props {
	return props{Type: "object", AdditionalProperties: &apiextensionsv1.JSONSchemaPropsOrBool{Allows: true, Schema: &p}}
}

// definitions have schemas of all kinds.
func definitions() []definition {
	anything := props{Type: "object", AdditionalProperties: &apiextensionsv1.JSONSchemaPropsOrBool{Allows: true}}
	rich := object(fields{
		"spec": object(fields{
			"n":      kind("integer"),
			"s":      kind("string"),
			"b":      kind("boolean"),
			"f":      kind("number"),
			"null":   nullable(kind("string")),
			"either": {XIntOrString: true},
			"any":    preserving(kind("object")),
			"partly": preserving(object(fields{"pruned": object(fields{"a": kind("string")}), "d": object(fields{"x": defaulted(kind("integer"), 1)})})),
			"kept":   {XPreserveUnknownFields: &yes},
			"list":   list(object(fields{"a": kind("string"), "d": defaulted(kind("string"), "x"), "more": list(list(object(fields{"a": kind("string")})))})),
			"texts":  list(kind("string")),
			"nulls":  list(nullable(kind("string"))),
			"map":    values(object(fields{"a": kind("string"), "d": defaulted(kind("integer"), 3)})),
			"words":  values(nullable(kind("string"))),
			"preset": values(defaulted(kind("string"), "p")),
			"lists":  values(list(kind("string"))),
			"all":    anything,
			"opt":    object(fields{"d": defaulted(kind("integer"), 1), "o": nullable(defaulted(kind("integer"), 1))}),
			"a<b":    kind("string"),
			"é":      kind("string"),
			"bare":   kind("object"),
			"kinds":  preserving(list(preserving(object(fields{"a": kind("string")})))),
		}),
		"status":   preserving(object(fields{"conditions": list(object(fields{"type": kind("string")}))})),
		"Upper":    kind("string"),
		"metadata": object(fields{"name": {Type: "string", Pattern: "^[a-z]+$"}}),
	})
	less := object(fields{"spec": object(fields{"n": kind("integer"), "s": defaulted(kind("string"), "alpha"), "list": list(object(fields{"a": kind("string")}))})})
	embeds := object(fields{"spec": object(fields{"n": kind("integer"), "template": embedded(kind("object")), "templates": list(embedded(kind("object")))})})
	demanding := object(fields{
		"spec":   defaulted(object(fields{"n": defaulted(kind("integer"), 3), "s": kind("string"), "list": list(defaulted(object(fields{"a": defaulted(kind("string"), "a")}), map[string]any{}))}), map[string]any{}),
		"status": preserving(kind("object")),
	})
	return []definition{
		{name: "rich", schema: rich, alpha: less},
		{name: "none pruned", schema: preserving(object(nil)), alpha: rich},
		{name: "all pruned", schema: object(nil), alpha: preserving(object(fields{"spec": object(fields{"n": kind("integer")})}))},
		{name: "embedded", schema: embeds, alpha: embeds},
		{name: "defaults", schema: demanding, alpha: less},
		{name: "by webhook", schema: rich, alpha: less, webhook: true},
		{name: "unknown preserved", schema: rich, alpha: less, preserves: true},
	}
}
