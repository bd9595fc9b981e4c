// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

// Package pacer keeps the garbage collector's slack in proportion to what the
// collector has to look at.
//
// Go lets the heap grow to a multiple of what is alive before it collects again,
// because a collection costs as much as there is to mark. Encoded objects hold no
// pointers: they cost nothing to mark, but by default they earn the same slack as
// everything else, so that 650 MB of them sit in 1.3 GB of heap. The pacer sets the
// percentage (GOGC) such that only the rest of the heap earns slack.
//
// A percentage or memory limit that the operator has set in the environment is left
// alone.
package pacer
