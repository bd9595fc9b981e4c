// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
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
	firstField  = 0x0a // a message's field 1: metadata of objects and of most lists
	secondField = 0x12 // field 2: items of most lists
)

var (
	magic = []byte("k8s\x00")
	// unknownTail is what ends a runtime.Unknown: contentEncoding and contentType, both
	// empty and always written.
	unknownTail = []byte{0x1a, 0x00, 0x22, 0x00}
)

// List is an encoded list without items, taken apart where its items go:
//
//	Head, then Before and an item for each, then Tail
//
// An item stands in it as its format wants it: JSON, indented to where it belongs for
// ListPretty; the lines of a YAML sequence; a protobuf message; CBOR.
type List struct {
	format ListFormat
	// head and tail are what stands before the items and after them, as far as that does
	// not depend on them.
	head, tail []byte
	// raw is, in protobuf, the list message without items, and itemTag the tag of an item.
	raw     []byte
	itemTag byte
}

// SplitList takes an encoded list without items apart. field is the name of its items:
// "items", or "rows" for a Table. The result refers to list. It returns ErrNotSpliced if
// there is not exactly one place for items.
func SplitList(format ListFormat, field string, list []byte) (*List, error) {
	switch format {
	case ListJSON:
		return splitAt(format, list, `"`+field+`":`, "[]", "null")
	case ListPretty:
		return splitAt(format, list, "\n  \""+field+`": `, "[]", "null")
	case ListYAML:
		// A key of the top level begins its line, which may be the first.
		l, err := splitAt(format, append([]byte("\n"), list...), "\n"+field+":", " []\n", " null\n")
		if err == nil {
			l.head = l.head[1:]
		}
		return l, err
	case ListProtobuf:
		return splitProtobuf(list)
	case ListCBOR:
		if len(field) >= 24 {
			return nil, ErrNotSpliced // its length would not fit the initial byte
		}
		return splitAt(format, list, string(rune(0x40|len(field)))+field, "\x80", "\xf6")
	default:
		return nil, ErrNotSpliced
	}
}

// splitAt takes list apart at the one place where key stands before one of the ways to
// write that there are no items.
func splitAt(format ListFormat, list []byte, key string, nothing ...string) (*List, error) {
	var found *List
	for _, n := range nothing {
		before, after, ok := bytes.Cut(list, []byte(key+n))
		if !ok {
			continue
		}
		if found != nil || bytes.Contains(after, []byte(key+n)) {
			return nil, ErrNotSpliced
		}
		found = &List{format: format, head: list[:len(before)+len(key)], tail: after}
	}
	if found == nil {
		return nil, ErrNotSpliced
	}
	return found, nil
}

func splitProtobuf(list []byte) (*List, error) {
	meta, raw, ok := cutUnknown(list)
	if !ok || len(raw) == 0 {
		return nil, ErrNotSpliced
	}
	l := &List{format: ListProtobuf, head: meta, raw: raw}
	switch raw[0] {
	case firstField:
		l.itemTag = secondField
	case secondField:
		// PartialObjectMetadataList of meta.k8s.io/v1beta1 has its items first.
		l.itemTag = firstField
	default:
		return nil, ErrNotSpliced
	}
	return l, nil
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
		head := make([]byte, 0, len(magic)+len(l.head)+len(l.raw)+4+2*binary.MaxVarintLen64)
		head = append(head, magic...)
		head = append(head, typeMetaTag)
		head = binary.AppendUvarint(head, uint64(len(l.head)))
		head = append(head, l.head...)
		head = append(head, unknownRaw)
		head = binary.AppendUvarint(head, uint64(len(l.raw)+size))
		if l.itemTag == secondField {
			head = append(head, l.raw...)
		}
		return head
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
		if l.itemTag == firstField {
			return append(bytes.Clone(l.raw), unknownTail...)
		}
		return unknownTail
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
