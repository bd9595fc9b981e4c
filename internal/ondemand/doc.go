// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

// Package ondemand has the storage of a custom resource be there while it is used.
//
// Upstream makes, for each version of a definition, a client of etcd, a watch of the resource and a cache when the resource
// is first asked for, and keeps them until the definition changes: 19 goroutines and a connection for a version that nobody
// reads. A Storage stands for both, the storage and the cache, and makes each when it is needed:
//
//	                     ┌── plain:  what goes to etcd: writes, reads of one object
//	request ─▶ Storage ──┤
//	                     ├── cached: watches and lists; while it is there it takes everything
//	                     │
//	                     └── census: how many objects there are, and lists of none: one client for all
//
// What nobody has used for Windows times as long as history is kept (150 s) is closed again, by one goroutine for all of them (Keeper.Run). A watch uses its cache until
// its request ends, and so does a list, which may be sent after the storage has answered. So nothing is ever closed under a reader.
// A cache that is opened begins with the state of as long ago as history is kept, which etcd still has, and follows from there
// (watchcache.Config.From): whoever has listed, written or watched the resource meanwhile, here or at another server, can go on
// from the revision that it was given. For that the revision of etcd is asked for every 15 s.
package ondemand
