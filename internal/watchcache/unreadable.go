// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package watchcache

import (
	"context"
	"errors"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/klog/v2"
)

// An object that cannot be decrypted or decoded keeps the cache from following: the watch
// of the storage fails at it, and so does a read of everything. That is not a cache that
// is late. What can be read still has to be answered, and who asks for what cannot has to
// be told which object it is, because it takes the object's key to repair or delete it.
//
// While the cache has a state, and its watch fails (generation.stalled), reads that want
// a newer one go to etcd. When it has given up its state, single objects and pages do.

const (
	// wholeReads is how many lists that may have to read all of a resource are read from
	// etcd at once because the cache has stalled.
	wholeReads = 2
	// diagnosisTimeout bounds the search for an object that cannot be read. Decoding may
	// wait for a conversion webhook or a key server, for each object anew.
	diagnosisTimeout = 30 * time.Second
	// failuresApart is how long a watch lasts, at least, that was well although it told
	// nothing; what upstream's reflector goes by.
	failuresApart = time.Minute
	// maxRestartDelay bounds the time between two attempts to read everything. It ends
	// early when the object that was in the way can be read.
	maxRestartDelay = 30 * time.Second
)

// stalledError says that the cache cannot reach a revision, because its watch fails.
type stalledError struct {
	resource schema.GroupResource
	cause    error
}

func (e *stalledError) Error() string {
	return fmt.Sprintf("the watch cache of %v cannot follow the storage: %v", e.resource, e.cause)
}

func (e *stalledError) Unwrap() error { return e.cause }

// listPast answers a list from etcd because the cache has stalled. A page without a
// selector, and a single object, are a bounded load on etcd; of the others a few go at
// once, and the rest wait for their turn.
func (c *follower) listPast(ctx context.Context, why *stalledError, key string, opts storage.ListOptions, listObj runtime.Object) error {
	if !bounded(opts) {
		timeout := c.cfg.Clock.NewTimer(freshTimeout)
		defer timeout.Stop()
		select {
		case c.turns <- struct{}{}:
			defer func() { <-c.turns }()
		case <-timeout.C():
			return apierrors.NewTooManyRequests(why.Error(), tooHighRetrySeconds)
		case <-ctx.Done():
			return apierrors.NewTooManyRequests(why.Error(), tooHighRetrySeconds)
		}
	}
	return c.cfg.Storage.GetList(ctx, key, opts, listObj)
}

// mostPages is how many pages of the cache's own a client's page may be large.
const mostPages = 10

// bounded tells whether etcd answers a list by reading one object, or a page.
func bounded(opts storage.ListOptions) bool {
	limit := opts.Predicate.Limit
	return !opts.Recursive || limit > 0 && limit <= mostPages*pageSize && selectsAll(opts.Predicate)
}

// obstacle is an object that cannot be read from the storage.
type obstacle struct {
	// err is the storage's, and names the object, and others that cannot be read, if the
	// storage tells. See https://kep.k8s.io/3926. It is nil if the search had no time for it.
	err error
	// from is the key from which the first object cannot be read; "" for the first of all.
	from string
	// unknown says that the search had no time to find from, repaired that the object could be
	// read when it was looked for: there is no err then.
	unknown, repaired bool
}

// because returns the obstacle's error, or err if it has none.
func (o *obstacle) because(err error) error {
	if o == nil || o.err == nil {
		return err
	}
	return o.err
}

// findObstacle looks for what keeps the resource from being read, and returns nil if
// nothing does. It reads all of the resource, more than once, and keeps none of it.
func (c *follower) findObstacle(ctx context.Context) *obstacle {
	ctx, cancel := context.WithTimeout(ctx, diagnosisTimeout)
	defer cancel()
	// A selector that wants nothing has the storage decode everything, gather what fails,
	// and keep nothing; the limit has it do so in pages.
	nothing := storage.SelectionPredicate{Label: labels.Nothing(), Field: fields.Everything(), GetAttrs: c.cfg.GetAttrs, Limit: pageSize}
	err := c.cfg.Storage.GetList(ctx, c.cfg.ResourcePrefix, storage.ListOptions{Predicate: nothing, Recursive: true}, c.cfg.NewListFunc())
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return &obstacle{unknown: true} // the error is that of the search
	}
	o := &obstacle{err: fmt.Errorf("failed to list %s: %w", c.cfg.GroupResource, err)}
	for limit := int64(pageSize); ctx.Err() == nil; {
		next, err := c.readable(ctx, o.from, limit)
		switch {
		case err != nil && limit == 1:
			return o
		case err != nil:
			limit /= 2
		case next == "":
			return &obstacle{repaired: true}
		default:
			o.from = next
		}
	}
	o.unknown = true // what begins at o.from can be read
	return o
}

// readable reads up to limit objects from a key on. It returns the key to go on from, ""
// at the end.
func (c *follower) readable(ctx context.Context, from string, limit int64) (next string, err error) {
	prefix, err := storage.PrepareKey(c.cfg.ResourcePrefix, c.cfg.ResourcePrefix, true)
	if err != nil {
		return "", err
	}
	pred := storage.SelectionPredicate{Label: labels.Everything(), Field: fields.Everything(), Limit: limit}
	if from != "" {
		// Revision -1 is the present.
		if pred.Continue, err = storage.EncodeContinue(from, prefix, -1); err != nil {
			return "", err
		}
	}
	list := c.cfg.NewListFunc()
	if err := c.cfg.Storage.GetList(ctx, c.cfg.ResourcePrefix, storage.ListOptions{Predicate: pred, Recursive: true}, list); err != nil {
		return "", err
	}
	accessor, err := meta.ListAccessor(list)
	if err != nil || accessor.GetContinue() == "" {
		return "", err
	}
	next, _, err = storage.DecodeContinue(accessor.GetContinue(), prefix)
	return next, err
}

// gone tells whether the object in the way can be read now, or is no longer there. That
// is one small read.
func (c *follower) gone(ctx context.Context, o *obstacle) bool {
	if o.unknown || o.repaired {
		return o.repaired
	}
	ctx, cancel := context.WithTimeout(ctx, diagnosisTimeout)
	defer cancel()
	_, err := c.readable(ctx, o.from, 1)
	return err == nil
}

// delay waits before everything is read again, the longer the more often that has failed
// in a row, because it is a load on etcd; but no longer than the obstacle, if one is
// known, is in the way. It returns false if ctx has ended.
func (c *follower) delay(ctx context.Context, failed int, o *obstacle) bool {
	until := c.cfg.Clock.Now().Add(min(maxRestartDelay, restartDelay<<min(max(failed-1, 0), 10)))
	for {
		if !c.pause(ctx) {
			return false
		}
		if !c.cfg.Clock.Now().Before(until) || o != nil && c.gone(ctx, o) {
			return true
		}
	}
}

// logFailure says why the resource could not be followed, and names the objects that
// could not be read.
func (c *follower) logFailure(what string, err error) {
	var keys []string
	var status apierrors.APIStatus
	if errors.As(err, &status) && status.Status().Details != nil {
		for _, cause := range status.Status().Details.Causes {
			if cause.Field != "" {
				keys = append(keys, cause.Field)
			}
		}
	}
	klog.ErrorS(err, what, "group", c.cfg.GroupResource.Group, "resource", c.cfg.GroupResource.Resource, "unreadable", keys)
}

// failing is what a source knows of its watch while that ends with internal errors and
// tells nothing new in between.
type failing struct {
	// since is when the first of times failures was, last when the last was.
	since, last time.Time
	times       int
	// found is what is in the way, nil if that is not known.
	found *obstacle
	// readable says that everything in the storage could be read after the watch had failed.
	readable bool
	// stalled says that readers have been told.
	stalled bool
}

// failed decides what to do after the watch has ended with an internal error: try again
// if it returns nil, read everything anew if it returns an error.
func (s *source) failed(ctx context.Context, err error) error {
	c, f := s.cache, &s.failing
	now := c.cfg.Clock.Now()
	if now.Sub(f.last) >= failuresApart {
		s.recovered() // it has been well in between, and had nothing to tell
		s.stall(nil)
	}
	if f.times == 0 {
		f.since = now
	}
	f.times++
	defer func() { f.last = c.cfg.Clock.Now() }() // the search for an obstacle takes its time
	switch {
	case f.times == 1:
		return nil // etcd without a leader, say: it may be over
	case f.readable:
		// What cannot be read is in the past only: an object that has been repaired or
		// deleted. The watch will never get past it.
		return err
	case now.Sub(f.since) > internalErrorRetry:
		return f.found.because(err)
	}
	if !f.stalled {
		// Readers go to etcd from now on. If it was etcd's failure, and the watch is back, the
		// next progress notification says so.
		f.stalled = true
		c.progress.Add()
		s.stall(err)
	}
	if f.found != nil && !c.gone(ctx, f.found) {
		return nil
	}
	if f.found = c.findObstacle(ctx); f.found == nil || f.found.repaired {
		f.found = nil
		f.readable = ctx.Err() == nil
		return nil
	}
	err = f.found.because(err)
	s.stall(err)
	c.logFailure("Watch cache: the watch of the storage fails, reads go to etcd", err)
	return nil
}

// recovered says that the watch is past what made it fail, or that the source has ended.
func (s *source) recovered() {
	if s.failing.stalled {
		s.cache.progress.Remove()
	}
	s.failing = failing{}
}

// stall tells readers that the state cannot be followed. A higher revision lifts it; see
// generation.advance.
func (s *source) stall(why error) {
	s.cache.mu.Lock()
	defer s.cache.mu.Unlock()
	s.gen.stall(why)
}

// stalled tells whether the cache has a state that cannot be followed now.
func (c *follower) stalled() bool {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.gen != nil && c.gen.stalled != nil
}
