// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package ledger

import "slices"

const (
	// largest is the largest size that has a class of its own; beyond it the heap gives pages.
	largest = 32 << 10
	page    = 8 << 10
)

// classes are the sizes up to largest in which the heap gives memory, ascending. The runtime
// does not export them, but rounds the capacity of a slice that grows up to one.
var classes = func() []int {
	var all []int
	for size := 1; size <= largest; {
		got := cap(slices.Grow([]byte(nil), size))
		all = append(all, got)
		size = got + 1
	}
	return all
}()

// Heap returns how many bytes the heap takes for one allocation of n bytes.
func Heap(n int) int64 {
	switch {
	case n <= 0:
		return 0
	case n > largest:
		return int64((n + page - 1) / page * page)
	}
	i, _ := slices.BinarySearch(classes, n)
	return int64(classes[i])
}
