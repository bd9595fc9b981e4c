// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package watchcache

import (
	"context"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/registry/generic"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/storagebackend"
	"k8s.io/apiserver/pkg/storage/storagebackend/factory"
	"k8s.io/client-go/tools/cache"

	"github.com/weir-project/weir/internal/coalesce"
)

// Uncached makes the storage of a resource that has no watch cache. It takes the place of
// generic.UndecoratedStorage, and does the same, but that watch lists are compressed as one member here,
// too: nothing is shared of them.
func Uncached(
	config *storagebackend.ConfigForResource,
	resourcePrefix string,
	keyFunc func(obj runtime.Object) (string, error),
	newFunc func() runtime.Object,
	newListFunc func() runtime.Object,
	getAttrs storage.AttrFunc,
	trigger storage.IndexerFuncs,
	indexers *cache.Indexers,
) (storage.Interface, factory.DestroyFunc, error) {
	return uncachedBy(generic.NewRawStorage)(config, resourcePrefix, keyFunc, newFunc, newListFunc, getAttrs, trigger, indexers)
}

// Uncached is Uncached with storages as Options say.
func (s *Caches) Uncached() generic.StorageDecorator { return uncachedBy(s.newStorage) }

// uncachedBy is Uncached of storages that create makes.
func uncachedBy(create NewStorage) generic.StorageDecorator {
	return func(
		config *storagebackend.ConfigForResource,
		resourcePrefix string,
		_ func(obj runtime.Object) (string, error),
		newFunc func() runtime.Object,
		newListFunc func() runtime.Object,
		_ storage.AttrFunc,
		_ storage.IndexerFuncs,
		_ *cache.Indexers,
	) (storage.Interface, factory.DestroyFunc, error) {
		s, destroy, err := create(config, newFunc, newListFunc, resourcePrefix)
		if err != nil {
			return s, destroy, err
		}
		return uncached{mended(s)}, destroy, nil
	}
}

// NewStorage makes the storage of a resource: generic.NewRawStorage, or one like it.
type NewStorage func(config *storagebackend.ConfigForResource, newFunc, newListFunc func() runtime.Object, resourcePrefix string) (storage.Interface, factory.DestroyFunc, error)

// uncached is a storage whose watches are compressed here.
type uncached struct{ storage.Interface }

// Watch implements storage.Interface.
func (u uncached) Watch(ctx context.Context, key string, opts storage.ListOptions) (watch.Interface, error) {
	compress(coalesce.From(ctx), opts)
	return u.Interface.Watch(ctx, key, opts)
}
