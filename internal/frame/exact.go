// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package frame

import (
	"bytes"
	"math"
	"reflect"
	"sync"
	"unicode/utf8"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer/cbor/direct"

	"github.com/weir-project/weir/internal/wire"
)

// What upstream has decoded is not always what can be read again from the primary encoding:
//
//   - A custom resource in JSON: whole numbers that are float64 are read as int64, and what
//     is no UTF-8 is replaced. Both come from CBOR, numbers also from defaults in a
//     definition and from conversion webhooks.
//   - A built-in type in protobuf: it has no lists and maps that are empty, only none. They
//     come from objects that are stored as JSON or YAML while the server stores protobuf.
//   - A built-in type in JSON or YAML: what is no UTF-8 is replaced, and what is empty is
//     often left out. It comes from objects that are stored as protobuf while the server
//     stores JSON or YAML.
//
// Such objects only are kept a second time, in a form that loses nothing; see Frame.exact.

// exactly returns the second form of an object, nil if it needs none or if there is none that
// has more of it.
func (c *Codec) exactly(f *Frame, obj runtime.Object) ([]byte, error) {
	if c.custom {
		u, ok := obj.(*unstructured.Unstructured)
		if !ok || survivesJSON(u.Object) {
			return nil, nil
		}
		data, err := direct.Marshal(u.Object)
		return bytes.Clone(data), err
	}
	primary := f.primary.object()
	suspect := hasEmpty(obj)
	switch f.primary.format {
	case wire.Protobuf:
	case wire.JSON:
		suspect = suspect || bytes.Contains(primary, replaced)
	default:
		suspect = suspect || bytes.ContainsRune(primary, utf8.RuneError)
	}
	if !suspect {
		return nil, nil
	}
	gv, err := schema.ParseGroupVersion(f.typ.apiVersion)
	if err != nil || c.cfg.Types == nil {
		return nil, nil
	}
	a := answers{c.cfg.Types.Encoder(wire.JSON, gv), c.cfg.Types.Encoder(wire.Protobuf, gv)}
	if a.json == nil || a.protobuf == nil {
		return nil, nil
	}
	want, err := a.of(obj)
	if err != nil {
		return nil, nil // nor can upstream answer with it
	}
	for i, form := range []func() ([]byte, error){
		func() ([]byte, error) { return primary, nil },
		func() ([]byte, error) { return runtime.Encode(a.json, obj) },
		func() ([]byte, error) { return runtime.Encode(a.protobuf, obj) },
	} {
		data, err := form()
		if err != nil || !c.answersAlike(a, data, want) {
			continue
		}
		if i == 0 {
			return nil, nil
		}
		return bytes.Clone(data), nil
	}
	return nil, nil // no form has all of it
}

// answersAlike tells whether the answers are the same if data is what is decoded for them.
func (c *Codec) answersAlike(a answers, data, want []byte) bool {
	obj, err := c.decode(data)
	if err != nil {
		return false
	}
	got, err := a.of(obj)
	return err == nil && bytes.Equal(got, want)
}

// replaced is what encoding/json writes for what is no UTF-8. What has been U+FFFD before is
// written as it is.
var replaced = []byte(`\ufffd`)

// answers makes what can be seen of an object of a built-in type in its stored version.
type answers struct{ json, protobuf runtime.Encoder }

func (a answers) of(obj runtime.Object) ([]byte, error) {
	var both bytes.Buffer
	if err := a.json.Encode(obj, &both); err != nil {
		return nil, err
	}
	err := a.protobuf.Encode(obj, &both)
	return both.Bytes(), err
}

// survivesJSON tells whether a value of an unstructured object is the same when it has been
// written by encoding/json and read by UnstructuredJSONScheme.
func survivesJSON(value any) bool {
	switch v := value.(type) {
	case nil, bool, int64:
		return true
	case string:
		return utf8.ValidString(v)
	case float64:
		return !writtenAsInteger(v)
	case map[string]any:
		for key, value := range v {
			if !utf8.ValidString(key) || !survivesJSON(value) {
				return false
			}
		}
		return true
	case []any:
		for _, value := range v {
			if !survivesJSON(value) {
				return false
			}
		}
		return true
	default:
		return false // no decoder makes others
	}
}

// writtenAsInteger tells whether JSON has v as digits only that are read as an int64.
func writtenAsInteger(v float64) bool {
	return v == math.Trunc(v) && v >= math.MinInt64 && v < math.MaxInt64 // the last one as a float64 is 1<<63
}

// hasEmpty tells whether an object has a list or map in it that is empty, not nil, or one that
// is nil where it is itself an element.
func hasEmpty(obj runtime.Object) bool {
	v := reflect.ValueOf(obj)
	return planOf(v.Type()).finds(v)
}

// plan says where in the values of a type there may be lists and maps. What is behind an
// interface is not looked at: protobuf keeps it as JSON. Nor are unexported fields, which only
// the type itself encodes.
type plan struct {
	kind reflect.Kind
	// elem is the plan of what is pointed to or of what elements are, nil if there is nothing
	// to find in them.
	elem *plan
	// fields are those of a struct in which there is something to find.
	fields []fieldPlan
}

type fieldPlan struct {
	index int
	*plan
}

func (p *plan) finds(v reflect.Value) bool {
	switch p.kind {
	case reflect.Pointer:
		return p.elem != nil && !v.IsNil() && p.elem.finds(v.Elem())
	case reflect.Struct:
		for _, f := range p.fields {
			if f.finds(v.Field(f.index)) {
				return true
			}
		}
	case reflect.Slice:
		n := v.Len()
		if n == 0 {
			return !v.IsNil()
		}
		for i := 0; p.elem != nil && i < n; i++ {
			if p.elem.isNil(v.Index(i)) || p.elem.finds(v.Index(i)) {
				return true
			}
		}
	case reflect.Map:
		if v.Len() == 0 {
			return !v.IsNil()
		}
		if p.elem == nil {
			return false
		}
		for entry := v.MapRange(); entry.Next(); {
			if p.elem.isNil(entry.Value()) || p.elem.finds(entry.Value()) {
				return true
			}
		}
	}
	return false
}

// isNil tells whether v is a list or map that is nil.
func (p *plan) isNil(v reflect.Value) bool {
	return (p.kind == reflect.Slice || p.kind == reflect.Map) && v.IsNil()
}

// plans has those of the types of objects, and plansMu is held while one is made.
var (
	plans   sync.Map // reflect.Type → *plan
	plansMu sync.Mutex
)

func planOf(t reflect.Type) *plan {
	if known, ok := plans.Load(t); ok {
		return known.(*plan)
	}
	plansMu.Lock()
	defer plansMu.Unlock()
	p := compile(t, map[reflect.Type]*plan{})
	if p == nil {
		p = &plan{}
	}
	plans.Store(t, p)
	return p
}

// compile returns the plan of a type, nil if there is nothing to find. known has the structs
// that it has begun with: types refer to themselves.
func compile(t reflect.Type, known map[reflect.Type]*plan) *plan {
	if p, ok := known[t]; ok {
		return p
	}
	p := &plan{kind: t.Kind()}
	switch t.Kind() {
	case reflect.Pointer:
		if p.elem = compile(t.Elem(), known); p.elem == nil {
			return nil
		}
	case reflect.Slice, reflect.Map:
		p.elem = compile(t.Elem(), known)
	case reflect.Struct:
		known[t] = p
		for i := range t.NumField() {
			if !t.Field(i).IsExported() {
				continue
			}
			if inner := compile(t.Field(i).Type, known); inner != nil {
				p.fields = append(p.fields, fieldPlan{i, inner})
			}
		}
		if len(p.fields) == 0 {
			known[t] = nil
			return nil
		}
	default:
		return nil
	}
	return p
}

// Exact tells whether the object is kept a second time, because the primary encoding loses
// something of it.
func (f *Frame) Exact() bool { return f.exact != nil || f.base != nil && f.base.exact != nil }
