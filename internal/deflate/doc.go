// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

// Package deflate puts one gzip member together from pieces that were compressed apart.
//
//	plain bytes ──Compress──▶ Segment ─┬─▶ Member ──▶ connection
//	                                   ├─▶ Member ──▶ connection
//	bytes of one stream only ──Write───┴─▶ Member ──▶ connection
//
// A Segment is some deflate blocks (RFC 1951) that refer to nothing before them, are not the
// last of a stream, and end on a byte boundary, as after a sync flush. So segments may follow
// each other in any order, and each can be read as soon as it has arrived.
//
// A Member (RFC 1952) ends in the CRC-32 and the length of all plain bytes. Both are put together
// from those of the segments (Sum), so that a segment's plain bytes are looked at once, when it is
// made, and by nobody who sends it.
//
// What does not compress is sent in stored blocks. If somebody keeps the plain bytes in any case, its
// Segment has no data, and they are sent from there.
package deflate
