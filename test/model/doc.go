// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

// Package model judges storages by a model.
package model
