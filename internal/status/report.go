// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

// Package status is what `weir status` shows: the report of a server, as its handler sends it and as clients read it.
//
//	internal/apiserver makes a Report ──▶ GET /weir/status ──▶ internal/status/view shows it
//
// Fields are added, not changed: clients and servers of different releases meet. The package imports nothing of k8s.io.
package status

import (
	"time"

	"github.com/weir-project/weir/internal/buildinfo"
)

// Path is the non-resource URL of the report.
const Path = "/weir/status"

// Report is what a server holds and does.
type Report struct {
	// Build is the server's, Kubernetes the release that it serves.
	Build      buildinfo.Info `json:"build"`
	Kubernetes string         `json:"kubernetes"`
	// Started is when the server was, Time when the report was made.
	Started time.Time `json:"started"`
	Time    time.Time `json:"time"`
	// EtcdRevision is that of etcd when the report was made; 0 if EtcdError says why it is not known.
	EtcdRevision uint64 `json:"etcdRevision"`
	EtcdError    string `json:"etcdError,omitempty"`
	Memory       Memory `json:"memory"`
	// Watching is how many watches are open, also those of resources that are not cached.
	Watching int `json:"watching"`
	// Resources are those that are cached, by name.
	Resources []Resource `json:"resources"`
	// Readers are the watches that have longest had something to read.
	Readers []Reader `json:"readers"`
	// Clients are who asks for what, those first that were sent most bytes, the others together in the end.
	Clients []Client `json:"clients"`
}

// Memory is in bytes.
type Memory struct {
	// Purposes are what weir's cache and streams hold, as in the metric weir_memory_bytes.
	Purposes []Purpose `json:"purposes"`
	// Live was alive in the heap after the last collection, Heap is what the heap's objects take now, Total what the Go runtime has
	// has mapped, and Released what of that it has given back to the system for the time being. Limit is that of the Go runtime
	// (GOMEMLIMIT), 0 for none; what it limits is InUse.
	Live     int64 `json:"liveBytes"`
	Heap     int64 `json:"heapBytes"`
	Total    int64 `json:"totalBytes"`
	Released int64 `json:"releasedBytes"`
	Limit    int64 `json:"limitBytes,omitempty"`
}

// InUse returns how many bytes the Go runtime has of the system's memory. Servers that do not tell what they have released
// seem to have released nothing.
func (m *Memory) InUse() int64 { return m.Total - m.Released }

// Purpose is what bytes are held for.
type Purpose struct {
	Name  string `json:"name"`
	Bytes int64  `json:"bytes"`
}

// Resource is one that is cached. A custom resource has one for each served version.
type Resource struct {
	// Name is resource.group, the resource alone in the core group.
	Name string `json:"name"`
	// Ready says that it has been read from etcd; Error is why not. What follows is of one that has.
	Ready bool   `json:"ready"`
	Error string `json:"error,omitempty"`
	// Objects of Bytes in all are kept.
	Objects int   `json:"objects"`
	Bytes   int64 `json:"bytes"`
	// Watches are open.
	Watches int `json:"watches"`
	// History is what is kept of its past.
	History History `json:"history"`
	// Revision is that up to which the cache knows all, Behind by how much that is less than EtcdRevision half a second after
	// that was asked for: 0 of a cache that keeps up, also where nothing changes. Revisions count the changes of all resources.
	Revision uint64 `json:"revision"`
	Behind   uint64 `json:"behind"`
}

// History are the events that are kept.
type History struct {
	Events int   `json:"events"`
	Bytes  int64 `json:"bytes"`
	// Seconds is how old the oldest is; From and To are the revisions between which none is missing.
	Seconds float64 `json:"seconds"`
	From    uint64  `json:"from"`
	To      uint64  `json:"to"`
}

// Reader is a watch that has something to read.
type Reader struct {
	Resource  string `json:"resource"`
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name,omitempty"`
	User      string `json:"user"`
	UserAgent string `json:"userAgent"`
	// Events are those that it has yet to read, Seconds how old the first of them is, Bytes what its connection has taken.
	Events  int     `json:"events"`
	Seconds float64 `json:"seconds"`
	Bytes   int64   `json:"bytes"`
}

// Client is who asks, and for what: package usage says what the fields are.
type Client struct {
	User          string    `json:"user"`
	UserAgent     string    `json:"userAgent"`
	Others        bool      `json:"others,omitempty"`
	Lists         int64     `json:"lists"`
	ListsStreamed int64     `json:"listsStreamed"`
	ListsDecoded  int64     `json:"listsDecoded"`
	WatchLists    int64     `json:"watchLists"`
	Watches       int64     `json:"watches"`
	Watching      int64     `json:"watching"`
	OtherRequests int64     `json:"otherRequests"`
	Compressed    int64     `json:"compressed"`
	Bytes         int64     `json:"bytes"`
	Seats         int64     `json:"seats"`
	LastSeen      time.Time `json:"lastSeen"`
}
