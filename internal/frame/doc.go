// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

// Package frame holds one object at one revision as bytes that are sent as they
// are.
//
//	decoded object ──Codec.Encode──▶ Frame ─┬─ the object, encoded once  ──▶ every stream of that format
//	   (dropped)                            ├─ labels and fields, packed ──▶ selectors
//	                                        └─ derived encodings         ──▶ other formats, versions, Tables
//
// A Frame is a runtime.CacheableObject: upstream's watch handler asks it to encode
// itself and names the encoding it wants by an identifier. Two requests share bytes
// if, and only if, their identifiers are equal, which upstream defines as "equal
// output for every input". Authorization has been decided before an event reaches
// a handler, so nothing is shared across what a user may see.
//
// The primary encoding is the one that the object is stored in: protobuf of the
// storage version for built-in types, JSON for custom resources. Any other encoding
// is derived: decoded from the primary, encoded by the handler's own encoder, once
// for everybody who asks at the same time, and kept in a Store with a budget for as
// long as it is being asked for.
//
// Decode gives back what Encode was given. Where the primary encoding does not have all
// of it, the object is kept a second time; see exact.go.
//
// Frames are immutable and may be used by any number of goroutines.
package frame
