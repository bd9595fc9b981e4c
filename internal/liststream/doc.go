// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

// Package liststream answers a list in place: its objects go from their frames to the
// connection one at a time, and nothing that grows with them is allocated.
//
//	request ──▶ Handler ──▶ upstream's list handler ──▶ storage: From(ctx).Take(plan)
//	                              │ encodes a list without items
//	                              ▼
//	            Handler: head ── item, item, … from the plan ── tail ──▶ connection
//
// Upstream's handler parses, validates, authorizes, negotiates and sets the headers,
// as always. What it then encodes has no items, because the storage has handed its
// plan of the list to the Handler instead; the Handler puts the items in their place.
// So the envelope of a list is upstream's own, in every version, and no rule of the
// API is repeated here.
//
// Where the place for items is not known (a Table, YAML, pretty printing), or where
// somebody has to see the whole list (audit at response level), the ordinary path runs.
package liststream
