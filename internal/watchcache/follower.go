// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package watchcache

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/metadata"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/features"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/cacher/consistency"
	"k8s.io/apiserver/pkg/storage/cacher/delegator"
	"k8s.io/apiserver/pkg/storage/cacher/metrics"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/component-base/tracing"
	"k8s.io/utils/clock"

	"github.com/weir-project/weir/internal/eventlog"
	"github.com/weir-project/weir/internal/frame"
	"github.com/weir-project/weir/internal/ledger"
)

const (
	// freshTimeout is how long a read waits for the cache to reach a revision; what
	// upstream's blockTimeout is.
	freshTimeout = 3 * time.Second
	// tooHighRetrySeconds is when a client may come back that asked for a revision
	// that the cache did not reach in that time.
	tooHighRetrySeconds = 1
	// tendingPeriod is how often the cache asks which revision etcd has compacted, and lets go of what is not used.
	tendingPeriod = 15 * time.Second
)

// follower follows a resource in etcd, and has its state and history as frames. One or several Caches answer from it. Its methods may be
// called by any number of goroutines.
type follower struct {
	cfg   Config
	codec *frame.Codec
	// trigger is the name of the field that watches are indexed by, or "".
	trigger string
	// indexes are the names of the list indexes, in the order of view.byIndex.
	indexes  []string
	progress *requester
	doubts   doubts
	// asking says that etcd is being asked for its revision; see ask.
	asking   atomic.Bool
	dispatch *metrics.WatcherMetricsObservers

	// cancel ends every goroutine of the cache, which running counts.
	cancel  context.CancelFunc
	running sync.WaitGroup

	// frames is what the state is booked with, history books what the log keeps alive, and readers what only readers do.
	frames  atomic.Int64
	history history
	readers oldReads
	// begun is closed when the resource has been read for the first time.
	begun chan struct{}
	// present says that somebody has waited for the cache to be ready, and for the present, with success.
	present atomic.Bool
	// turns has as many tokens in it as lists of unknown size are now read from etcd because
	// the cache has stalled.
	turns chan struct{}

	// mu guards what follows, and the fields of gen. It is the last in the order of locks:
	// none is taken while it is held, neither the log's nor its dispatcher's, so it may be
	// taken under any of them.
	mu sync.RWMutex
	// gen is nil while the cache is not ready.
	gen *generation
	// notReady is since when gen is nil.
	notReady time.Time
	// cause is why reading the resource failed the last time; nil if it has not failed since
	// gen was not nil.
	cause   error
	stopped bool
	// inconsistent says that the checker found etcd to differ: snapshots are not used.
	inconsistent bool
	// compacted is the revision up to which etcd has been compacted, as far as known.
	compacted int64
}

// newFollower starts a follower. stop must be called.
func newFollower(cfg Config) (*follower, error) {
	if err := runtime.CheckCodec(cfg.Codec, cfg.NewFunc()); err != nil {
		return nil, fmt.Errorf("storage codec of %s does not match its type: %w", cfg.GroupResource, err)
	}
	if cfg.ResourcePrefix == "" || cfg.ResourcePrefix == "/" || !strings.HasPrefix(cfg.ResourcePrefix, "/") {
		return nil, fmt.Errorf("resource prefix %q of %s has to be a path below /", cfg.ResourcePrefix, cfg.GroupResource)
	}
	if cfg.History <= 0 {
		return nil, fmt.Errorf("event history of %s (%v) has to be longer than nothing", cfg.GroupResource, cfg.History)
	}
	if len(cfg.Trigger) > 1 {
		return nil, fmt.Errorf("watches of %s cannot be indexed by more than one field", cfg.GroupResource)
	}
	if cfg.Clock == nil {
		cfg.Clock = clock.RealClock{}
	}

	ctx, cancel := context.WithCancel(context.Background())
	rpc := newRPC()
	ctx = metadata.NewOutgoingContext(ctx, rpc)
	c := &follower{
		cfg: cfg,
		codec: frame.NewCodec(frame.Config{
			Codec:     cfg.Codec,
			NewFunc:   cfg.NewFunc,
			Attrs:     cfg.GetAttrs,
			Versioner: cfg.Versioner,
			Store:     cfg.Store,
			Types:     cfg.Types,
			KeepUIDs:  utilfeature.DefaultFeatureGate.Enabled(features.ShardedListAndWatch),
			Versions:  cfg.Versions,

			DefaultedOnRead: cfg.DefaultedOnRead,
		}),
		dispatch: metrics.NewWatcherMetricsObservers(cfg.GroupResource),
		cancel:   cancel,
		begun:    make(chan struct{}),
		turns:    make(chan struct{}, wholeReads),
		notReady: cfg.Clock.Now(),
	}
	c.history.readers = &c.readers
	c.progress = &requester{request: c.requestProgress, clock: cfg.Clock, rpc: rpc, begin: c.running.Go}
	for name := range cfg.Trigger {
		c.trigger = name
	}
	for _, i := range c.newState().indexes {
		c.indexes = append(c.indexes, i.name)
	}
	// Upstream's estimate has a goroutine, and remembers every key. Custom resources have the sizes of what is kept, which is what is stored
	// but for the resourceVersion; see Cache.Stats.
	if utilfeature.DefaultFeatureGate.Enabled(features.SizeBasedListCostEstimate) && !cfg.Versions {
		if err := cfg.Storage.EnableResourceSizeEstimation(c.keys); err != nil {
			cancel()
			return nil, fmt.Errorf("failed to enable resource size estimation: %w", err)
		}
	}
	metrics.WatchCacheCapacity.WithLabelValues(c.cfg.GroupResource.Group, c.cfg.GroupResource.Resource).Set(maxEvents)
	// Shown as 0 before there is one, so that the first one is an increase to whoever reads it.
	metrics.TerminatedWatchersCounter.WithLabelValues(c.cfg.GroupResource.Group, c.cfg.GroupResource.Resource).Add(0)

	heritage := cfg.heritage
	c.cfg.heritage = nil // a state that is not to be kept
	c.running.Go(func() { c.follow(ctx, heritage) })
	if utilfeature.DefaultFeatureGate.Enabled(features.DetectCacheInconsistency) || consistency.PanicOnCacheInconsistency {
		checker := consistency.NewChecker(cfg.ResourcePrefix, cfg.GroupResource, cfg.NewListFunc, identities{c}, inPages{c})
		c.running.Go(func() { checker.Run(ctx.Done()) })
	}
	return c, nil
}

func (c *follower) newState() *state {
	var names []string
	if c.cfg.Indexers != nil {
		for name := range *c.cfg.Indexers {
			names = append(names, name)
		}
	}
	s := newState(names)
	s.books = &c.frames
	return s
}

// stop ends the follower and every watch on it, and waits for its goroutines. It may be
// called more than once.
func (c *follower) stop() {
	c.mu.Lock()
	c.stopped = true
	c.mu.Unlock()
	c.cancel()
	c.progress.end()
	c.running.Wait()
	c.setNotReady(nil)
}

// errStopped is what a stopped cache says.
var errStopped = errors.New("apiserver cacher is stopped")

// current returns the generation that answers now, and its revision and view. It
// fails with 429 while there is none.
func (c *follower) current() (*generation, uint64, view, error) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if c.gen == nil || c.stopped {
		return nil, 0, view{}, c.notReadyLocked()
	}
	return c.gen, c.gen.rev, c.gen.view, nil
}

// notReadyLocked is the answer to reads that only a ready cache can serve; see
// https://kep.k8s.io/4568.
func (c *follower) notReadyLocked() error {
	err := errors.New("storage is (re)initializing")
	switch {
	case c.stopped:
		err = errStopped
	case c.cause != nil:
		err = fmt.Errorf("storage is (re)initializing: %w", c.cause)
	}
	// The longer it lasts the later clients come back: after 1 s, at most 30 s.
	down := c.cfg.Clock.Since(c.notReady).Seconds()
	return apierrors.NewTooManyRequests(err.Error(), int(math.Min(30, math.Max(1, math.Exp(0.06*down)))))
}

// Ready tells whether the cache has read its resource.
func (c *follower) Ready() bool {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.gen != nil && !c.stopped
}

// AwaitReady waits until the cache has read its resource for the first time, and if that was a state of the past, and it is to,
// until it has reached the present, but no longer than a read waits for a revision, or until ctx ends. The error is that of such a
// read: what the cache would answer now may be older than what others have been told before. A cache that has nothing says so itself.
func (c *follower) AwaitReady(ctx context.Context, present bool) error {
	if c.present.Load() {
		return nil
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	timeout := c.cfg.Clock.AfterFunc(freshTimeout, cancel)
	defer timeout.Stop()
	select {
	case <-c.begun:
	case <-ctx.Done():
		return nil
	}
	if !present {
		return nil
	}
	if c.cfg.From != 0 {
		rev, err := c.cfg.Storage.GetCurrentResourceVersion(ctx)
		if err != nil {
			return err
		}
		if c.catchUp(ctx, rev); ctx.Err() != nil {
			return storage.NewTooLargeResourceVersionError(rev, c.cfg.From, tooHighRetrySeconds)
		}
	}
	c.present.Store(true)
	return nil
}

// unreadable tells whether the cache is not ready because reading the resource failed.
func (c *follower) unreadable() bool {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.gen == nil && c.cause != nil
}

// setNotReady ends the present generation: its watches end, its bytes go.
func (c *follower) setNotReady(cause error) {
	gen := c.takeGeneration(cause)
	if gen != nil {
		gen.log.Close() // not under c.mu, which is the last in the order of locks
	}
}

// takeGeneration leaves the cache without a generation, and returns the one it had.
func (c *follower) takeGeneration(cause error) *generation {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cause = cause
	gen := c.gen
	if gen == nil {
		return nil
	}
	c.gen = nil
	gen.end()
	c.notReady = c.cfg.Clock.Now()
	close(gen.moved)
	return gen
}

// storageRevision asks the storage for its revision. It is never lower than what the cache had before it asked, unless the
// storage has been put back to an earlier state. Nothing that the cache has is worth anything then: the source reads all anew,
// and the error is that of a cache that does. etcd itself does not say so: a watch that goes on from what is now the future
// is told nothing, not even progress, until that is reached.
func (c *follower) storageRevision(ctx context.Context) (uint64, error) {
	gen, before, _, err := c.current()
	if err != nil {
		return c.cfg.Storage.GetCurrentResourceVersion(ctx) // there is nothing to compare it with
	}
	back := gen.back // the generation may be gone before etcd answers: nothing of it is kept for that
	rev, err := c.cfg.Storage.GetCurrentResourceVersion(ctx)
	if err != nil || rev >= before {
		return rev, err
	}
	err = wentBack(c.cfg.GroupResource, rev, before)
	select {
	case back <- err:
	default: // the source has yet to take what was said before
	}
	return 0, apierrors.NewTooManyRequests(fmt.Sprintf("storage is (re)initializing: %v", err), tooHighRetrySeconds)
}

// ask has storageRevision asked, for the source, which does not wait: etcd may not answer for long on one connection while the
// watch, on another, has something to tell. If etcd has gone back, generation.back says so; if it fails, the next one asks.
func (c *follower) ask(ctx context.Context) {
	if c.asking.Swap(true) {
		return
	}
	c.running.Go(func() {
		defer c.asking.Store(false)
		ctx, cancel := context.WithTimeout(ctx, silencePeriod)
		defer cancel()
		_, _ = c.storageRevision(ctx)
	})
}

func wentBack(resource schema.GroupResource, rev, before uint64) error {
	return fmt.Errorf("the storage of %s has gone back to revision %d after revision %d; was etcd restored from a backup?", resource, rev, before)
}

// waitFresh returns the generation when it has reached rev, with its revision and
// view then. It waits for freshTimeout at most, and asks etcd for progress meanwhile.
func (c *follower) waitFresh(ctx context.Context, rev uint64) (*generation, uint64, view, error) {
	return c.await(ctx, rev, false)
}

// reach is waitFresh for those who can go to etcd: it returns a *stalledError as soon as
// the cache is known to be unable to reach rev.
func (c *follower) reach(ctx context.Context, rev uint64) (*generation, uint64, view, error) {
	return c.await(ctx, rev, true)
}

func (c *follower) await(ctx context.Context, rev uint64, elsewhere bool) (*generation, uint64, view, error) {
	span := tracing.SpanFromContext(ctx)
	gen, at, v, err := c.current()
	span.AddEvent("watchCache locked acquired")
	if err != nil {
		return nil, 0, view{}, err
	}
	if at >= rev {
		span.AddEvent("watchCache fresh enough")
		return gen, at, v, nil
	}
	if delegator.ConsistentReadSupported() {
		c.progress.Add()
		defer c.progress.Remove()
	}
	start := c.cfg.Clock.Now()
	defer func() {
		metrics.WatchCacheReadWait.WithContext(ctx).WithLabelValues(c.cfg.GroupResource.Group, c.cfg.GroupResource.Resource).Observe(c.cfg.Clock.Since(start).Seconds())
	}()
	timeout := c.cfg.Clock.NewTimer(freshTimeout)
	defer timeout.Stop()
	for {
		c.mu.RLock()
		if c.gen == nil || c.stopped {
			defer c.mu.RUnlock()
			return nil, 0, view{}, c.notReadyLocked()
		}
		gen, at, v, moved, stalled := c.gen, c.gen.rev, c.gen.view, c.gen.moved, c.gen.stalled
		c.mu.RUnlock()
		if at >= rev {
			span.AddEvent("watchCache fresh enough")
			return gen, at, v, nil
		}
		if elsewhere && stalled != nil {
			return nil, 0, view{}, &stalledError{resource: c.cfg.GroupResource, cause: stalled}
		}
		select {
		case <-moved:
		case <-timeout.C():
			return nil, 0, view{}, storage.NewTooLargeResourceVersionError(rev, at, tooHighRetrySeconds)
		case <-ctx.Done():
			return nil, 0, view{}, storage.NewTooLargeResourceVersionError(rev, at, tooHighRetrySeconds)
		}
	}
}

// tend does what has to be done once in tendingPeriod.
func (c *follower) tend() {
	if utilfeature.DefaultFeatureGate.Enabled(features.ListFromCacheSnapshot) {
		c.observeCompaction()
	}
	c.progress.sweep()
}

// observeCompaction lets go of states that etcd no longer has either.
func (c *follower) observeCompaction() {
	rev := c.cfg.Storage.CompactRevision()
	c.mu.Lock()
	defer c.mu.Unlock()
	if rev <= c.compacted {
		return
	}
	c.compacted = rev
	if c.gen != nil {
		c.gen.forget(uint64(rev))
	}
}

// MarkConsistent implements what the consistency checker wants of a cache: while it
// finds the cache to differ from etcd, exact reads go to etcd.
func (c *follower) MarkConsistent(consistent bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.inconsistent = !consistent
	if c.inconsistent && c.gen != nil {
		c.gen.past = nil
		c.gen.floor = c.gen.view.rev
	}
}

// keepViews tells whether earlier states are kept for exact reads.
func (c *follower) keepViewsLocked() bool {
	return !c.inconsistent && utilfeature.DefaultFeatureGate.Enabled(features.ListFromCacheSnapshot)
}

// limits are the bounds on the log of the state s.
func (c *follower) limits(bytes func() int64) eventlog.Config[scope, *change] {
	return eventlog.Config[scope, *change]{
		MaxBytes:  func() int64 { return max(minBytes, 2*bytes()) - c.history.late.Load() },
		Excess:    c.excess(),
		MaxEvents: maxEvents,
		MinEvents: minEvents,
		MinBytes:  leastBytes,
		Window:    c.cfg.History,
		Now:       c.cfg.Clock.Now,
		Trimmed:   c.history.trimmed,
		Handed:    func(ch *change, _ int) { c.observe(ch, 0) },
		// follow closes the log before it ends itself, so that none of these begins while stop waits for the last goroutine.
		Go: c.running.Go,
	}
}

// excess returns a function that tells by how many bytes the history of all resources is above its bound; nil if
// there is none.
func (c *follower) excess() func() int64 {
	if c.cfg.HistoryBound == nil {
		return nil
	}
	return func() int64 { return ledger.Process.Bytes(ledger.History) - c.cfg.HistoryBound() }
}

// relieve lets go of history that the bounds do not allow any more.
func (c *follower) relieve() {
	if gen, _, _, err := c.current(); err == nil {
		gen.log.Shrink()
		gen.follow(c, gen.log.Floor())
	}
}
