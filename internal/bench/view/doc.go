// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

// Package view tells a person what a run is doing while it does it.
//
//	loading dataset b: 30000 objects                                    Say: a line that stays
//	  weir: watchlist b x16  [====>     ] 7/16 synced, RSS 812 MB       Begin ... Finish: a stretch; Update moves its bar
//
// A stretch is what is shown at a time: a phase, a load, a wait. Where there is no terminal there is no live line, and a
// stretch that takes long is told of in plain lines.
package view
