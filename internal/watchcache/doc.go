// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

// Package watchcache is weir's storage.Interface: one resource, followed in etcd and
// served to every reader from bytes that were encoded once.
//
//	etcd ──▶ source ──▶ frame ──▶ state: ordered map, frozen at every revision ──▶ initial events, lists, gets
//	                       └────▶ event log, bounded ──▶ one cursor per watch  ──▶ live events
//
// source follows the resource's prefix through upstream's etcd3 store, which decrypts
// and decodes; each object becomes a frame and the decoded one is dropped. A reader
// takes the frozen state in constant time, walks it without a lock, and goes on in
// the log exactly where that state ends. A watch has a goroutine while it has something
// to send; when it has not, its cursor is parked and the log's dispatcher hands it what
// comes. Writes go to the etcd3 store, with the cached object as the suggestion that
// saves a read.
//
// follower is what follows etcd; a Cache serves it in one version. Several versions of a custom resource may be
// served from one follower; see shared.go.
//
// What is served, refused or passed to etcd, and with which errors, follows
// k8s.io/apiserver/pkg/storage/cacher (CacheDelegator and Cacher); what that package
// exports is used: the rules of delegation, the progress requester, the consistency
// checker and the metrics.
package watchcache
