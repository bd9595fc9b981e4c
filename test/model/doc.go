// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

// Package model judges a storage.Interface by a model: a map of objects with all that was ever
// written to it. Random requests, from a seed, go to several storages over one etcd; every
// answer, every error and every event is held against the model. Upstream's store and
// upstream's cacher are judged beside the cache that it is about, so that they judge the model:
// what it says has to hold for all three.
//
// # What is judged
//
// Etcd numbers all writes, so their order is known, and no search for an order is needed that
// could explain the answers. Each request is put between two readings of etcd's revision.
//
//   - A write has a revision between the two, and found what the model has at the revision
//     before: what it created was not there, what the caller's function was given last is what
//     was overwritten, preconditions held, nobody had refused. It returns what was written.
//   - A write that fails, or changes nothing, had a reason at a revision between the two; an
//     error names the key.
//   - A read says its revision, which has to be one that it may be of: the newest, the one asked
//     for, one not older, and never an older one than this cache has shown. It has exactly
//     what the model has there: items, their order, the token, how many follow.
//   - A watch tells of the state that it begins with and of every change after that, of each once,
//     in order, as ADDED, MODIFIED or DELETED as the selectors have it, with the content that
//     they allow. A bookmark comes after everything up to its revision. In the end each watch
//     is given an event of its own, and has to have told all up to there.
//   - What may fail: revisions of the future, compacted ones, watches from before a cache was
//     started; and what has to.
//
// With one caller (World.Sequence) each answer is judged at once. With many (World.Concurrently)
// everything is judged in the end.
//
// # Upstream's newest tests
//
// Since v1.37 upstream has a model of its own in k8s.io/apiserver/pkg/storage/testing/correctness, a run
// of concurrent callers whose order porcupine finds in k8s.io/kubernetes/test/integration/apiserver/storage, and a
// proposal of about 80 states of requests that a suite has to cover (kubernetes pull requests
// 141729, 141996 and 142117, issue 141652). What they cover, and where it is covered here:
//
//	upstream                                         here
//	create, delete, get, list, update against a      write, judgeUnwritten, judgeGet, judgeList;
//	sequential model                                 before only against upstream's cacher (TestDifferential)
//	                                                 or in single scenarios (TestConformance)
//	order of concurrent calls, by porcupine          by etcd's revisions, Concurrently; new
//	preconditions by UID and revision, stale         drawWrite; random ones are new
//	suggestions, changes of nothing, refusals by
//	the caller's function, upserts
//	errors with key and revision                     judgeUnwritten, judgeGet; new
//	get: "", 0, past, future, malformed              judgeGet; new beside upstream's RunTestGet
//	list: resourceVersion × match                    judgeList; before only beside upstream's cacher
//	list: limit, continue, selectors (not yet        judgePage, also tokens whose revision is compacted
//	in upstream's model)
//	watch: reliable, ordered, unique, no event of    judgeWatch; before only beside upstream's cacher
//	the requested revision, right types, content
//	that was allowed
//	watch: bookmarks that are true                   from; new where clocks do not move
//	watch: an error is the last event                judgeWatch
//	watch: begins with "", 0, 1, now, past, future   drawWatch
//	watch list: only ADDED, of one state, then its   tale.judge, with the bookmark's revision; new
//	bookmark; an error for the future
//	watch: namespaces that are prefixes of others,   kind.go
//	of nothing, one object; label, name, namespace,
//	index, index without a value
//	watch: slow, stalled, stopped, resumed           drawWatch, watchOn; stalls by the clock are in
//	                                                 TestStalled of watchcache
//	the states of requests that were met             Subject.counts, World.Sum
//	cache that is initialized anew meanwhile         not here: TestDifferential has outages
//	unstructured objects (not in upstream's)         the custom resources of TestModel
//	lies in a watch, each to be found                TestJudge
//	known bugs, planted by patches (git apply)       not kept: what was planted is in the commit's message
//
// Not here either: objects with a time to live (TestDifferential), objects that cannot be read
// (TestUnreadable of watchcache), shards (TestDifferentialSharded).
package model
