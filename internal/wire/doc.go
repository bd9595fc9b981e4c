// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

// Package wire puts Kubernetes' stream envelopes round objects that are already
// encoded, so that one encoded object serves every stream.
//
//	JSON      {"type":"ADDED","object": ─ object ─ }\n
//	protobuf  0a len "ADDED"  12 len [ 0a len ─ object ─ ]
//
// An object here is what stands in the "object" field of a watch event: in JSON
// the object with kind and apiVersion, in protobuf the "k8s\0" prefix and a
// runtime.Unknown. The rules are those of metav1.WatchEvent's encoders in
// k8s.io/apimachinery; tests compare with them byte by byte. The length prefix of
// a protobuf stream is not written here: upstream's framer does.
//
// The package knows bytes only: neither connections nor objects.
package wire
