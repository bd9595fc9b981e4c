// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package deflate

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/klauspost/compress/flate"

	"github.com/weir-project/weir/internal/ledger"
)

const (
	// compressorSize is what one of the pool takes, about.
	compressorSize = 800 << 10
	// level finds what neighbouring objects have in common at 0.4 to 0.8 GB/s; for the same size
	// compress/flate's level 1, which is upstream's, takes twice as long or more.
	level = 3
	// worth is the part of its plain bytes that compression has to save.
	worth = 16
	// storedHeader is how much stands before a stored block, and maxStored how much that holds here: with
	// it 64 KiB, which are frames of HTTP/2. It may hold 2^16 - 1: RFC 1951, section 3.2.4.
	storedHeader = 5
	maxStored    = 64<<10 - storedHeader
)

// Segment is a run of plain bytes, compressed. It is immutable, and for any number of members.
type Segment struct {
	sum  Sum
	size int
	// data are the deflate blocks; nil if the bytes do not compress and are kept elsewhere.
	data []byte
}

// Compress makes a Segment of plain, which it does not keep. With elsewhere, somebody keeps plain in
// any case, and the segment has no data if plain does not compress; see Stored.
func Compress(plain []byte, elsewhere bool) *Segment {
	s := &Segment{sum: SumOf(plain), size: len(plain)}
	buf := scratch.Get().(*bytes.Buffer)
	defer putScratch(buf)
	buf.Reset()
	compress(buf, plain)
	switch {
	case pays(buf.Len(), len(plain)):
	case elsewhere:
		return s
	default:
		buf.Reset()
		mustWrite(store(buf, plain))
		mustWrite(flushBlock(buf))
	}
	s.data = bytes.Clone(buf.Bytes())
	return s
}

// Incompressible makes a Segment of plain that is sent stored, untried.
func Incompressible(plain []byte) *Segment {
	return &Segment{sum: SumOf(plain), size: len(plain)}
}

// Size returns how many plain bytes the segment is.
func (s *Segment) Size() int { return s.size }

// Stored tells whether the segment has no data of its own: its plain bytes have to be there to be
// sent; see Member.Store.
func (s *Segment) Stored() bool { return s.data == nil && s.size > 0 }

// Kept returns how many bytes of memory the segment's data take.
func (s *Segment) Kept() int { return cap(s.data) }

// pays tells whether plain bytes are worth being sent compressed.
func pays(compressed, plain int) bool { return compressed <= plain-plain/worth-1 }

var (
	// compressors take about a megabyte each. One is out of the pool for as long as it computes, never
	// while somebody waits for a client.
	compressors = newCompressors(level)
	huffmans    = newCompressors(flate.HuffmanOnly)
	scratch     = sync.Pool{New: func() any { return new(bytes.Buffer) }}
)

func newCompressors(level int) *sync.Pool {
	return &sync.Pool{New: func() any {
		w, err := flate.NewWriter(nil, level)
		if err != nil {
			panic(err) // a level that there is not: a programmer's error
		}
		return w
	}}
}

func putScratch(b *bytes.Buffer) {
	// What one object becomes fits: to grow buffers for each would make several times its size of garbage.
	if b.Cap() <= 4<<20 {
		scratch.Put(b)
	}
}

// compress writes plain to dst, which is empty, as deflate blocks that end on a byte boundary.
func compress(dst *bytes.Buffer, plain []byte) {
	if len(plain) == 0 {
		return
	}
	// What is small, too: flate.StatelessDeflate is no quicker, and has a table of 16 KiB on the stack
	// of a watch that then waits for hours.
	compressWith(compressors, dst, plain)
	if !pays(dst.Len(), len(plain)) {
		// Where nothing comes twice, as in base64 of what is random, the library leaves bytes as they
		// are, though some may be rarer than others.
		dst.Reset()
		compressWith(huffmans, dst, plain)
	}
}

func compressWith(pool *sync.Pool, dst *bytes.Buffer, plain []byte) {
	w := pool.Get().(*flate.Writer)
	ledger.Process.Add(ledger.Compressors, compressorSize)
	defer ledger.Process.Add(ledger.Compressors, -compressorSize)
	w.Reset(dst)
	_, err := w.Write(plain)
	mustWrite(errors.Join(err, w.Flush()))
	w.Reset(nil)
	pool.Put(w)
}

// mustWrite is for errors of writing to memory, of which there are none; compressing has no others.
func mustWrite(err error) {
	if err != nil {
		panic(fmt.Sprintf("deflate: compressing in memory: %v", err))
	}
}

// store writes p in stored blocks.
func store(w io.Writer, p []byte) error {
	for len(p) > 0 {
		n := min(len(p), maxStored)
		low, high := byte(n), byte(n>>8)
		if _, err := w.Write([]byte{0, low, high, ^low, ^high}); err != nil {
			return err
		}
		if _, err := w.Write(p[:n]); err != nil {
			return err
		}
		p = p[n:]
	}
	return nil
}

// flushBlock writes an empty stored block, which makes readers (Go's, for one) hand out what they have
// read before it, as after any other block they do not.
func flushBlock(w io.Writer) error {
	_, err := w.Write([]byte{0, 0, 0, 0xff, 0xff})
	return err
}
