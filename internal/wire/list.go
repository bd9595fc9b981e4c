// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"bytes"
	"encoding/binary"
	"errors"
)

// ErrNotSpliced means that an encoded list does not have the one place where its
// items go: it is pretty printed, or a Table, or not in a format known here.
var ErrNotSpliced = errors.New("the encoded list has no place for items that is known")

var (
	jsonNoItems = []byte(`"items":[]`)
	magic       = []byte("k8s\x00")
	// unknownTail is what ends a runtime.Unknown: contentEncoding and contentType, both
	// empty and always written.
	unknownTail = []byte{0x1a, 0x00, 0x22, 0x00}
)

const (
	typeMetaTag = 0x0a // Unknown.typeMeta, a message
	unknownRaw  = 0x12 // Unknown.raw, bytes
	itemTag     = 0x12 // items, field 2 of every list
)

// SplitJSON splits an encoded list without items where they belong: items, with
// commas between them, go between head and tail.
func SplitJSON(list []byte) (head, tail []byte, err error) {
	if bytes.Count(list, jsonNoItems) != 1 {
		return nil, nil, ErrNotSpliced
	}
	i := bytes.Index(list, jsonNoItems) + len(jsonNoItems) - 1
	return list[:i], list[i:], nil
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

// SplitProtobuf splits an encoded list without items: the returned function makes its
// head for items of total bytes, tags and lengths included; they go between head and
// tail.
func SplitProtobuf(list []byte) (head func(total int) []byte, tail []byte, err error) {
	body, ok := bytes.CutPrefix(list, magic)
	if !ok {
		return nil, nil, ErrNotSpliced
	}
	meta, rest, ok := cutField(body, typeMetaTag)
	if !ok {
		return nil, nil, ErrNotSpliced
	}
	raw, rest, ok := cutField(rest, unknownRaw)
	if !ok || !bytes.Equal(rest, unknownTail) {
		return nil, nil, ErrNotSpliced
	}
	return func(total int) []byte {
		head := make([]byte, 0, len(list)+binary.MaxVarintLen64)
		head = append(head, magic...)
		head = append(head, typeMetaTag)
		head = binary.AppendUvarint(head, uint64(len(meta)))
		head = append(head, meta...)
		head = append(head, unknownRaw)
		head = binary.AppendUvarint(head, uint64(len(raw)+total))
		return append(head, raw...)
	}, unknownTail, nil
}

// ProtobufBody returns the message in an object encoded for a stream of its own.
func ProtobufBody(object []byte) ([]byte, bool) {
	body, ok := bytes.CutPrefix(object, magic)
	if !ok {
		return nil, false
	}
	if _, body, ok = cutField(body, typeMetaTag); !ok {
		return nil, false
	}
	raw, rest, ok := cutField(body, unknownRaw)
	return raw, ok && bytes.Equal(rest, unknownTail)
}

// AppendProtobufItemHead appends what stands before a message of size bytes in a list.
func AppendProtobufItemHead(dst []byte, size int) []byte {
	return binary.AppendUvarint(append(dst, itemTag), uint64(size))
}

// ProtobufItemSize returns how long a message of size bytes is in a list.
func ProtobufItemSize(size int) int { return 1 + uvarintLen(uint64(size)) + size }

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
