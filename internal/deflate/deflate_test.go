// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package deflate

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/weir-project/weir/internal/ledger"
)

// text returns n bytes that compress, noise n that do not.
func text(r *rand.Rand, n int) []byte {
	words := strings.Fields("apiVersion kind metadata name namespace spec status conditions True False Running")
	var b []byte
	for len(b) < n {
		b = append(append(b, words[r.IntN(len(words))]...), ' ')
	}
	return b[:n]
}

func noise(r *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// one reads one member only, and fails if anything is behind it.
func readOne(t *testing.T, data []byte) []byte {
	t.Helper()
	source := bufio.NewReader(bytes.NewReader(data))
	r, err := gzip.NewReader(source)
	if err != nil {
		t.Fatal(err)
	}
	r.Multistream(false)
	plain, err := io.ReadAll(r)
	if err != nil {
		t.Fatalf("after %d bytes: %v", len(plain), err)
	}
	if rest, _ := io.ReadAll(source); len(rest) > 0 {
		t.Fatalf("%d bytes are behind the member", len(rest))
	}
	return plain
}

// Pieces of every size, shared, stored or the stream's own, in any order, are one member.
func TestMember(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	sizes := []int{0, 1, 2, 100, 32 << 10, gatherSize - 1, gatherSize, gatherSize + 1, maxStored, maxStored + 1, 300_000}
	for range 60 {
		var want, got bytes.Buffer
		m := NewMember(&got)
		for range r.IntN(12) {
			n := sizes[r.IntN(len(sizes))]
			plain := text(r, n)
			if r.IntN(3) == 0 {
				plain = noise(r, n)
			}
			want.Write(plain)
			var err error
			switch s := Compress(plain, r.IntN(2) == 0); {
			case r.IntN(3) == 0:
				_, err = m.Write(plain)
			case s.Stored():
				err = m.Store(s, func(w io.Writer) error {
					half := r.IntN(len(plain) + 1)
					if _, err := w.Write(plain[:half]); err != nil {
						return err
					}
					_, err := w.Write(plain[half:])
					return err
				})
			default:
				err = m.Add(s)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		if err := m.Close(); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(readOne(t, got.Bytes()), want.Bytes()) {
			t.Fatal("what is read is not what was written")
		}
	}
	if n := ledger.Process.Bytes(ledger.Streams); n != 0 {
		t.Errorf("%d bytes are still booked", n)
	}
}

// Everything that has been added, or flushed, can be read before anything else is there.
func TestEachIsReadable(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	var wire bytes.Buffer
	m := NewMember(&wire)
	var reader *gzip.Reader
	for i := range 100 {
		plain := text(r, 1+i*i*7)
		if i%5 == 0 {
			plain = noise(r, 1+i*3)
		}
		var err error
		if s := Compress(plain, true); s.Stored() {
			err = m.Store(s, func(w io.Writer) error { _, err := w.Write(plain); return err })
		} else if r.IntN(2) == 0 {
			err = m.Add(s)
		} else if _, err = m.Write(plain); err == nil {
			err = m.Flush()
		}
		if err != nil {
			t.Fatal(err)
		}
		if reader == nil {
			// A byte at a time: a reader that met the end of the buffer would remember it.
			if reader, err = gzip.NewReader(&byteReader{&wire}); err != nil {
				t.Fatal(err)
			}
		}
		got := make([]byte, len(plain))
		if _, err := io.ReadFull(reader, got); err != nil || !bytes.Equal(got, plain) {
			t.Fatalf("piece %d: %v", i, err)
		}
	}
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	if rest, err := io.ReadAll(reader); err != nil || len(rest) > 0 {
		t.Errorf("in the end %d bytes, %v", len(rest), err)
	}
}

// byteReader has the methods that keep a decoder from reading ahead.
type byteReader struct{ *bytes.Buffer }

// What goes wrong says so.
func TestMemberRefuses(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	plain := noise(r, 5000)
	s := Compress(plain, true)
	if !s.Stored() || s.Kept() != 0 || s.Size() != len(plain) {
		t.Fatalf("noise is kept: %d bytes", s.Kept())
	}
	m := NewMember(io.Discard)
	if err := m.Add(s); err == nil {
		t.Error("a segment without data was added")
	}
	if err := m.Store(s, func(w io.Writer) error { _, err := w.Write(plain[1:]); return err }); err == nil {
		t.Error("too few bytes were stored")
	}
	if c := Compress(plain, false); c.Stored() || c.Kept() < len(plain) {
		t.Errorf("noise that is nowhere else is kept in %d bytes", c.Kept())
	}
	if c := Compress(text(r, 5000), true); c.Stored() || c.Kept() > 2500 {
		t.Errorf("text takes %d bytes", c.Kept())
	}
	// Of base64 and of hexadecimal digits nothing comes twice, but they are not worth eight bits.
	for encoded, most := range map[string]float64{base64.StdEncoding.EncodeToString(plain[:1500]): 0.80, hex.EncodeToString(plain[:1000]): 0.60, base64.StdEncoding.EncodeToString(noise(r, 1<<20)): 0.78} {
		if c := Compress([]byte(encoded), true); c.Stored() || float64(c.Kept()) > most*float64(len(encoded)) {
			t.Errorf("of %d bytes of text are kept %d, want less than %.2f of it", len(encoded), c.Kept(), most)
		}
	}
	if same := Incompressible(plain); same.sum != s.sum || !same.Stored() {
		t.Error("what is not tried differs")
	}
}

// A member's length is modulo 2^32, and its CRC that of all of it, however long it is.
func TestMoreThan4GiB(t *testing.T) {
	piece := text(rand.New(rand.NewPCG(7, 8)), 1<<20)
	s := Compress(piece, false)
	const pieces = 4<<10 + 3
	var end lastBytes
	m := NewMember(&end)
	crc := uint32(0)
	for range pieces {
		if err := m.Add(s); err != nil {
			t.Fatal(err)
		}
		crc = crc32.Update(crc, crc32.IEEETable, piece)
	}
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	if got := binary.LittleEndian.Uint32(end[:4]); got != crc {
		t.Errorf("CRC %08x, want %08x", got, crc)
	}
	length := uint64(pieces) << 20
	if got := binary.LittleEndian.Uint32(end[4:]); got != uint32(length) {
		t.Errorf("ISIZE %d, want %d", got, uint32(length))
	}
}

// lastBytes keeps the last eight bytes that are written.
type lastBytes [8]byte

func (l *lastBytes) Write(p []byte) (int, error) {
	all := append(l[:], p...)
	copy(l[:], all[len(all)-len(l):])
	return len(p), nil
}

// FuzzSum puts the sum of bytes that are cut in two together, and compares with hash/crc32.
func FuzzSum(f *testing.F) {
	f.Add([]byte("a member of two segments"), uint(3))
	f.Add([]byte{}, uint(0))
	f.Add(make([]byte, 1000), uint(999))
	f.Fuzz(func(t *testing.T, p []byte, at uint) {
		cut := int(at % uint(len(p)+1))
		got := SumOf(p[:cut]).Then(SumOf(p[cut:]))
		if want := SumOf(p); got != want || got.crc != crc32.ChecksumIEEE(p) || Nothing.Then(got) != got || got.Then(Nothing) != got {
			t.Errorf("cut at %d: %v, want %v", cut, got, want)
		}
	})
}

func TestSumOfRandomSplits(t *testing.T) {
	r := rand.New(rand.NewPCG(9, 10))
	for range 300 {
		p := noise(r, r.IntN(5000))
		sum, rest := Nothing, p
		for len(rest) > 0 {
			n := 1 + r.IntN(len(rest))
			sum, rest = sum.Then(SumOf(rest[:n])), rest[n:]
		}
		if want := SumOf(p); sum != want {
			t.Fatalf("%v, want %v", sum, want)
		}
	}
	// Long ones, of which only the length can be had: x^(8n) is that of its parts.
	for range 100 {
		a, b := r.Uint64N(1<<40), r.Uint64N(1<<40)
		if multiply(shiftOf(a), shiftOf(b)) != shiftOf(a+b) {
			t.Fatalf("%d and %d", a, b)
		}
	}
}

func BenchmarkThen(b *testing.B) {
	one, two := SumOf([]byte("one")), SumOf([]byte("two"))
	for b.Loop() {
		one = one.Then(two)
	}
}

func FuzzMember(f *testing.F) {
	f.Add([]byte("what is shared"), []byte("what is not"), uint16(3))
	f.Fuzz(func(t *testing.T, shared, own []byte, repeat uint16) {
		var got, want bytes.Buffer
		m := NewMember(&got)
		plain := bytes.Repeat(shared, 1+int(repeat)%512)
		s := Compress(plain, true)
		var err error
		if s.Stored() {
			err = m.Store(s, func(w io.Writer) error { _, err := w.Write(plain); return err })
		} else {
			err = m.Add(s)
		}
		want.Write(plain)
		want.Write(own)
		if _, werr := m.Write(own); err != nil || werr != nil || m.Close() != nil {
			t.Fatal(err, werr)
		}
		if !bytes.Equal(readOne(t, got.Bytes()), want.Bytes()) {
			t.Error("what is read is not what was written")
		}
	})
}
