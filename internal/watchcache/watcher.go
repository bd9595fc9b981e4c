// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package watchcache

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/features"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/cacher/metrics"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	utilflowcontrol "k8s.io/apiserver/pkg/util/flowcontrol"
	"k8s.io/utils/clock"

	"github.com/weir-project/weir/internal/coalesce"
	"github.com/weir-project/weir/internal/eventlog"
	"github.com/weir-project/weir/internal/frame"
)

const (
	// handover is how many references to events lie between the watch and upstream's
	// handler. It is no buffer of events: the handler flushes when its channel is empty,
	// and where it compresses, a flush after every event would undo the compression. Ten
	// are what upstream's storage tests expect a stopped watch to have handed over.
	handover = 10
	// bookmarkPeriod is how often a watch gets a bookmark, and bookmarkMargin how long
	// before its deadline it gets one more; both are upstream's.
	bookmarkPeriod = time.Minute
	bookmarkMargin = 2 * time.Second
)

// watcher is one watch: a walk over a frozen state, then a cursor. Its goroutine, run,
// sends what there is, parks the cursor and ends. The log's dispatcher then hands over
// what comes; when that has to wait for room, or something else is to do, there is a
// run again. Fields without a remark belong to the one of the two who has the cursor.
type watcher struct {
	cache  *Cache
	ctx    context.Context
	result chan watch.Event
	// stop is closed by Stop, which any goroutine may call; the end of ctx does so too,
	// until detach is called.
	stop   chan struct{}
	once   sync.Once
	detach func() bool
	match  matcher
	// stream is the connection that the events go to, or nil; busy is what it was told last.
	stream *coalesce.Stream
	busy   bool
	// initial is what to send first; nil if nothing, and once it has been sent.
	initial *selection
	// end says that a bookmark has to tell where the initial events end.
	end bool
	// bookmarks says that the client takes them, deadline (zero for none) when the
	// server ends the watch.
	bookmarks bool
	deadline  time.Time
	// timer sets due, from its own goroutine, when it is time for a bookmark; nil if the
	// watch has none.
	timer clock.Timer
	due   atomic.Bool
	// start is the revision that the cursor started after. Events up to replay were in
	// the log when the watch began.
	start, replay uint64
	cursor        *eventlog.Cursor[scope, *change]
	// sent is the revision of the last change that the cursor has passed.
	sent uint64
}

var (
	_ watch.Interface          = (*watcher)(nil)
	_ eventlog.Parked[*change] = (*watcher)(nil)
)

// ResultChan implements watch.Interface.
func (w *watcher) ResultChan() <-chan watch.Event { return w.result }

// Stop implements watch.Interface.
func (w *watcher) Stop() {
	w.once.Do(func() {
		close(w.stop)
		w.wake()
	})
}

// wake sees to it that run heeds stop or due, which the caller has set. If the cursor is
// not parked, there is a run that will.
func (w *watcher) wake() {
	if w.cursor.Unpark() {
		w.Resume()
	}
}

// Resume implements eventlog.Parked.
func (w *watcher) Resume() { go w.run(w.sendLive) }

// Deliver implements eventlog.Parked: it sends what a change is to this watch, if
// anything, unless that has to wait or fails.
func (w *watcher) Deliver(ch *change) bool {
	event, err := w.eventOf(ch)
	if err != nil {
		return false
	}
	if event.Object != nil {
		built := w.cache.cfg.Clock.Now()
		select {
		case w.result <- event:
		default:
			return false
		}
		w.observe(ch, built)
	}
	w.sent = ch.rev
	return true
}

// run is the watch's goroutine: it sends, and ends the watch unless it has parked the
// cursor.
func (w *watcher) run(send func() (parked bool, err error)) {
	defer utilruntime.HandleCrashWithContext(w.ctx)
	if parked, err := send(); !parked {
		w.finish(err)
	}
}

// begin sends what the watch begins with and goes on with sendLive.
func (w *watcher) begin() (parked bool, err error) {
	if w.sharded() {
		metrics.RecordShardedWatchStarted(w.cache.cfg.GroupResource)
	}
	if ok, err := w.sendInitial(); !ok {
		return false, err
	}
	utilflowcontrol.WatchInitialized(w.ctx)
	if next, ok := w.nextBookmark(); ok {
		w.timer = w.cache.cfg.Clock.AfterFunc(next, w.remind)
	}
	return w.sendLive()
}

// finish ends the watch, with a last event if it is an error that ends it.
func (w *watcher) finish(err error) {
	defer close(w.result)
	defer w.cursor.Close()
	defer w.detach()
	if w.timer != nil {
		w.timer.Stop()
	}
	gr := w.cache.cfg.GroupResource
	if w.sharded() {
		metrics.RecordShardedWatchStopped(gr)
	}
	switch {
	case errors.Is(err, eventlog.ErrTrimmed):
		metrics.TerminatedWatchersCounter.WithLabelValues(gr.Group, gr.Resource).Inc()
		w.send(errorEvent(apierrors.NewResourceExpired("too old resource version: the watch was slower than the history is long")))
	case err != nil && !errors.Is(err, eventlog.ErrClosed):
		w.send(errorEvent(err))
	}
}

// sharded tells whether the watch counts as one of a shard.
func (w *watcher) sharded() bool {
	return w.match.filtered != nil && utilfeature.DefaultFeatureGate.Enabled(features.ShardedListAndWatch)
}

// stallPeriod is how often a watch that sends its initial events looks whether there is
// still a way on from them.
const stallPeriod = 5 * time.Second

// sendInitial sends the state that the watch begins with. It returns false if the
// watch has ended. A client that takes its time keeps the state alive for as long as
// the log leads on from it, and no longer: the state is then let go of, and the client
// told to start again.
func (w *watcher) sendInitial() (bool, error) {
	if w.initial == nil {
		return true, nil
	}
	stalled := make(chan struct{}, 1)
	timer := w.cache.cfg.Clock.AfterFunc(stallPeriod, func() {
		select {
		case stalled <- struct{}{}:
		default:
		}
	})
	defer timer.Stop()
	sent, ok := 0, true
	var failed error
	w.initial.ascend(w.match.prefix, w.recursive(), func(f *frame.Frame) bool {
		matched, err := w.match.matches(f)
		if err != nil {
			utilruntime.HandleError(fmt.Errorf("shard matching failed for %v: %w", w.cache.cfg.GroupResource, err))
		}
		if !matched {
			return true
		}
		var event watch.Event
		if event, failed = w.eventWith(watch.Added, f, true); failed != nil {
			return false
		}
		sent++
		for {
			var rung bool
			if ok, rung = w.sendUnless(event, stalled); !rung {
				return ok
			}
			if failed = w.cursor.Check(); failed != nil {
				return false
			}
			timer.Reset(stallPeriod)
		}
	})
	// The state may be let go of now, however long the watch lasts.
	w.initial = nil
	if sent > 0 {
		metrics.InitCounter.WithLabelValues(w.cache.cfg.GroupResource.Group, w.cache.cfg.GroupResource.Resource).Add(float64(sent))
	}
	if failed != nil || !ok {
		return false, failed
	}
	return !w.end || w.sendBookmark(w.start, true), nil
}

// eventWith returns an event with a frame, or with the decoded object where the REST
// storage has to see that: upstream's live events pass it as they are, the others not.
func (w *watcher) eventWith(t watch.EventType, f *frame.Frame, decoded bool) (watch.Event, error) {
	if !decoded || !f.DefaultedOnRead() {
		return watch.Event{Type: t, Object: f}, nil
	}
	obj, err := f.Decode()
	return watch.Event{Type: t, Object: obj}, err
}

// recursive tells whether the watch is on a prefix: those end in a slash.
func (w *watcher) recursive() bool {
	return w.match.prefix[len(w.match.prefix)-1] == '/'
}

// sendLive sends what the log holds until nothing is left, and parks the cursor. It
// returns false if the watch has ended; without an error if by the client's wish.
func (w *watcher) sendLive() (parked bool, err error) {
	var batch [handover]*change
	for {
		b, err := w.cursor.Next(batch[:])
		if err != nil {
			return false, err
		}
		// A single event is sent at once; of several, all but the last can wait.
		if !w.busy && (b.N > 1 || !b.Drained) {
			w.stream.Busy()
			w.busy = true
		}
		for i, ch := range batch[:b.N] {
			batch[i] = nil // a watch that waits must not keep an event alive
			if ok, err := w.sendChange(ch); !ok || err != nil {
				return false, err
			}
			w.sent = ch.rev
		}
		if w.stopped() {
			return false, nil
		}
		if w.due.Load() && !w.sendDue(b.Complete) {
			return false, nil
		}
		if b.Drained && w.park() {
			return true, nil
		}
	}
}

// park parks the cursor, unless there is something to do.
func (w *watcher) park() bool {
	if w.busy {
		w.stream.Idle()
		w.busy = false
	}
	if !w.cursor.Park(w) {
		return false
	}
	// Whoever set stop or due before that found no parked cursor; later ones do.
	return !(w.stopped() || w.due.Load()) || !w.cursor.Unpark()
}

// remind makes a bookmark due.
func (w *watcher) remind() {
	w.due.Store(true)
	w.wake()
}

// sendDue sends the bookmark that is due. It returns false if the watch has ended.
func (w *watcher) sendDue(rev uint64) bool {
	// A bookmark takes a client no further back than the last event did.
	if rev > w.start && rev >= w.sent && !w.sendBookmark(rev, false) {
		return false
	}
	w.due.Store(false)
	if next, ok := w.nextBookmark(); ok {
		w.timer.Reset(next)
	}
	return true
}

// sendChange sends what a change is to this watch, if anything. It returns false if
// the watch has ended.
func (w *watcher) sendChange(ch *change) (bool, error) {
	event, err := w.eventOf(ch)
	if err != nil || event.Object == nil {
		return err == nil, err
	}
	built := w.cache.cfg.Clock.Now()
	if !w.send(event) {
		return false, nil
	}
	w.observe(ch, built)
	return true, nil
}

// observe measures the way of a change whose event was built at that time and has been
// handed over now.
func (w *watcher) observe(ch *change, built time.Time) {
	sent := w.cache.cfg.Clock.Now()
	w.cache.dispatch.ObserveStage(metrics.StageStorageToCache, ch.received.Sub(ch.recorded))
	w.cache.dispatch.ObserveStage(metrics.StageCacheToWatcher, sent.Sub(built))
	w.cache.dispatch.ObserveStage(metrics.StageTotal, sent.Sub(ch.recorded))
}

// eventOf returns the event that a change is to this watch; one without an object if
// it is none. An object that leaves the selector is deleted for the watch, with its
// last content that the watch was entitled to and the revision of the change.
func (w *watcher) eventOf(ch *change) (watch.Event, error) {
	is, err := w.wants(ch.cur)
	if err != nil {
		return watch.Event{}, nil
	}
	was, err := w.wants(ch.prev)
	if err != nil {
		return watch.Event{}, nil
	}
	switch {
	case is && was:
		return w.eventWith(watch.Modified, ch.cur, ch.rev <= w.replay)
	case is:
		return w.eventWith(watch.Added, ch.cur, ch.rev <= w.replay)
	case was:
		last, err := ch.gone(w.cache.codec, w.cache.cfg.Versioner)
		if err != nil {
			return watch.Event{}, err
		}
		return w.eventWith(watch.Deleted, last, ch.rev <= w.replay || ch.cur != nil)
	default:
		return watch.Event{}, nil
	}
}

// wants tells whether the watch is for the object. As upstream, one whose shard
// cannot be told is left out, with a word in the log.
func (w *watcher) wants(f *frame.Frame) (bool, error) {
	if f == nil {
		return false, nil
	}
	ok, err := w.match.matches(f)
	if err != nil {
		utilruntime.HandleError(fmt.Errorf("shard matching failed for %v: %w", w.cache.cfg.GroupResource, err))
	}
	return ok, err
}

// sendBookmark tells the client that it has seen everything up to rev, and, if end,
// that these were the initial events.
func (w *watcher) sendBookmark(rev uint64, end bool) bool {
	obj := w.cache.cfg.NewFunc()
	if err := w.annotate(obj, rev, end); err != nil {
		w.send(errorEvent(err))
		return false
	}
	return w.send(watch.Event{Type: watch.Bookmark, Object: obj})
}

func (w *watcher) annotate(obj runtime.Object, rev uint64, end bool) error {
	if err := w.cache.cfg.Versioner.UpdateObject(obj, rev); err != nil {
		return fmt.Errorf("setting the resourceVersion of a bookmark to %d: %w", rev, err)
	}
	if !end {
		return nil
	}
	return storage.AnnotateInitialEventsEndBookmark(obj)
}

// nextBookmark returns in what time the next bookmark is due, if any is.
func (w *watcher) nextBookmark() (time.Duration, bool) {
	if !w.bookmarks {
		return 0, false
	}
	if w.deadline.IsZero() {
		return bookmarkPeriod, true
	}
	left := w.deadline.Add(-bookmarkMargin).Sub(w.cache.cfg.Clock.Now())
	if left < 0 {
		return 0, false
	}
	return min(bookmarkPeriod, left), true
}

func (w *watcher) stopped() bool {
	select {
	case <-w.stop:
		return true
	default:
		return false
	}
}

// send hands an event over. It returns false if the watch has ended.
func (w *watcher) send(event watch.Event) bool {
	ok, _ := w.sendUnless(event, nil)
	return ok
}

// sendUnless hands an event over, unless the watch ends or bell rings before there is
// room for it.
func (w *watcher) sendUnless(event watch.Event, bell <-chan struct{}) (ok, rung bool) {
	if w.stopped() {
		return false, false
	}
	// Mostly there is room, and a select of one channel is the cheaper one.
	select {
	case w.result <- event:
		return true, false
	default:
	}
	select {
	case w.result <- event:
		return true, false
	case <-w.stop:
		return false, false
	case <-bell:
		return false, true
	}
}
