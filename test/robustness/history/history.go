// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

// Package history is what a run has recorded: the changes that etcd had (Truth), and what was done and seen at the servers
// beside each other (Write, Watch, List, Fault). It knows no server; package check judges it.
package history

import (
	"cmp"
	"hash/fnv"
	"maps"
	"slices"
	"time"
)

// Key names an object.
type Key struct {
	Resource  string `json:"resource"` // "pods" or "configmaps"
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
}

// Digests stand for an object's content. An answer that has only metadata has Body 0, and that is not compared.
type Digests struct {
	Meta uint64 `json:"meta"`
	Body uint64 `json:"body,omitempty"`
}

// Agree tells whether both are of the same content, as far as both have it.
func (d Digests) Agree(other Digests) bool {
	return d.Meta == other.Meta && (d.Body == other.Body || d.Body == 0 || other.Body == 0)
}

// Digest makes a digest, never 0, of strings and maps of them.
func Digest(texts []string, sets ...map[string]string) uint64 {
	h := fnv.New64a()
	put := func(s string) {
		_, _ = h.Write([]byte(s)) // never fails
		_, _ = h.Write([]byte{0})
	}
	for _, s := range texts {
		put(s)
	}
	for _, set := range sets {
		for _, k := range slices.Sorted(maps.Keys(set)) {
			put(k)
			put(set[k])
		}
		put("")
	}
	return cmp.Or(h.Sum64(), 1)
}

// State is an object at a revision, as much of it as is compared or selected by.
type State struct {
	Revision int64             `json:"revision"`
	UID      string            `json:"uid"`
	Labels   map[string]string `json:"labels,omitempty"`
	Node     string            `json:"node,omitempty"`
	// Op is the mark of the write that made it.
	Op string `json:"op,omitempty"`
	Digests
}

// Scope is what a list or a watch selects. Empty parts select all.
type Scope struct {
	Resource  string `json:"resource"`
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name,omitempty"`
	Node      string `json:"node,omitempty"`
	// LabelKey and LabelValue select by one label.
	LabelKey   string `json:"labelKey,omitempty"`
	LabelValue string `json:"labelValue,omitempty"`
}

// Selects tells whether an object is selected. There is none if s is nil.
func (c Scope) Selects(k Key, s *State) bool {
	return s != nil && c.hasKey(k) && (c.Node == "" || c.Node == s.Node) && (c.LabelKey == "" || s.Labels[c.LabelKey] == c.LabelValue)
}

func (c Scope) hasKey(k Key) bool {
	return c.Resource == k.Resource && (c.Namespace == "" || c.Namespace == k.Namespace) && (c.Name == "" || c.Name == k.Name)
}

// Write is a write that was acknowledged.
type Write struct {
	At     time.Time `json:"at"` // when the answer came
	Server string    `json:"server"`
	Verb   string    `json:"verb"`
	Key    Key       `json:"key"`
	UID    string    `json:"uid"`
	// Revision is 0 where the answer does not tell it: to a deletion of a ConfigMap.
	Revision int64 `json:"revision,omitempty"`
	Deleted  bool  `json:"deleted,omitempty"`
	// Op is the mark that the object had in the answer, Sent the one that it was to get.
	Op   string `json:"op,omitempty"`
	Sent string `json:"sent,omitempty"`
	Digests
}

// Kind is a watch event's type.
type Kind string

// The kinds.
const (
	Added    Kind = "ADDED"
	Modified Kind = "MODIFIED"
	Deleted  Kind = "DELETED"
	Bookmark Kind = "BOOKMARK"
	Error    Kind = "ERROR"
)

// Event is one of a watch's.
type Event struct {
	Kind     Kind  `json:"kind"`
	Revision int64 `json:"revision"`
	Key      Key   `json:"key"` // of an object's event only
	Digests
	// InitialEnd says that this bookmark closes the initial events.
	InitialEnd bool `json:"initialEnd,omitempty"`
	// Code and Message are an error's.
	Code    int    `json:"code,omitempty"`
	Message string `json:"message,omitempty"`
}

// Start is how a watch begins.
type Start string

// The starts.
const (
	// AtRevision is after From.
	AtRevision Start = "revision"
	// WatchList is with initial events that a bookmark closes.
	WatchList Start = "watchlist"
	// AtZero is at resourceVersion 0: with initial events of any state, which nothing closes.
	AtZero Start = "zero"
)

// Watch is a watch, from its request to its end.
type Watch struct {
	ID      int64  `json:"id"`
	Role    string `json:"role"` // what it was opened for, such as "herd"
	Server  string `json:"server"`
	Format  string `json:"format"`
	Scope   Scope  `json:"scope"`
	Start   Start  `json:"start"`
	From    int64  `json:"from,omitempty"`
	Resumes int64  `json:"resumes,omitempty"` // the ID of the watch that it goes on from
	// Known, of a WatchList, is the latest revision that somebody had been told of before this was asked for.
	Known  int64     `json:"known,omitempty"`
	Opened time.Time `json:"opened"`
	Closed time.Time `json:"closed"`
	// Status is the answer's, 0 for none.
	Status int     `json:"status"`
	Events []Event `json:"events,omitempty"`
	// End is how it ended, for a person to read.
	End string `json:"end"`
	// Due, if not 0, is a revision up to which the client has waited for everything, for as long as it had patience.
	Due int64 `json:"due,omitempty"`
}

// Gone tells whether the server has said that it cannot go on without a gap.
func (w *Watch) Gone() bool {
	const gone = 410
	return w.Status == gone || len(w.Events) > 0 && w.Events[len(w.Events)-1].Code == gone
}

// Last is the revision up to which the watch has delivered, by its own word; 0 if it has not said: initial events do not.
func (w *Watch) Last() int64 {
	var last int64
	if w.Start == AtRevision {
		last = w.From
	}
	settled := w.Start == AtRevision
	for _, e := range w.Events {
		settled = settled || e.Kind == Bookmark
		if settled && e.Kind != Error {
			last = max(last, e.Revision)
		}
	}
	return last
}

// Mode is what a list asks for.
type Mode string

// The modes.
const (
	Consistent Mode = "consistent" // no resourceVersion
	Any        Mode = "any"        // resourceVersion 0
	Exact      Mode = "exact"      // resourceVersionMatch Exact
)

// Item is one of a list's.
type Item struct {
	Key      Key   `json:"key"`
	Revision int64 `json:"revision"`
	Digests
}

// List is a list, of all its pages.
type List struct {
	ID     int64     `json:"id"`
	Server string    `json:"server"`
	Scope  Scope     `json:"scope"`
	Format string    `json:"format"`
	Mode   Mode      `json:"mode"`
	Opened time.Time `json:"opened"`
	Limit  int       `json:"limit,omitempty"`
	// Asked is the revision of Exact.
	Asked int64 `json:"asked,omitempty"`
	// Known is the latest revision that somebody had been told of before this was asked for.
	Known int64 `json:"known"`
	// Revisions are those that the pages name.
	Revisions []int64 `json:"revisions,omitempty"`
	Items     []Item  `json:"items,omitempty"`
}

// Fault is something that was done to the servers.
type Fault struct {
	Kind   string    `json:"kind"`
	Server string    `json:"server,omitempty"`
	Begin  time.Time `json:"begin"`
	End    time.Time `json:"end"`
}
