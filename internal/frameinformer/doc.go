// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

// Package frameinformer has shared informers for the server itself whose stores hold frames in place of
// decoded objects.
//
//	watch cache ──frames──▶ client-go's shared informer ──frames──▶ store, handlers
//	 (in process)            (reflector, queue, store)                │ decoded when read
//	                                                                  ▼
//	                                             listers and handlers get whole objects
//
// kube-apiserver reads from itself: the node authorizer, token authentication, admission plugins and
// policies have informers of Pods and Secrets that hold every object decoded, a second time, and hear of it
// over a connection of the server to itself. An informer of this package is client-go's own; but its items
// are references to the frames that the watch cache holds anyway, which come from the cache without a
// connection. What is read out of it, by Get, List, an index or a handler, is decoded then: the object of the
// served version that the connection would have brought, after the informer's transform. So whoever reads
// gets whole objects, as from any informer, and nobody has to be known.
//
// What was decoded for a reader is shared with the others for as long as it has not been collected (weak pointers), so that there is one of
// each object at most, however many readers there are. As with any informer, it is read only. Handlers get objects of their own,
// one at a time.
//
// An informer is never ahead of itself: the frame that an item has is the one of the event by which the
// informer learned of it, so a lister shows the revisions that handlers are told of. Of an old frame whose
// place in the cache a later one has taken, the informer hears in the same way as any other reader.
//
// Where there is no watch cache for the resource, or none that can begin a watch with the objects that there are,
// the informer reads over the connection, as upstream's, and holds what it gets.
package frameinformer
