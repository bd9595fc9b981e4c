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
	s, destroy, err := generic.UndecoratedStorage(config, resourcePrefix, keyFunc, newFunc, newListFunc, getAttrs, trigger, indexers)
	if err != nil {
		return s, destroy, err
	}
	return uncached{mended(s)}, destroy, nil
}

// uncached is a storage whose watches are compressed here.
type uncached struct{ storage.Interface }

// Watch implements storage.Interface.
func (u uncached) Watch(ctx context.Context, key string, opts storage.ListOptions) (watch.Interface, error) {
	compress(coalesce.From(ctx), opts)
	return u.Interface.Watch(ctx, key, opts)
}
