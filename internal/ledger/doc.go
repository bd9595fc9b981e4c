// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

// Package ledger counts the bytes that weir holds, by purpose.
//
// Whoever keeps bytes alive beyond one call says so here, with Add when it takes
// them and a negative Add when it lets them go. Metrics, status and limits read
// the same counters, so that they cannot disagree. The package imports nothing
// of k8s.io.
package ledger
