// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

// Package openapi serves the OpenAPI documents of custom resources, made when somebody asks for them
// and kept as compressed bytes.
//
//	definitions, as the watch cache has them ──▶ set: who serves which group version
//	                                               │ asked for: upstream's builder, one definition at a time
//	                                               ▼
//	/openapi/v3/apis/GROUP/VERSION  ◀── groupVersion: one compressed document, and its hash
//	/openapi/v3                     ◀── what upstream's aggregator says, and the hashes
//	/openapi/v2                     ◀── what upstream's aggregator says, and each definition's part, stitched together as text
//
// Upstream's controllers build the documents of every definition whenever it changes, several times while it
// is being created, and keep the Go values, the JSON and, in the aggregator, all of it once more. Here those
// controllers do not run (Service.Attach), upstream's aggregator knows of built-in and aggregated APIs
// only, and Service.Handler stands before it.
//
// Answers are upstream's, byte for byte and with its ETags, which are hashes of the content. What they are made with is
// upstream's, too: k8s.io/apiextensions-apiserver/pkg/controller/openapi/builder, the merge of specifications, the
// conversion to protobuf. Only where documents are put together is it done on text: an object's members are sorted
// by name, so that the members of two sorted objects make a third. That a document reads so is proven when it is taken
// apart (see split); a definition of which it is not true, or whose names collide with others, is left to upstream's merge (see odd).
//
// What upstream does not do: a document knows of a definition as soon as the watch cache does, where upstream's
// aggregator asks once a second; and a version that is no longer served has no document, where upstream
// keeps the last one until the definition is deleted or the server starts again.
package openapi
