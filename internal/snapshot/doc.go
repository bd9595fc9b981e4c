// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

// Package snapshot is an ordered map of which a reader takes an immutable
// picture in constant time.
//
//	writer ──▶ Map ──Freeze()──▶ View ──Ascend()──▶ any number of readers, without a lock
//
// A Map has one writer. A View never changes: readers walk it for as long as
// they like while the writer goes on, and pay for it only with the tree nodes
// that the writer has since replaced (copy on write). The tree itself is
// github.com/google/btree, which kube-apiserver's own watch cache uses for the
// same purpose.
//
// The package is generic and imports nothing of k8s.io.
package snapshot
