// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

// Package bench measures a kube-apiserver from outside, over its API.
//
// It is what "weir bench" runs. A run compares targets (server binaries) on the same data:
//
//	weir bench (this process)          loads data, drives scenarios, samples, prints
//	   |-- etcd child                  one embedded etcd, shared by all targets in turn
//	   |-- kube-apiserver child        the target; the only process whose CPU and memory count
//	   `-- reader child                the clients of one phase; their memory is not the server's
//
// Or the target is a cluster that bench did not start: it then makes, uses and removes one namespace there. See cluster.
//
// Three processes, because a figure that mixes server, storage and clients says nothing about the server. Targets run
// one after the other, never at the same time, each freshly started for each scenario.
//
// The vocabulary:
//
//   - A Target is a binary with flags. Every target gets the same flags, except those that make it that target.
//   - A dataset is a set of objects in namespaces of bench's own. See Dataset.
//   - A scenario is a named run of phases against one started target. See Scenario.
//   - A phase is one measured stretch: server CPU seconds, wall time, memory before, peak and after. See Phase.
//   - A place is where objects go: a cluster of bench's own, or one namespace of somebody else's.
//   - A stretch is what the view shows at a time: a phase, a load, a wait.
//   - Results is everything a run measured, as written to results.json.
//
// Server CPU and resident memory are read from /proc, and so need Linux; those of an existing cluster from its /metrics.
//
// The package talks HTTP only: it imports nothing of weir, and only the command line imports it.
package bench
