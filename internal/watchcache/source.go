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
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/features"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/cacher/metrics"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/klog/v2"
	"k8s.io/utils/clock"
	"k8s.io/utils/ptr"

	"github.com/weir-project/weir/internal/frame"
)

const (
	// restartDelay is how long a failed read of the whole resource waits.
	restartDelay = time.Second
	// internalErrorRetry is how long a watch that ends with an internal error (etcd
	// without a leader, say) is taken up again before everything is read anew. Ending
	// all watches at every hiccup would put more load on a struggling etcd.
	internalErrorRetry = 30 * time.Second
	// silencePeriod is how long a watch may tell nothing, not even progress, until etcd is asked for its revision, at the next look.
	silencePeriod = 30 * time.Second
	// pageSize is how many objects are read at once, at most, where etcd cannot stream them.
	pageSize = 500
)

// follow keeps the cache equal to etcd until ctx ends. It begins with what is inherited, if that is not nil.
func (c *follower) follow(ctx context.Context, inherited *heritage) {
	failed := 0 // how often in a row the resource could not be read
	from := c.cfg.From
	var inTheWay *obstacle // what the attempt before has found
	for {
		s := &source{cache: c, start: c.cfg.Clock.Now(), state: c.newState(), from: from}
		s.setInherited(inherited)
		from, inherited = 0, nil
		err := s.run(ctx)
		found := s.failing.found
		s.recovered()
		s.setPart(false)
		c.readers.lose(s.state.bytes)
		s.state.unbook()
		inVain := s.inherited != nil
		s.setInherited(nil)
		if inVain && ctx.Err() == nil {
			klog.V(2).InfoS("Watch cache: what is known of a resource whose definition has changed is of no use, reading it", "group", c.cfg.GroupResource.Group, "resource", c.cfg.GroupResource.Resource, "err", err)
			from = s.from
			continue
		}
		if s.from != 0 && (s.gen == nil || s.catchingUp()) && ctx.Err() == nil {
			c.setNotReady(nil)
			klog.V(2).InfoS("Watch cache: the state of a while ago cannot be read, reading the present one", "group", c.cfg.GroupResource.Group, "resource", c.cfg.GroupResource.Resource, "resourceVersion", s.from, "err", err)
			continue
		}
		if s.gen != nil {
			failed = 0
			c.setNotReady(err)
		}
		if ctx.Err() != nil {
			c.setNotReady(nil)
			return
		}
		if err != nil {
			if s.gen == nil {
				found = c.findObstacle(ctx)
			}
			if found == nil && inTheWay != nil {
				found = &obstacle{repaired: true} // after it had been read in vain, and before it was looked for
			}
			err = found.because(err)
			failed++
			c.logFailure("Watch cache: reading the resource failed, starting again", err)
			metrics.WatchCacheInitializationErrors.WithLabelValues(c.cfg.GroupResource.Group, c.cfg.GroupResource.Resource).Inc()
		}
		// Until now the cause has been that of the attempt before: a client is told which
		// object cannot be read all the time.
		c.setNotReady(err)
		if !c.delay(ctx, failed, found) {
			return
		}
		if inTheWay = found; found != nil && found.repaired {
			inTheWay = nil
		}
	}
}

// pause waits before the storage is asked again. It returns false if ctx has ended.
func (c *follower) pause(ctx context.Context) bool {
	timer := c.cfg.Clock.NewTimer(restartDelay)
	defer timer.Stop()
	select {
	case <-timer.C():
		return true
	case <-ctx.Done():
		return false
	}
}

// source reads the resource once and follows it from there. It belongs to one
// goroutine.
type source struct {
	cache *follower
	start time.Time
	state *state
	// rev is the revision up to which the state is complete, but if part: then others of the
	// changes of rev may follow, and what readers have is the state of before, at rev-1. As long
	// as that is so, etcd is asked for progress.
	rev  uint64
	part bool
	// gen is nil until the state is complete for the first time.
	gen     *generation
	failing failing
	// from is the revision to begin at; 0 for the present.
	from uint64
	// inherited is what the source begins with instead, until its state is complete; nil if the resource has to be read. As long as there is one, etcd is asked
	// for progress.
	inherited *heritage
	// until is what etcd had when the source began, if that is with what is inherited, or with a revision of the past; else 0.
	until uint64
}

// run returns when the resource has to be read anew, or ctx ends.
func (s *source) run(ctx context.Context) error {
	var w watch.Interface
	var err error
	switch {
	case s.inherited != nil:
		if err = s.inherit(ctx, s.inherited); err == nil {
			w, err = s.watch(ctx, false)
		}
	case s.from == 0 && utilfeature.DefaultFeatureGate.Enabled(features.WatchList):
		w, err = s.watch(ctx, true)
	default:
		if s.from != 0 {
			err = s.heed(ctx, s.from)
		}
		if err == nil {
			err = s.list(ctx)
		}
		if err == nil {
			if err = s.ready(s.rev); err == nil {
				w, err = s.watch(ctx, false)
			}
		}
	}
	if err != nil {
		return err
	}
	for {
		err := s.consume(ctx, w)
		w.Stop()
		s.cache.doubts.end()
		switch {
		case ctx.Err() != nil:
			return nil
		case s.gen == nil:
			if err == nil {
				err = errors.New("the watch of the storage ended before all initial events")
			}
			return err
		case err == nil:
		case s.catchingUp():
			return err
		case apierrors.IsInternalError(err):
			if err := s.failed(ctx, err); err != nil {
				return err
			}
		default:
			return err
		}
		if !s.cache.pause(ctx) {
			return nil
		}
		if w, err = s.watch(ctx, false); err != nil {
			return err
		}
	}
}

// watch follows the storage, from the whole state or from where the source is.
func (s *source) watch(ctx context.Context, initial bool) (watch.Interface, error) {
	opts := storage.ListOptions{
		Predicate:        storage.Everything,
		Recursive:        true,
		ProgressNotify:   true,
		RecordTimestamps: true,
	}
	opts.Predicate.AllowWatchBookmarks = true
	if initial {
		opts.SendInitialEvents = ptr.To(true)
	} else {
		from := s.rev
		if s.part {
			from-- // those that have been taken in come again, and change nothing
		}
		opts.ResourceVersion = fmt.Sprint(from)
	}
	s.cache.doubts.begin()
	w, err := s.cache.cfg.Storage.Watch(ctx, s.cache.cfg.ResourcePrefix, opts)
	if err != nil {
		return nil, fmt.Errorf("watching the storage of %s: %w", s.cache.cfg.GroupResource, err)
	}
	return s.cache.convert(w, initial), nil
}

// list reads the whole state page by page: without the gate WatchList a watch does
// not tell where its initial events end, and a watch never begins with a state of the past.
func (s *source) list(ctx context.Context) error {
	opts := storage.ListOptions{Predicate: storage.SelectionPredicate{Label: labels.Everything(), Field: fields.Everything()}, Recursive: true}
	if s.from != 0 {
		opts.ResourceVersion, opts.ResourceVersionMatch = fmt.Sprint(s.from), metav1.ResourceVersionMatchExact
	}
	for {
		opts.Predicate.Limit = pageOf(s.state.bytes, s.state.objects.Len())
		list := s.cache.newList()
		if err := s.cache.cfg.Storage.GetList(ctx, s.cache.cfg.ResourcePrefix, opts, list); err != nil {
			return fmt.Errorf("listing the storage of %s: %w", s.cache.cfg.GroupResource, err)
		}
		accessor, err := meta.ListAccessor(list)
		if err != nil {
			return err
		}
		if s.rev, err = s.cache.cfg.Versioner.ParseResourceVersion(accessor.GetResourceVersion()); err != nil {
			return err
		}
		if err := s.cache.convertListed(list); err != nil {
			return err
		}
		if err := meta.EachListItem(list, s.addListed); err != nil {
			return err
		}
		if opts.Predicate.Continue = accessor.GetContinue(); opts.Predicate.Continue == "" {
			return nil
		}
		opts.ResourceVersion, opts.ResourceVersionMatch = "", "" // the token has it
	}
}

// addListed is add for an object of a list.
func (s *source) addListed(obj runtime.Object) error {
	obj, err := s.cache.listed(obj)
	if err != nil {
		return err
	}
	return s.add(obj)
}

// add puts an object of the initial state in place.
func (s *source) add(obj runtime.Object) error {
	f, err := s.cache.frameOf(obj)
	if err != nil {
		return err
	}
	s.state.set(f)
	return nil
}

// ready publishes the state, complete up to rev.
func (s *source) ready(rev uint64) error {
	c := s.cache
	if rev == 0 {
		return fmt.Errorf("the storage of %s gave its state no revision", c.cfg.GroupResource)
	}
	s.rev = rev
	s.gen = &generation{
		log:   newLog(rev, c.trigger, c.limits(c.frames.Load)),
		back:  make(chan error, 1),
		moved: make(chan struct{}),
	}
	c.mu.Lock()
	s.gen.floor = rev
	s.gen.publish(s.state.freeze(rev), c.keepViewsLocked(), rev)
	c.gen = s.gen
	c.cause = nil
	c.mu.Unlock()
	select {
	case <-c.begun:
	default:
		close(c.begun)
	}

	took := c.cfg.Clock.Since(s.start)
	klog.V(1).InfoS("cacher initialized", "group", c.cfg.GroupResource.Group, "resource", c.cfg.GroupResource.Resource, "duration", took)
	metrics.WatchCacheInitializations.WithLabelValues(c.cfg.GroupResource.Group, c.cfg.GroupResource.Resource).Inc()
	metrics.WatchCacheInitializationDuration.WithLabelValues(c.cfg.GroupResource.Group, c.cfg.GroupResource.Resource).Observe(took.Seconds())
	metrics.RecordResourceVersion(c.cfg.GroupResource, rev)
	return nil
}

// consume applies what the watch tells until it ends. An error is the storage's own,
// or that of an object that could not be taken in.
func (s *source) consume(ctx context.Context, w watch.Interface) error {
	var back <-chan error
	var timer clock.Timer
	var tick <-chan time.Time // timer's
	heard := s.cache.cfg.Clock.Now()
	for {
		if s.gen != nil && timer == nil {
			timer = s.cache.cfg.Clock.NewTimer(tendingPeriod)
			defer timer.Stop()
			back, tick = s.gen.back, timer.C()
		}
		select {
		case event, ok := <-w.ResultChan():
			if !ok {
				return nil
			}
			heard = s.cache.cfg.Clock.Now()
			if err := s.apply(ctx, event); err != nil {
				return err
			}
		case err := <-back:
			return err
		case <-tick:
			if s.cache.cfg.Clock.Since(heard) >= silencePeriod {
				heard = s.cache.cfg.Clock.Now()
				s.cache.ask(ctx)
			}
			s.cache.tend()
			timer.Reset(tendingPeriod)
		case <-ctx.Done():
			return nil
		}
	}
}

func (s *source) apply(ctx context.Context, event watch.Event) error {
	c := s.cache
	if event.Type == watch.Error {
		return apierrors.FromObject(event.Object)
	}
	if event.Type == watch.Bookmark {
		rev, err := c.cfg.Versioner.ObjectResourceVersion(event.Object)
		if err != nil {
			return fmt.Errorf("reading the revision of a progress notification: %w", err)
		}
		if s.inherited != nil {
			if !c.doubts.trusts() {
				return nil
			}
			return s.arrive(rev)
		}
		if s.gen == nil {
			end, err := storage.HasInitialEventsEndBookmarkAnnotation(event.Object)
			if err != nil || !end {
				return err
			}
			return s.ready(rev)
		}
		if !c.doubts.trusts() {
			return nil
		}
		s.progress(ctx, rev)
		return nil
	}
	received := c.cfg.Clock.Now()
	recorded := received
	if timed, ok := event.Object.(storage.WatchEventWithRecordTime); ok {
		recorded = timed.RecordTime()
		event.Object = timed.Unwrap()
	}
	if s.inherited != nil {
		return s.replay(event)
	}
	if s.gen == nil {
		return s.add(event.Object)
	}
	c.doubts.event()
	metrics.EventsReceivedCounter.WithLabelValues(c.cfg.GroupResource.Group, c.cfg.GroupResource.Resource).Inc()
	f, err := c.frameOf(event.Object)
	if err != nil {
		return err
	}
	key := f.Key()
	if f.Revision() < s.rev {
		return fmt.Errorf("the watch of the storage of %s goes back: it tells of %s at revision %d after revision %d", c.cfg.GroupResource, key, f.Revision(), s.rev)
	}
	if f.Revision() > s.rev {
		s.settle()
	} else if s.had(event.Type, key) {
		return nil
	}
	prev, _ := s.state.objects.Get(key)
	if err := leadsOn(event, prev, f); err != nil {
		return fmt.Errorf("the watch of the storage of %s does not lead on from what was read: %w", c.cfg.GroupResource, err)
	}
	ch := &change{rev: f.Revision(), prev: prev, recorded: recorded, received: received}
	if event.Type == watch.Deleted {
		ch.last.Store(f)
		s.state.delete(key)
	} else {
		ch.cur = f
		ch.same = prev != nil && f.SelectedAs(prev)
		s.state.set(f)
		c.codec.Give(f, event.Object)
	}
	if err := s.append(ch); err != nil {
		return err
	}
	s.recovered()
	return nil
}

// leadsOn holds that an event is the next of its object after prev, nil for none. One that is not says that the storage has
// left out another, or tells this one twice: etcd has had such faults. What is known of the object is then worth nothing.
func leadsOn(event watch.Event, prev, f *frame.Frame) error {
	switch {
	case prev == nil && event.Type != watch.Added:
		return fmt.Errorf("%s of %s at revision %d, which was not there", event.Type, f.Key(), f.Revision())
	case prev != nil && f.Revision() <= prev.Revision():
		return fmt.Errorf("%s of %s at revision %d comes a second time", event.Type, f.Key(), f.Revision())
	case prev != nil && event.Type == watch.Added:
		// The same object may be stored under two keys, by mistake: upstream puts up with that.
		old, err := prev.Decode()
		if err != nil {
			return err
		}
		was, err := meta.Accessor(old)
		if err != nil {
			return err
		}
		is, err := meta.Accessor(event.Object)
		if err != nil {
			return err
		}
		if is.GetUID() != was.GetUID() {
			return fmt.Errorf("%s of %s at revision %d, while another of that name was there, of revision %d", event.Type, f.Key(), f.Revision(), prev.Revision())
		}
	}
	return nil
}

// progress takes a progress notification.
func (s *source) progress(ctx context.Context, rev uint64) {
	if rev < s.rev {
		// A member of etcd that is behind says so: nothing follows from it. If all of etcd is,
		// it has been restored from a backup, and what it writes until it is back at s.rev
		// would never be told.
		s.cache.ask(ctx)
		return
	}
	s.settle()
	if rev > s.rev {
		s.advance(rev)
		s.recovered()
	}
}

// append makes a change known: to the log, to readers of the state and to those who
// wait for a revision.
func (s *source) append(ch *change) error {
	c := s.cache
	s.setPart(c.cfg.Leased && (ch.cur == nil || s.part))
	if ch.cur != nil || ch.prev != nil {
		size := ch.size(s.state)
		c.history.add(size)
		add := s.gen.log.Append
		if s.part {
			add = s.gen.log.AppendPart
		}
		if err := add(ch.rev, size, ch); err != nil {
			c.history.add(-size)
			return fmt.Errorf("taking in a change of %s: %w", ch.frame().Key(), err)
		}
		s.gen.expireLater(c, c.cfg.History)
	}
	s.rev = ch.rev
	if s.part {
		floor := s.gen.log.Floor()
		c.mu.Lock()
		s.gen.advance(ch.rev-1, floor)
		c.mu.Unlock()
	} else {
		s.publish()
	}
	metrics.EventsCounter.WithLabelValues(c.cfg.GroupResource.Group, c.cfg.GroupResource.Resource).Inc()
	metrics.RecordResourceVersion(c.cfg.GroupResource, ch.rev)
	return nil
}

// publish gives readers the state at rev.
func (s *source) publish() {
	c, floor := s.cache, s.gen.log.Floor()
	v := s.state.freeze(s.rev)
	c.mu.Lock()
	s.gen.publish(v, c.keepViewsLocked(), floor)
	c.mu.Unlock()
}

// settle says that all changes of rev have been taken in.
func (s *source) settle() {
	if s.part {
		s.setPart(false)
		s.gen.log.Advance(s.rev)
		s.publish()
	}
}

// setPart sets part. That rev is complete is asked for: where nothing else happens nobody would say so, and readers, and a
// cache that has stalled, would be kept at rev-1.
func (s *source) setPart(part bool) {
	switch {
	case part && !s.part:
		s.cache.progress.Add()
	case !part && s.part:
		s.cache.progress.Remove()
	}
	s.part = part
}

// had tells whether a deletion of rev has been taken in before the watch was taken up again, from the revision before.
func (s *source) had(t watch.EventType, key string) bool {
	_, there := s.state.objects.Get(key)
	return s.part && t == watch.Deleted && !there
}

// advance says that nothing happened up to rev, which is higher than before.
func (s *source) advance(rev uint64) {
	s.rev = rev
	s.gen.log.Advance(rev)
	floor := s.gen.log.Floor()
	s.cache.mu.Lock()
	s.gen.advance(rev, floor)
	s.cache.mu.Unlock()
	metrics.EventsCounter.WithLabelValues(s.cache.cfg.GroupResource.Group, s.cache.cfg.GroupResource.Resource).Inc()
	metrics.RecordResourceVersion(s.cache.cfg.GroupResource, rev)
}
