// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

// Package killed kills a stand-alone server, again and again, while it is written to, and holds that nothing is lost that it
// has acknowledged. Stand-alone means with the etcd inside of its own process, so that one kill -9 takes everything.
//
//	writers, each with objects of its own ---> weir, etcd in it ---> a data directory that stays
//	   |                                          ^   |
//	   '-- ledger: what each object may be        |   '-- an informer, all the time
//	          ^                                   |
//	          '---- read after each start: a consistent list, and single objects past the cache
//
// An object is written by one writer, one write after the other. So what it may be after a kill is what the last acknowledged
// write made of it, or what the one write made that was not answered. Anything else is a lost write, or one that came back.
// Revisions go up over kills, and an informer that was there all the time holds in the end what a list gives.
//
// A kill ends the process, not the machine: what was written and not synced to the disk is still there. It tells whether weir
// and its etcd acknowledge before they have written, not whether a disk keeps what it was given.
//
//	go test ./test/killed                     3 kills
//	make killed KILLS=200                     as many as you like
package killed
