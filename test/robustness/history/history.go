// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

// Package history is what a run has recorded: the changes that etcd had (Truth), and what was done and seen at the servers
// beside each other (Write, Read, Watch, List, Fault). It knows no server; package check judges it.
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
	Resource  string `json:"resource"` // such as "pods"
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
}

// Path is the key as one word, and sorts keys.
func (k Key) Path() string { return k.Resource + "/" + k.Namespace + "/" + k.Name }

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
	// Fields are those that can be selected by beside the node, by their names in a selector.
	Fields map[string]string `json:"fields,omitempty"`
	// Op is the mark of the write that made it.
	Op string `json:"op,omitempty"`
	Digests
}

// Outcome is what a client knows of its write.
type Outcome string

// The outcomes.
const (
	Acknowledged Outcome = "acknowledged"
	// Refused says that an answer of 4xx came: nothing was written.
	Refused Outcome = "refused"
	// Unanswered says that no answer came, or one of 5xx: the write may have happened, or may yet happen.
	Unanswered Outcome = "unanswered"
)

// Verbs of writes that are no methods of HTTP. A write's verb is the method otherwise.
const (
	// Apply is a server-side apply: a PATCH that makes the object if there is none.
	Apply = "APPLY"
	// DeleteCollection deletes all objects of a namespace that have a label, each at a revision of its own. The record's Key has
	// no Name, and the answer names no revision. An object that is made meanwhile may be deleted or not.
	DeleteCollection = "DELETECOLLECTION"
)

// Write is a write that was asked for.
type Write struct {
	Begun   time.Time `json:"begun"` // before it was sent
	At      time.Time `json:"at"`    // when the answer came, or when it was given up
	Server  string    `json:"server"`
	Verb    string    `json:"verb"`
	Key     Key       `json:"key"`
	Outcome Outcome   `json:"outcome"`
	Status  int       `json:"status,omitempty"` // the answer's, 0 for none
	// Sent is the mark that the object was to get. All writes but deletions make the object's mark this one, whatever it was before.
	Sent string `json:"sent,omitempty"`
	// Base is the revision that the object had to have, as the write said; 0 for any.
	Base int64 `json:"base,omitempty"`

	// What follows is the answer's, of an acknowledged write.

	UID string `json:"uid,omitempty"`
	// Revision is 0 where the answer does not tell it: to a deletion of a ConfigMap.
	Revision int64 `json:"revision,omitempty"`
	Deleted  bool  `json:"deleted,omitempty"`
	// Op is the mark that the object had in the answer.
	Op string `json:"op,omitempty"`
	// LabelKey and LabelValue are what DeleteCollection selects by, and Collected what its answer says was deleted.
	LabelKey   string      `json:"labelKey,omitempty"`
	LabelValue string      `json:"labelValue,omitempty"`
	Collected  []Collected `json:"collected,omitempty"`
	// Known is the latest revision that somebody had been told of before this was sent. Reached, where Revision is 0, is one that
	// etcd had after the answer: what was written is not later.
	Known   int64 `json:"known,omitempty"`
	Reached int64 `json:"reached,omitempty"`
	Digests
}

// Collected is an object that a DeleteCollection has deleted.
type Collected struct {
	Key Key    `json:"key"`
	UID string `json:"uid"`
}

// Read is a read of one object that was answered, with the object or with the word that there is none. The mode is
// Consistent, Any or NotOlderThan.
type Read struct {
	ID     int64  `json:"id"`
	Server string `json:"server"`
	Key    Key    `json:"key"`
	// Version is the one that a custom resource is asked for in, empty for other resources.
	Version string    `json:"version,omitempty"`
	Format  string    `json:"format"`
	Mode    Mode      `json:"mode"`
	Asked   int64     `json:"asked,omitempty"` // the revision of NotOlderThan
	Opened  time.Time `json:"opened"`          // before it was sent
	Closed  time.Time `json:"closed"`          // when all of the answer had come
	// Known is the latest revision that somebody had been told of before this was asked for.
	Known int64 `json:"known"`
	// Reached is a revision that etcd had after the answer.
	Reached int64 `json:"reached,omitempty"`
	Found   bool  `json:"found"`

	// What follows is the object's, if it was found.

	Revision int64  `json:"revision,omitempty"`
	UID      string `json:"uid,omitempty"`
	Op       string `json:"op,omitempty"` // the mark of the write that made this state
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
	// Unmatched has a resourceVersion and no match: that is Exact with a limit, unless one object is listed by its name, and
	// NotOlderThan without.
	Unmatched Mode = "unmatched"
	// NotOlderThan is of any state that is not older than what is asked for.
	NotOlderThan Mode = "notOlderThan"
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
	// Asked is the revision of Exact, NotOlderThan and Unmatched.
	Asked int64 `json:"asked,omitempty"`
	// Known is the latest revision that somebody had been told of before this was asked for.
	Known int64 `json:"known"`
	// Revisions are those that the pages name.
	Revisions []int64 `json:"revisions,omitempty"`
	Items     []Item  `json:"items,omitempty"`
	// Breaks are where it went on at another state, with the token that a 410 came with.
	Breaks []Break `json:"breaks,omitempty"`
	// Partial says that it was not read to its end.
	Partial bool `json:"partial,omitempty"`
}

// Break is how much of a list came before it went on at another state.
type Break struct {
	Pages int   `json:"pages"`
	Items int   `json:"items"`
	Known int64 `json:"known"` // as List.Known, when it went on
}

// Twins are watches of one scope that were open at the same time, at all servers and in all formats, and a list that was made
// before. Those that begin at a revision begin at the list's; others have initial events.
type Twins struct {
	List    *List    `json:"list"`
	Watches []*Watch `json:"watches"`
}

// Fault is something that was done to the servers.
type Fault struct {
	Kind   string    `json:"kind"`
	Server string    `json:"server,omitempty"`
	Begin  time.Time `json:"begin"`
	End    time.Time `json:"end"`
}
