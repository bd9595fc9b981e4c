// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package deflate

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/klauspost/compress/flate"
)

// BenchmarkSmall compares what small runs cost and become, with and without state.
func BenchmarkSmall(b *testing.B) {
	for _, size := range []int{200, 1 << 10, 8 << 10, 30 << 10} {
		plain := text(rand.New(rand.NewPCG(1, 2)), size)
		var dst bytes.Buffer
		b.Run(fmt.Sprint("stateless/", size), func(b *testing.B) {
			for b.Loop() {
				dst.Reset()
				_ = flate.StatelessDeflate(&dst, plain, false, nil)
			}
			b.ReportMetric(float64(dst.Len()), "size")
		})
		b.Run(fmt.Sprint("compressor/", size), func(b *testing.B) {
			for b.Loop() {
				dst.Reset()
				w := compressors.Get().(*flate.Writer)
				w.Reset(&dst)
				_, _ = w.Write(plain)
				_ = w.Flush()
				w.Reset(nil)
				compressors.Put(w)
			}
			b.ReportMetric(float64(dst.Len()), "size")
		})
	}
}
