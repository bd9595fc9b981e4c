// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

// Package intact tells of a custom resource, as it is stored, whether the storage codec would give back the very same bytes, but for the
// resourceVersion, if it decoded them and they were encoded again. Nearly all are such: the server has written them, by the same
// definition. They can be served as they are stored, for a tenth of what decoding and encoding costs.
//
//	stored ──▶ Judge.Look: one pass, nothing kept ──▶ yes: an Object: where its parts are, and what it is in JSON at a revision
//	                                              └─▶ no: whoever asks decodes it
//
// The codec (k8s.io/apiextensions-apiserver/pkg/apiserver, v1.37.2) decodes JSON into maps, takes metadata over into ObjectMeta and back,
// prunes what the schema of the stored version does not have and what is null and may not be, adds defaults, sets apiVersion to that of
// the version that is served, and prunes by that one's schema. An object is intact if none of this changes anything, and if it is written
// as encoding/json writes it.
//
// The answer is only yes where that is sure. No is always right, and only costs time: embedded resources, what is null where it may not be,
// and whatever this package does not know are no. Tests hold every yes against upstream's codec.
//
// Metadata does the same for the metadata of an object that is to be served without the rest.
//
// It imports nothing of ours.
package intact
