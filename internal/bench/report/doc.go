// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

// Package report is what a run has measured, and the forms in which it is told.
//
//	Results ---> results.json     Write
//	  |     ---> a table          Table: medians, and ratios to the first target
//	  |     ---> benchstat lines  Gobench
//	  |     ---> .svg, .png       DrawGraphs: memory over time, phases and deaths marked
//	  |     ---> held or broken   Hold: limits on ratios
//	  |
//	TargetRun: one scenario on one target
//	  |-- Phase:  processor time, wall time, memory before, peak and after, figures
//	  |-- Sample: memory and processor time, all along
//
// Figures of one run compare with each other; those of two machines do not. A phase with errors counts nowhere.
package report
