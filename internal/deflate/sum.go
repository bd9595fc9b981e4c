// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package deflate

import (
	"encoding/binary"
	"hash/crc32"
)

// Sum is what a gzip member says in the end about a run of plain bytes. Sums of runs that follow
// each other are put together by Then. The zero Sum is not valid; see Nothing.
type Sum struct {
	// crc is the CRC-32 (IEEE) of the bytes.
	crc uint32
	// shift is x^(8n) modulo the CRC's polynomial, n being the number of bytes: what the CRC of the
	// bytes before them is multiplied by.
	shift uint32
	// size is the number of bytes modulo 2^32.
	size uint32
}

// Nothing is the Sum of no bytes.
var Nothing = Sum{shift: one}

// SumOf returns the Sum of p.
func SumOf(p []byte) Sum {
	return Sum{crc: crc32.ChecksumIEEE(p), shift: shiftOf(uint64(len(p))), size: uint32(len(p))}
}

// Then returns the Sum of s's bytes with those of next behind them.
func (s Sum) Then(next Sum) Sum {
	return Sum{
		crc:   multiply(s.crc, next.shift) ^ next.crc,
		shift: multiply(s.shift, next.shift),
		size:  s.size + next.size,
	}
}

// appendTrailer appends the end of a gzip member: RFC 1952, section 2.3.1, CRC32 and ISIZE.
func (s Sum) appendTrailer(dst []byte) []byte {
	dst = binary.LittleEndian.AppendUint32(dst, s.crc)
	return binary.LittleEndian.AppendUint32(dst, s.size)
}

// A CRC is a polynomial over GF(2) modulo that of IEEE 802.3. As crc32 has it, the highest bit is
// the coefficient of x^0, the lowest that of x^31. The CRC of a run of bytes A with a run of n bytes
// B behind it is crc(A)·x^(8n) + crc(B); that the register begins and ends inverted cancels out.
const one = 1 << 31

// multiply returns a·b.
func multiply(a, b uint32) uint32 {
	var product uint32
	for range 32 {
		// Without branches, which nobody could foresee: add b if a has the coefficient.
		product ^= b & uint32(int32(a)>>31)
		a <<= 1
		// b times x; what is x^32 then is replaced by the rest of the polynomial.
		b = b>>1 ^ crc32.IEEE&-(b&1)
	}
	return product
}

// powers[k] is x^(8·2^k).
var powers = func() (p [64]uint32) {
	p[0] = one >> 8
	for k := 1; k < len(p); k++ {
		p[k] = multiply(p[k-1], p[k-1])
	}
	return p
}()

// shiftOf returns x^(8n).
func shiftOf(n uint64) uint32 {
	shift := uint32(one)
	for k := 0; n != 0; k, n = k+1, n>>1 {
		if n&1 != 0 {
			shift = multiply(shift, powers[k])
		}
	}
	return shift
}
