// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package ondemand

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/registry/generic"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/storagebackend"
	"k8s.io/apiserver/pkg/storage/storagebackend/factory"
	"k8s.io/client-go/tools/cache"
	"k8s.io/utils/clock"
)

// Windows is for how many times as long as history is kept a storage stays open that nobody uses. Who comes back as soon as one may be
// expected to does not have it opened again.
const Windows = 2

// period is how often Run looks.
const period = 15 * time.Second

// Keeper opens and closes the storages of a server. Its methods may be called by any number of goroutines.
type Keeper struct {
	plain  generic.StorageDecorator
	cached func(from uint64) generic.StorageDecorator
	clock  clock.WithTicker

	mu sync.Mutex
	// all are the storages that have not been destroyed, census those who count, by transport.
	all    map[*Storage]struct{}
	census map[string]*census
}

// NewKeeper returns a Keeper of storages that are made by two decorators: plain makes those that read and write etcd, cached those that
// have a cache before it, which begins at a revision of a while ago, or at the present for 0.
func NewKeeper(plain generic.StorageDecorator, cached func(from uint64) generic.StorageDecorator, clock clock.WithTicker) *Keeper {
	return &Keeper{plain: plain, cached: cached, clock: clock, all: map[*Storage]struct{}{}, census: map[string]*census{}}
}

// Run closes what nobody uses, until ctx ends. What is open then is left to who destroys the storages; the census ends.
func (k *Keeper) Run(ctx context.Context) {
	ticker := k.clock.NewTicker(period)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			for _, c := range k.counters() {
				c.close()
			}
			return
		case <-ticker.C():
			k.sweep(Windows)
			for _, c := range k.counters() {
				c.remember()
			}
		}
	}
}

// sweep closes what nobody has used for so many windows of history. The census stays: somebody counts every minute.
func (k *Keeper) sweep(windows int) {
	k.mu.Lock()
	all := slices.Collect(maps.Keys(k.all))
	k.mu.Unlock()
	for _, s := range all {
		idle := s.window * time.Duration(windows)
		s.plain.sweep(idle)
		s.cached.sweep(idle)
	}
}

func (k *Keeper) counters() []*census {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Collect(maps.Values(k.census))
}

// counter returns who counts in the etcd that config names; nil if nobody can.
func (k *Keeper) counter(config *storagebackend.ConfigForResource) *census {
	k.mu.Lock()
	defer k.mu.Unlock()
	key := fmt.Sprintf("%v %s", config.Transport, config.Prefix) // as upstream tells compactors apart
	if c, ok := k.census[key]; ok {
		return c
	}
	c := newCensus(config, k.clock)
	if c != nil {
		k.census[key] = c
	}
	return c
}

// Decorator returns the decorator that makes a Storage. It opens nothing.
func (k *Keeper) Decorator() generic.StorageDecorator {
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
		counter := k.counter(config)
		if counter == nil {
			return k.cached(0)(config, resourcePrefix, keyFunc, newFunc, newListFunc, getAttrs, trigger, indexers)
		}
		s := &Storage{census: counter, prefix: resourcePrefix, window: config.EventsHistoryWindow}
		s.plain.clock, s.cached.clock = k.clock, k.clock
		open := func(decorate func() generic.StorageDecorator) func() (storage.Interface, factory.DestroyFunc, error) {
			return func() (storage.Interface, factory.DestroyFunc, error) {
				// Whoever gets a revision from here can go on from it: there is an earlier mark.
				if err := counter.begin(); err != nil {
					return nil, nil, err
				}
				return decorate()(config, resourcePrefix, keyFunc, newFunc, newListFunc, getAttrs, trigger, indexers)
			}
		}
		s.plain.open = open(func() generic.StorageDecorator { return k.plain })
		s.cached.open = open(func() generic.StorageDecorator { return k.cached(counter.before(s.window)) })
		k.mu.Lock()
		k.all[s] = struct{}{}
		k.mu.Unlock()
		return s, func() {
			k.mu.Lock()
			delete(k.all, s)
			k.mu.Unlock()
			s.cached.close()
			s.plain.close()
		}, nil
	}
}
