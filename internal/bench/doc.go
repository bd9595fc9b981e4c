// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

// Package bench measures a kube-apiserver from outside, over its API.
//
// It is what "weir bench" runs. A run compares targets (server binaries) on the same data:
//
//	weir bench (this process)          loads data, drives scenarios, samples, prints
//	   |-- etcd child                  one etcd, shared by all targets in turn
//	   |-- kube-apiserver child        the target; the only process whose CPU and memory count
//	   '-- client child                the clients of one phase; their memory is not the server's
//
// Or the target is a cluster that bench did not start: it then makes, uses and removes one namespace there. See cluster.
//
// Three processes, because a figure that mixes server, storage and clients says nothing about the server. Targets run
// one after the other, never at the same time, each freshly started for each scenario.
//
// This package is the commands and the order of a run. The rest, each importing only what is below it:
//
//	bench        the commands, targets, a run from its beginning to its end
//	scenario     what is measured, on one target
//	static       the floor: a server that sends what another has sent
//	report       results.json, the table, the graphs      client    readers and informers
//	dataset      what is loaded                           internal/rig   starts etcd and servers
//	view         what is shown meanwhile
//
// All of it talks HTTP only: it imports nothing of weir's server, and only the command line imports it.
package bench
