// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

// Package lies shows that the robustness run finds what it is there to find: it has weir lie, in one way after the other,
// and the run has to say so within a stated time and by a rule that names what is wrong.
//
//	table: a Lie is some Edits of weir's sources ---- Plant ----> an overlay for the go command
//	                                                                   |  go test -c -overlay
//	                                                                   v
//	robustness.Open, Do (stops at the first violation) <---- one program that has all of them
//	                                                         and tells the one that WEIR_LIE names
//
// weir's sources have no hook for this: an Edit names a text that stands in a source file exactly once, and what stands
// there in its place in the overlay. So no build of weir can lie but the one that is made here. A change of weir that
// touches such a text fails TestTable, which costs nothing: the lie is then to be planted anew.
//
// What is told is told now and then, as a real fault would be, where telling it always would be too easy to find. Every lie
// is like a mistake that could be made at that place; some were made (moving-look, half-a-revision).
//
// In the ordinary tests the program is built, which shows that all lies compile, and some lies that are found quickly are
// told. All are by:
//
//	make robustness-lies                              about a minute each
//	make robustness-lies LIES=moving-look,event-skipped
package lies
