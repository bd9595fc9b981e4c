// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package watchcache

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"go.opentelemetry.io/otel/attribute"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/audit"
	"k8s.io/apiserver/pkg/features"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/cacher/delegator"
	"k8s.io/apiserver/pkg/storage/cacher/metrics"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/component-base/tracing"

	"github.com/weir-project/weir/internal/coalesce"
	"github.com/weir-project/weir/internal/eventlog"
)

// Watch implements storage.Interface. Errors that depend on the state, such as a
// resourceVersion that is too old, arrive as an ERROR event, as with upstream.
func (c *Cache) Watch(ctx context.Context, key string, opts storage.ListOptions) (watch.Interface, error) {
	ctx, span := tracing.Start(ctx, "cacher.Watch",
		attribute.String("audit-id", audit.GetAuditIDTruncated(ctx)),
		attribute.Stringer("type", c.cfg.GroupResource))
	defer span.End(500 * time.Millisecond)
	if !utilfeature.DefaultFeatureGate.Enabled(features.WatchList) {
		opts.SendInitialEvents = nil
	}
	prefix, err := storage.PrepareKey(c.cfg.ResourcePrefix, key, opts.Recursive)
	if err != nil {
		return nil, err
	}
	rev, err := c.cfg.Versioner.ParseResourceVersion(opts.ResourceVersion)
	if err != nil {
		return nil, err
	}
	if err := c.arrive(ctx); err != nil {
		return nil, apierrors.NewTooManyRequests(err.Error(), tooHighRetrySeconds)
	}
	gen, at, v, err := c.current()
	if err != nil {
		return nil, err
	}
	if isWatchList(opts) && !delegator.ConsistentReadSupported() {
		return newErrorWatch(fmt.Errorf("a watch stream was requested by the client but the required storage feature %s is disabled", storage.RequestWatchProgress)), nil
	}

	stream := coalesce.From(ctx)
	compressed := compress(stream, opts)
	wanted := opts.SendInitialEvents != nil && *opts.SendInitialEvents
	if wanted {
		fresh := rev
		if opts.ResourceVersion == "" {
			if fresh, err = c.storageRevision(ctx); err != nil {
				return newErrorWatch(err), nil
			}
		}
		if gen, at, v, err = c.waitFresh(ctx, fresh); err != nil {
			return newErrorWatch(err), nil
		}
	} else if opts.SendInitialEvents != nil && opts.ResourceVersion == "" {
		// From the most recent revision, without what was before.
		if rev, err = c.storageRevision(ctx); err != nil {
			return newErrorWatch(err), nil
		}
	}

	w := &watcher{
		cache:  c,
		ctx:    ctx,
		result: make(chan watch.Event, handover),
		stop:   make(chan struct{}),
		match: newMatcher(prefix, opts.Predicate, func() {
			metrics.RecordWatchFilteredEvent(c.cfg.GroupResource)
		}),
		bookmarks: opts.Predicate.AllowWatchBookmarks,
		stream:    stream,
	}
	if compressed {
		w.rows = newRows(ctx, stream)
		w.result = make(chan watch.Event, rowHandover)
	}
	w.match.done = w.stop
	w.deadline, _ = ctx.Deadline()

	// The initial events are the state at revision at; the log goes on from there.
	if wanted || (rev == 0 && opts.SendInitialEvents == nil) {
		w.initial = c.initialOf(ctx, v, opts)
		w.end = isWatchList(opts)
		rev = at
	} else if rev == 0 {
		rev = at
	}
	if w.cursor, err = c.followScope(ctx, gen, rev, opts.Predicate); err != nil {
		if errors.Is(err, eventlog.ErrClosed) {
			ended := make(errorWatch) // the cache is being read anew: an end like that of any watch then
			close(ended)
			return ended, nil
		}
		return newErrorWatch(err), nil
	}
	if w.initial != nil {
		w.leave = c.readers.enter(v.bytes)
	}
	w.cursor.SetOwner(w)
	w.start, w.replay = rev, at
	w.stream.Busy()
	w.busy = true
	w.detach = context.AfterFunc(ctx, w.Stop)
	if c.serving != nil {
		w.leaves = context.AfterFunc(c.serving, w.Stop)
	}
	go w.run(w.begin)
	return w, nil
}

// compress has the stream compressed if upstream would: those are watch lists.
func compress(stream *coalesce.Stream, opts storage.ListOptions) bool {
	return isWatchList(opts) && stream.Compress()
}

// isWatchList mirrors k8s.io/apiserver/pkg/endpoints/handlers/get.go.
func isWatchList(opts storage.ListOptions) bool {
	return opts.SendInitialEvents != nil && *opts.SendInitialEvents && opts.Predicate.AllowWatchBookmarks
}

// initialOf says where in the state v the initial events of a watch are.
func (c *Cache) initialOf(ctx context.Context, v view, opts storage.ListOptions) *selection {
	sel := &selection{view: v, index: -1}
	if opts.Recursive {
		sel.index, sel.value = c.indexFor(ctx, opts.Predicate)
	}
	return sel
}

// followScope returns a cursor on no more of the log than the watch may have to see.
func (c *Cache) followScope(ctx context.Context, gen *generation, rev uint64, pred storage.SelectionPredicate) (*eventlog.Cursor[scope, *change], error) {
	key := c.scopeOf(ctx, pred)
	var cursor *eventlog.Cursor[scope, *change]
	var err error
	if key.kind == wholeResource {
		cursor, err = gen.log.Follow(rev)
	} else {
		cursor, err = gen.log.FollowKey(rev, key)
	}
	var old *eventlog.TooOldError
	if errors.As(err, &old) {
		return nil, apierrors.NewResourceExpired(old.Error())
	}
	return cursor, err
}

// errorWatch is a watch that tells one error, if any, and ends.
type errorWatch chan watch.Event

func newErrorWatch(err error) watch.Interface {
	w := make(errorWatch, 1)
	w <- errorEvent(err)
	close(w)
	return w
}

func errorEvent(err error) watch.Event {
	var known apierrors.APIStatus
	if errors.As(err, &known) {
		status := known.Status()
		return watch.Event{Type: watch.Error, Object: &status}
	}
	return watch.Event{Type: watch.Error, Object: &metav1.Status{
		Status:  metav1.StatusFailure,
		Message: err.Error(),
		Reason:  metav1.StatusReasonInternalError,
		Code:    http.StatusInternalServerError,
	}}
}

// ResultChan implements watch.Interface.
func (w errorWatch) ResultChan() <-chan watch.Event { return w }

// Stop implements watch.Interface.
func (w errorWatch) Stop() {}
