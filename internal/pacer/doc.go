// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

// Package pacer keeps the garbage collector's slack in proportion to what collecting
// costs.
//
// Go lets the heap grow to a multiple of what is alive before it collects again,
// because a collection costs as much as there is to mark. Encoded objects hold no
// pointers: they cost nothing to mark, but by default they earn the same slack as
// everything else, so that 650 MB of them sit in 1.3 GB of heap. And a server that
// allocates little for a while lets its heap fill with garbage all the same.
//
// The pacer sets the percentage (GOGC) once a second, such that the heap may grow by
// what makes collections cost a small share of the processors at the present rate of
// allocation, and never by more than what there is to mark, which is Go's own rule
// for the rest of the heap.
//
// Whoever is about to make much garbage, and to keep nothing of it, can hold the heap: it
// then stays about as large as it is, whatever that costs in collections.
//
// A percentage or memory limit that the operator has set in the environment is left
// alone.
package pacer
