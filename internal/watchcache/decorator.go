// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package watchcache

import (
	"fmt"
	"slices"
	"sync"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/registry/generic"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/storagebackend"
	"k8s.io/apiserver/pkg/storage/storagebackend/factory"
	"k8s.io/client-go/tools/cache"

	"github.com/weir-project/weir/internal/frame"
	"github.com/weir-project/weir/internal/ledger"
)

// Options say what the caches of a server have in common.
type Options struct {
	// Bounded keeps lists away from etcd for which the cache is too late: they wait, and
	// then fail with an error that asks the client to come back.
	Bounded bool
	// Types knows the built-in types.
	Types frame.Types
	// Decorated has the resources whose REST storage changes objects on their way from
	// storage to clients (generic registry Store.Decorator), and tells of an object whether
	// it does.
	Decorated map[schema.GroupResource]func(runtime.Object) bool
}

// Caches are the caches of one server, by resource. They share the budget for derived
// encodings.
type Caches struct {
	opts  Options
	store *frame.Store

	mu sync.Mutex
	// of has the caches of each resource that run: a custom resource has one for each
	// version.
	of map[schema.GroupResource][]*Cache
}

// NewCaches returns an empty set.
func NewCaches(opts Options) *Caches {
	return &Caches{
		opts:  opts,
		store: frame.NewStore(frame.DefaultBudget, ledger.Process),
		of:    map[schema.GroupResource][]*Cache{},
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

// Decorator returns the decorator that puts a Cache before a resource's storage. It
// takes the place of registry.StorageWithCacher.
func (s *Caches) Decorator() generic.StorageDecorator {
	return func(
		config *storagebackend.ConfigForResource,
		resourcePrefix string,
		keyFunc func(obj runtime.Object) (string, error),
		newFunc func() runtime.Object,
		newListFunc func() runtime.Object,
		getAttrs storage.AttrFunc,
		trigger storage.IndexerFuncs,
		indexers *cache.Indexers,
	) (storage.Interface, factory.DestroyFunc, error) {
		raw, destroy, err := generic.NewRawStorage(config, newFunc, newListFunc, resourcePrefix)
		if err != nil {
			return raw, destroy, err
		}
		c, err := New(Config{
			Storage:        raw,
			Versioner:      storage.APIObjectVersioner{},
			GroupResource:  config.GroupResource,
			History:        config.EventsHistoryWindow,
			ResourcePrefix: resourcePrefix,
			KeyFunc:        keyFunc,
			GetAttrs:       getAttrs,
			Trigger:        trigger,
			Indexers:       indexers,
			NewFunc:        newFunc,
			NewListFunc:    newListFunc,
			Codec:          config.Codec,
			Store:          s.store,
			Types:          s.opts.Types,
			Decorated:      s.opts.Decorated[config.GroupResource],
			Bounded:        s.opts.Bounded,
		})
		if err != nil {
			destroy()
			return nil, func() {}, fmt.Errorf("starting the watch cache of %s: %w", config.GroupResource, err)
		}
		s.add(c)
		var once sync.Once
		return c, func() {
			once.Do(func() {
				s.remove(c)
				c.Stop()
				destroy()
			})
		}, nil
	}
}
