// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

// Package etcd is where a server's data lies: either an etcd of weir's own inside
// the process, or somebody's cluster.
//
//	Start(dir)         ──▶ Embedded   one member, files under dir, a unix socket only
//	External.Check()   ──▶ []Member   who answers, in which version, before anything is started
//
// Embedded etcd is go.etcd.io/etcd/server/v3/embed with its real fsync: a write is
// acknowledged when it is on disk. It listens on unix sockets in a directory only
// the owner can enter. A TCP port, even on loopback, would let every local user
// read all Secrets past authorization, since a single-user etcd asks nobody who
// they are.
//
// Everything that a person can get wrong about either (a directory in use, one of
// a newer etcd, an address where nobody answers) is found here before the first
// byte is written, and said in one line.
package etcd
