// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

// Package budget keeps what requests hold while they are answered within the memory that there is.
//
//	request ──Acquire──▶ Budget ──▶ Grant, now or when others have released theirs
//	                       ▲    └─▶ an error, when its time is up or it can never be
//	Follow ──────Resize────┘
//	  limit of the process − what is held anyway − room for garbage
//
// A request says beforehand how many bytes it may hold. What is small goes on as long as there is any room; the last
// quarter is kept for it. What is large waits for others that are: within a class in the order in which they came, and of
// several classes that goes first which holds the least, so that the requests of one priority level do not keep those of
// another waiting. Nobody overtakes the one that is next, so that it does not wait for ever; and one that is large is always
// let in if no other is there. What must go on is counted, and never waits.
//
// A grant is never taken back: what has begun is not cut off.
//
// golang.org/x/sync/semaphore is not used. Its size cannot change, and its waiters have one order for all.
//
// The package imports nothing of k8s.io.
package budget
