// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"encoding/binary"
	"fmt"
	"math/bits"
)

// Format is a media type that objects are encoded in.
type Format uint8

const (
	// Other is any media type for which this package has no envelope.
	Other Format = iota
	// JSON is application/json.
	JSON
	// Protobuf is application/vnd.kubernetes.protobuf.
	Protobuf
)

// String returns the short name of the format.
func (f Format) String() string {
	switch f {
	case JSON:
		return "json"
	case Protobuf:
		return "protobuf"
	default:
		return "other"
	}
}

const (
	jsonHead   = `{"type":"`
	jsonMiddle = `","object":`
	jsonTail   = "}\n"

	typeTag   = 0x0a // WatchEvent.type, a string
	objectTag = 0x12 // WatchEvent.object, a RawExtension
	rawTag    = 0x0a // RawExtension.raw, bytes
)

// EventSize returns the length of the event that AppendEvent makes of an object of
// size bytes, and where in it the object begins. The format must not be Other.
func EventSize(f Format, eventType string, size int) (total, offset int) {
	switch f {
	case JSON:
		offset = len(jsonHead) + len(eventType) + len(jsonMiddle)
		return offset + size + len(jsonTail), offset
	case Protobuf:
		extension := 1 + uvarintLen(uint64(size)) + size
		offset = 1 + uvarintLen(uint64(len(eventType))) + len(eventType) +
			1 + uvarintLen(uint64(extension)) + 1 + uvarintLen(uint64(size))
		return offset + size, offset
	default:
		panic(fmt.Sprintf("wire: no envelope in format %d", f)) // a programmer's error: formats come from code
	}
}

// AppendEvent appends to dst the watch event of the given type round an encoded
// object. A JSON object must not end in a newline.
func AppendEvent(dst []byte, f Format, eventType string, object []byte) []byte {
	switch f {
	case JSON:
		return AppendJSONEvent(dst, eventType, object)
	case Protobuf:
		extension := 1 + uvarintLen(uint64(len(object))) + len(object)
		dst = append(dst, typeTag)
		dst = binary.AppendUvarint(dst, uint64(len(eventType)))
		dst = append(dst, eventType...)
		dst = append(dst, objectTag)
		dst = binary.AppendUvarint(dst, uint64(extension))
		dst = append(dst, rawTag)
		dst = binary.AppendUvarint(dst, uint64(len(object)))
		return append(dst, object...)
	default:
		panic(fmt.Sprintf("wire: no envelope in format %d", f)) // a programmer's error: formats come from code
	}
}

// AppendJSONEvent is AppendEvent for JSON, of an object in parts.
func AppendJSONEvent(dst []byte, eventType string, object ...[]byte) []byte {
	dst = append(dst, jsonHead...)
	dst = append(dst, eventType...)
	dst = append(dst, jsonMiddle...)
	for _, part := range object {
		dst = append(dst, part...)
	}
	return append(dst, jsonTail...)
}

// uvarintLen returns the length of x as a protobuf varint.
func uvarintLen(x uint64) int { return (bits.Len64(x|1) + 6) / 7 }
