// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

// Package swap puts weir where kube-apiserver is, while clients go on, and takes it away again.
//
//	writers ---> an address ---> stock, weir, stock, ... ---> one etcd, which stays
//	               ^                                            ^
//	informers -----'                                            '---- what there really is, read past all servers
//
// TestTurns has the servers take turns. Each writer has objects of its own (ConfigMaps, Secrets encrypted at rest, Leases, Pods and
// custom resources) and keeps an account of what they may be: an acknowledged write is what the object is. The informers are client-go's,
// in three forms, with watch lists and with lists. A server takes the other's place in one of two ways:
//
//   - one after the other, as a static Pod is replaced: nobody answers in between. Informers may have to list again, but only where
//     a connection broke, or the new server says that it does not know what was before it (410).
//   - beside each other, as where there are several API servers: the address leads to the new one when it is ready, and then the
//     old one is asked to end. No informer has a reason to list again, and none may, but for what upstream may do when it is the old one:
//     to begin a watch that comes back while it ends watches, and to end it with nothing in it.
//
// What was not listed again has to have been told event by event: every acknowledged write is looked for in every informer.
//
// TestBesideOlder has weir and an older kube-apiserver (by --emulated-version) serve one etcd at the same time, both written to and
// read from, and compares with kube-apiserver in weir's place: the same answers, and nothing that both write against each other.
//
// TestShutdown asks a stand-alone weir to end, with a thousand watches open.
//
// All of it takes Go alone. A short form of each is part of go test ./...; the long ones:
//
//	make swap TURNS=12                        as many turns as you like, and all versions that can be emulated
//	make swap-envtest                         envtest's own suites: needs the Go module proxy (see envtest.sh)
//	make swap-kwok                            a kwok cluster of 200 nodes: needs the Go module proxy (see kwok.sh)
package swap
