// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package compact

import (
	"fmt"
	oldrand "math/rand"
	"math/rand/v2"
	"reflect"
	"slices"
	"sync"
	"testing"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/fuzzer"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apiextensionsapiserver "k8s.io/apiextensions-apiserver/pkg/apiserver"
	apitesting "k8s.io/apimachinery/pkg/api/apitesting/fuzzer"
	"k8s.io/apimachinery/pkg/api/equality"
	metafuzzer "k8s.io/apimachinery/pkg/apis/meta/fuzzer"
	"sigs.k8s.io/randfill"
)

type definition = apiextensionsv1.CustomResourceDefinition

// decoded is crd as it comes out of protobuf.
func decoded(t *testing.T, crd *definition) *definition {
	t.Helper()
	data, err := crd.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	out := &definition{}
	if err := out.Unmarshal(data); err != nil {
		t.Fatal(err)
	}
	return out
}

// bare is the dumb twin of Compact: crd without its prose, and nothing shared.
func bare(t *testing.T, crd *definition) *definition {
	t.Helper()
	out := decoded(t, crd)
	var visit func(v reflect.Value, keep bool)
	visit = func(v reflect.Value, keep bool) {
		switch v.Kind() {
		case reflect.Pointer:
			if !v.IsNil() {
				visit(v.Elem(), keep)
			}
		case reflect.Slice:
			for i := range v.Len() {
				visit(v.Index(i), keep)
			}
		case reflect.Map:
			for _, key := range v.MapKeys() {
				value := reflect.New(v.Type().Elem()).Elem()
				value.Set(v.MapIndex(key))
				visit(value, keep)
				v.SetMapIndex(key, value)
			}
		case reflect.Struct:
			p, ok := v.Addr().Interface().(*props)
			if ok && !keep {
				p.Description, p.Title, p.Example, p.ExternalDocs = "", "", nil, nil
			}
			for i := range v.NumField() {
				visit(v.Field(i), keep || ok && slices.Contains([]string{"AllOf", "OneOf", "AnyOf", "Not"}, v.Type().Field(i).Name))
			}
		}
	}
	for i := range out.Spec.Versions {
		if schema := out.Spec.Versions[i].Schema; schema != nil && schema.OpenAPIV3Schema != nil {
			metadata, ok := schema.OpenAPIV3Schema.Properties["metadata"]
			metadata = *metadata.DeepCopy()
			visit(reflect.ValueOf(schema), false)
			if ok {
				schema.OpenAPIV3Schema.Properties["metadata"] = metadata
			}
		}
	}
	return out
}

// withoutDigests is a copy of a compact definition whose versions' schemas say nothing about their prose.
func withoutDigests(crd *definition) *definition {
	out := crd.DeepCopy()
	for _, v := range out.Spec.Versions {
		if v.Schema != nil && v.Schema.OpenAPIV3Schema != nil {
			v.Schema.OpenAPIV3Schema.Description = ""
		}
	}
	return out
}

// generator makes definitions with all that upstream's fuzzer puts into them, and with much in common.
type generator struct {
	filler *randfill.Filler
	random *rand.Rand
	pool   []props
}

func newGenerator(seed uint64) *generator {
	funcs := apitesting.MergeFuzzerFuncs(metafuzzer.Funcs, fuzzer.Funcs)
	return &generator{
		filler: apitesting.FuzzerFor(funcs, oldrand.NewSource(int64(seed)), apiextensionsapiserver.Codecs),
		random: rand.New(rand.NewPCG(seed, 0)),
	}
}

func (g *generator) props(t *testing.T) props {
	t.Helper()
	if len(g.pool) > 0 && g.random.IntN(3) > 0 {
		return *g.pool[g.random.IntN(len(g.pool))].DeepCopy()
	}
	internal, out := apiextensions.JSONSchemaProps{}, props{}
	g.filler.Fill(&internal)
	if err := apiextensionsapiserver.Scheme.Convert(&internal, &out, nil); err != nil {
		t.Fatal(err)
	}
	if len(g.pool) > 0 && g.random.IntN(2) == 0 {
		out.Properties = map[string]props{}
		for i := range g.random.IntN(4) {
			out.Properties[fmt.Sprint("field", i)] = g.props(t)
		}
		if g.random.IntN(3) == 0 {
			out.Properties["metadata"] = g.props(t)
		}
	}
	g.pool = append(g.pool, out)
	return *out.DeepCopy()
}

func (g *generator) definition(t *testing.T, name string) *definition {
	t.Helper()
	crd := &definition{}
	crd.Name = name
	for i := range 1 + g.random.IntN(3) {
		p := g.props(t)
		crd.Spec.Versions = append(crd.Spec.Versions, apiextensionsv1.CustomResourceDefinitionVersion{
			Name: fmt.Sprint("v", i), Schema: &apiextensionsv1.CustomResourceValidation{OpenAPIV3Schema: &p},
		})
	}
	return decoded(t, crd)
}

// compacted has crd be compact.
func (t *Table) compacted(test *testing.T, crd *definition) {
	test.Helper()
	encoded, err := crd.Spec.Marshal()
	if err != nil {
		test.Fatal(err)
	}
	compact, err := t.decode(crd.Name, encoded)
	if err != nil {
		test.Fatal(err)
	}
	crd.Spec = *compact
}

// TestCompact holds compact definitions against their twins, and the table against what a count of what they use says.
func TestCompact(t *testing.T) {
	for seed := range uint64(20) {
		g, table := newGenerator(seed), NewTable()
		twins, compacts := map[string]*definition{}, map[string]*definition{}
		for range 60 {
			name := fmt.Sprint("d", g.random.IntN(8))
			if g.random.IntN(5) == 0 {
				table.Retain(func(kept string) bool { return kept != name })
				delete(twins, name)
				delete(compacts, name)
			} else {
				crd := g.definition(t, name)
				twins[name] = bare(t, crd)
				table.compacted(t, crd)
				compacts[name] = crd
			}
			for name, twin := range twins {
				if got := withoutDigests(compacts[name]); !equality.Semantic.DeepEqual(got, withoutDigests(twin)) {
					t.Fatalf("seed %d: %s is\n%v\nand not\n%v", seed, name, got, twin)
				}
			}
			table.check(t, compacts)
		}
		if table.Retain(func(string) bool { return false }); len(table.shared) > 0 || len(table.last) > 0 {
			t.Errorf("seed %d: of no definition there are left %d and %d", seed, len(table.shared), len(table.last))
		}
	}
}

// check holds the table against the definitions that were given to it.
func (t *Table) check(test *testing.T, compacts map[string]*definition) {
	test.Helper()
	users := map[*shared]int{}
	for name, last := range t.last {
		if compacts[name] == nil {
			test.Fatalf("%s is gone, and is known still", name)
		}
		for s := range last.uses {
			users[s]++
		}
	}
	if len(users) != len(t.shared) {
		test.Fatalf("%d are used and %d are kept", len(users), len(t.shared))
	}
	for d, s := range t.shared {
		if s.digest != d || s.users != users[s] {
			test.Fatalf("%T has %d users, and %d are counted", s.value, s.users, users[s])
		}
	}
	// What definitions lead to by maps is all in the table, and each is there once.
	kept := map[uintptr]bool{}
	for _, s := range t.shared {
		if m, ok := s.value.(map[string]props); ok {
			kept[reflect.ValueOf(m).Pointer()] = true
		}
	}
	for name, crd := range compacts {
		for _, v := range crd.Spec.Versions {
			for _, m := range []map[string]props{v.Schema.OpenAPIV3Schema.Properties, v.Schema.OpenAPIV3Schema.PatternProperties} {
				if len(m) > 0 && !kept[reflect.ValueOf(m).Pointer()] {
					test.Fatalf("%s has properties of its own: %v", name, m)
				}
			}
		}
	}
}

// TestShared has what is equal in two versions, in two definitions and in two states of one be the same, whatever its prose.
func TestShared(t *testing.T) {
	table := NewTable()
	schema := func(prose string) *apiextensionsv1.CustomResourceValidation {
		inner := props{Type: "object", Description: prose, Properties: map[string]props{"a": {Type: "string", Title: prose}, "b": {Type: "integer"}}}
		return &apiextensionsv1.CustomResourceValidation{OpenAPIV3Schema: &props{Type: "object", Properties: map[string]props{
			"spec":  inner,
			"items": {Type: "array", Items: &apiextensionsv1.JSONSchemaPropsOrArray{Schema: &inner}},
		}}}
	}
	compacted := func(name string, prose ...string) []map[string]props {
		crd := &definition{}
		crd.Name = name
		for _, p := range prose {
			crd.Spec.Versions = append(crd.Spec.Versions, apiextensionsv1.CustomResourceDefinitionVersion{Name: p, Schema: schema(p)})
		}
		crd = decoded(t, crd)
		table.compacted(t, crd)
		var all []map[string]props
		for _, v := range crd.Spec.Versions {
			root := v.Schema.OpenAPIV3Schema.Properties
			all = append(all, root["spec"].Properties, root["items"].Items.Schema.Properties)
			if root["spec"].Description != "" || root["spec"].Properties["a"].Title != "" {
				t.Errorf("%s has prose: %v", name, root)
			}
		}
		return all
	}
	all := compacted("one", "first", "second")
	all = append(all, compacted("two", "third")...)
	all = append(all, compacted("one", "fourth", "second")...)
	for _, m := range all {
		if reflect.ValueOf(m).Pointer() != reflect.ValueOf(all[0]).Pointer() {
			t.Errorf("%v is there twice", m)
		}
	}
}

// TestApart has schemas that differ in one thing be compacted by one table: each is then what it was.
func TestApart(t *testing.T) {
	text, number := props{Type: "string"}, props{Type: "integer"}
	one := func(p props) *props { return &p }
	both := []props{text, number}
	named := func(a, b string) map[string]props { return map[string]props{a: text, b: number} }
	raw := func(text string) *apiextensionsv1.JSON { return &apiextensionsv1.JSON{Raw: []byte(text)} }
	yes, no, some, more := true, false, 1.0, 2.0
	strings := func(s ...string) apiextensionsv1.JSONSchemaDependencies {
		return apiextensionsv1.JSONSchemaDependencies{"d": {Property: s}, "e": {Schema: &text}}
	}
	schemas := []props{
		{}, {Type: "object"}, {Format: "object"}, {Pattern: "object"}, {ID: "object"}, {Nullable: true}, {UniqueItems: true}, {XEmbeddedResource: true}, {XIntOrString: true},
		{XPreserveUnknownFields: &yes}, {XPreserveUnknownFields: &no}, {Maximum: &some}, {Maximum: &more}, {Minimum: &some}, {MultipleOf: &some},
		{Default: raw("1")}, {Default: raw("1.0")}, {Default: raw("null")}, {Default: raw(`""`)}, {Enum: []apiextensionsv1.JSON{*raw("1"), *raw("2")}}, {Enum: []apiextensionsv1.JSON{*raw("2"), *raw("1")}},
		{Required: []string{"a", "b"}}, {Required: []string{"b", "a"}}, {Required: []string{"ab"}}, {XListMapKeys: []string{"a", "b"}},
		{Properties: named("a", "b")}, {Properties: named("b", "a")}, {Properties: named("a", "c")}, {Properties: map[string]props{"a": text}}, {Properties: map[string]props{"b": text}},
		{PatternProperties: named("a", "b")}, {Definitions: named("a", "b")},
		{AllOf: both}, {OneOf: both}, {AnyOf: both}, {AllOf: []props{number, text}}, {AllOf: []props{text}}, {Not: &text}, {Not: &number},
		{AllOf: []props{{Description: "kept"}}}, {AllOf: []props{{Title: "kept"}}}, {AllOf: []props{{Description: "other"}}}, {Not: &props{Properties: map[string]props{"a": {Description: "kept"}}}},
		{Items: &apiextensionsv1.JSONSchemaPropsOrArray{Schema: &text}}, {Items: &apiextensionsv1.JSONSchemaPropsOrArray{JSONSchemas: []props{text}}}, {Items: &apiextensionsv1.JSONSchemaPropsOrArray{JSONSchemas: both}},
		{AdditionalProperties: &apiextensionsv1.JSONSchemaPropsOrBool{Allows: true}}, {AdditionalProperties: &apiextensionsv1.JSONSchemaPropsOrBool{}},
		{AdditionalItems: &apiextensionsv1.JSONSchemaPropsOrBool{Allows: true}}, {AdditionalItems: &apiextensionsv1.JSONSchemaPropsOrBool{}},
		{AdditionalProperties: &apiextensionsv1.JSONSchemaPropsOrBool{Schema: &text}}, {AdditionalItems: &apiextensionsv1.JSONSchemaPropsOrBool{Schema: &text}},
		{Dependencies: strings("a", "b")}, {Dependencies: strings("b", "a")}, {Dependencies: strings("ab")}, {Dependencies: strings("a")}, {Dependencies: apiextensionsv1.JSONSchemaDependencies{"d": {Schema: &text}, "e": {Property: []string{"a"}}}},
		{XValidations: apiextensionsv1.ValidationRules{{Rule: "a"}}}, {XValidations: apiextensionsv1.ValidationRules{{Rule: "b"}}},
	}
	table := NewTable()
	for round := range 2 {
		for i, schema := range schemas {
			crd := &definition{}
			crd.Name = fmt.Sprint("d", round, i)
			crd.Spec.Versions = []apiextensionsv1.CustomResourceDefinitionVersion{{Schema: &apiextensionsv1.CustomResourceValidation{OpenAPIV3Schema: &props{
				Type: "object", Properties: map[string]props{"x": schema, "metadata": {Description: fmt.Sprint("kept", i)}},
				Items: &apiextensionsv1.JSONSchemaPropsOrArray{Schema: one(schema)},
			}}}}
			crd = decoded(t, crd)
			twin := bare(t, crd)
			table.compacted(t, crd)
			if got := withoutDigests(crd); !equality.Semantic.DeepEqual(got, twin) {
				t.Errorf("%d is\n%v\nand not\n%v", i, got, twin)
			}
		}
	}
}

// TestNothingIsAppended: what upstream appends to a list of a definition's own is not in memory that others share.
func TestNothingIsAppended(t *testing.T) {
	table := NewTable()
	required := func(name string) *props {
		crd := &definition{}
		crd.Name = name
		crd.Spec.Versions = []apiextensionsv1.CustomResourceDefinitionVersion{{Schema: &apiextensionsv1.CustomResourceValidation{OpenAPIV3Schema: &props{
			Properties: map[string]props{"spec": {Required: []string{"x", "y", "z"}, XListMapKeys: []string{"x", "y", "z"}}},
			Required:   []string{"x", "y", "z"},
		}}}}
		crd = decoded(t, crd)
		table.compacted(t, crd)
		p := crd.Spec.Versions[0].Schema.OpenAPIV3Schema.Properties["spec"]
		return &p
	}
	a, b := required("a"), required("b")
	for what, lists := range map[string][2][]string{"required": {a.Required, b.Required}, "map keys": {a.XListMapKeys, b.XListMapKeys}} {
		if &lists[0][0] != &lists[1][0] {
			t.Errorf("%s are there twice", what)
		}
		_ = append(lists[0], "kind")
		if grown := lists[1][:cap(lists[1])]; slices.Contains(grown, "kind") {
			t.Errorf("%s: what was appended for one is there for the other: %v", what, grown)
		}
	}
}

// TestProse has every change of prose, and every move of it from one schema to another, change the definition, and nothing else.
func TestProse(t *testing.T) {
	root := func(a, b, title string, example string) *definition {
		pa, pb := props{Type: "string", Description: a, Title: title}, props{Type: "string", Description: b}
		if example != "" {
			pa.Example = &apiextensionsv1.JSON{Raw: []byte(example)}
		}
		crd := &definition{}
		crd.Name = "prose"
		crd.Spec.Versions = []apiextensionsv1.CustomResourceDefinitionVersion{{Name: "v1", Schema: &apiextensionsv1.CustomResourceValidation{
			OpenAPIV3Schema: &props{Type: "object", Properties: map[string]props{"a": pa, "b": pb}}}}}
		return decoded(t, crd)
	}
	table := NewTable()
	var different []*definition
	for _, crd := range []*definition{
		root("x", "", "", ""), root("", "x", "", ""), root("x", "x", "", ""), root("xx", "", "", ""), root("", "", "x", ""), root("", "", "", `"x"`), root("", "", "", `"y"`), root("", "", "", ""),
	} {
		again := crd.DeepCopy()
		again.Annotations = map[string]string{"some": "thing"}
		table.compacted(t, crd)
		table.compacted(t, again)
		if !equality.Semantic.DeepEqual(crd.Spec, again.Spec) {
			t.Errorf("one schema, and two that differ: %v, %v", crd.Spec, again.Spec)
		}
		for _, other := range different {
			if equality.Semantic.DeepEqual(crd.Spec, other.Spec) {
				t.Errorf("prose that differs does not show: %v", crd.Spec)
			}
		}
		different = append(different, crd)
	}
}

// TestProseByVersion has two versions that are alike be equal, and links count.
func TestProseByVersion(t *testing.T) {
	version := func(name, url string) apiextensionsv1.CustomResourceDefinitionVersion {
		return apiextensionsv1.CustomResourceDefinitionVersion{Name: name, Schema: &apiextensionsv1.CustomResourceValidation{
			OpenAPIV3Schema: &props{Description: "words", ExternalDocs: &apiextensionsv1.ExternalDocumentation{URL: url}}}}
	}
	crd := &definition{}
	crd.Name = "d"
	crd.Spec.Versions = []apiextensionsv1.CustomResourceDefinitionVersion{version("v1", "a"), version("v2", "a"), version("v3", "b")}
	crd = decoded(t, crd)
	NewTable().compacted(t, crd)
	v := crd.Spec.Versions
	if !equality.Semantic.DeepEqual(v[0].Schema, v[1].Schema) || equality.Semantic.DeepEqual(v[1].Schema, v[2].Schema) {
		t.Errorf("%v, %v, %v", v[0].Schema, v[1].Schema, v[2].Schema)
	}
}

// TestCompactAtOnce has many compact and forget definitions that have much in common, while others read them.
func TestCompactAtOnce(t *testing.T) {
	table := NewTable()
	var readers sync.WaitGroup
	for worker := range 8 {
		g := newGenerator(uint64(worker % 2)) // every one has something in common with some other
		readers.Go(func() {
			for i := range 30 {
				crd := g.definition(t, fmt.Sprint("d", worker%3))
				twin := bare(t, crd)
				table.compacted(t, crd)
				if i%7 == 0 {
					table.Retain(func(string) bool { return i%2 == 0 })
				}
				if !equality.Semantic.DeepEqual(withoutDigests(crd), withoutDigests(twin)) {
					t.Errorf("%s is %v and not %v", crd.Name, crd, twin)
				}
			}
		})
	}
	readers.Wait()
	table.Retain(func(string) bool { return false })
	if len(table.shared) > 0 {
		t.Errorf("%d are left of nothing", len(table.shared))
	}
}
