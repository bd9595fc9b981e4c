// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/registry/generic"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/etcd3/metrics"
	"k8s.io/apiserver/pkg/storage/storagebackend"
	"k8s.io/apiserver/pkg/storage/storagebackend/factory"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"
	"k8s.io/utils/clock"
)

// counting tells upstream's metrics and flow control how many objects custom resources have. Upstream has a goroutine for that in each storage,
// that is for each version served (registry.Store.startObservingCount); this is one for all, and asks one version of each resource.
type counting struct {
	clock clock.WithTicker
	// more says that there is something new to count. It has room for one.
	more chan struct{}

	mu sync.Mutex
	// of has the resources that have a storage.
	of map[schema.GroupResource]*countedResource
}

// countedResource is a resource, and when it is counted the next time.
type countedResource struct {
	storages []storage.Interface
	options  generic.RESTOptions
	due      time.Time
}

const (
	// countJitter is upstream's resourceCountPollPeriodJitter.
	countJitter = 1.2
	// countTimeout bounds how long etcd may take: the others wait.
	countTimeout = 10 * time.Second
)

func newCounting(clock clock.WithTicker) *counting {
	return &counting{clock: clock, more: make(chan struct{}, 1), of: map[schema.GroupResource]*countedResource{}}
}

// over returns options whose storages are counted here instead of by upstream.
func (c *counting) over(options generic.RESTOptions) generic.RESTOptions {
	if options.CountMetricPollPeriod <= 0 {
		return options
	}
	counted, decorate := options, options.Decorator
	options.CountMetricPollPeriod = 0
	options.Decorator = func(
		config *storagebackend.ConfigForResource,
		resourcePrefix string,
		keyFunc func(obj runtime.Object) (string, error),
		newFunc func() runtime.Object,
		newListFunc func() runtime.Object,
		getAttrs storage.AttrFunc,
		trigger storage.IndexerFuncs,
		indexers *cache.Indexers,
	) (storage.Interface, factory.DestroyFunc, error) {
		s, destroy, err := decorate(config, resourcePrefix, keyFunc, newFunc, newListFunc, getAttrs, trigger, indexers)
		if err != nil {
			return s, destroy, err
		}
		c.add(config.GroupResource, s, counted)
		return s, func() {
			c.remove(config.GroupResource, s)
			destroy()
		}, nil
	}
	return options
}

// add has a resource counted at once, and then from time to time, until all its storages have been removed.
func (c *counting) add(resource schema.GroupResource, s storage.Interface, options generic.RESTOptions) {
	c.mu.Lock()
	defer c.mu.Unlock()
	of := c.of[resource]
	if of == nil {
		of = &countedResource{}
		c.of[resource] = of
	}
	of.storages, of.options, of.due = append(of.storages, s), options, c.clock.Now()
	select {
	case c.more <- struct{}{}:
	default: // it is known already
	}
}

// remove may be called more than once.
func (c *counting) remove(resource schema.GroupResource, s storage.Interface) {
	c.mu.Lock()
	defer c.mu.Unlock()
	of := c.of[resource]
	if of == nil {
		return
	}
	of.storages = slices.DeleteFunc(of.storages, func(o storage.Interface) bool { return o == s })
	if len(of.storages) == 0 {
		delete(c.of, resource)
		metrics.DeleteStoreStats(resource)
	}
}

// run counts until ctx ends.
func (c *counting) run(ctx context.Context) {
	for {
		resource, s, wait := c.next()
		if s != nil {
			c.count(ctx, resource, s)
			continue
		}
		timer := c.clock.NewTimer(wait)
		select {
		case <-timer.C():
		case <-c.more:
		case <-ctx.Done():
		}
		timer.Stop()
		if ctx.Err() != nil {
			return
		}
	}
}

// next returns a resource that is due, and the storage that was added last, or else how long to wait for one.
func (c *counting) next() (resource schema.GroupResource, s storage.Interface, wait time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.clock.Now()
	wait = time.Hour
	for resource, of := range c.of {
		if due := of.due.Sub(now); due > 0 {
			wait = min(wait, due)
			continue
		}
		period := of.options.CountMetricPollPeriod
		of.due = now.Add(period + time.Duration(rand.Float64()*countJitter*float64(period)))
		return resource, of.storages[len(of.storages)-1], 0
	}
	return schema.GroupResource{}, nil, wait
}

func (c *counting) count(ctx context.Context, resource schema.GroupResource, s storage.Interface) {
	ctx, cancel := context.WithTimeout(ctx, countTimeout)
	defer cancel()
	stats, err := s.Stats(ctx)
	c.mu.Lock()
	defer c.mu.Unlock()
	of := c.of[resource]
	if of == nil {
		return // its metrics have been deleted
	}
	metrics.UpdateStoreStats(resource, stats, err)
	if err != nil {
		klog.V(5).InfoS("Failed to update storage count metric", "err", err)
		return
	}
	if tracker := of.options.StorageObjectCountTracker; tracker != nil {
		tracker.Set(resource.String(), stats)
	}
}
