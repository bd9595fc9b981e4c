// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package watchcache

import (
	"sync"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/registry/generic"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/storagebackend"
	"k8s.io/apiserver/pkg/storage/storagebackend/factory"
	"k8s.io/client-go/tools/cache"
)

// Decorator returns the decorator that puts a Cache before a resource's storage. It
// takes the place of registry.StorageWithCacher.
func (s *Caches) Decorator() generic.StorageDecorator { return s.DecoratorFrom(0) }

// DecoratorFrom is Decorator whose caches begin at a revision; see Config.From.
func (s *Caches) DecoratorFrom(from uint64) generic.StorageDecorator {
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
		c, destroy, err := s.open(decorated{config, resourcePrefix, keyFunc, newFunc, newListFunc, getAttrs, trigger, indexers}, from)
		if err != nil {
			return nil, func() {}, err
		}
		s.add(c)
		var once sync.Once
		return c, func() {
			once.Do(func() {
				s.remove(c)
				destroy()
			})
		}, nil
	}
}

// leased tells whether objects of a resource have leases. Nothing that a decorator is given says so: registry.Store.TTLFunc
// does, which only Events have. They are cached only if --watch-cache-sizes asks for it.
func leased(r schema.GroupResource) bool {
	return r.Resource == "events" && (r.Group == "" || r.Group == "events.k8s.io")
}
