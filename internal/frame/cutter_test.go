// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package frame

import (
	"fmt"
	"testing"
)

// Two sequences that are equal from some object on are cut alike soon after it.
func TestCutsMeetAgain(t *testing.T) {
	for _, size := range []int{150, 300, 2000, 7500, 40_000, 100_000} {
		worst, rows, bytes := 0, 0, 0
		for trial := range 200 {
			var a, b Cutter
			n := 0
			b.size = rowLeast * trial / 200 // has begun elsewhere
			for i := 0; ; i++ {
				f := &Frame{key: fmt.Sprint("/pods/", trial, "/", i), primary: encoded{data: make([]byte, size)}}
				x, y := a.Ends(f), b.Ends(f)
				bytes += size
				if x {
					rows++
					n++
				}
				if x && y {
					break
				}
			}
			worst = max(worst, n)
		}
		// Six were seen. A row that ends elsewhere in both is as likely as not.
		if mean := bytes / max(rows, 1); worst > 40 || mean < rowLeast || mean > rowMost {
			t.Errorf("objects of %d bytes: rows of %d on the average; %d rows until they meet", size, mean, worst)
		}
	}
}
