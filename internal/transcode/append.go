// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package transcode

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strconv"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// AppendJSON appends to dst the JSON of an object: what encoding/json makes of it once it
// is decoded from its message, which names neither kind nor apiVersion. There is no
// newline at the end. Where it returns an error, what it appended is of no use, and
// decoding is what remains.
func (o *Object) AppendJSON(dst []byte, apiVersion, kind string, message []byte) ([]byte, error) {
	s := writers.Get().(*writer)
	defer writers.Put(s)
	s.out, s.places, s.apiVersion, s.kind = dst, s.places[:0], apiVersion, kind
	err := s.object(o.root, message)
	dst, s.out = s.out, nil
	if err != nil {
		return dst, fmt.Errorf("writing %s %s as JSON: %w", apiVersion, kind, err)
	}
	return dst, nil
}

var writers = sync.Pool{New: func() any { return new(writer) }}

type writer struct {
	out []byte
	// places is a stack: a message that is being written has one for each of its fields.
	places []place
	// entries is a stack as well, of the maps that are being written.
	entries          []entry
	apiVersion, kind string
}

// place says where in a message a field's values are.
type place struct {
	// first is the offset behind the first tag, n how many there are.
	first, n int
}

var (
	errTruncated = errors.New("the message ends within a field")
	errWire      = errors.New("a field of the message comes in another wire type than its own")
	errTwice     = errors.New("a field of the message comes twice")
)

func (s *writer) object(m *message, b []byte) error {
	s.out = append(s.out, '{')
	if err := s.fields(m, b); err != nil {
		return err
	}
	s.out = append(s.out, '}')
	return nil
}

// fields writes the fields of a message, without the braces around them.
func (s *writer) fields(m *message, b []byte) error {
	base := len(s.places)
	defer func() { s.places = s.places[:base] }()
	for range m.wires {
		s.places = append(s.places, place{})
	}
	if err := s.find(m, base, b); err != nil {
		return err
	}
	for i := range m.fields {
		f := &m.fields[i]
		var p place
		if f.shape != typeMeta && f.shape != unknown {
			p = s.places[base+f.place]
		}
		if p.n == 0 && f.absence != zero {
			if f.absence == null {
				s.label(f.label)
				s.out = append(s.out, "null"...)
			}
			continue
		}
		if err := s.field(m, f, b, p); err != nil {
			return err
		}
	}
	return nil
}

// find fills the places of a message, which begin at base.
func (s *writer) find(m *message, base int, b []byte) error {
	for at := 0; at < len(b); {
		slot, value, end, err := next(m, b, at)
		if err != nil {
			return err
		}
		if slot > 0 {
			p := &s.places[base+slot-1]
			if p.n == 0 {
				p.first = value
			}
			p.n++
		}
		at = end
	}
	return nil
}

// next reads the field at an offset: the slot of its number, where its value begins
// (behind the tag), and where it ends.
func next(m *message, b []byte, at int) (slot, value, end int, err error) {
	tag, n := binary.Uvarint(b[at:])
	if n <= 0 {
		return 0, 0, 0, errTruncated
	}
	number, wire := tag>>3, uint8(tag&7)
	value = at + n
	if end, err = endOf(b, value, wire); err != nil {
		return 0, 0, 0, err
	}
	if number == 0 || number > 1<<29-1 {
		return 0, 0, 0, errWire
	}
	if number < uint64(len(m.slots)) {
		slot = int(m.slots[number])
	}
	if slot > 0 && m.wires[slot-1] != wire {
		return 0, 0, 0, errWire
	}
	return slot, value, end, nil
}

// endOf returns where the value ends that begins at an offset.
func endOf(b []byte, at int, wire uint8) (end int, err error) {
	switch wire {
	case varint:
		_, n := binary.Uvarint(b[at:])
		if n <= 0 {
			return 0, errTruncated
		}
		end = at + n
	case fixed64:
		end = at + 8
	case fixed32:
		end = at + 4
	case delimited:
		length, n := binary.Uvarint(b[at:])
		if n <= 0 || length > uint64(len(b)) {
			return 0, errTruncated
		}
		end = at + n + int(length)
	default:
		return 0, errWire
	}
	if end > len(b) {
		return 0, errTruncated
	}
	return end, nil
}

// contents returns what is in the value of wire type delimited at an offset.
func contents(b []byte, at int) []byte {
	length, n := binary.Uvarint(b[at:])
	return b[at+n : at+n+int(length)]
}

func (s *writer) field(m *message, f *field, b []byte, p place) error {
	switch f.shape {
	case unknown:
		return errors.New("cannot write " + f.why)
	case typeMeta:
		if s.kind != "" {
			s.label(kindLabel)
			s.string([]byte(s.kind))
		}
		if s.apiVersion != "" {
			s.label(apiVersionLabel)
			s.string([]byte(s.apiVersion))
		}
		return nil
	case list:
		return s.list(m, f, b, p)
	case dict:
		return s.dict(m, f, b, p)
	}
	if p.n > 1 {
		// The last one wins, or all are merged: no encoder writes that.
		return errTwice
	}
	if f.shape == inline {
		var inner []byte
		if p.n > 0 {
			inner = contents(b, p.first)
		}
		return s.fields(f.value.message, inner)
	}
	var raw []byte
	if p.n > 0 {
		raw = b[p.first:]
	}
	if f.omitted(raw) {
		return nil
	}
	s.label(f.label)
	return s.value(f.value, raw)
}

// omitted tells whether omitempty or omitzero leaves out a field for the value that raw
// begins with, or for its zero if raw is nil.
func (f *field) omitted(raw []byte) bool {
	if f.shape != single || !f.omitEmpty && !f.omitZero {
		return false
	}
	switch f.value.kind {
	case timestamp:
		if !f.omitZero || raw == nil {
			return f.omitZero
		}
		t, err := timeOf(contents(raw, 0))
		return err == nil && t.IsZero()
	case object, quantity, fieldSet, custom:
		return false // a struct is never empty
	case float64bits:
		return raw == nil || math.Float64frombits(binary.LittleEndian.Uint64(raw)) == 0
	case float32bits:
		return raw == nil || math.Float32frombits(binary.LittleEndian.Uint32(raw)) == 0
	case text, data:
		return raw == nil || len(contents(raw, 0)) == 0
	default:
		if raw == nil {
			return true
		}
		u, _ := binary.Uvarint(raw)
		return u == 0 || f.value.kind == integer32 && int32(u) == 0
	}
}

// label begins a field.
func (s *writer) label(label string) {
	s.comma()
	s.out = append(s.out, label...)
}

// comma separates what is written next in an object from what comes before it.
func (s *writer) comma() {
	if s.out[len(s.out)-1] != '{' {
		s.out = append(s.out, ',')
	}
}

func (s *writer) list(m *message, f *field, b []byte, p place) error {
	s.label(f.label)
	s.out = append(s.out, '[')
	at := p.first
	for i := 0; ; {
		if err := s.value(f.value, b[at:]); err != nil {
			return err
		}
		if i++; i == p.n {
			break
		}
		s.out = append(s.out, ',')
		at = following(m, f, b, at)
	}
	s.out = append(s.out, ']')
	return nil
}

// following returns the offset of a field's value after the one at an offset. There is
// one.
func following(m *message, f *field, b []byte, at int) int {
	// find has seen that all is well formed.
	at, _ = endOf(b, at, m.wires[f.place])
	for {
		slot, value, end, err := next(m, b, at)
		if err != nil || slot-1 == f.place {
			return value
		}
		at = end
	}
}

// entry is one of a map: raw is the value as in a message, nil if there is none.
type entry struct{ key, raw []byte }

// entryFields are the fields of a map's entry.
var entryFields = message{slots: []uint8{0, 1, 2}, wires: []uint8{delimited, delimited}}

func (s *writer) dict(m *message, f *field, b []byte, p place) error {
	base := len(s.entries)
	defer func() {
		clear(s.entries[base:])
		s.entries = s.entries[:base]
	}()
	for i, at := 0, p.first; ; {
		var e entry
		inner := contents(b, at)
		for at := 0; at < len(inner); {
			slot, value, end, err := next(&entryFields, inner, at)
			if err != nil {
				return err
			}
			switch slot {
			case 1:
				e.key = contents(inner, value)
			case 2:
				if e.raw != nil {
					return errTwice
				}
				e.raw = inner[value:]
			}
			at = end
		}
		s.entries = append(s.entries, e)
		if i++; i == p.n {
			break
		}
		at = following(m, f, b, at)
	}
	entries := s.entries[base:]
	slices.SortFunc(entries, func(a, b entry) int { return bytes.Compare(a.key, b.key) })
	for i := range entries[1:] {
		if bytes.Equal(entries[i].key, entries[i+1].key) {
			return errTwice
		}
	}
	s.label(f.label)
	s.out = append(s.out, '{')
	for _, e := range entries {
		s.comma()
		s.string(e.key)
		s.out = append(s.out, ':')
		if err := s.value(f.value, e.raw); err != nil {
			return err
		}
	}
	s.out = append(s.out, '}')
	return nil
}

// value writes the value that raw begins with; the zero if raw is nil.
func (s *writer) value(v value, raw []byte) error {
	var b []byte
	var u uint64
	if raw != nil {
		switch v.wire() {
		case delimited:
			b = contents(raw, 0)
		case varint:
			u, _ = binary.Uvarint(raw)
		}
	}
	switch v.kind {
	case object:
		return s.object(v.message, b)
	case text:
		s.string(b)
	case data:
		s.out = append(s.out, '"')
		s.out = base64.StdEncoding.AppendEncode(s.out, b)
		s.out = append(s.out, '"')
	case boolean:
		s.out = strconv.AppendBool(s.out, u != 0)
	case integer:
		s.out = strconv.AppendInt(s.out, int64(u), 10)
	case integer32:
		s.out = strconv.AppendInt(s.out, int64(int32(u)), 10)
	case unsigned:
		s.out = strconv.AppendUint(s.out, u, 10)
	case float64bits:
		var f float64
		if raw != nil {
			f = math.Float64frombits(binary.LittleEndian.Uint64(raw))
		}
		return s.marshal(f)
	case float32bits:
		var f float32
		if raw != nil {
			f = math.Float32frombits(binary.LittleEndian.Uint32(raw))
		}
		return s.marshal(f)
	case timestamp:
		return s.timestamp(b)
	case quantity:
		var q resource.Quantity
		if raw != nil {
			if err := q.Unmarshal(b); err != nil {
				return err
			}
		}
		text, err := q.MarshalJSON()
		if err != nil {
			return err
		}
		s.out = append(s.out, text...)
	case fieldSet:
		return s.fieldSet(b)
	case custom:
		p := reflect.New(v.typ)
		if v.typ.Kind() == reflect.Slice {
			p.Elem().Set(reflect.MakeSlice(v.typ, 0, 0)) // what is generated begins with T{}
		}
		if raw != nil {
			if err := p.Interface().(protobufMessage).Unmarshal(b); err != nil {
				return err
			}
		}
		return s.marshal(p.Interface())
	}
	return nil
}

func (s *writer) marshal(v any) error {
	text, err := json.Marshal(v)
	s.out = append(s.out, text...)
	return err
}

// plain are the bytes that encoding/json writes as they are.
var plain = func() (plain [256]bool) {
	for c := range plain {
		plain[c] = c >= ' ' && c < 0x80 && c != '"' && c != '\\' && c != '<' && c != '>' && c != '&'
	}
	return plain
}()

func (s *writer) string(b []byte) {
	for _, c := range b {
		if !plain[c] {
			// Marshalling a string does not fail.
			_ = s.marshal(string(b))
			return
		}
	}
	s.out = append(s.out, '"')
	s.out = append(s.out, b...)
	s.out = append(s.out, '"')
}

// timeOf reads a Time, of which metav1.Time.Unmarshal takes the seconds only.
func timeOf(b []byte) (time.Time, error) {
	if len(b) > 0 && b[0] == 1<<3|varint {
		seconds, n := binary.Uvarint(b[1:])
		// Behind it come the nanoseconds, which are 0. All else is left to Unmarshal.
		if rest := b[1+max(n, 0):]; n > 0 && (len(rest) == 0 || len(rest) == 2 && rest[0] == 2<<3|varint && rest[1] == 0) {
			return time.Unix(int64(seconds), 0), nil
		}
	}
	var t metav1.Time
	err := t.Unmarshal(b)
	return t.Time, err
}

func (s *writer) timestamp(b []byte) error {
	t, err := timeOf(b)
	if err != nil {
		return err
	}
	if t.IsZero() {
		s.out = append(s.out, "null"...)
		return nil
	}
	s.out = append(s.out, '"')
	s.out = t.UTC().AppendFormat(s.out, time.RFC3339)
	s.out = append(s.out, '"')
	return nil
}

// fieldSet writes the set of fields that a manager owns, which is JSON already:
// objects in objects, and nothing else. objectsOnly checks for that; whatever is not as plain
// goes through its own methods.
func (s *writer) fieldSet(b []byte) error {
	if len(b) > 0 && b[0] == 1<<3|delimited {
		if length, n := binary.Uvarint(b[1:]); n > 0 && uint64(len(b)-1-n) == length {
			if raw := b[1+n:]; objectsOnly(raw) {
				s.out = append(s.out, raw...)
				return nil
			}
		}
	}
	var f metav1.FieldsV1
	if err := f.Unmarshal(b); err != nil {
		return err
	}
	return s.marshal(f)
}

// objectsOnly tells whether b is a JSON object whose values are such objects, written as
// encoding/json writes them.
func objectsOnly(b []byte) bool {
	depth := 0
	// begun says that an object has just begun, ended that one has just ended.
	begun, ended := false, false
	for i := 0; i < len(b); i++ {
		switch c := b[i]; {
		case c == '{' && i == 0:
			depth, begun = 1, true
		case c == '}' && depth > 0 && (begun || ended):
			depth--
			begun, ended = false, true
			if depth == 0 {
				return i == len(b)-1
			}
		case c == ',' && ended || c == '"' && begun:
			if c == ',' {
				if i++; i == len(b) || b[i] != '"' {
					return false
				}
			}
			end := plainString(b, i+1)
			if end < 0 || end+2 >= len(b) || b[end+1] != ':' || b[end+2] != '{' {
				return false
			}
			i = end + 2
			depth++
			begun, ended = true, false
		default:
			return false
		}
	}
	return false
}

// plainString returns where the string ends that begins at i, behind its quote; -1 if it
// has anything that encoding/json would write in another way.
func plainString(b []byte, i int) int {
	for ; i < len(b); i++ {
		switch c := b[i]; {
		case c == '"':
			return i
		case plain[c]:
		case c == '\\' && i+1 < len(b) && (b[i+1] == '"' || b[i+1] == '\\'):
			i++
		default:
			return -1
		}
	}
	return -1
}
