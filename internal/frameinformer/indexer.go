// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package frameinformer

import (
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/client-go/tools/cache"
)

// indexer is the store of an informer as readers see it: with objects. What they put into it themselves, which
// nobody may, it gives back as it is.
type indexer struct {
	cache.Indexer
	informer *informer
}

var _ cache.Indexer = indexer{}

// List implements cache.Store.
func (x indexer) List() []any { return x.informer.readAll(x.Indexer.List()) }

// Get implements cache.Store.
func (x indexer) Get(obj any) (any, bool, error) { return x.one(x.Indexer.Get(obj)) }

// GetByKey implements cache.Store.
func (x indexer) GetByKey(key string) (any, bool, error) { return x.one(x.Indexer.GetByKey(key)) }

func (x indexer) one(obj any, exists bool, err error) (any, bool, error) {
	i, ok := obj.(*item)
	if err != nil || !ok {
		return obj, exists, err
	}
	if obj, err = x.informer.read(i); err != nil {
		return nil, false, err
	}
	return obj, exists, nil
}

// Index implements cache.Indexer.
func (x indexer) Index(name string, obj any) ([]any, error) {
	all, err := x.Indexer.Index(name, obj)
	return x.informer.readAll(all), err
}

// ByIndex implements cache.Indexer.
func (x indexer) ByIndex(name, value string) ([]any, error) {
	all, err := x.Indexer.ByIndex(name, value)
	return x.informer.readAll(all), err
}

// AddIndexers implements cache.Indexer.
func (x indexer) AddIndexers(indexers cache.Indexers) error {
	return x.Indexer.AddIndexers(x.informer.indexersOf(indexers))
}

// readAll replaces items by their objects.
func (n *informer) readAll(all []any) []any {
	read := all[:0]
	for _, obj := range all {
		if obj, ok := n.readAny(obj); ok {
			read = append(read, obj)
		}
	}
	return read
}

// readAny returns the object of what may be an item. It is false for one that cannot be decoded, which would be a fault of
// weir's own: it was encoded here.
func (n *informer) readAny(obj any) (any, bool) {
	i, ok := obj.(*item)
	if !ok {
		return obj, true
	}
	obj, err := n.read(i)
	if err != nil {
		utilruntime.HandleError(err)
	}
	return obj, err == nil
}

// indexersOf has the functions of indexers see objects.
func (n *informer) indexersOf(indexers cache.Indexers) cache.Indexers {
	seeing := make(cache.Indexers, len(indexers))
	for name, of := range indexers {
		seeing[name] = func(obj any) ([]string, error) {
			if i, ok := obj.(*item); ok {
				var err error
				if obj, err = n.decode(i); err != nil {
					return nil, err
				}
			}
			return of(obj)
		}
	}
	return seeing
}
