// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

// Package compact has definitions of custom resources take no more memory in this server than its readers of them need.
//
//	/apis/apiextensions.k8s.io/v1/customresourcedefinitions ──▶ Client: what the informer and the controllers read over the loopback
//	                                                              │ decoded as ever, from protobuf
//	                                                              ▼
//	                                                          Table: prose left out; schemas that are alike are one
//
// A definition is a tree of JSONSchemaProps, a struct of 512 bytes for each described property, in a map for each object. Most of a tree
// is there more than once: in each version of a definition, in what its controllers write, in the definitions of one author, and in
// all that embed a type of Kubernetes. Once the prose is gone (descriptions, titles, examples, managed fields), but for where upstream looks at it,
// maps and pointers that lead to equal schemas can lead to one.
//
// Upstream's informer of definitions is made where nobody can give it a transform (apiextensions-apiserver, New). What can be given is the
// configuration of its client, and the clientset's codecs are a variable: Client has the responses called by a media type
// of our own, for which the codecs have a decoder that knows the table.
package compact
