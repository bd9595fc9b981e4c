// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package model

import (
	"context"
	"fmt"
	"math/rand"
	"sync"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/metadata"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	apirequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/utils/ptr"
)

// watched is a watch, and what it has told.
type watched struct {
	call
	w watch.Interface
	// err is that of starting it.
	err error
	// slow watches are not read before the end.
	slow bool
	// progress is the context of a watch that asks etcd for its progress: it has a connection of
	// its own. Etcd tells all watches of a connection of its progress, and it can tell one that
	// is being started of a revision before the events up to it.
	progress context.Context
	// timed watches end by themselves, after a bookmark; cancel ends their context.
	timed  bool
	cancel context.CancelFunc

	mu     sync.Mutex
	told   []told
	newest uint64 // the highest revision that it told of
	ended  bool   // by itself
	done   chan struct{}
}

// told is one event of a watch.
type told struct {
	kind watch.EventType
	obj  runtime.Object
	rev  uint64
	// end says that it is the bookmark at the end of the initial events.
	end bool
}

func (w *watched) String() string {
	return fmt.Sprintf("watch of %s (recursive %v) with resourceVersion %q sendInitialEvents %v bookmarks %v progress %v labels %q fields %q indexes %v",
		w.req.where.key, w.req.where.recursive, w.req.opts.ResourceVersion, ptr.Deref(w.req.opts.SendInitialEvents, false), w.req.opts.Predicate.AllowWatchBookmarks,
		w.req.opts.ProgressNotify, w.req.opts.Predicate.Label, w.req.opts.Predicate.Field, w.req.opts.Predicate.IndexFields)
}

func (w *watched) errorf(format string, args ...any) error {
	return fmt.Errorf("%s: %s, begun between revisions %d and %d: %w", w.on.Name, w, w.before, w.after, fmt.Errorf(format, args...))
}

// drawWatch asks for a watch.
func (k Kind) drawWatch(r *rand.Rand, from *known, cached bool) request {
	q := request{where: k.drawScope(r)}
	q.opts.Predicate = k.drawPredicate(r, q.where)
	q.opts.Predicate.AllowWatchBookmarks = oneIn(r, 2)
	q.opts.Recursive = q.where.recursive
	q.opts.ProgressNotify = !cached && oneIn(r, 4)
	switch r.Intn(10) {
	case 0:
	case 1:
		q.opts.ResourceVersion = "0"
	case 2, 3, 4:
		q.opts.ResourceVersion = drawRevision(r, from, 5)
	case 5, 6:
		q.opts.SendInitialEvents, q.opts.ResourceVersionMatch = ptr.To(true), metav1.ResourceVersionMatchNotOlderThan
	case 7:
		q.opts.SendInitialEvents, q.opts.ResourceVersionMatch = ptr.To(true), metav1.ResourceVersionMatchNotOlderThan
		q.opts.ResourceVersion = drawRevision(r, from, 0)
	case 8:
		q.opts.SendInitialEvents, q.opts.ResourceVersionMatch = ptr.To(false), metav1.ResourceVersionMatchNotOlderThan
		if oneIn(r, 2) {
			q.opts.ResourceVersion = drawRevision(r, from, 5)
		}
	case 9:
		q.opts.SendInitialEvents, q.opts.ResourceVersionMatch = ptr.To(false), metav1.ResourceVersionMatchNotOlderThan
		q.opts.ResourceVersion = "0"
	}
	return q
}

// timedFor is how long a timed watch lasts. It gets a bookmark two seconds before its end.
const timedFor = 2500 * time.Millisecond

// start begins the watch. The request tells as much of itself as upstream's handlers know.
func (w *watched) start(ctx context.Context, informed bool) {
	w.done = make(chan struct{})
	if w.req.where.namespace != "" && informed {
		ctx = apirequest.WithNamespace(ctx, w.req.where.namespace)
		ctx = apirequest.WithRequestInfo(ctx, &apirequest.RequestInfo{Namespace: w.req.where.namespace, Name: w.req.where.name})
	}
	if w.req.opts.ProgressNotify {
		ctx = metadata.AppendToOutgoingContext(ctx, "watch", fmt.Sprintf("%p", w))
		w.progress = ctx
	}
	w.cancel = func() {}
	if w.timed {
		ctx, w.cancel = context.WithTimeout(ctx, timedFor)
	}
	w.w, w.err = w.on.Storage.Watch(ctx, w.req.where.key, w.req.opts)
	if w.err != nil {
		w.cancel()
		close(w.done)
	} else if !w.slow {
		go w.read()
	}
}

// end stops the watch. It returns false if that does not end it.
func (w *watched) end() bool {
	w.w.Stop()
	w.cancel()
	return eventually(w.hasEnded)
}

func (w *watched) hasEnded() bool {
	select {
	case <-w.done:
		return true
	default:
		return false
	}
}

// read collects events until the watch ends.
func (w *watched) read() {
	defer close(w.done)
	for e := range w.w.ResultChan() {
		next := told{kind: e.Type, obj: e.Object}
		if shared, ok := e.Object.(runtime.CacheableObject); ok {
			next.obj = shared.GetObject()
		}
		next.rev = revisionOf(next.obj)
		if accessor, err := meta.Accessor(next.obj); err == nil && e.Type == watch.Bookmark {
			next.end = accessor.GetAnnotations()[metav1.InitialEventsAnnotationKey] == "true"
		}
		w.mu.Lock()
		w.told = append(w.told, next)
		w.newest = max(w.newest, next.rev)
		w.mu.Unlock()
	}
	w.mu.Lock()
	w.ended = true
	w.mu.Unlock()
}

// state returns what was told so far.
func (w *watched) state() (events []told, newest uint64, ended bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.told[:len(w.told):len(w.told)], w.newest, w.ended
}

// judgeWatch judges what a watch has told. Unless the watch was stopped, has failed or was
// cut, it has to have told everything up to the revision upTo.
func (h *history) judgeWatch(w *watched, upTo uint64, stopped bool) error {
	if w.err != nil {
		return w.errorf("did not begin: %w", w.err)
	}
	events, _, ended := w.state()
	stopped = stopped || w.timed
	rev, err := storage.APIObjectVersioner{}.ParseResourceVersion(w.req.opts.ResourceVersion)
	if err != nil {
		return w.errorf("began: %w", err)
	}
	wantsInitial := w.req.opts.SendInitialEvents == nil && rev == 0 || ptr.Deref(w.req.opts.SendInitialEvents, false)
	for i, e := range events {
		if e.kind == watch.Error && i < len(events)-1 {
			return w.errorf("went on after an error: %+v", events[i:])
		}
	}
	partly := stopped
	if n := len(events); n > 0 && events[n-1].kind == watch.Error {
		if err := h.judgeEnd(w, rev, wantsInitial, events[n-1].obj, n == 1, ended || stopped); err != nil {
			return err
		}
		events, partly = events[:n-1], true
		if n == 1 {
			return nil
		}
	} else if ended && !stopped {
		if !w.on.Cuts {
			return w.errorf("ended after %d events", n)
		}
		w.on.met("cut")
		partly = true
	}
	if h.required(w, rev, wantsInitial) && len(events) > 0 {
		return w.errorf("began with %+v, which is too old", events[0])
	}
	reader := tale{history: h, watch: w, events: events, upTo: upTo, partly: partly}
	return reader.judge(rev, wantsInitial)
}

// judgeEnd judges an error event.
func (h *history) judgeEnd(w *watched, rev uint64, wantsInitial bool, obj runtime.Object, first, ended bool) error {
	status, ok := obj.(*metav1.Status)
	if !ok {
		return w.errorf("failed with %T", obj)
	}
	if !ended {
		return w.errorf("went on after %s: %s", status.Reason, status.Message)
	}
	tooLarge := status.Reason == metav1.StatusReasonTimeout && status.Details != nil && len(status.Details.Causes) == 1 &&
		status.Details.Causes[0].Type == metav1.CauseTypeResourceVersionTooLarge
	switch {
	case tooLarge && first && ptr.Deref(w.req.opts.SendInitialEvents, false) && rev > w.before:
		w.on.met("too large watch")
		return nil
	case tooLarge && first && w.on.Cached && ptr.Deref(w.req.opts.SendInitialEvents, false) && (rev > w.shown || rev == 0):
		w.on.late()
		return nil
	case status.Reason == metav1.StatusReasonInternalError && !w.on.Cached && (w.compacting > w.compacted || rev+1 == w.compacted):
		// etcd has compacted what an object was before a change that the watch had not been
		// told of yet, or before the change at the very revision of the compaction, of which it
		// tells. Upstream's store takes that for an error.
		w.on.met("compacted under a watch")
		return nil
	case status.Reason != metav1.StatusReasonExpired:
		return w.errorf("failed: %+v", status)
	case w.on.Impatient && (!first || w.slow || wantsInitial || rev == 0):
		w.on.met("too slow")
		return nil // time was made to pass faster than it was read
	case first && !wantsInitial && rev > 0 && h.forgotten(w, rev):
		w.on.met("expired watch")
		return nil
	default:
		return w.errorf("failed though its events had to be there: %+v", status)
	}
}

// forgotten tells whether a subject may say that it does not know all events after rev.
func (h *history) forgotten(w *watched, rev uint64) bool {
	if !w.on.Cached {
		return rev+1 < w.compacting
	}
	if rev < w.on.since {
		return true
	}
	// Caches keep as many events whatever their age, and all that are young.
	const least = 100
	return w.on.Impatient && len(h.changes)-h.after(rev) >= least
}

// required tells whether a subject has to say that it does not know all events after rev.
func (h *history) required(w *watched, rev uint64, wantsInitial bool) bool {
	if wantsInitial || rev == 0 {
		return false
	}
	if w.on.Cached {
		return rev < w.on.filled
	}
	return rev+1 < w.compacted
}

// tale is what a watch has told, while it is judged.
type tale struct {
	*history
	watch  *watched
	events []told
	upTo   uint64
	// partly says that the events may break off.
	partly bool
	// agreed is how many events were right.
	agreed int
}

// judge finds the revision that the watch began at, and judges what came from there.
func (t *tale) judge(rev uint64, wantsInitial bool) error {
	w := t.watch
	if !wantsInitial && rev > 0 {
		return t.from(rev, 0)
	}
	lo, hi := w.before, t.upTo
	if w.on.Cached && w.req.opts.ResourceVersion != "" || w.on.Cached && w.req.opts.SendInitialEvents == nil {
		lo = max(rev, w.shown, w.on.filled)
	}
	if ptr.Deref(w.req.opts.SendInitialEvents, false) && w.req.opts.Predicate.AllowWatchBookmarks {
		for i, e := range t.events {
			if !e.end {
				continue
			}
			if e.rev < lo || e.rev > hi {
				return w.errorf("has initial events of revision %d, want one from %d to %d", e.rev, lo, hi)
			}
			w.on.met("end of initial events")
			if err := t.initial(e.rev, i, true); err != nil {
				return err
			}
			return t.from(e.rev, i+1)
		}
		if !t.partly {
			return w.errorf("has no end of its initial events, which are %+v", t.events)
		}
	}
	var problem error
	furthest := -1
	if !t.some(lo, hi, func(rev uint64, s state) bool {
		n, err := 0, error(nil)
		if wantsInitial {
			var p page
			if p, err = t.list(s, w.req.where, w.req.opts.Predicate, "", 0); err == nil {
				n = min(len(p.items), len(t.events))
				if len(p.items) > n && !t.partly {
					err = w.errorf("told %d of %d objects at revision %d", n, len(p.items), rev)
				} else {
					err = t.initial(rev, n, false)
				}
			}
		}
		t.agreed = 0
		if err == nil {
			err = t.from(rev, n)
		}
		if err != nil && t.agreed > furthest {
			furthest, problem = t.agreed, err
		}
		return err == nil
	}) {
		return w.errorf("told of no state from %d to %d; for one: %w", lo, hi, problem)
	}
	return nil
}

// initial judges the first n events: they are the state at rev, in the order of the keys.
func (t *tale) initial(rev uint64, n int, whole bool) error {
	s, kept := t.at(rev)
	if !kept {
		return nil
	}
	want, err := t.list(s, t.watch.req.where, t.watch.req.opts.Predicate, "", 0)
	if err != nil {
		return err
	}
	if whole && n != len(want.items) {
		return t.watch.errorf("told of %d objects at revision %d:\n%s", n, rev, differences(want.items, objects(t.events[:n])))
	}
	for i := range n {
		if e := t.events[i]; e.kind != watch.Added || !equal(e.obj, want.items[i]) {
			return t.watch.errorf("initial event %d of revision %d is %s (-want +got):\n%s", i, rev, e.kind, cmp.Diff(want.items[i], e.obj))
		}
	}
	return nil
}

func objects(events []told) []runtime.Object {
	var all []runtime.Object
	for _, e := range events {
		all = append(all, e.obj)
	}
	return all
}

// from judges the events from the n-th on: they are all changes after rev.
func (t *tale) from(rev uint64, n int) error {
	w := t.watch
	bookmark, told := rev, 0
	i := t.after(rev)
	next := func() (event, bool, error) {
		for ; i < len(t.changes) && t.changes[i].rev <= t.upTo; i++ {
			e, is, err := t.eventOf(t.changes[i], w.req.where, w.req.opts.Predicate)
			if is || err != nil {
				return e, is, err
			}
		}
		return event{}, false, nil
	}
	for ; n < len(t.events); n++ {
		got := t.events[n]
		want, more, err := next()
		if err != nil {
			return err
		}
		if got.kind == watch.Bookmark {
			switch {
			case got.end:
				return w.errorf("has a second end of its initial events, at %d", got.rev)
			case w.on.Cached && !w.req.opts.Predicate.AllowWatchBookmarks || !w.on.Cached && !w.req.opts.ProgressNotify:
				return w.errorf("has a bookmark, which it did not ask for, at %d", got.rev)
			case got.rev < bookmark && !(told == 0 && rev > w.before):
				return w.errorf("has a bookmark at %d after what was at %d", got.rev, bookmark)
			case more && want.rev <= got.rev:
				return w.errorf("has a bookmark at %d before %s", got.rev, want)
			}
			bookmark, t.agreed = max(bookmark, got.rev), n
			w.on.met("bookmark")
			continue
		}
		if !more || string(got.kind) != want.kind || !equal(got.obj, want.obj) {
			return w.errorf("event %d, after %d of those since revision %d, is %s\n%+v\nwant %s", n, told, rev, got.kind, got.obj, want)
		}
		w.on.met(want.kind)
		bookmark, t.agreed = want.rev, n
		told++
		i++
	}
	if want, more, err := next(); err != nil || more && !t.partly {
		return w.errorf("did not tell, after %d since revision %d, of %s (%v)", told, rev, want, err)
	}
	return nil
}
