// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

// Package soak tells whether what a server uses grows while its load stays the same: Sampler asks servers for it, Judge holds
// the last quarter of what was seen against the second, and Draw shows the curve.
//
//	servers --/metrics--> Sampler --> []Sample --> Judge: what has grown
//	                                         '---> Draw, WriteCSV
//
// The first quarter is not judged: caches fill, and events have yet to become old enough to be let go of.
package soak
