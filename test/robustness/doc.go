// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

// Package robustness would catch weir lying.
package robustness
