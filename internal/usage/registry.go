// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package usage

import (
	"cmp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"
)

const (
	// DefaultNames is how many names a Registry keeps by default.
	DefaultNames = 500
	// maxName is how many bytes of a user's name or a user agent are kept.
	maxName = 256
)

// Kind is what a request is for.
type Kind int

// The kinds. Other is all that is neither a list nor a watch.
const (
	Other Kind = iota
	List
	WatchList
	Watch

	kinds
)

// name is who asks.
type name struct{ user, agent string }

// account has the counters of a name.
type account struct {
	name name
	// open is how many requests are being answered. It grows under Registry.mu only, so that an account
	// whose open is 0 while that is locked for writing has none who counts in it.
	open atomic.Int64
	// seen is when the last request came, in nanoseconds since 1970.
	seen     atomic.Int64
	requests [kinds]atomic.Int64
	// streamed and decoded are lists; compressed are lists and watches.
	streamed, decoded, compressed atomic.Int64
	// watching is how many watches are open.
	watching     atomic.Int64
	bytes, seats atomic.Int64
}

// Account is what has been counted of a name since the server started.
type Account struct {
	// User is the name of the user; those of nodes are together as "system:node:*". UserAgent is what the client
	// calls itself, as it was sent, up to a length. Others says that it is of all that have no account.
	User      string `json:"user"`
	UserAgent string `json:"userAgent"`
	Others    bool   `json:"others,omitempty"`
	// Lists have been answered, ListsStreamed of them from encoded objects, ListsDecoded by decoding and encoding.
	Lists         int64 `json:"lists"`
	ListsStreamed int64 `json:"listsStreamed"`
	ListsDecoded  int64 `json:"listsDecoded"`
	// WatchLists are watches that began with sendInitialEvents, Watches all others; Watching of both are open.
	WatchLists int64 `json:"watchLists"`
	Watches    int64 `json:"watches"`
	Watching   int64 `json:"watching"`
	// OtherRequests are all that are neither lists nor watches.
	OtherRequests int64 `json:"otherRequests"`
	// Compressed are the lists and watches whose response was compressed.
	Compressed int64 `json:"compressed"`
	// Bytes have been sent in answer to lists and watches, as they went out.
	Bytes int64 `json:"bytes"`
	// Seats of flow control have been taken by lists and watches, all added up.
	Seats int64 `json:"seats"`
	// LastSeen is when the last request came.
	LastSeen time.Time `json:"lastSeen"`
}

func (a *account) add(o *account) {
	for i := range a.requests {
		a.requests[i].Add(o.requests[i].Load())
	}
	a.streamed.Add(o.streamed.Load())
	a.decoded.Add(o.decoded.Load())
	a.compressed.Add(o.compressed.Load())
	a.bytes.Add(o.bytes.Load())
	a.seats.Add(o.seats.Load())
	a.seen.Store(max(a.seen.Load(), o.seen.Load()))
}

func (a *account) snapshot() Account {
	return Account{
		User: a.name.user, UserAgent: a.name.agent,
		Lists: a.requests[List].Load(), ListsStreamed: a.streamed.Load(), ListsDecoded: a.decoded.Load(),
		WatchLists: a.requests[WatchList].Load(), Watches: a.requests[Watch].Load(), Watching: a.watching.Load(),
		OtherRequests: a.requests[Other].Load(), Compressed: a.compressed.Load(),
		Bytes: a.bytes.Load(), Seats: a.seats.Load(), LastSeen: time.Unix(0, a.seen.Load()),
	}
}

// Registry has the accounts. Its methods may be called by any number of goroutines.
type Registry struct {
	max int
	now func() time.Time

	// mu guards the map. Who finds an account in it under a read lock may count in it until he says that
	// he is done.
	mu       sync.RWMutex
	accounts map[name]*account
	// others is never in accounts; those who do not get an account count in it.
	others account
	// watching is how many watches are open.
	watching atomic.Int64
}

// NewRegistry returns a Registry that keeps so many names.
func NewRegistry(names int) *Registry {
	return &Registry{max: names, now: time.Now, accounts: map[name]*account{}}
}

// Watching returns how many watches are open.
func (r *Registry) Watching() int { return int(r.watching.Load()) }

// Snapshot returns the accounts, those first that have been sent most bytes, and then that of others if there is anything in it.
func (r *Registry) Snapshot() []Account {
	r.mu.RLock()
	all := make([]Account, 0, len(r.accounts)+1)
	for _, a := range r.accounts {
		all = append(all, a.snapshot())
	}
	others := r.others.snapshot()
	seen := r.others.seen.Load() != 0
	r.mu.RUnlock()
	slices.SortFunc(all, func(a, b Account) int {
		return cmp.Or(cmp.Compare(b.Bytes, a.Bytes), cmp.Compare(a.User, b.User), cmp.Compare(a.UserAgent, b.UserAgent))
	})
	if seen {
		others.Others = true
		all = append(all, others)
	}
	return all
}

// enter returns the account of a name, in which the caller counts until it calls leave.
func (r *Registry) enter(n name) *account {
	now := r.now().UnixNano()
	r.mu.RLock()
	a := r.accounts[n]
	if a != nil {
		a.open.Add(1)
	}
	r.mu.RUnlock()
	if a == nil {
		a = r.open(n)
	}
	a.seen.Store(now)
	return a
}

func (a *account) leave() { a.open.Add(-1) }

// open opens an account, for which that which has not been seen for longest is closed if there are too many.
func (r *Registry) open(n name) *account {
	r.mu.Lock()
	defer r.mu.Unlock()
	a := r.accounts[n]
	if a == nil && len(r.accounts) >= r.max && !r.closeOldestLocked() {
		a = &r.others
	}
	if a == nil {
		a = &account{name: name{strings.Clone(n.user), strings.Clone(n.agent)}}
		r.accounts[a.name] = a
	}
	a.open.Add(1)
	return a
}

// closeOldestLocked returns false if all accounts are in use.
func (r *Registry) closeOldestLocked() bool {
	var oldest *account
	for _, a := range r.accounts {
		if a.open.Load() == 0 && (oldest == nil || a.seen.Load() < oldest.seen.Load()) {
			oldest = a
		}
	}
	if oldest == nil {
		return false
	}
	delete(r.accounts, oldest.name)
	r.others.add(oldest)
	return true
}

// short returns the beginning of what a client may have made long.
func short(s string) string {
	if len(s) <= maxName {
		return s
	}
	end := maxName
	for end > 0 && !utf8.RuneStart(s[end]) {
		end--
	}
	return s[:end]
}
