// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package watchcache

import (
	"context"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/features"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/cacher/delegator"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/klog/v2"
)

// What the cache does not answer itself goes to the storage behind it.

// Versioner implements storage.Interface.
func (c *Cache) Versioner() storage.Versioner { return c.cfg.Storage.Versioner() }

// Create implements storage.Interface.
func (c *Cache) Create(ctx context.Context, key string, obj, out runtime.Object, ttl uint64) error {
	return c.cfg.Storage.Create(ctx, key, obj, out, ttl)
}

// Delete implements storage.Interface. The suggestion is the cached object.
func (c *Cache) Delete(ctx context.Context, key string, out runtime.Object, preconditions *storage.Preconditions, validateDeletion storage.ValidateObjectFunc, _ runtime.Object, opts storage.DeleteOptions) error {
	return c.cfg.Storage.Delete(ctx, key, out, preconditions, validateDeletion, c.suggest(key), opts)
}

// GuaranteedUpdate implements storage.Interface. The suggestion is the cached object.
func (c *Cache) GuaranteedUpdate(ctx context.Context, key string, destination runtime.Object, ignoreNotFound bool, preconditions *storage.Preconditions, tryUpdate storage.UpdateFunc, _ runtime.Object) error {
	return c.cfg.Storage.GuaranteedUpdate(ctx, key, destination, ignoreNotFound, preconditions, tryUpdate, c.suggest(key))
}

// suggest returns the object under key as the cache has it, or nil. The storage
// checks it against etcd before it relies on it.
func (c *Cache) suggest(key string) runtime.Object {
	_, _, v, err := c.current()
	if err != nil {
		return nil
	}
	f, ok := v.objects.Get(key)
	if !ok {
		return nil
	}
	obj, err := f.DecodeIn(c.version)
	if err != nil {
		klog.ErrorS(err, "Watch cache: a cached object cannot be decoded, writing without it", "key", key)
		return nil
	}
	return obj
}

// Stats implements storage.Interface.
func (c *Cache) Stats(ctx context.Context) (storage.Stats, error) {
	if !c.cfg.Versions || !delegator.ConsistentReadSupported() {
		return c.cfg.Storage.Stats(ctx)
	}
	rev, err := c.storageRevision(ctx)
	if err != nil {
		return storage.Stats{}, err
	}
	_, _, v, err := c.waitFresh(ctx, rev)
	if err != nil {
		return storage.Stats{}, err
	}
	stats := storage.Stats{ObjectCount: int64(v.objects.Len())}
	if stats.ObjectCount > 0 && utilfeature.DefaultFeatureGate.Enabled(features.SizeBasedListCostEstimate) {
		stats.EstimatedAverageObjectSizeBytes = v.encoded / stats.ObjectCount
	}
	return stats, nil
}

// ReadinessCheck implements storage.Interface.
func (c *Cache) ReadinessCheck() error {
	if !c.Ready() {
		return storage.ErrStorageNotReady
	}
	return nil
}

// RequestWatchProgress implements storage.Interface.
func (c *Cache) RequestWatchProgress(ctx context.Context) error {
	return c.cfg.Storage.RequestWatchProgress(ctx)
}

// GetCurrentResourceVersion implements storage.Interface.
func (c *Cache) GetCurrentResourceVersion(ctx context.Context) (uint64, error) {
	return c.cfg.Storage.GetCurrentResourceVersion(ctx)
}

// EnableResourceSizeEstimation implements storage.Interface.
func (c *Cache) EnableResourceSizeEstimation(keys storage.KeysFunc) error {
	return c.cfg.Storage.EnableResourceSizeEstimation(keys)
}

// CompactRevision implements storage.Interface.
func (c *Cache) CompactRevision() int64 {
	if !utilfeature.DefaultFeatureGate.Enabled(features.ListFromCacheSnapshot) {
		return c.cfg.Storage.CompactRevision()
	}
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.compacted
}
