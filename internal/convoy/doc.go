// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

// Package convoy keeps those together who read the same, in the same form, at the same time.
//
//	reader ──Walk.Pass──▶ ahead by more than the window? ──yes──▶ waits for the slowest, but not for long
//	                                       └───────────no───────▶ goes on
//
// What has to be made for a reader (JSON of what is kept in protobuf, a compressed row) is kept for those behind
// him within a budget. Left to themselves, readers who have begun together drift apart until that budget lies between the first and the
// last, and from then on each makes all of it for himself. Kept within a window of each other, a budget that is a little larger
// is enough for any number of them, and memory does not follow what is read.
//
// Nobody waits for a reader who takes a second for a quarter of the window, and while half of a convoy or more waits, nobody waits longer in all than three times as
// long as he has walked, and a second, nor than ten seconds. Those who are too slow are left to a convoy of their own, and so are those who come when the others are under way.
package convoy
