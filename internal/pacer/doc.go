// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

// Package pacer keeps the garbage collector's slack in proportion to what collecting
// costs.
//
// Go lets the heap grow to a multiple of what is alive before it collects again,
// because a collection costs as much as there is to mark. Encoded objects hold no
// pointers: they cost nothing to mark, but by default they earn the same slack as
// everything else, so that 650 MB of them sit in 1.3 GB of heap.
//
// The pacer sets the percentage (GOGC) once a second, such that the heap may grow by
// half of what there is to mark, but always by 256 MiB as far as Go's own rule goes. The
// slack does not depend on what the server does: a burst of requests then finds a heap
// that is as large as it gets, and does not make it grow. (Making collections a constant
// share of the processors was tried. It let the heap grow by hundreds of megabytes
// whenever clients came, and saved a tenth of the processor time then.)
//
// A percentage or memory limit that the operator has set in the environment is left
// alone.
package pacer
