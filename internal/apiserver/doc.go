// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

// Package apiserver assembles the server: kube-apiserver as k8s.io/kubernetes
// builds it, with weir's parts plugged into the places that upstream exports.
//
//	flags ──▶ Options ──▶ [stand-alone: etcd, keys, kubeconfig] ──▶ upstream's NewConfig
//	                                                                     │ plug (seams.go)
//	                                            Run ◀── PrepareRun ◀── CreateServerChain
//
// It is the one package that knows both k8s.io/kubernetes and weir's packages.
package apiserver
