// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

// Package client is the clients that servers are measured with, in a process of their own: their memory and processor time
// must not count as the server's.
//
//	Parent --- job ----> child: readers, or client-go informers ====> server
//	   |   --- go  ---->   |
//	 Child <-- ready ---   |   Stream: a watch or a list, read to its end, its events and items
//	       <-- open  ---   |   counted by FrameReader and countList, never decoded
//	       <-- progress    |
//	       <-- done  ---   |
//
// A reader is the lightest client that still sees every event: what it does for one does not depend on the object's size,
// apart from passing its bytes. Where it must, it also holds what it is sent to the rules: as many objects as there are,
// every event newer than the one before.
package client
