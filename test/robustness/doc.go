// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

// Package robustness writes to real servers, reads from them in many ways while faults happen, records what they say, and
// has it judged against what etcd had. It is there to catch weir lying: an event that is lost, doubled or out of order, a
// bookmark that says more than was delivered, a list that is no state.
//
//	writers -----------------------> weir a ---+
//	   |        readers --- link ------^       +--- links --- etcd: processes, with links between them
//	   |           |   --- link -------v       |      |
//	   +-----------|---------------> weir b ---+      | a watch by etcd's own client
//	   |           |                                  v
//	 Write       Watch, List                        Truth          package history: what is recorded
//	   +-----------+-----------+----------------------+
//	                           v
//	                      package check: every record as soon as it has ended
//
// Writers create, update, patch, apply, delete, and delete many at once: Pods, ConfigMaps, and widgets, a custom resource of
// two versions whose definition changes meanwhile; under few names, with labels and fields that move in and out of a selector,
// of 200 bytes to 1.4 MB. Events have leases, with which etcd deletes many at one revision; they are cached here, which they
// are not unless it is asked for. Every acknowledged write has to be in etcd's history.
//
// Readers are raw HTTP clients, so that nothing stands between the bytes and the judgement:
//   - sessions watch one scope (all, namespace, name, node, label, field, shard) in one form (JSON, protobuf, metadata,
//     Table; some compressed) all the time, and go on from their last event or bookmark, or from somewhere before, at the same or the other server. Some are
//     slow, some stop reading for seconds.
//   - herds are many keyed watches that begin together, each at a revision from some time ago, around the time at which
//     events are about to be let go of. They begin after a calm that is longer than events are kept. That is how lost events
//     of keyed watches were once seen, where a thousand ordinary resumptions did not show them.
//   - storms open and close watches at once.
//   - edges ask a server where its history begins, and watch everything from there and from the revision before.
//   - lists are consistent, of any state, of an exact revision or not older than one; whole or in pages. Some are left after
//     a page and gone on with later, also with the token that upstream offers when their state is gone.
//   - getters read one object after the other, each alone.
//   - twins are watches of one scope in all formats at all servers that go on from one list, and watch lists beside them.
//     They are compared with each other, without the truth, so that no fault of the judge is theirs too.
//   - informers of client-go, in processes of their own, compare what they got from a watch list with a list, and panic where
//     these differ (KUBE_WATCHLIST_INCONSISTENCY_DETECTOR). Some connect to either server. In the end they hold the truth.
//
// Reads and writes of each object, answered or not, have to have an order that agrees with their times and their outcomes
// (package check, Objects; porcupine finds it). Sharers make it hard: they read few objects and write what depends on that.
//
// The weirs compare their caches with etcd by upstream's own check (KUBE_WATCHCACHE_CONSISTENCY_CHECKER) every few seconds.
// One that dies by itself, or has panicked, is a violation.
//
// Whoever has been told of a revision tells the others: no consistent read that begins later may be older, at either server.
//
// Faults are listed in faultplan.go: of the links between readers and a weir and between a weir and etcd (cut, delayed,
// throttled, half open, stalled), of a weir (killed, paused, out of memory), of a member of etcd or the one that leads
// (killed, paused, kept apart from the others, defragmented), of etcd as a whole (compacted, without space, without a
// majority), an object that cannot be decrypted or decoded, and a conversion webhook that does not answer. Each is seen to do
// what it is there for, or the run has failed. One is over before the next, and all has to answer again. In the end all is
// healed; open watches have to deliver all that is due, and lists at both servers and etcd's own state have to be the truth.
//
// The seed makes the plan: what each of them draws, in its order. Time, and so what meets what, is not in it: a seed makes a
// failure likely again, no more. A watch's record is what a client saw, so a failure is told by the history alone.
//
// Two runs:
//
//	go test ./test/robustness                           2 minutes of load; weirs keep events for 18 s in place of 75
//	make robustness DURATION=10m SEED=1                 weirs keep events for 75 s
//
// A run of many hours takes no more memory than a short one: what etcd had is kept for as long as a record may need it
// (Config.keeps, and longer where acts wait to be judged: see trim), and the state from then on. What was before that is not
// judged, and the report says of how many acts. The history's file begins anew at 256 MiB, with the one before beside it and
// what was found in a third. WRITES=80 makes room for several runs on one machine.
//
// A run that fails leaves a directory, and says where: history.jsonl (each write, watch, list and fault with what was found
// about it, and the changes that etcd had), timeline.html (the same for a person: what was done to the servers, and around each
// violation what was due and what came; see package timeline), the logs of the servers, and the seed. Of an older history,
//
//	WEIR_DRAW=…/history.jsonl go test ./test/robustness/timeline -run TestDrawGiven
//
// draws it, beside it.
//
// What it does not say: a watch that is merely late is no fault before the run's end. Between the initial events and the
// first bookmark of a watch, only what they add up to is judged. The order of initial events is not. Content is compared by
// digests of metadata (names, UID, labels, annotations) and of a ConfigMap's or widget's data and what can
// be selected by. The order of what one revision deleted is not judged, but that nothing is told as complete in between.
//
// What is not there yet:
//   - a database that has really reached its size (the alarm is raised by name), disks that are full, slow or broken, two
//     faults at a time
//   - more than one label, sets and inequalities in selectors
//   - custom resources that are converted by more than their apiVersion, CBOR
//   - stock beside weir
//   - objects whose deletion waits for a finalizer, or takes its grace period, among those that are put in order
package robustness
