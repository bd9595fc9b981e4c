// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

// Package eventlog is one append-only log of changes that any number of readers
// follow, each at its own pace.
//
//	Append ──▶ [first … next)  bounded by bytes, number and age
//	              ▲      ▲
//	           Cursor  Dispatch ──▶ groups of parked cursors, which have read everything
//
// A reader is a Cursor: a position, no buffer. A slow reader therefore costs
// nothing and slows nobody; it gets ErrTrimmed when the log no longer holds what
// it has to read next, and never skips silently.
//
// Age never trims what a reader still has to read; the bounds on bytes and on number do.
// A reader of one key keeps the events of that key only: what is too old for the log and
// is wanted by such a reader alone leaves the ring and is kept apart, among the aged.
//
// A reader that has read everything parks its cursor and needs no goroutine to wait:
// Dispatch hands each event to all that are parked, without blocking. Who cannot take
// it is resumed, and reads on from its position. So it is slow readers that have
// goroutines, and idle ones none. The bounds do not trim what parked cursors have not
// been handed: an Append for which there is no room hands it over itself.
//
// Readers that want only the events of one key follow that key's chain, an index
// of positions that is kept for as long as somebody follows it, so that they
// neither read nor are handed anybody else's events.
//
// The package is generic and imports nothing of k8s.io.
package eventlog
