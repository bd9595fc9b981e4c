// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

// Package transcode makes the JSON of an API object from its protobuf message, without
// decoding it: the message's bytes are read once and JSON is appended, byte for byte
// what encoding/json makes of the decoded object.
//
// What decoding costs is garbage: a Pod of 8 KB becomes 20 KB of structs and strings
// that live for as long as it takes to encode them, and which the collector has to
// chase meanwhile. Nothing of that is needed. Both encodings of a built-in type are
// generated from one Go struct: its protobuf tags say what a message holds, its json
// tags say under which name and in which order it is written. For walks the struct
// type once, by reflection, and keeps what both tags say as a tree of messages and
// fields; AppendJSON walks that tree along with the bytes.
//
// The rules are those of gogo/protobuf as k8s.io/apimachinery generates it (proto2, no
// groups, no packed fields, maps as entries of key and value) and those of encoding/json
// (omitempty, omitzero, embedded structs, sorted keys, HTML escaped). Types that encode
// themselves (a Quantity, a Time) are decoded one by one and asked to. Whatever does not
// fit (a field that protobuf does not keep, a type that is not understood, bytes that no
// generated encoder writes) is an error, never a guess: the caller then decodes.
package transcode
