// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package ledger

import "sync/atomic"

// Purpose is what bytes are held for.
type Purpose int

const (
	// Frames are the objects of the current state, each encoded once.
	Frames Purpose = iota
	// History are the frames that only the event log or a kept snapshot still needs.
	History
	// Derived are encodings made on demand from a frame and kept for others who ask.
	Derived
	// Compressed are rows of objects, compressed once and kept for others who ask.
	Compressed
	// Streams are the write buffers of connections that have something to send.
	Streams
	// Readers are the frames that only a reader of an earlier state still needs: a list or the initial events of a
	// watch that take long.
	Readers
	// Compressors are those that are compressing. Those that wait for work are the heap's to collect.
	Compressors
	// Decoded are objects that were decoded for one request.
	Decoded
	// Informers are what the server's own informers hold beside the frames.
	Informers

	purposes
)

// String returns the purpose as the metric label that dashboards see.
func (p Purpose) String() string {
	switch p {
	case Frames:
		return "frames"
	case History:
		return "history"
	case Derived:
		return "derived"
	case Compressed:
		return "compressed"
	case Streams:
		return "streams"
	case Readers:
		return "readers"
	case Compressors:
		return "compressors"
	case Decoded:
		return "decoded"
	case Informers:
		return "informers"
	default:
		return "unknown"
	}
}

// Purposes lists every purpose, for reports.
func Purposes() []Purpose {
	all := make([]Purpose, purposes)
	for i := range all {
		all[i] = Purpose(i)
	}
	return all
}

// Ledger holds one counter per purpose. The zero Ledger is ready to use, by any
// number of goroutines.
type Ledger struct {
	bytes [purposes]atomic.Int64
}

// Process is the ledger of this process. There is one, as there is one heap.
var Process = &Ledger{}

// Add books n bytes to p; a negative n gives them back.
func (l *Ledger) Add(p Purpose, n int64) { l.bytes[p].Add(n) }

// Bytes returns what is held for p, in bytes.
func (l *Ledger) Bytes(p Purpose) int64 { return l.bytes[p].Load() }

// Total returns what is held for all purposes together, in bytes.
func (l *Ledger) Total() int64 {
	total := int64(0)
	for i := range l.bytes {
		total += l.bytes[i].Load()
	}
	return total
}
