// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

// Package pacer keeps the heap as small as collecting it is cheap, and within a limit.
//
// Go lets the heap grow to a multiple of what is alive before it collects again,
// because a collection costs as much as there is to mark. Encoded objects hold no
// pointers: they cost nothing to mark, but by default they earn the same slack as
// everything else, so that 650 MB of them sit in 1.3 GB of heap. And a server that
// allocates little for a while lets its heap fill with garbage all the same.
//
// The pacer sets the percentage (GOGC) after every collection and once a second, such that the heap may grow by
// what makes collections cost a small share of the processors at the present rate of
// allocation, and never by more than what there is to mark, which is Go's own rule
// for the rest of the heap. While the process starts, and while somebody who makes much garbage and keeps
// nothing of it has the heap confined, that share is larger.
//
// What is free goes back to the system after the start and after a burst, when it is not going to be asked for again soon.
//
// A limit, that of --memory-limit or of the control group, is told to Go's runtime, which then collects as often as it takes.
// What can be done without has to make room for the rest before that becomes dear: history and encodings that can be made again may
// have parts of what is left of the limit, and whoever keeps them is asked to let go when that becomes less.
//
// A percentage that the operator has set in the environment (GOGC) is left alone, and so is a limit (GOMEMLIMIT).
package pacer
