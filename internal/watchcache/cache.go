// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package watchcache

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/client-go/tools/cache"
	"k8s.io/utils/clock"

	"github.com/weir-project/weir/internal/conversion"
	"github.com/weir-project/weir/internal/convoy"
	"github.com/weir-project/weir/internal/frame"
)

// Bounds on the history of one resource. Upstream keeps up to 102,400 events, and those
// of the last 75 s in any case; bytes are what memory is made of, so there is a bound on
// them too, twice what the resource itself takes but not less than minBytes. It is meant
// to be out of the way: 37,000 changes of a Lease, 500 a second for 75 s, are 190 MB.
//
// However old they are minEvents are kept, for those who come back to a resource that is seldom written, as
// long as they take no more than leastBytes. So much is kept whatever the limit of the process
// leaves to history, too.
const (
	maxEvents  = 100 * 1024
	minEvents  = 100
	minBytes   = 256 << 20
	leastBytes = 4 << 20
)

// MinHistory is the age up to which events are kept while the bounds on number and
// bytes allow. It is upstream's cacher.DefaultEventFreshDuration. No flag makes it less.
const MinHistory = 75 * time.Second

// Config says what a Cache caches. Fields without a remark are required.
type Config struct {
	// Storage is where the resource is kept: upstream's etcd3 store. The Cache does not
	// close it.
	Storage storage.Interface
	// Versioner reads and writes resource versions.
	Versioner storage.Versioner
	// GroupResource names the resource in errors and metrics.
	GroupResource schema.GroupResource
	// History is how long events are kept: MinHistory or more, but in tests that see events
	// age in a short time.
	History time.Duration
	// ResourcePrefix is the storage key under which all objects lie: "/pods", say.
	ResourcePrefix string
	// KeyFunc returns the storage key of an object.
	KeyFunc func(runtime.Object) (string, error)
	// GetAttrs returns the labels and fields of an object.
	GetAttrs storage.AttrFunc
	// Trigger holds the field by whose value watches are indexed, at most one. Optional.
	Trigger storage.IndexerFuncs
	// Indexers name the fields and labels by whose value lists are indexed. Optional.
	Indexers *cache.Indexers
	// NewFunc and NewListFunc return an empty object and list.
	NewFunc     func() runtime.Object
	NewListFunc func() runtime.Object
	// Leased says that objects may have a lease of etcd's, which deletes all that it has at one
	// revision when it expires. What is said of such a revision waits until it is known to be
	// complete.
	Leased bool
	// Codec is the storage codec.
	Codec runtime.Codec
	// Decoder converts what the watch of Storage tells of unconverted. Optional: it tells of nothing unconverted.
	Decoder *conversion.Decoder
	// Clock is the real one if nil.
	Clock clock.WithTickerAndDelayedExecution
	// Store keeps the derived encodings, of all resources together.
	Store *frame.Store
	// Convoys keep those together who read the same at the same time. Optional.
	Convoys *convoy.Convoys
	// Types knows the built-in types; see frame.Config. Optional.
	Types frame.Types
	// DefaultedOnRead tells whether the resource's REST storage changes an object on its way to
	// clients; see frame.Config. Lists and initial events have such objects decoded.
	// Optional.
	DefaultedOnRead func(runtime.Object) bool
	// HistoryBound returns how many bytes of history the resources of the process may keep together.
	// Optional.
	HistoryBound func() int64
	// From is the revision to begin at, so that the cache has the history since then from the beginning; 0 for the present, at which it
	// begins, too, if the state of From cannot be read. Optional.
	From uint64
	// Bounded fails lists for which the cache is too late, instead of sending them to etcd.
	Bounded bool
	// Versions says that the objects are custom resources that may be served in other versions, too, in which they differ in nothing
	// but apiVersion; see follower.in.
	Versions bool

	// taken counts the objects that are taken in. It is nil for none but custom resources.
	taken *taken
	// stored is the codec of Storage, of custom resources alone: it hands on what is intact as it is stored. Nil if all is decoded.
	stored *storedCodec
	// heritage is what is known of the resource, nil if it has to be read. It needs stored.
	heritage *heritage
}

// Cache is a storage.Interface that answers reads and watches from the encoded
// objects of one resource, in one version. Its methods may be called by any number of goroutines.
type Cache struct {
	*follower
	// newFunc returns an empty object in the version that is served, and version is that if it is not the one that the follower
	// keeps.
	newFunc func() runtime.Object
	version *frame.Version
	// serving ends when the Cache is stopped, and its watches with it; nil if they end because the follower does.
	serving context.Context
	closed  atomic.Bool
	// joined says that the follower was there before, and that it is not known to have reached what etcd had then.
	joined atomic.Bool
	// due is what etcd had when it was first asked for that; 0 before. late says that the follower was not there in time, so that etcd is asked again: not all who
	// come at once, after a change of the definition, do so.
	due  atomic.Uint64
	late atomic.Bool
	// end is what Stop does, any number of times.
	end func()
}

var _ storage.Interface = (*Cache)(nil)

// New starts a cache. Stop must be called.
func New(cfg Config) (*Cache, error) {
	f, err := newFollower(cfg)
	if err != nil {
		return nil, err
	}
	return &Cache{follower: f, newFunc: cfg.NewFunc, end: f.stop}, nil
}

// in returns a Cache that answers from the same objects in the version of what newFunc returns. release is called when it is stopped:
// the follower has to go on until then. Config.Versions has been set.
func (f *follower) in(newFunc func() runtime.Object, release func()) *Cache {
	serving, end := context.WithCancel(context.Background())
	c := &Cache{follower: f, newFunc: newFunc, serving: serving, end: sync.OnceFunc(func() {
		end()
		release()
	})}
	if version := versionOf(newFunc); version != versionOf(f.cfg.NewFunc) {
		c.version = f.codec.Version(version)
	}
	return c
}

// versionOf returns the apiVersion of what newFunc returns.
func versionOf(newFunc func() runtime.Object) string {
	return newFunc().GetObjectKind().GroupVersionKind().GroupVersion().String()
}

// Stop ends the cache and every watch on it. It may be called more than once. Unless others answer from the same follower, its
// goroutines have ended then.
func (c *Cache) Stop() {
	c.closed.Store(true)
	c.end()
}

// current is that of the follower, until the cache is stopped.
func (c *Cache) current() (*generation, uint64, view, error) {
	if c.closed.Load() {
		return nil, 0, view{}, apierrors.NewTooManyRequests(errStopped.Error(), tooHighRetrySeconds)
	}
	return c.follower.current()
}

// arrive waits, as a read does, until the cache has reached what etcd had when it was opened, or later. A follower that was there before may
// be late: it may not have been told yet that the objects of a definition are gone which has been deleted and made anew, and whose
// objects nobody must be shown as those of the new one. A cache that has a follower of its own begins at the present.
func (c *Cache) arrive(ctx context.Context) error {
	if !c.joined.Load() {
		return nil
	}
	rev := c.due.Load()
	if rev == 0 || c.late.Load() {
		now, err := c.storageRevision(ctx)
		if err != nil {
			return err
		}
		// What has been written since is not waited for: a follower that is always late would never arrive. etcd may have been put back.
		c.due.CompareAndSwap(0, now)
		rev = min(now, c.due.Load())
	}
	if _, _, _, err := c.reach(ctx, rev); err != nil {
		c.late.Store(true)
		return err
	}
	c.joined.Store(false)
	return nil
}

// Ready tells whether the cache has read its resource.
func (c *Cache) Ready() bool { return !c.closed.Load() && c.follower.Ready() }

// as returns a frame in the version that is served.
func (c *Cache) as(f *frame.Frame) *frame.Frame {
	if c.version == nil {
		return f
	}
	return f.In(c.version)
}
