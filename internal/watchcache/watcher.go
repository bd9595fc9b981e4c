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
	"github.com/weir-project/weir/internal/convoy"
	"github.com/weir-project/weir/internal/eventlog"
	"github.com/weir-project/weir/internal/frame"
)

const (
	// handover is how many references to events lie between the watch and upstream's
	// handler. It is no buffer of events: the handler flushes when its channel is empty,
	// and where upstream compresses, a flush after every event would undo the compression. Ten
	// are what upstream's storage tests expect a stopped watch to have handed over.
	handover = 10
	// rowHandover is handover of a watch that is compressed, of which an event may be a row of 256 KiB:
	// what a client that takes nothing keeps from going.
	rowHandover = 3
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
	// until detach is called, and that of the cache if it ends before its follower.
	stop   chan struct{}
	once   sync.Once
	detach func() bool
	// leaves is as detach, for the end of cache.serving; nil if that is nil.
	leaves func() bool
	match  matcher
	// stream is the connection that the events go to, or nil; busy is what it was told last.
	stream *coalesce.Stream
	busy   bool
	// rows makes the events of a watch whose response is compressed; nil if it is not.
	rows *rows
	// initial is what to send first; nil if nothing, and once it has been sent. leave is to be called when
	// that is not read any more.
	initial *selection
	leave   func()
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
	// cursor is nil while it is parked. Then parked is it; later that is what it was parked
	// as last. It is for any goroutine.
	cursor *eventlog.Cursor[scope, *change]
	parked atomic.Pointer[eventlog.Parked[scope, *change]]
	// sent is the revision of the last change that the cursor has passed.
	sent uint64
	// stall tells whether the client takes anything.
	stall stall
}

var (
	_ watch.Interface                 = (*watcher)(nil)
	_ eventlog.Reader[scope, *change] = (*watcher)(nil)
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
	if p := w.parked.Load(); p != nil {
		if cursor, ok := p.Unpark(); ok {
			w.Resume(cursor)
		}
	}
}

// Resume implements eventlog.Reader.
func (w *watcher) Resume(cursor *eventlog.Cursor[scope, *change]) {
	w.cursor = cursor
	go w.run(w.sendLive)
}

// Deliver implements eventlog.Reader: it sends what a change is to this watch, if
// anything. What has to wait, may take long or may fail is left to run.
func (w *watcher) Deliver(ch *change) bool {
	if !w.match.quick {
		return false
	}
	is, was, err := w.affected(ch)
	if err != nil {
		return false
	}
	var event watch.Event
	switch {
	case is && was:
		event = watch.Event{Type: watch.Modified, Object: w.cache.as(ch.cur)}
	case is:
		event = watch.Event{Type: watch.Added, Object: w.cache.as(ch.cur)}
	case was:
		last := ch.last.Load()
		if last == nil || ch.cur != nil && last.DefaultedOnRead() {
			return false // it has to be encoded first, or decoded
		}
		event = watch.Event{Type: watch.Deleted, Object: w.cache.as(last)}
	default:
		w.sent = ch.rev
		return true
	}
	event.Object = w.rows.one(event.Object)
	select {
	case w.result <- event:
		w.sent = ch.rev
		return true
	default:
		return false
	}
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

// errStalled ends a watch whose client has taken nothing for as long as history is kept.
var errStalled = errors.New("nothing was taken")

// finish ends the watch, with a last event if it is an error that ends it.
func (w *watcher) finish(err error) {
	defer close(w.result)
	w.cursor.Close()
	w.detach()
	if w.leaves != nil {
		w.leaves()
	}
	w.stall.end()
	if w.timer != nil {
		w.timer.Stop()
	}
	gr := w.cache.cfg.GroupResource
	if w.sharded() {
		metrics.RecordShardedWatchStopped(gr)
	}
	switch {
	case errors.Is(err, eventlog.ErrTrimmed):
		w.expire("too old resource version: the watch was slower than the history is long")
	case errors.Is(err, errStalled):
		w.expire(fmt.Sprintf("too old resource version: the client has taken nothing for %v", w.cache.cfg.History))
	case err != nil && !errors.Is(err, eventlog.ErrClosed):
		w.send(errorEvent(err))
	}
}

// expire tells a client that is too slow to start again. What it has not taken it is not
// given any more: it would have to be kept for as long as the client takes nothing.
func (w *watcher) expire(why string) {
	gr := w.cache.cfg.GroupResource
	metrics.TerminatedWatchersCounter.WithLabelValues(gr.Group, gr.Resource).Inc()
	for len(w.result) > 0 {
		select {
		case <-w.result:
		default: // the client has taken it
		}
	}
	w.result <- errorEvent(apierrors.NewResourceExpired(why)) // there is room, and nobody else sends
}

// sharded tells whether the watch counts as one of a shard.
func (w *watcher) sharded() bool {
	return w.match.filtered != nil && utilfeature.DefaultFeatureGate.Enabled(features.ShardedListAndWatch)
}

// sendInitial sends the state that the watch begins with. It returns false if the
// watch has ended. A client that takes its time keeps alive what it has not been sent, for as
// long as the log leads on from there, and no longer: that is then let go of, and the client
// told to start again.
func (w *watcher) sendInitial() (bool, error) {
	if w.initial == nil {
		return true, nil
	}
	selection := w.initial
	w.initial = nil
	defer w.leave()
	s := initialSender{watcher: w, all: selection.whole(w.match.prefix, w.cache.cfg.ResourcePrefix) && w.match.wantsAll()}
	s.walk = w.joinInitial(selection)
	defer s.walk.Leave()
	selection.ascend(w.match.prefix, w.recursive(), s.send)
	s.sendRow()
	if s.narrow {
		// The state itself must not be kept alive for objects that are others'.
		var left []*frame.Frame
		selection.ascend(w.match.prefix, w.recursive(), func(f *frame.Frame) bool {
			if f.Key() > s.last && s.wanted(f) {
				left = append(left, f)
			}
			return true
		})
		selection = nil
		w.leave()
		s.sendAll(left)
		s.sendRow()
	}
	if s.sent > 0 {
		metrics.InitCounter.WithLabelValues(w.cache.cfg.GroupResource.Group, w.cache.cfg.GroupResource.Resource).Add(float64(s.sent))
	}
	if s.err != nil || s.ended {
		return false, s.err
	}
	if !w.end {
		return true, nil
	}
	ended, err := w.sendBookmark(w.start, true)
	return !ended && err == nil, err
}

// initialSender sends the initial events of a watch.
type initialSender struct {
	*watcher
	// all says that the watch selects all objects.
	all bool
	// walk keeps the watch with others that have begun at the same time.
	walk *convoy.Walk
	// sent is how many events have been sent, last the key of the last object that has been
	// looked at.
	sent int
	last string
	// row has the objects of which the next event will be, if events are of several, and cut says
	// how many.
	row []*frame.Frame
	cut frame.Cutter
	// narrow says that the client is slow, and that sending is to go on from what the watch
	// selects.
	narrow bool
	// ended says that the watch has ended, with err if that is not nil.
	ended bool
	err   error
}

func (s *initialSender) wanted(f *frame.Frame) bool {
	matched, err := s.match.matches(f)
	if err != nil && !errors.Is(err, errGivenUp) {
		utilruntime.HandleError(fmt.Errorf("shard matching failed for %v: %w", s.cache.cfg.GroupResource, err))
	}
	return matched
}

// send sends an object if the watch selects it. It returns false if that is to end, or to go
// on in another way.
func (s *initialSender) send(f *frame.Frame) bool {
	if s.wanted(f) && !s.sendFrame(f) {
		return false
	}
	s.last = f.Key()
	s.narrow = s.stall.slow && !s.all
	return !s.narrow
}

// sendAll sends objects that the watch selects, and lets go of each.
func (s *initialSender) sendAll(frames []*frame.Frame) {
	for i, f := range frames {
		frames[i] = nil
		if !s.sendFrame(f) {
			return
		}
	}
}

func (s *initialSender) sendFrame(f *frame.Frame) bool {
	s.walk.Pass(f.Size())
	if s.rows != nil && s.rows.together && !f.DefaultedOnRead() {
		s.row = append(s.row, s.cache.as(f))
		return !s.cut.Ends(f) || s.sendRow()
	}
	if !s.sendRow() {
		return false
	}
	event, err := s.eventWith(watch.Added, f, true)
	if err != nil {
		s.err = err
		return false
	}
	return s.sendEvent(event, 1)
}

// sendRow sends the row that has been gathered, if any.
func (s *initialSender) sendRow() bool {
	if s.ended || s.err != nil {
		return false
	}
	s.cut.Reset()
	if len(s.row) == 0 {
		return true
	}
	row := s.row
	s.row = make([]*frame.Frame, 0, len(row))
	return s.sendEvent(watch.Event{Type: watch.Added, Object: s.rows.of(row)}, len(row))
}

// sendEvent sends an event of n objects.
func (s *initialSender) sendEvent(event watch.Event, n int) bool {
	if s.ended, s.err = s.sendOrStall(event); s.ended || s.err != nil {
		return false
	}
	s.sent += n
	return true
}

// eventWith returns an event with a frame, or with the decoded object where the REST
// storage has to see that: upstream's live events pass it as they are, the others not.
func (w *watcher) eventWith(t watch.EventType, f *frame.Frame, decoded bool) (watch.Event, error) {
	if !decoded || !f.DefaultedOnRead() {
		return watch.Event{Type: t, Object: w.rows.one(w.cache.as(f))}, nil
	}
	obj, err := f.DecodeIn(w.cache.version)
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
		if w.due.Load() {
			if ended, err := w.sendDue(b.Complete); ended || err != nil {
				return false, err
			}
		}
		if b.Drained && w.park() {
			return true, nil
		}
	}
}

// park parks the cursor, unless there is something to do.
func (w *watcher) park() bool {
	w.stall.end()
	cursor, stream, busy := w.cursor, w.stream, w.busy
	w.cursor, w.busy = nil, false
	p, ok := cursor.Park(w)
	if !ok {
		w.cursor, w.busy = cursor, busy
		return false
	}
	// From here on all but parked, stop and due is another's. What has been sent goes out
	// now: that may wait for the connection, for which a cursor must not.
	w.parked.Store(p)
	if busy {
		stream.Idle()
	}
	// Whoever set stop or due before that found no parked cursor; later ones do.
	if w.stopped() || w.due.Load() {
		if cursor, ok := p.Unpark(); ok {
			w.cursor = cursor
			return false
		}
	}
	return true
}

// remind makes a bookmark due.
func (w *watcher) remind() {
	w.due.Store(true)
	w.wake()
}

// sendDue sends the bookmark that is due. It returns true if the watch has ended.
func (w *watcher) sendDue(rev uint64) (ended bool, err error) {
	// A bookmark takes a client no further back than the last event did.
	if rev > w.start && rev >= w.sent {
		if ended, err := w.sendBookmark(rev, false); ended || err != nil {
			return ended, err
		}
	}
	w.due.Store(false)
	if next, ok := w.nextBookmark(); ok {
		w.timer.Reset(next)
	}
	return false, nil
}

// sendChange sends what a change is to this watch, if anything. It returns false if
// the watch has ended.
func (w *watcher) sendChange(ch *change) (bool, error) {
	event, err := w.eventOf(ch)
	if err != nil || event.Object == nil {
		return err == nil, err
	}
	built := w.cache.cfg.Clock.Now()
	if ended, err := w.sendOrStall(event); ended || err != nil {
		return false, err
	}
	w.cache.observe(ch, w.cache.cfg.Clock.Since(built))
	return true, nil
}

// observe measures the way of a change of which an event has been handed over now, for which
// it had to wait: once for all watches that the dispatcher has handed it to, and for each
// that has taken it by itself.
func (c *follower) observe(ch *change, waited time.Duration) {
	c.dispatch.ObserveStage(metrics.StageStorageToCache, ch.received.Sub(ch.recorded))
	c.dispatch.ObserveStage(metrics.StageCacheToWatcher, waited)
	c.dispatch.ObserveStage(metrics.StageTotal, c.cfg.Clock.Since(ch.recorded))
}

// eventOf returns the event that a change is to this watch; one without an object if
// it is none. An object that leaves the selector is deleted for the watch, with its
// last content that the watch was entitled to and the revision of the change.
func (w *watcher) eventOf(ch *change) (watch.Event, error) {
	is, was, err := w.affected(ch)
	if err != nil {
		// As upstream, an object whose shard cannot be told is left out, with a word in the log.
		if !errors.Is(err, errGivenUp) {
			utilruntime.HandleError(fmt.Errorf("shard matching failed for %v: %w", w.cache.cfg.GroupResource, err))
		}
		return watch.Event{}, nil
	}
	switch {
	case is && was:
		return w.eventWith(watch.Modified, ch.cur, ch.rev <= w.replay)
	case is:
		return w.eventWith(watch.Added, ch.cur, ch.rev <= w.replay)
	case was:
		last, err := ch.gone(w.cache.codec, w.cache.cfg.Versioner, &w.cache.history)
		if err != nil {
			return watch.Event{}, err
		}
		return w.eventWith(watch.Deleted, last, ch.rev <= w.replay || ch.cur != nil)
	default:
		return watch.Event{}, nil
	}
}

// affected tells whether the watch is for the object as it is, and as it was.
func (w *watcher) affected(ch *change) (is, was bool, err error) {
	if ch.cur != nil {
		if is, err = w.match.matches(ch.cur); err != nil {
			return false, false, err
		}
	}
	switch {
	case ch.prev == nil:
	case ch.same && w.match.sharded == nil: // a UID may be another
		was = is
	default:
		was, err = w.match.matches(ch.prev)
	}
	return is, was, err
}

// sendBookmark tells the client that it has seen everything up to rev, and, if end,
// that these were the initial events. It returns true if the watch has ended.
func (w *watcher) sendBookmark(rev uint64, end bool) (ended bool, err error) {
	obj := w.cache.newFunc()
	if err := w.annotate(obj, rev, end); err != nil {
		return false, err
	}
	return w.sendOrStall(watch.Event{Type: watch.Bookmark, Object: obj})
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

// send hands a last event over, unless the client ends the watch before it takes that.
func (w *watcher) send(event watch.Event) {
	select {
	case w.result <- event:
	case <-w.stop:
	}
}
