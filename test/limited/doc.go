// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

// Package limited puts more on a weir than fits into its memory, in a control group that kills who takes too much.
//
//	load      watch lists, lists and Tables at the same time, then large writes beside watches that nobody reads
//	herd      all informers of a server that dies come to the one beside it
//	estimate  what requests are thought to hold, against what the heap says
//
// A request may be refused with 429, and then has to succeed when it is made again. Nothing else may go wrong: no answer that
// has begun ends early, no event is lost for those who read, and /readyz and leases are answered all the time.
//
// In `go test` the data are a tenth and the limit is lower. `make limited` runs with the sizes that the project is measured
// with, and upstream's server beside it, of which it says where it died.
package limited
