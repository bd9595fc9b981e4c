// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package transcode

import (
	"encoding"
	"encoding/json"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"sync"

	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Object makes JSON of the messages of one API type. It may be used by any number of
// goroutines.
type Object struct{ root *message }

// message is a struct type that is kept as a protobuf message.
type message struct {
	// fields are in the order in which encoding/json writes them.
	fields []field
	// slots has the place of each field of the message, by its number in protobuf, plus
	// one; 0 is a number that the struct does not have.
	slots []uint8
	// wires has, for each place, the wire type that its values come in.
	wires []uint8
}

// shape is how a field holds its values.
type shape uint8

const (
	// single is a value that is always there, if only as its zero.
	single shape = iota
	// pointer is a value that is there or not.
	pointer
	list
	dict
	// inline is a struct whose fields are written among those of the struct around it.
	inline
	// typeMeta is the type's name, which a message does not have.
	typeMeta
	// unknown is what cannot be written.
	unknown
)

// absence is what is written of a field that the message does not have.
type absence uint8

const (
	// zero is written as a value is.
	zero absence = iota
	null
	nothing
)

type field struct {
	shape
	// place is that of the values: an index of message.wires.
	place int
	// label is the name as JSON has it, with quotes and colon.
	label               string
	omitEmpty, omitZero bool
	absence
	// value is what is held: the element of a list, the value of a map.
	value value
	// why an unknown field cannot be written.
	why string
}

// kind is how a value is written.
type kind uint8

const (
	object kind = iota
	text
	data // base64
	boolean
	integer
	integer32
	unsigned
	float64bits
	float32bits
	timestamp
	quantity
	fieldSet
	// custom values are decoded and encode themselves.
	custom
)

type value struct {
	kind
	message *message     // of an object
	typ     reflect.Type // of a custom value
}

const (
	varint    = 0
	fixed64   = 1
	delimited = 2
	fixed32   = 5
)

// wire returns the wire type of a value; that of a map's entries is that of their values,
// delimited.
func (v value) wire() uint8 {
	switch v.kind {
	case boolean, integer, integer32, unsigned:
		return varint
	case float64bits:
		return fixed64
	case float32bits:
		return fixed32
	}
	return delimited
}

// objects has an *Object for each type that was asked for: there are few.
var objects sync.Map // reflect.Type → *Object

// For returns the Object of a struct type that has generated protobuf methods and begins
// with a TypeMeta, as all types of API objects do.
func For(t reflect.Type) *Object {
	if o, ok := objects.Load(t); ok {
		return o.(*Object)
	}
	c := compiler{root: t, messages: map[reflect.Type]*message{}}
	root := c.message(t)
	for t, m := range c.messages {
		m.refuseTwins(t)
	}
	o, _ := objects.LoadOrStore(t, &Object{root})
	return o.(*Object)
}

// compiler reads struct types.
type compiler struct {
	// root is the type whose name is known.
	root reflect.Type
	// messages are those read so far: types refer to themselves.
	messages map[reflect.Type]*message
}

var typeMetaType = reflect.TypeFor[metav1.TypeMeta]()

func (c *compiler) message(t reflect.Type) *message {
	if m, ok := c.messages[t]; ok {
		return m
	}
	m := &message{}
	c.messages[t] = m
	for i := range t.NumField() {
		if f, ok := c.field(m, t.Field(i), t == c.root); ok {
			m.fields = append(m.fields, f)
		}
	}
	return m
}

// refuseTwins makes a message that has fields of the same name unwritable: encoding/json
// has rules for which of them wins.
func (m *message) refuseTwins(t reflect.Type) {
	names := map[string]bool{}
	for i := range m.fields {
		for _, name := range m.fields[i].names() {
			if names[name] {
				m.fields = append(m.fields, field{shape: unknown, why: fmt.Sprintf("two fields %s of %s", name, t)})
				return
			}
			names[name] = true
		}
	}
}

// names are the labels that a field writes.
func (f *field) names() []string {
	switch f.shape {
	case inline:
		var all []string
		for i := range f.value.message.fields {
			all = append(all, f.value.message.fields[i].names()...)
		}
		return all
	case typeMeta:
		return []string{kindLabel, apiVersionLabel}
	case unknown:
		return nil
	}
	return []string{f.label}
}

const (
	kindLabel       = `"kind":`
	apiVersionLabel = `"apiVersion":`
)

// field reads one field of a struct; false if JSON does not have it.
func (c *compiler) field(m *message, sf reflect.StructField, root bool) (field, bool) {
	tag := sf.Tag.Get("json")
	if tag == "-" || !sf.IsExported() && !sf.Anonymous {
		return field{}, false
	}
	name, options, _ := strings.Cut(tag, ",")
	f := field{}
	for option := range strings.SplitSeq(options, ",") {
		switch option {
		case "omitempty":
			f.omitEmpty = true
		case "omitzero":
			f.omitZero = true
		case "inline", "":
			// encoding/json knows no such option: a struct is inline if it has no name.
		default:
			return unwritable("the json option %s of %s", option, sf.Name)
		}
	}
	embedded := sf.Anonymous && name == ""
	if embedded && sf.Type == typeMetaType && root {
		f.shape = typeMeta
		return f, true
	}
	if embedded && sf.Type.Kind() != reflect.Struct {
		return unwritable("the embedded %s", sf.Type)
	}
	number, ok := protobufNumber(sf.Tag.Get("protobuf"))
	if !ok {
		return unwritable("%s, which protobuf does not keep", sf.Name)
	}
	if name == "" {
		name = sf.Name
	}
	quoted, err := json.Marshal(name)
	if err != nil {
		return unwritable("the name of %s", sf.Name)
	}
	f.label = string(quoted) + ":"
	if f.shape, f.value, err = c.shape(sf.Type); err != nil {
		return unwritable("%s: %v", sf.Name, err)
	}
	if (f.shape == single || f.shape == pointer) && f.value.kind == custom && f.value.typ.Kind() != reflect.Struct {
		return unwritable("%s, a message that is a %s", sf.Name, f.value.typ.Kind())
	}
	if embedded {
		if f.shape != single || f.value.kind != object {
			return unwritable("the embedded %s", sf.Type)
		}
		f.shape = inline
	}
	if f.omitZero && (f.shape != single || f.value.kind != timestamp) {
		return unwritable("omitzero of %s", sf.Name)
	}
	f.absence = f.whenAbsent()
	f.place = len(m.wires)
	m.wires = append(m.wires, f.value.wire())
	for len(m.slots) <= number {
		m.slots = append(m.slots, 0)
	}
	if len(m.wires) > 255 || m.slots[number] != 0 {
		return unwritable("the number of %s", sf.Name)
	}
	m.slots[number] = uint8(len(m.wires))
	return f, true
}

func (f *field) whenAbsent() absence {
	switch nilable := f.shape == pointer || f.shape == list || f.shape == dict || f.shape == single && f.value.kind == data; {
	case nilable && f.omitEmpty, f.omitted(nil):
		return nothing
	case nilable:
		return null
	default:
		return zero
	}
}

func unwritable(format string, args ...any) (field, bool) {
	return field{shape: unknown, why: fmt.Sprintf(format, args...)}, true
}

// protobufNumber reads the number of a field, as in
// `protobuf:"bytes,1,opt,name=metadata"`. The wire type there is not always the one that is
// generated, which follows from the Go type.
func protobufNumber(tag string) (number int, ok bool) {
	parts := strings.Split(tag, ",")
	if len(parts) < 3 {
		return 0, false
	}
	number, err := strconv.Atoi(parts[1])
	return number, err == nil && number > 0 && number < 1000
}

func (c *compiler) shape(t reflect.Type) (shape, value, error) {
	if t.Kind() == reflect.Pointer {
		v, err := c.value(t.Elem())
		return pointer, v, err
	}
	if v, err := c.value(t); err == nil {
		return single, v, nil
	}
	switch t.Kind() {
	case reflect.Slice:
		v, err := c.value(t.Elem())
		return list, v, err
	case reflect.Map:
		if t.Key().Kind() != reflect.String || t.Key().Implements(textMarshaler) {
			return 0, value{}, fmt.Errorf("a map of %s", t.Key())
		}
		v, err := c.value(t.Elem())
		if err == nil && v.wire() != delimited {
			err = fmt.Errorf("a map to %s", t.Elem())
		}
		return dict, v, err
	}
	return 0, value{}, fmt.Errorf("a field of type %s", t)
}

var (
	jsonMarshaler = reflect.TypeFor[json.Marshaler]()
	textMarshaler = reflect.TypeFor[encoding.TextMarshaler]()
	unmarshaler   = reflect.TypeFor[protobufMessage]()
)

// protobufMessage has a generated method.
type protobufMessage interface{ Unmarshal([]byte) error }

var kinds = map[reflect.Type]kind{
	reflect.TypeFor[metav1.Time]():       timestamp,
	reflect.TypeFor[metav1.FieldsV1]():   fieldSet,
	reflect.TypeFor[resource.Quantity](): quantity,
}

func (c *compiler) value(t reflect.Type) (value, error) {
	if k, ok := kinds[t]; ok {
		return value{kind: k}, nil
	}
	p := reflect.PointerTo(t)
	encodes := t.Implements(jsonMarshaler) || t.Implements(textMarshaler)
	switch {
	case !encodes && (p.Implements(jsonMarshaler) || p.Implements(textMarshaler)):
		return value{}, fmt.Errorf("%s, of which only the pointer encodes itself", t)
	case p.Implements(unmarshaler) && (encodes || t.Kind() != reflect.Struct):
		return value{kind: custom, typ: t}, nil
	case encodes:
		return value{}, fmt.Errorf("%s, which encodes itself and is no message", t)
	case t == c.root:
		return value{}, fmt.Errorf("%s within itself", t)
	case p.Implements(unmarshaler):
		return value{kind: object, message: c.message(t)}, nil
	}
	switch t.Kind() {
	case reflect.String:
		return value{kind: text}, nil
	case reflect.Bool:
		return value{kind: boolean}, nil
	case reflect.Int, reflect.Int64:
		return value{kind: integer}, nil
	case reflect.Int32:
		return value{kind: integer32}, nil
	case reflect.Uint64:
		return value{kind: unsigned}, nil
	case reflect.Float64:
		return value{kind: float64bits}, nil
	case reflect.Float32:
		return value{kind: float32bits}, nil
	case reflect.Slice:
		if t.Elem() == reflect.TypeFor[byte]() {
			return value{kind: data}, nil
		}
	}
	return value{}, fmt.Errorf("a value of type %s", t)
}
