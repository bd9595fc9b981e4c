// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package deflate

import (
	"bytes"
	"fmt"
	"io"
	"sync"

	"github.com/weir-project/weir/internal/ledger"
)

// gatherSize is how much of what is not shared is gathered before it is compressed.
const gatherSize = 64 << 10

var (
	gathers = sync.Pool{New: func() any { return new([gatherSize]byte) }}
	// flushes hold what becomes of that, which is hardly more.
	flushes = sync.Pool{New: func() any { return bytes.NewBuffer(make([]byte, 0, gatherSize)) }}
)

// header is that of every member (RFC 1952, section 2.3), as compress/gzip writes it at upstream's
// level: deflate, no name, no time, fastest, unknown system.
var header = []byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 4, 0xff}

// Member is one gzip member on its way to a writer. It holds memory only while Pending and while
// it writes. It belongs to one goroutine at a time. Close or Discard has to be called.
type Member struct {
	w     io.Writer
	sum   Sum
	begun bool
	// gathered[:n] is what has been written and not been compressed; nil when n == 0.
	gathered *[gatherSize]byte
	n        int
}

// NewMember returns a member that nothing has been written of.
func NewMember(w io.Writer) *Member { return &Member{w: w, sum: Nothing} }

// Pending tells whether something has been written that Flush would compress.
func (m *Member) Pending() bool { return m.n > 0 }

// Write implements io.Writer. It gathers; see Flush.
func (m *Member) Write(p []byte) (int, error) {
	done := 0
	for done < len(p) {
		if m.gathered == nil {
			m.gathered = gathers.Get().(*[gatherSize]byte)
			ledger.Process.Add(ledger.Streams, gatherSize)
		}
		n := copy(m.gathered[m.n:], p[done:])
		m.n += n
		done += n
		if m.n == gatherSize {
			if err := m.Flush(); err != nil {
				return done, err
			}
		}
	}
	return done, nil
}

// Flush compresses what has been gathered, so that all that was written can be read from what the
// writer has got.
func (m *Member) Flush() error {
	if m.n == 0 {
		return nil
	}
	plain := m.gathered[:m.n]
	buf := flushes.Get().(*bytes.Buffer)
	ledger.Process.Add(ledger.Streams, gatherSize)
	defer func() {
		ledger.Process.Add(ledger.Streams, -gatherSize)
		flushes.Put(buf)
	}()
	buf.Reset()
	compress(buf, plain)
	m.sum = m.sum.Then(SumOf(plain))
	if !pays(buf.Len(), len(plain)) {
		buf.Reset()
		mustWrite(store(buf, plain))
		mustWrite(flushBlock(buf))
	}
	m.release() // the writer may wait for its client
	if err := m.begin(); err != nil {
		return err
	}
	_, err := m.w.Write(buf.Bytes())
	return err
}

// Add writes a segment that is not Stored.
func (m *Member) Add(s *Segment) error {
	if s.Stored() {
		return fmt.Errorf("deflate: a segment of %d bytes has no data of its own to be sent", s.size)
	}
	if err := m.Flush(); err != nil {
		return err
	}
	m.sum = m.sum.Then(s.sum)
	if err := m.begin(); err != nil {
		return err
	}
	_, err := m.w.Write(s.data)
	return err
}

// Store writes a segment that is Stored. write has to write its plain bytes, which are sent as
// they come, in any number of writes. If they are not as many as the segment is, that is an
// error, and nothing more must be written to the member.
func (m *Member) Store(s *Segment, write func(io.Writer) error) error {
	if err := m.Flush(); err != nil {
		return err
	}
	if err := m.begin(); err != nil {
		return err
	}
	plain := storing{w: m.w}
	if err := write(&plain); err != nil {
		return err
	}
	if plain.n != s.size {
		return fmt.Errorf("deflate: a segment of %d bytes was sent as %d", s.size, plain.n)
	}
	m.sum = m.sum.Then(s.sum)
	return flushBlock(m.w)
}

// storing writes stored blocks, and counts.
type storing struct {
	w io.Writer
	n int
}

// Write implements io.Writer.
func (s *storing) Write(p []byte) (int, error) {
	if err := store(s.w, p); err != nil {
		return 0, err
	}
	s.n += len(p)
	return len(p), nil
}

// Close writes what has been gathered and the end of the member. The writer itself is not closed.
func (m *Member) Close() error {
	if err := m.Flush(); err != nil {
		return err
	}
	if err := m.begin(); err != nil {
		return err
	}
	// An empty last block: RFC 1951, section 3.2.6, the code of length 7 that ends it.
	_, err := m.w.Write(m.sum.appendTrailer([]byte{3, 0}))
	return err
}

// Discard gives up what has been gathered.
func (m *Member) Discard() { m.release() }

func (m *Member) begin() error {
	if m.begun {
		return nil
	}
	m.begun = true
	_, err := m.w.Write(header)
	return err
}

func (m *Member) release() {
	m.n = 0
	if m.gathered != nil {
		gathers.Put(m.gathered)
		m.gathered = nil
		ledger.Process.Add(ledger.Streams, -gatherSize)
	}
}
