// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package ledger

import "slices"

// classes are the sizes that the heap gives memory in, as far as they are multiples of
// nothing else, ascending. They are found out, because the runtime does not tell them.
var classes = func() []int {
	var all []int
	for size := 1; size <= largest; {
		got := cap(slices.Grow([]byte(nil), size))
		all = append(all, got)
		size = got + 1
	}
	return all
}()

const (
	// largest is the largest size that has a class; beyond it the heap gives whole pages.
	largest = 32 << 10
	page    = 8 << 10
)

// Heap returns how many bytes the heap takes for one allocation of n bytes.
func Heap(n int) int64 {
	if n > largest {
		return int64((n + page - 1) / page * page)
	}
	if n <= 0 {
		return 0
	}
	i, _ := slices.BinarySearch(classes, n)
	return int64(classes[i])
}
