// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package watchcache

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/storage/cacher/delegator"
)

// Status is what a cache holds.
type Status struct {
	Resource schema.GroupResource
	// Ready says that the cache has read its resource. Cause is why it has not, if reading failed. All that follows
	// is of a cache that is ready.
	Ready bool
	Cause string
	// Objects are as many, of Bytes in all as they are kept. Revision is that up to which the cache is complete.
	Objects  int
	Bytes    int64
	Revision uint64
	// Watches are open, Parked of them wait for the next event.
	Watches, Parked int
	// Events and EventBytes are what is kept of the past, Floor and Head the revisions between which that is complete,
	// Oldest when the first of them came: the zero time if there is none.
	Events     int
	EventBytes int64
	// Cut is how many the bounds on bytes and number have dropped before their time since the cache was last read from etcd.
	Floor, Head uint64
	Oldest      time.Time
	Cut         uint64
}

// Reader is a watch that has something to read.
type Reader struct {
	Resource schema.GroupResource
	// Ctx is the context of its request. It is to be looked at, not kept.
	Ctx context.Context
	// Namespace and Name are what it is on, "" for all; see request.RequestInfo.
	Namespace, Name string
	// Events are those that it has yet to read, and Since is when the first of them came. Bytes have been
	// taken by its connection since it was opened.
	Events int
	Since  time.Time
	Bytes  int64
}

// Status returns what the cache holds.
func (c *follower) Status() Status {
	s := Status{Resource: c.cfg.GroupResource}
	gen, rev, v, err := c.current()
	if err != nil {
		c.mu.RLock()
		if c.cause != nil {
			s.Cause = c.cause.Error()
		}
		c.mu.RUnlock()
		return s
	}
	s.Ready, s.Revision, s.Objects, s.Bytes = true, rev, v.objects.Len(), v.bytes
	l := gen.log.Stats()
	s.Watches, s.Parked, s.Events, s.EventBytes, s.Floor, s.Head, s.Oldest, s.Cut = l.Cursors, l.Parked, l.Events, l.Bytes, l.Floor, l.Head, l.Oldest, l.Cut
	return s
}

// StorageRevision returns the revision of the storage, of which it asks etcd.
func (c *follower) StorageRevision(ctx context.Context) (uint64, error) {
	return c.cfg.Storage.GetCurrentResourceVersion(ctx)
}

// catchUp waits until the cache is complete up to rev, or ctx ends. Of a resource that does not change etcd has to be asked for
// that, as for a consistent list.
func (c *follower) catchUp(ctx context.Context, rev uint64) {
	if _, at, _, err := c.current(); err != nil || at >= rev || !delegator.ConsistentReadSupported() {
		return
	}
	c.progress.Add()
	defer c.progress.Remove()
	for {
		c.mu.RLock()
		gen := c.gen
		if gen == nil || c.stopped || gen.rev >= rev {
			c.mu.RUnlock()
			return
		}
		moved := gen.moved
		c.mu.RUnlock()
		select {
		case <-moved:
		case <-ctx.Done():
			return
		}
	}
}

// lagging returns the watches that have something to read, at most so many.
func (c *follower) lagging(most int) []Reader {
	gen, _, _, err := c.current()
	if err != nil {
		return nil
	}
	var readers []Reader
	for _, lag := range gen.log.Lagging(most) {
		w, ok := lag.Owner.(*watcher)
		if !ok {
			continue
		}
		r := Reader{Resource: c.cfg.GroupResource, Ctx: w.ctx, Events: lag.Events, Since: lag.Since, Bytes: w.stream.Progress()}
		if info, ok := request.RequestInfoFrom(w.ctx); ok {
			r.Namespace, r.Name = info.Namespace, info.Name
		}
		readers = append(readers, r)
	}
	return readers
}

// Ready returns how many caches have read their resource, and how many there are.
func (s *Caches) Ready() (ready, all int) {
	for _, c := range s.all() {
		if c.Ready() {
			ready++
		}
		all++
	}
	return ready, all
}

// Status returns what all caches hold, ordered by the name of the resource, and the slowest readers: those first that have
// waited longest, at most so many.
func (s *Caches) Status(readers int) ([]Status, []Reader) {
	var caches []Status
	var slow []Reader
	for _, c := range s.all() {
		caches = append(caches, c.Status())
		if readers > 0 { // it takes the log's lock
			slow = append(slow, c.lagging(readers)...)
		}
	}
	slices.SortStableFunc(caches, func(a, b Status) int { return cmp.Compare(a.Resource.String(), b.Resource.String()) })
	slices.SortStableFunc(slow, func(a, b Reader) int { return a.Since.Compare(b.Since) })
	return caches, slow[:min(len(slow), readers)]
}

// StorageRevision returns the revision of etcd, by way of a cache that is ready. It is 0 if none is. Resources that are kept
// elsewhere, by --etcd-servers-overrides, have revisions of their own.
func (s *Caches) StorageRevision(ctx context.Context) (uint64, error) {
	for _, c := range s.all() {
		if c.Ready() {
			return c.StorageRevision(ctx)
		}
	}
	return 0, nil
}

// CatchUp waits until all caches that are ready are complete up to a revision, or ctx ends.
func (s *Caches) CatchUp(ctx context.Context, rev uint64) {
	var waiting sync.WaitGroup
	for _, c := range s.all() {
		waiting.Go(func() { c.catchUp(ctx, rev) })
	}
	waiting.Wait()
}
