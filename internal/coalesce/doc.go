// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

// Package coalesce gathers a stream's small writes into large ones.
//
//	handler ──Write, Flush──▶ Stream ──64 KiB at a time──▶ connection
//	                            ▲
//	producer ──Busy, Idle───────┘
//
// Go's HTTP/2 server pays for every Write and Flush, not for every byte, and
// upstream's watch handler flushes whenever its channel is empty for a moment. A
// Stream holds those flushes back for as long as the producer of the events says
// that more is coming at once, and lets everything out when the producer has
// nothing more. The buffer comes from a pool and goes back when it has been
// written, so an idle stream holds none.
//
// A Stream may compress its response (Compress), as one gzip member. What others are sent, too, comes to it
// compressed, and Instead puts it in place of what the handler writes.
//
// A request without a producer (a watch that is not weir's) is passed through
// untouched.
package coalesce
