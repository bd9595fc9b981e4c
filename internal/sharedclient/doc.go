// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

// Package sharedclient makes storages of several resources over one client of etcd.
//
// Upstream's factory makes a client, that is a connection and 6 goroutines, for each storage, and has no parameter for one that is there:
// newETCD3Client is not exported, and neither is what it is made of (the collector of gRPC's metrics, the logger, the times). etcd3.New, which
// is, takes a client. So a Pool has the factory make one storage, which nobody reads, and makes others over its client:
//
//	factory.Create ──▶ donor ──▶ its client ◀── etcd3.New ◀── Pool.Create, for each resource
//
// Each storage has a watcher of its own over the client, so that its watches' RPCs end with it.
//
// TLS, interceptors, metrics, tracing and keepalive are therefore upstream's. The client is read from a field of upstream's store by
// reflection. Where that does not look as at v1.37.2 nothing is shared: each storage is the factory's own. TestAsUpstreams fails then.
package sharedclient
