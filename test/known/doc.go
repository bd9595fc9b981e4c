// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

// Package known has faults that upstream's watch cache and etcd have had happen to real servers, one by one. Each scenario
// makes the situation that the fault needed, and would see what it did. A scenario has the number that the fault has in the
// repository of kubernetes/kubernetes or etcd-io/etcd.
//
//	clients --- TLS ---> a --- link --- tap ---+
//	                                           +--- etcd (a process) ---> a watch of the test's own: the truth
//	writers --- TLS ---> b --------------------+
//
// The link can be cut. The tap passes on all that etcd's protocol carries, and can change what etcd's watches say: an etcd of
// today does not have the faults of those before. What must hold then is not that nobody notices, but that a server that was
// told a lie, and can see it, does not go on as if nothing were wrong: its watches end, and what it says next is the truth.
//
//	fault              what happened, and when                                        what it did                           scenario
//	kubernetes 49956   A cache that has just been read has no events, and took a      The change at the cache's own          kubernetes-49956
//	                   watch that begins one revision before its own.                 revision was never told.
//	kubernetes 73845   A watch began while events were on their way to all: what it   Events came twice, and objects went    kubernetes-73845
//	                   began with came to it a second time.                           back in time.
//	kubernetes 107133  A resource that does not change kept its cache at an old       504 "Too large resource version",      kubernetes-107133
//	                   revision, and clients had later ones from another server.      again and again.
//	kubernetes 116122  A watch began while the cache was being read anew, and was     It stayed open and heard nothing of    kubernetes-116122
//	                   added after the others had been ended.                         what was in between.
//	kubernetes 122805  A watch list without a resourceVersion went to etcd, or        No bookmark that ends the initial      kubernetes-122805
//	                   compared with a revision that the cache did not reach.         events: informers waited forever.
//	kubernetes 123072  A server was too slow for etcd, which left events out when     Objects that had been deleted stayed   kubernetes-123072-slow
//	                   it compacted (etcd 17529); or the value before a deletion      in one server's cache for a day.       kubernetes-123072-previous
//	                   was gone, and the watch was taken up again too late.
//	kubernetes 125133  /api/v1/watch/namespaces/NAME has NAME for its namespace, in   No event after the first.              kubernetes-125133
//	                   which no Namespace is.
//	kubernetes 135115  The consistency checker compares what is under a key in etcd   With the checker told to panic, every  kubernetes-138631-135115
//	                   with what the cache has of that name. A value was under the    server did, again and again.
//	                   key of another.
//	kubernetes 138631  The checker read all of a resource from etcd at once, which    It failed for good, and nobody was     kubernetes-138631-135115
//	                   was more than a message may be.                                told of differences.
//	etcd 15220         Progress that was asked for was told before the events up to   A list without what had been           etcd-15220-lie
//	                   that revision, or named an older revision.                     acknowledged, watches with a gap.      etcd-15220-reads
//	etcd 17247         An event was told twice.                                       The same, at clients.                  etcd-17247
//	etcd 18089         etcd was compacted at the revision of a deletion, and a watch  The deletion was left out.             etcd-18089-lie
//	                   began there.                                                                                          etcd-18089-19179
//	etcd 19179         The same while the compaction was under way, with several      A deletion was left out.               etcd-18089-19179
//	                   deletions.
//	etcd 20221         A member that was behind got a snapshot while watches waited   They were told of older events.        etcd-20221-lie
//	                   at it for a revision of the future.                                                                   TestBehind
//	etcd 20655         Watches were created quickly.                                  They missed events.                    etcd-20655
//
// Beside them, what is known from the field: a watch from a revision of the future, reads of one (504, and when to come
// back), a definition that changes while its objects are written and watched, and an etcd that is put back to an earlier state
// (TestRestored).
//
// Each scenario has to be able to fail: TestPlanted has weir with a fault like the one that it is about, put in by an overlay of the
// go command, and runs it. WEIR_KNOWN_AGAINST=stock runs the scenarios against upstream's server; it fails those in which etcd
// lies.
//
// What is not, or not all, a scenario:
//   - kubernetes 138631: not with the two gigabytes that it took, but with more objects than the checker reads at once.
//   - kubernetes 135115: the checker's panic is upstream's code, and meant. What is held is that it finds such an object and
//     no other, that the server goes on, and that what it has of that name heals at the next write.
//   - a change that etcd leaves out (etcd 18089, 19179, 20655): what is never told cannot be seen, but for the checker's look
//     every five minutes. It shows when the same object's next event does not lead on from what the cache has, and that is held.
//   - etcd 20655 and 15220 at weir's own watches of etcd: there are as many as resources, and they are opened once. The race
//     is run at weir's watches instead.
//   - etcd 20221: the lagging member catches up from the log; that it gets a snapshot would take 10,000 writes. No fault is planted
//     for TestBehind: what would go wrong there is etcd's client.
//   - a list that was answered because etcd had lied about its progress (etcd 15220) cannot be taken back.
package known
