// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package watchcache

import (
	"slices"
	"sync"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/registry/generic"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/storagebackend"
	"k8s.io/apiserver/pkg/storage/storagebackend/factory"
	"k8s.io/utils/clock"

	"github.com/weir-project/weir/internal/conversion"
	"github.com/weir-project/weir/internal/convoy"
	"github.com/weir-project/weir/internal/frame"
	"github.com/weir-project/weir/internal/intact"
	"github.com/weir-project/weir/internal/ledger"
)

// Options say what the caches of a server have in common.
type Options struct {
	// Bounded keeps lists away from etcd for which the cache is too late: they wait, and
	// then fail with an error that asks the client to come back.
	Bounded bool
	// Types knows the built-in types.
	Types frame.Types
	// History and Derived, if set, return how many bytes of history, and of encodings that can be made again, all caches
	// of the process may keep together. Relieve has to be called when they may have become less.
	History, Derived func() int64
	// DefaultedOnRead has the resources whose REST storage changes objects on their way from
	// storage to clients (generic registry Store.Decorator), and tells of an object whether
	// it does.
	DefaultedOnRead map[schema.GroupResource]func(runtime.Object) bool
	// Batches, if set, has custom resources converted several at once whose codecs it knows.
	Batches *conversion.Batches
	// Sharing has several storages be answered from one follower. Optional: none are.
	Sharing *Sharing
	// Rules returns what the storage codec of a custom resource does, false if that is not known. newFunc returns an empty object of
	// the version that is served. With it, objects that are intact are taken as they are stored; see package intact. Optional: all are decoded.
	Rules func(config *storagebackend.ConfigForResource, newFunc func() runtime.Object) (intact.Rules, bool)
	// NewStorage makes the storages. Optional: generic.NewRawStorage does.
	NewStorage NewStorage
}

// newStorage makes a storage.
func (s *Caches) newStorage(config *storagebackend.ConfigForResource, newFunc, newListFunc func() runtime.Object, resourcePrefix string) (storage.Interface, factory.DestroyFunc, error) {
	if s.opts.NewStorage != nil {
		return s.opts.NewStorage(config, newFunc, newListFunc, resourcePrefix)
	}
	return generic.NewRawStorage(config, newFunc, newListFunc, resourcePrefix)
}

// Caches are the caches of one server, by resource. They share the budget for derived
// encodings.
type Caches struct {
	opts    Options
	store   *frame.Store
	convoys *convoy.Convoys

	// taken counts the custom resources that have been taken in.
	taken taken

	mu sync.Mutex
	// of has the caches of each resource that run: a custom resource has one for each
	// version.
	of map[schema.GroupResource][]*Cache
	// shared are the followers that several of them may answer from, by key. ended says that none lingers any more.
	shared map[string]*shared
	ended  bool
}

// NewCaches returns an empty set.
func NewCaches(opts Options) *Caches {
	return &Caches{
		opts:    opts,
		store:   frame.NewStore(frame.DefaultBudget, ledger.Process),
		convoys: convoy.New(window, clock.RealClock{}),
		of:      map[schema.GroupResource][]*Cache{},

		shared: map[string]*shared{},
	}
}

// Of returns a cache of the resource, or nil if there is none.
func (s *Caches) Of(resource schema.GroupResource) *Cache {
	s.mu.Lock()
	defer s.mu.Unlock()
	if all := s.of[resource]; len(all) > 0 {
		return all[0]
	}
	return nil
}

// Relieve lets go of history and derived encodings that are more than Options allow now.
func (s *Caches) Relieve() {
	if s.opts.Derived != nil {
		s.store.Keep(min(s.opts.Derived(), frame.DefaultBudget))
	}
	if s.opts.History == nil || ledger.Process.Bytes(ledger.History) <= s.opts.History() {
		return
	}
	for _, c := range s.all() {
		c.relieve()
	}
}

// all returns the followers, each once, also those that linger.
func (s *Caches) all() []*follower {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []*follower
	for _, of := range s.of {
		for i, c := range of {
			if !slices.ContainsFunc(of[:i], func(o *Cache) bool { return o.follower == c.follower }) {
				all = append(all, c.follower)
			}
		}
	}
	for _, x := range s.shared {
		if x.timer != nil {
			all = append(all, x.follower)
		}
	}
	return all
}

func (s *Caches) add(c *Cache) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.of[c.cfg.GroupResource] = append(s.of[c.cfg.GroupResource], c)
}

func (s *Caches) remove(c *Cache) {
	s.mu.Lock()
	defer s.mu.Unlock()
	resource := c.cfg.GroupResource
	left := slices.DeleteFunc(s.of[resource], func(o *Cache) bool { return o == c })
	if len(left) == 0 {
		delete(s.of, resource)
		return
	}
	s.of[resource] = left
}

// Books are the bytes that resources hold, by purpose.
type Books map[schema.GroupResource]map[ledger.Purpose]int64

// AddTo adds what the caches hold to books: a resource with several caches has the sum of them.
func (s *Caches) AddTo(books Books) {
	for _, c := range s.all() {
		of := books[c.cfg.GroupResource]
		if of == nil {
			of = map[ledger.Purpose]int64{}
			books[c.cfg.GroupResource] = of
		}
		of[ledger.Frames] += c.frames.Load()
		of[ledger.History] += c.history.bytes.Load()
		of[ledger.Readers] += c.readers.bytes()
	}
}
