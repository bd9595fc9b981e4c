// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

// Package liststream answers a list in place: its objects go from their frames to the
// connection one at a time.
//
//	request ──▶ Handler ──▶ upstream's list handler ──▶ storage: From(ctx).Take(plan)
//	                              │ encodes a list without items, or with a few
//	                              ▼
//	            Answer gathers it, and with its last byte makes a
//	            sending: head ── item, item, … from the plan ── tail ──▶ connection
//
// Upstream's handler parses, validates, negotiates, transforms and sets the
// headers, as always. What it then encodes has no items but those that REST storage
// completes when they are read, because the storage has handed its plan of the list to the
// Answer instead; the sending puts the others in their place, still inside of upstream's
// Write, so that latency and size are counted as ever. So the envelope of a list is
// upstream's own, in every version, and no rule of the API is repeated here but for what
// one item looks like:
//
//	the object      the frame's own bytes, or an encoding derived from it and shared
//	its metadata    cut out of the frame's protobuf, or decoded
//	a Table's row   printed by the convertor whose columns are those that upstream sent
//
// each in JSON, protobuf or CBOR, and from JSON indented or as YAML.
//
// The ordinary path runs where somebody has to see the whole list: audit at response
// level, a REST storage or a printer that looks at more than one object at a time, and
// whatever is not understood.
package liststream
