// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package intact_test

import (
	"testing"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
)

// TestNamedAndOthers has an object of which some properties are named and others may be there, too: a value that is not named must not stand in
// for a named one whose default is missing.
func TestNamedAndOthers(t *testing.T) {
	other := defaulted(kind("string"), "o")
	both := object(fields{"a": defaulted(kind("string"), "a"), "b": defaulted(kind("string"), "b")})
	both.AdditionalProperties = &apiextensionsv1.JSONSchemaPropsOrBool{Allows: true, Schema: &other}
	x := newTwin(t, definition{name: "named and others", schema: object(fields{"spec": both}), alpha: object(fields{"spec": both})})
	for _, spec := range []string{`{"a":"x","b":"x"}`, `{"a":"x"}`, `{"a":"x","z":"x"}`, `{"y":"x","z":"x"}`} {
		x.look(t, "v1", []byte(head+`,"spec":`+spec+tail))
	}
	open := object(fields{"a": defaulted(kind("string"), "a"), "b": defaulted(kind("string"), "b")})
	open.AdditionalProperties = &apiextensionsv1.JSONSchemaPropsOrBool{Allows: true}
	x = newTwin(t, definition{name: "named and any", schema: object(fields{"spec": open}), alpha: object(fields{"spec": preserving(open)})})
	for _, spec := range []string{`{"a":"x","b":"x","z":{}}`, `{"a":"x","b":"x","z":{"k":1}}`, `{"a":"x","z":"x"}`, `{"a":"x","b":"x","z":[null,[],{}]}`, `{"a":"x","b":"x","z":null}`} {
		x.look(t, "v1", []byte(head+`,"spec":`+spec+tail))
		x.look(t, "v1alpha1", []byte(head+`,"spec":`+spec+tail))
	}
}
