// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package ondemand

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/storage"
)

// Storage is a storage.Interface of one resource in one version that is there while it is used. Its methods may be called by
// any number of goroutines. While it cannot be opened they fail with 429.
type Storage struct {
	// plain reads and writes etcd, cached has a cache before that.
	plain, cached slot
	census        *census
	// prefix is the key under which all objects lie.
	prefix string
	// window is how long history is kept.
	window time.Duration
	// size is how large an object was, on the average, when the cache was last asked.
	size atomic.Int64
}

var _ storage.Interface = (*Storage)(nil)

// awaited is a storage of which can be waited that it has read its resource for the first time; an error says that what it has is of
// the past.
type awaited interface {
	AwaitReady(ctx context.Context, present bool) error
}

// any returns the cached storage if it is open, and else the plain one.
func (s *Storage) any(ctx context.Context) (storage.Interface, func(), error) {
	if o, release := s.cached.useOpen(); o != nil {
		return o, release, nil
	}
	return s.plain.use(ctx)
}

// reading returns the cached storage. If it has just been opened, it is given the time to read the resource: otherwise everybody who
// comes after a while would be sent away first.
func (s *Storage) reading(ctx context.Context, present bool) (storage.Interface, func(), error) {
	o, release, err := s.cached.use(ctx)
	if err != nil {
		return nil, nil, err
	}
	if err := awaitReady(ctx, o, present); err != nil {
		release()
		return nil, nil, err
	}
	return o, release, nil
}

func awaitReady(ctx context.Context, s storage.Interface, present bool) error {
	if a, ok := s.(awaited); ok {
		return a.AwaitReady(ctx, present)
	}
	return nil
}

// Versioner implements storage.Interface.
func (s *Storage) Versioner() storage.Versioner { return storage.APIObjectVersioner{} }

// Create implements storage.Interface.
func (s *Storage) Create(ctx context.Context, key string, obj, out runtime.Object, ttl uint64) error {
	o, release, err := s.any(ctx)
	if err != nil {
		return err
	}
	defer release()
	return o.Create(ctx, key, obj, out, ttl)
}

// Delete implements storage.Interface.
func (s *Storage) Delete(ctx context.Context, key string, out runtime.Object, preconditions *storage.Preconditions, validateDeletion storage.ValidateObjectFunc, cachedExistingObject runtime.Object, opts storage.DeleteOptions) error {
	o, release, err := s.any(ctx)
	if err != nil {
		return err
	}
	defer release()
	return o.Delete(ctx, key, out, preconditions, validateDeletion, cachedExistingObject, opts)
}

// GuaranteedUpdate implements storage.Interface.
func (s *Storage) GuaranteedUpdate(ctx context.Context, key string, destination runtime.Object, ignoreNotFound bool, preconditions *storage.Preconditions, tryUpdate storage.UpdateFunc, cachedExistingObject runtime.Object) error {
	o, release, err := s.any(ctx)
	if err != nil {
		return err
	}
	defer release()
	return o.GuaranteedUpdate(ctx, key, destination, ignoreNotFound, preconditions, tryUpdate, cachedExistingObject)
}

// Get implements storage.Interface. etcd has what a cache would have, or newer.
func (s *Storage) Get(ctx context.Context, key string, opts storage.GetOptions, objPtr runtime.Object) error {
	o, release, err := s.any(ctx)
	if err != nil {
		return err
	}
	defer release()
	if opts.ResourceVersion != "" {
		if err := awaitReady(ctx, o, true); err != nil {
			return err
		}
	}
	return o.Get(ctx, key, opts, objPtr)
}

// GetList implements storage.Interface.
func (s *Storage) GetList(ctx context.Context, key string, opts storage.ListOptions, listObj runtime.Object) error {
	o, release := s.cached.useOpen()
	if o == nil {
		if done, err := s.none(ctx, key, opts, listObj); done || err != nil {
			return err
		}
		var err error
		if !opts.Recursive {
			o, release, err = s.plain.use(ctx) // one object
		} else {
			o, release, err = s.reading(ctx, true)
		}
		if err != nil {
			return err
		}
	} else if err := awaitReady(ctx, o, true); err != nil {
		release()
		return err
	}
	// What is listed may be read from the cache's state until the request ends.
	if _, requested := request.RequestInfoFrom(ctx); requested && ctx.Done() != nil {
		context.AfterFunc(ctx, release)
	} else {
		defer release()
	}
	return o.GetList(ctx, key, opts, listObj)
}

// none answers a list of nothing. Lists of resources that have no objects are common: whoever deletes a namespace, or collects garbage,
// lists every resource that there is.
func (s *Storage) none(ctx context.Context, key string, opts storage.ListOptions, listObj runtime.Object) (done bool, err error) {
	if !opts.Recursive || opts.Predicate.Continue != "" || opts.ResourceVersionMatch != "" || opts.ResourceVersion != "" && opts.ResourceVersion != "0" {
		return false, nil
	}
	if !strings.HasPrefix(directory(key), directory(s.prefix)) {
		return false, nil // an error that is for others to tell
	}
	n, at, err := s.census.count(ctx, key, opts.ResourceVersion)
	if err != nil || n > 0 {
		return false, err
	}
	rev, err := s.Versioner().ParseResourceVersion(at)
	if err != nil {
		return false, err
	}
	if err := meta.SetList(listObj, nil); err != nil {
		return false, err
	}
	return true, s.Versioner().UpdateList(listObj, rev, "", nil)
}

// Watch implements storage.Interface.
func (s *Storage) Watch(ctx context.Context, key string, opts storage.ListOptions) (watch.Interface, error) {
	// For events from a revision on it is all the same how far the cache has come; a state has to be of the present.
	initial := opts.SendInitialEvents != nil && *opts.SendInitialEvents || opts.ResourceVersion == "" || opts.ResourceVersion == "0"
	o, release, err := s.reading(ctx, initial)
	if err != nil {
		return nil, err
	}
	w, err := o.Watch(ctx, key, opts)
	if err != nil {
		release()
		return nil, err
	}
	// Upstream's handler does not stop a watch that it cannot encode.
	context.AfterFunc(ctx, release)
	return watching{w, release}, nil
}

// watching uses a storage until it is stopped.
type watching struct {
	watch.Interface
	release func()
}

// Stop implements watch.Interface.
func (w watching) Stop() {
	w.Interface.Stop()
	w.release()
}

// Stats implements storage.Interface. Nothing is opened for it: upstream asks every minute.
func (s *Storage) Stats(ctx context.Context) (storage.Stats, error) {
	if o, release := s.cached.useOpen(); o != nil {
		defer release()
		if stats, err := o.Stats(ctx); err == nil { // a cache that is not ready knows no sizes
			if stats.EstimatedAverageObjectSizeBytes > 0 {
				s.size.Store(stats.EstimatedAverageObjectSizeBytes)
			}
			return stats, nil
		}
	}
	n, _, err := s.census.count(ctx, s.prefix, "")
	if err != nil || n == 0 {
		return storage.Stats{}, err
	}
	return storage.Stats{ObjectCount: n, EstimatedAverageObjectSizeBytes: s.size.Load()}, nil
}

// ReadinessCheck implements storage.Interface. What is not open can be opened.
func (s *Storage) ReadinessCheck() error {
	if o, release := s.cached.useOpen(); o != nil {
		defer release()
		if err := awaitReady(context.Background(), o, true); err != nil {
			return storage.ErrStorageNotReady
		}
		return o.ReadinessCheck()
	}
	return nil
}

// RequestWatchProgress implements storage.Interface. Without a cache there is no watch.
func (s *Storage) RequestWatchProgress(ctx context.Context) error {
	if o, release := s.cached.useOpen(); o != nil {
		defer release()
		return o.RequestWatchProgress(ctx)
	}
	return nil
}

// GetCurrentResourceVersion implements storage.Interface.
func (s *Storage) GetCurrentResourceVersion(ctx context.Context) (uint64, error) {
	o, release, err := s.any(ctx)
	if err != nil {
		return 0, err
	}
	defer release()
	return o.GetCurrentResourceVersion(ctx)
}

// EnableResourceSizeEstimation implements storage.Interface. The cache does that for itself.
func (s *Storage) EnableResourceSizeEstimation(storage.KeysFunc) error {
	return errors.New("the cache of a custom resource is not to be told how to find its keys")
}

// CompactRevision implements storage.Interface.
func (s *Storage) CompactRevision() int64 {
	if o, release := s.cached.useOpen(); o != nil {
		defer release()
		return o.CompactRevision()
	}
	return 0
}
