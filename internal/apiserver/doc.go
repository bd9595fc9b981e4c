// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

// Package apiserver assembles the server: kube-apiserver as k8s.io/kubernetes
// builds it, with weir's parts plugged into the places that upstream exports.
//
//	flags ──▶ Options ──▶ [stand-alone: etcd, keys, kubeconfig] ──▶ upstream's NewConfig
//	                                                                     │ plug (seams.go)
//	                                            Run ◀── PrepareRun ◀── CreateServerChain
//
// A command makes Options, adds their Flags to its own and calls Run. A test or tool
// that wants a server in its own process calls Start and Stop:
//
//	server, err := apiserver.Start(ctx, "--data-dir="+dir, "--watch-cache=false")
//	client, err := kubernetes.NewForConfig(server.Client) // an administrator, over TLS
//	err = server.Stop()
//
// Without --etcd-servers and with a data directory a server is stand-alone: it runs
// etcd inside the process, generates keys and certificates, and takes safe defaults
// (see safeDefaults). Beside an external etcd every default is upstream's.
//
// It is the one package that knows both k8s.io/kubernetes and weir's packages.
package apiserver
