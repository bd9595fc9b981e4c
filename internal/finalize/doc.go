// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

// Package finalize has an update that ends an object's deletion delete that object, and no other of its name.
//
//	PUT, PATCH -- Handler --> upstream's registry.Store.Update
//	                              | 1. GuaranteedUpdate: the object is being deleted, and nothing holds it any more
//	                              | 2. Delete, by its name
//	                          Storage: 2 deletes nothing but what 1 has seen
//
// Between the two upstream has nothing that names the object (Store.deleteWithoutFinalizers of
// k8s.io/apiserver/pkg/registry/generic/registry/store.go, v1.37.2): if another request has ended the deletion meanwhile, and
// somebody has made a new object of that name, the new one is deleted, unless the update's own object had a UID, which a
// patch's has not. A Pod that a StatefulSet has just made again can be lost so, by a patch of the old one's status. What is
// right is what upstream does if there is no new object: the update's answer is the object that it ended. (A Service's update then also gives
// up the old Service's addresses, as upstream's does; upstream's repair takes them back for a new one that has them by now.)
package finalize
