// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"math"

	"github.com/fxamacker/cbor/v2"
)

// ErrNotSpliced means that an encoded list does not have the one place where its
// items go.
var ErrNotSpliced = errors.New("the encoded list has no place for items that is known")

// ListFormat is how a list is written.
type ListFormat uint8

const (
	// ListJSON is JSON without white space.
	ListJSON ListFormat = iota
	// ListPretty is JSON indented by two spaces.
	ListPretty
	// ListYAML is YAML as sigs.k8s.io/yaml writes it.
	ListYAML
	// ListProtobuf is Kubernetes' protobuf: "k8s\0" and a runtime.Unknown round the list.
	ListProtobuf
	// ListCBOR is CBOR in which keys are byte strings, as Kubernetes writes them.
	ListCBOR
)

const (
	typeMetaTag = 0x0a // Unknown.typeMeta, a message
	unknownRaw  = 0x12 // Unknown.raw, bytes
	firstField  = 0x0a // a message's field 1: the metadata of an object
	// lengthDelimited is the wire type of messages and bytes, the low bits of a tag.
	lengthDelimited = 2
)

var (
	magic = []byte("k8s\x00")
	// unknownTail is what ends a runtime.Unknown: contentEncoding and contentType, both
	// empty and always written.
	unknownTail = []byte{0x1a, 0x00, 0x22, 0x00}
	// selfDescribed is what Kubernetes begins CBOR with: the tag of self-described CBOR.
	selfDescribed = []byte{0xd9, 0xd9, 0xf7}
)

// Place says where the items of a list are: Name is the field in JSON, YAML and CBOR,
// Number the one in protobuf.
type Place struct {
	Name   string
	Number byte
}

// The places where lists have their items.
var (
	ItemsOfList = Place{Name: "items", Number: 2}
	RowsOfTable = Place{Name: "rows", Number: 2}
	// ItemsFirst is that of PartialObjectMetadataList in meta.k8s.io/v1beta1.
	ItemsFirst = Place{Name: "items", Number: 1}
)

// List is an encoded list, taken apart where its items go:
//
//	Head, then Before and an item for each, then Tail
//
// An item stands in it as its format wants it: JSON, indented to where it belongs for
// ListPretty; the lines of a YAML sequence; a protobuf message; CBOR.
type List struct {
	// Items are those that the list had already, as they stood in it.
	Items [][]byte

	format ListFormat
	// head and tail are what stands before the items and after them, as far as that does
	// not depend on them. In protobuf they are those of the list's message.
	head, tail []byte
	// typ is, in protobuf, what names the list's type, and itemTag the tag of an item.
	typ     []byte
	itemTag byte
}

// SplitList takes an encoded list apart. The result refers to list. It returns
// ErrNotSpliced if there is not exactly one place for items.
func SplitList(format ListFormat, place Place, list []byte) (*List, error) {
	l := &List{format: format}
	ok := false
	switch format {
	case ListJSON, ListPretty:
		ok = l.splitJSON(place.Name, list)
	case ListYAML:
		ok = l.splitYAML(place.Name, list)
	case ListProtobuf:
		ok = l.splitProtobuf(place.Number, list)
	case ListCBOR:
		ok = l.splitCBOR(place.Name, list)
	}
	if !ok {
		return nil, ErrNotSpliced
	}
	return l, nil
}

// splitJSON takes apart an object at the one field of that name.
func (l *List) splitJSON(name string, list []byte) bool {
	d := json.NewDecoder(bytes.NewReader(list))
	// next returns where in list the next value is.
	next := func() (start, end int, ok bool) {
		var value json.RawMessage
		if d.Decode(&value) != nil {
			return 0, 0, false
		}
		end = int(d.InputOffset())
		return end - len(value), end, true
	}
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return false
	}
	start, end := -1, -1
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return false
		}
		from, to, ok := next()
		if !ok || key == name && start >= 0 {
			return false
		}
		if key == name {
			start, end = from, to
		}
	}
	if _, err := d.Token(); err != nil || start < 0 {
		return false
	}
	l.head, l.tail = list[:start:start], list[end:]
	array := list[start:end]
	if string(array) == "null" {
		return true
	}
	d = json.NewDecoder(bytes.NewReader(array))
	if t, err := d.Token(); err != nil || t != json.Delim('[') {
		return false
	}
	for d.More() {
		from, to, ok := next()
		if !ok {
			return false
		}
		l.Items = append(l.Items, array[from:to:to])
	}
	return true
}

// In YAML these end a line, too: what follows them is not indented if it is a quote that ends a
// string or a further end of a line. They stand in a list as they are where a string has several
// lines.
var (
	lineSeparator      = []byte("\u2028")
	paragraphSeparator = []byte("\u2029")
)

// splitYAML takes apart a mapping at the one field of that name. A line that begins with
// something else than a space is of the mapping itself, or begins an item of a sequence. It does
// not take apart items that have other ends of lines than a newline.
func (l *List) splitYAML(name string, list []byte) bool {
	key := name + ":"
	var rest []byte
	for from := 0; from < len(list); {
		line, _, _ := bytes.Cut(list[from:], []byte("\n"))
		if bytes.HasPrefix(line, []byte(key)) {
			if l.head != nil {
				return false
			}
			end := from + len(key)
			l.head, rest = list[:end:end], list[end:]
		}
		from += len(line) + 1
	}
	for _, nothing := range [...]string{" []\n", " null\n"} {
		if tail, ok := bytes.CutPrefix(rest, []byte(nothing)); ok {
			l.tail = tail
			return true
		}
	}
	rest, ok := bytes.CutPrefix(rest, []byte("\n"))
	if !ok || !bytes.HasPrefix(rest, []byte("- ")) || bytes.Contains(rest, lineSeparator) || bytes.Contains(rest, paragraphSeparator) {
		return false
	}
	begun, at := 0, 0
	for at < len(rest) {
		if at > 0 && rest[at] != ' ' && rest[at] != '\n' {
			l.Items = append(l.Items, rest[begun:at:at])
			if begun = at; rest[at] != '-' {
				break
			}
		}
		line, _, _ := bytes.Cut(rest[at:], []byte("\n"))
		at = min(at+len(line)+1, len(rest))
	}
	if at == len(rest) {
		l.Items = append(l.Items, rest[begun:])
	}
	l.tail = rest[at:]
	return true
}

// splitProtobuf takes apart a message whose fields stand in the order of their numbers.
func (l *List) splitProtobuf(number byte, list []byte) bool {
	typ, raw, ok := cutUnknown(list)
	if !ok || len(raw) == 0 {
		return false
	}
	l.typ, l.itemTag = typ, number<<3|lengthDelimited
	begun, end := 0, 0
	for at := 0; at < len(raw); {
		tag := raw[at]
		value, rest, ok := cutField(raw[at:], tag)
		if !ok || tag&7 != lengthDelimited || tag < firstField {
			return false
		}
		next := len(raw) - len(rest)
		switch {
		case tag < l.itemTag:
			begun, end = next, next
			if len(l.Items) > 0 {
				return false
			}
		case tag == l.itemTag:
			if at != end {
				return false
			}
			l.Items = append(l.Items, value)
			end = next
		}
		at = next
	}
	l.head, l.tail = raw[:begun:begun], raw[end:]
	return true
}

// cborItems tells where the items of CBOR end, of whatever number and depth.
var cborItems = func() cbor.DecMode {
	mode, err := cbor.DecOptions{
		MaxNestedLevels: math.MaxUint16, MaxArrayElements: math.MaxInt32, MaxMapPairs: math.MaxInt32,
	}.DecMode()
	if err != nil {
		panic(err) // these options are constant
	}
	return mode
}()

// splitCBOR takes apart a map at the one field of that name.
func (l *List) splitCBOR(name string, list []byte) bool {
	const array, null = 4, 0xf6
	pairs, rest, ok := cutCBORHeader(5, bytes.TrimPrefix(list, selfDescribed))
	if !ok {
		return false
	}
	key := append([]byte{0x40 | byte(len(name))}, name...) // a byte string, of which Kubernetes makes keys
	var before, value []byte
	for range pairs {
		var k, v cbor.RawMessage
		at := rest
		if rest, ok = cutCBORItem(rest, &k); !ok {
			return false
		}
		if rest, ok = cutCBORItem(rest, &v); !ok {
			return false
		}
		if !bytes.Equal(k, key) {
			continue
		}
		if l.head != nil {
			return false
		}
		before, value = at, at[len(k):len(k)+len(v)]
		start := len(list) - len(before) + len(k)
		l.head, l.tail = list[:start:start], list[start+len(v):]
	}
	if l.head == nil || len(rest) > 0 {
		return false
	}
	if value[0] == null {
		return true
	}
	count, rest, ok := cutCBORHeader(array, value)
	if !ok {
		return false
	}
	for range count {
		var item cbor.RawMessage
		if rest, ok = cutCBORItem(rest, &item); !ok {
			return false
		}
		l.Items = append(l.Items, item)
	}
	return true
}

// cutCBORItem cuts one item off.
func cutCBORItem(data []byte, item *cbor.RawMessage) (rest []byte, ok bool) {
	rest, err := cborItems.UnmarshalFirst(data, item)
	return rest, err == nil
}

// cutCBORHeader cuts the header of a map or an array off, and returns how many pairs or
// items follow. Those of unknown length are refused.
func cutCBORHeader(major byte, data []byte) (n int, rest []byte, ok bool) {
	if len(data) == 0 || data[0]>>5 != major {
		return 0, nil, false
	}
	small := data[0] & 0x1f
	data = data[1:]
	if small < 24 {
		return int(small), data, true
	}
	size := 1 << (small - 24)
	if small > 26 || len(data) < size {
		return 0, nil, false
	}
	for _, b := range data[:size] {
		n = n<<8 | int(b)
	}
	return n, data[size:], true
}

// Head returns what stands before the items of a list that has any. count is their
// number, which matters in CBOR only, and size the sum of ProtobufItemSize of each, which
// matters in protobuf only.
func (l *List) Head(count, size int) []byte {
	switch l.format {
	case ListJSON, ListPretty:
		return append(bytes.Clone(l.head), '[')
	case ListYAML:
		return append(bytes.Clone(l.head), '\n')
	case ListProtobuf:
		head := make([]byte, 0, len(magic)+len(l.typ)+len(l.head)+4+2*binary.MaxVarintLen64)
		head = append(head, magic...)
		head = append(head, typeMetaTag)
		head = binary.AppendUvarint(head, uint64(len(l.typ)))
		head = append(head, l.typ...)
		head = append(head, unknownRaw)
		head = binary.AppendUvarint(head, uint64(len(l.head)+size+len(l.tail)))
		return append(head, l.head...)
	case ListCBOR:
		return appendCBORArray(bytes.Clone(l.head), count)
	default:
		return l.head
	}
}

// AppendBefore appends what stands before an item of size bytes, which is the first or
// not.
func (l *List) AppendBefore(dst []byte, first bool, size int) []byte {
	switch l.format {
	case ListJSON:
		if !first {
			dst = append(dst, ',')
		}
	case ListPretty:
		if !first {
			dst = append(dst, ',')
		}
		dst = append(dst, "\n    "...)
	case ListProtobuf:
		dst = binary.AppendUvarint(append(dst, l.itemTag), uint64(size))
	}
	return dst
}

// ProtobufItemSize returns how much an item of size bytes adds to a list in protobuf.
func ProtobufItemSize(size int) int { return 1 + uvarintLen(uint64(size)) + size }

// Tail returns what stands after the items of a list that has any.
func (l *List) Tail() []byte {
	switch l.format {
	case ListJSON:
		return append([]byte("]"), l.tail...)
	case ListPretty:
		return append([]byte("\n  ]"), l.tail...)
	case ListProtobuf:
		return append(bytes.Clone(l.tail), unknownTail...)
	default:
		return l.tail
	}
}

// PrettyPrefix is what each line of an item but the first begins with in ListPretty, and
// PrettyIndent what each level adds; see json.Indent.
const (
	PrettyPrefix = "    "
	PrettyIndent = "  "
)

// CompleteCBOR tells whether a list in CBOR is all there.
func CompleteCBOR(list []byte) bool {
	return cborItems.Wellformed(bytes.TrimPrefix(list, selfDescribed)) == nil
}

// appendCBORArray appends the header of an array of n items.
func appendCBORArray(dst []byte, n int) []byte {
	const array = 0x80
	switch {
	case n < 24:
		return append(dst, array|byte(n))
	case n <= math.MaxUint8:
		return append(dst, array|24, byte(n))
	case n <= math.MaxUint16:
		return binary.BigEndian.AppendUint16(append(dst, array|25), uint16(n))
	default:
		return binary.BigEndian.AppendUint32(append(dst, array|26), uint32(n))
	}
}

// JSONItem returns an encoded object as it stands in a list of its type, which names
// the type itself: without the kind and apiVersion that the object begins with. The
// object of a custom resource keeps them, wherever they are.
func JSONItem(object []byte, typePrefix []byte) (head, rest []byte) {
	if len(typePrefix) > 0 && bytes.HasPrefix(object, typePrefix) {
		return object[:1], object[len(typePrefix):]
	}
	return nil, object
}

// JSONTypePrefix returns what an object of a built-in type begins with in JSON.
func JSONTypePrefix(apiVersion, kind string) []byte {
	return []byte(`{"kind":"` + kind + `","apiVersion":"` + apiVersion + `",`)
}

// ProtobufTail is how many bytes stand behind the message in an object or list that is
// encoded for a stream of its own.
const ProtobufTail = 4

// ProtobufBody tells where the message begins in an object or list encoded for a stream of
// its own; it ends ProtobufTail before the end. It is false also for one that is not
// complete.
func ProtobufBody(object []byte) (start int, ok bool) {
	_, raw, ok := cutUnknown(object)
	return len(object) - ProtobufTail - len(raw), ok
}

// ProtobufMetadata returns the metadata in the message of an object, itself a message.
func ProtobufMetadata(body []byte) ([]byte, bool) {
	metadata, _, ok := cutField(body, firstField)
	return metadata, ok
}

// AppendProtobufMetadata appends the message of an object that has metadata only.
func AppendProtobufMetadata(dst, metadata []byte) []byte {
	dst = binary.AppendUvarint(append(dst, firstField), uint64(len(metadata)))
	return append(dst, metadata...)
}

// cutUnknown returns the type and the message in "k8s\0" and a runtime.Unknown.
func cutUnknown(object []byte) (meta, raw []byte, ok bool) {
	body, ok := bytes.CutPrefix(object, magic)
	if !ok {
		return nil, nil, false
	}
	meta, rest, ok := cutField(body, typeMetaTag)
	if !ok {
		return nil, nil, false
	}
	raw, rest, ok = cutField(rest, unknownRaw)
	return meta, raw, ok && bytes.Equal(rest, unknownTail)
}

// cutField splits a length-delimited field with the given tag off a message.
func cutField(message []byte, tag byte) (value, rest []byte, ok bool) {
	if len(message) == 0 || message[0] != tag {
		return nil, nil, false
	}
	n, size := binary.Uvarint(message[1:])
	if size <= 0 || n > uint64(len(message)-1-size) {
		return nil, nil, false
	}
	message = message[1+size:]
	return message[:n], message[n:], true
}

// ProtobufType returns the type that an encoded object or list names.
func ProtobufType(object []byte) (apiVersion, kind string, ok bool) {
	body, ok := bytes.CutPrefix(object, magic)
	if !ok {
		return "", "", false
	}
	meta, _, ok := cutField(body, typeMetaTag)
	if !ok {
		return "", "", false
	}
	v, rest, ok := cutField(meta, 0x0a) // TypeMeta.apiVersion
	if !ok {
		return "", "", false
	}
	k, _, ok := cutField(rest, 0x12) // TypeMeta.kind
	return string(v), string(k), ok
}
