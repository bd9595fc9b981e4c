// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package compact

import (
	"bytes"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"

	"google.golang.org/protobuf/encoding/protowire"
)

// message is a definition in protobuf: a prefix, a runtime.Unknown, and in it the object.
type message struct {
	// rest is the message without spec and without managed fields.
	rest []byte
	// spec is the message of the specification, a part of what was taken apart.
	spec []byte
}

// prefix is what Kubernetes' protobuf begins with (k8s.io/apimachinery/pkg/runtime/serializer/protobuf).
var prefix = []byte{'k', '8', 's', 0}

// Numbers of fields, from the generated.proto of runtime, meta/v1 and apiextensions/v1.
const (
	unknownTypeMeta, unknownRaw protowire.Number = 1, 2
	typeAPIVersion, typeKind    protowire.Number = 1, 2
	objectMetadata, objectSpec  protowire.Number = 1, 2
	metadataManagedFields       protowire.Number = 17
)

// typeMeta is what says that an object is a definition.
var typeMeta = func() []byte {
	b := protowire.AppendTag(nil, typeAPIVersion, protowire.BytesType)
	b = protowire.AppendString(b, apiextensionsv1.SchemeGroupVersion.String())
	b = protowire.AppendTag(b, typeKind, protowire.BytesType)
	return protowire.AppendString(b, "CustomResourceDefinition")
}()

// split takes data apart, if that is a definition and has each part once, in the order in which upstream writes them.
func split(data []byte) (message, bool) {
	unknown, ok := bytes.CutPrefix(data, prefix)
	if !ok {
		return message{}, false
	}
	kind, unknown, ok := cut(unknown, unknownTypeMeta)
	if !ok || !bytes.Equal(kind, typeMeta) {
		return message{}, false
	}
	object, more, ok := cut(unknown, unknownRaw)
	if !ok || has(more, unknownTypeMeta) || has(more, unknownRaw) {
		return message{}, false
	}
	metadata, object, ok := cut(object, objectMetadata)
	if !ok {
		return message{}, false
	}
	spec, status, ok := cut(object, objectSpec)
	if !ok || has(status, objectMetadata) || has(status, objectSpec) {
		return message{}, false
	}
	metadata, ok = without(metadata, metadataManagedFields)
	if !ok {
		return message{}, false
	}
	rest := protowire.AppendTag(nil, objectMetadata, protowire.BytesType)
	rest = append(protowire.AppendBytes(rest, metadata), status...)
	all := append([]byte(nil), prefix...)
	all = protowire.AppendBytes(protowire.AppendTag(all, unknownTypeMeta, protowire.BytesType), kind)
	all = protowire.AppendBytes(protowire.AppendTag(all, unknownRaw, protowire.BytesType), rest)
	return message{rest: append(all, more...), spec: spec}, true
}

// cut returns the value of a field, which is bytes and has to be the first of message, and what follows it.
func cut(message []byte, field protowire.Number) (value, rest []byte, ok bool) {
	number, kind, n := protowire.ConsumeTag(message)
	if n < 0 || number != field || kind != protowire.BytesType {
		return nil, nil, false
	}
	value, m := protowire.ConsumeBytes(message[n:])
	if m < 0 {
		return nil, nil, false
	}
	return value, message[n+m:], true
}

// has tells whether a field may be in message: one that cannot be read may have anything.
func has(message []byte, field protowire.Number) bool {
	for len(message) > 0 {
		number, _, n := protowire.ConsumeField(message)
		if n < 0 || number == field {
			return true
		}
		message = message[n:]
	}
	return false
}

// without is message but for a field, which has to be bytes.
func without(message []byte, field protowire.Number) ([]byte, bool) {
	var out []byte
	for len(message) > 0 {
		number, kind, n := protowire.ConsumeField(message)
		if n < 0 || number == field && kind != protowire.BytesType {
			return nil, false
		}
		if number != field {
			out = append(out, message[:n]...)
		}
		message = message[n:]
	}
	return out, true
}
