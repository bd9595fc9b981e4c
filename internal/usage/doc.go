// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

// Package usage counts who asks a server for what: by user and user agent, how many lists, watch lists and watches, how they
// were answered, and what that took.
//
//	Handler ──▶ account of (user, user agent) ◀── Snapshot
//
// The number of names that are kept is bounded: those that have not been seen for longest are added up under "others". A
// request takes a read lock for a look into a map; all else are atomic counters.
package usage
