// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package model

import (
	"fmt"
	"math/rand"
	"slices"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/storage"
)

// Sequence has one caller do so many steps, and judges each answer at once.
func (w *World) Sequence(steps int) {
	w.t.Helper()
	const life = 150 // steps of a watch, at most
	r := w.rand
	for step := range steps {
		w.know()
		switch n := r.Intn(100); {
		case n < 45:
			w.write(oneOf(r, w.subjects))
		case n < 90:
			if oneIn(r, 10) {
				w.known.token = ""
			}
			q := w.kind.drawRead(r, &w.known, 0)
			for _, s := range w.subjects {
				w.settle(w.ask(s, q, &w.known))
			}
		case n < 98:
			for _, s := range w.subjects {
				w.watches = append(w.watches, w.watch(w.t.Context(), r, s, w.kind.drawWatch(r, &w.known, s.Cached), oneIn(r, 8)))
			}
		case n < 99 && oneIn(r, 2):
			w.compactAt(1 + uint64(r.Int63n(int64(w.history.last()))))
		default:
			w.stopSome()
		}
		if step%life == life-1 || step == steps-1 {
			w.finish()
		}
	}
	w.future()
}

// compactAt compacts etcd at a revision.
func (w *World) compactAt(rev uint64) {
	w.t.Helper()
	before := w.compacted.Load()
	if rev <= before || w.compact == nil {
		return
	}
	w.compacting.Store(rev)
	w.compact(rev)
	w.compacted.Store(rev)
	w.direct.met("compaction")
}

// compactBehind compacts etcd at a revision that all caches have passed, no more than some
// behind.
func (w *World) compactBehind(some int) {
	w.t.Helper()
	lowest := w.revision(w.t.Context())
	for _, s := range w.subjects {
		if s.Cached {
			w.ask(s, request{verb: list, where: scope{key: w.kind.Prefix, recursive: true}, opts: storage.ListOptions{
				ResourceVersion: "0", Recursive: true, Predicate: storage.Everything,
			}}, &w.known)
			lowest = min(lowest, s.shown.Load())
		}
	}
	if lowest > uint64(some) {
		w.compactAt(lowest - uint64(w.rand.Intn(some)))
	}
}

// stopSome judges some watches as far as they are, and stops them.
func (w *World) stopSome() {
	w.t.Helper()
	w.watches = slices.DeleteFunc(w.watches, func(one *watched) bool {
		if one.err != nil || one.slow || !oneIn(w.rand, 6) {
			return false
		}
		if !one.end() {
			w.report(one.errorf("does not end when it is stopped"))
		}
		one.compacting = w.compacting.Load()
		w.report(w.history.judgeWatch(one, w.history.last(), true))
		return true
	})
}

// future asks all subjects for revisions that there are not yet, for which caches wait: all at
// the same time, since nothing happens meanwhile.
func (w *World) future() {
	w.t.Helper()
	w.know()
	var calls []*call
	var watches []*watched
	var mu sync.Mutex
	var all sync.WaitGroup
	for range 40 {
		q := w.kind.drawRead(w.rand, &w.known, 1)
		watch := w.kind.drawWatch(w.rand, &w.known, true)
		if watch.opts.SendInitialEvents != nil {
			watch.opts.ResourceVersion = drawRevision(w.rand, &w.known, 1)
		}
		for _, s := range w.subjects {
			k := known{objects: map[string]runtime.Object{}}
			all.Go(func() {
				c := w.ask(s, q, &k)
				mu.Lock()
				defer mu.Unlock()
				calls = append(calls, c)
			})
			r := rand.New(rand.NewSource(w.rand.Int63()))
			all.Go(func() {
				one := w.watch(w.t.Context(), r, s, watch, false)
				mu.Lock()
				defer mu.Unlock()
				watches = append(watches, one)
			})
		}
	}
	all.Wait()
	for _, c := range calls {
		w.settle(c)
	}
	w.watches = watches
	w.finish()
}

// Concurrently has so many callers of each subject do so many steps each, and as many others
// watch meanwhile. All is judged in the end. The test's goroutine calls tick every few
// milliseconds, and compacts etcd now and then.
func (w *World) Concurrently(callers, steps int, tick func()) {
	w.t.Helper()
	var mu sync.Mutex
	var calls []*call
	var watches []*watched // that have to be finished
	var stopped []*watched // and those that have been stopped
	calling, watching := sync.WaitGroup{}, sync.WaitGroup{}
	quit := make(chan struct{})
	for _, s := range w.subjects {
		for range callers {
			seed := w.rand.Int63()
			calling.Go(func() {
				mine := w.calls(s, rand.New(rand.NewSource(seed)), steps)
				mu.Lock()
				defer mu.Unlock()
				calls = append(calls, mine...)
			})
			watching.Go(func() {
				open, ended := w.watchOn(s, rand.New(rand.NewSource(seed+1)), quit)
				mu.Lock()
				defer mu.Unlock()
				watches, stopped = append(watches, open...), append(stopped, ended...)
			})
		}
	}
	done := make(chan struct{})
	go func() {
		calling.Wait()
		close(done)
	}()
	ticker := time.NewTicker(3 * time.Millisecond)
	defer ticker.Stop()
	for n := 1; ; n++ {
		select {
		case <-ticker.C:
			tick()
			if n%100 == 0 {
				w.compactBehind(250)
			}
			continue
		case <-done:
		}
		break
	}
	close(quit)
	watching.Wait()
	w.judgeAll(calls)
	for _, one := range stopped {
		one.compacting = w.compacting.Load()
		w.report(w.history.judgeWatch(one, w.history.last(), true))
	}
	w.watches = watches
	w.finish()
}

// judgeAll puts the writes in their order, and judges everything.
func (w *World) judgeAll(calls []*call) {
	w.t.Helper()
	slices.SortFunc(calls, func(a, b *call) int { return int(a.wrote()) - int(b.wrote()) })
	for _, c := range calls {
		if c.wrote() != 0 {
			w.report(w.history.write(c))
		}
	}
	for _, c := range calls {
		if c.wrote() == 0 {
			w.report(w.history.judge(c))
		}
	}
}

// calls does so many steps.
func (w *World) calls(on *Subject, r *rand.Rand, steps int) []*call {
	var all []*call
	k := &known{objects: map[string]runtime.Object{}, now: w.revision(w.t.Context())}
	for range steps {
		var q request
		if oneIn(r, 2) {
			q = w.kind.drawWrite(r, k)
		} else {
			future := 0
			if !on.Cached {
				future = 20
			}
			q = w.kind.drawRead(r, k, future)
		}
		all = append(all, w.ask(on, q, k))
	}
	return all
}

// watchOn opens watches one after the other and reads some events of each. Often the next goes on
// where the one before has ended.
func (w *World) watchOn(on *Subject, r *rand.Rand, quit <-chan struct{}) (open, ended []*watched) {
	k := &known{}
	var resume *request
	for {
		k.now = w.revision(w.t.Context())
		q := w.kind.drawWatch(r, k, on.Cached)
		if resume != nil {
			q = *resume
		}
		one := w.watch(w.t.Context(), r, on, q, len(open) < 5 && oneIn(r, 8))
		resume = nil
		if one.err != nil || one.slow {
			open = append(open, one)
			if one.err != nil {
				return open, ended
			}
		} else {
			if !w.follow(one, 1+r.Intn(12), quit) {
				return append(open, one), ended
			}
			ended = append(ended, one)
			if !one.end() {
				w.t.Errorf("%s: does not end when it is stopped", one)
			}
			resume = one.resumed(r)
		}
		select {
		case <-quit:
			return open, ended
		default:
		}
	}
}

// follow waits until a watch has told of n events or has ended, or much else has happened. It
// returns false if that is not to be waited for any more.
func (w *World) follow(one *watched, n int, quit <-chan struct{}) bool {
	const much = 200
	from := w.asked.Load()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		if told, _, ended := one.state(); ended || len(told) >= n || w.asked.Load() > from+much {
			return true
		}
		select {
		case <-tick.C:
		case <-quit:
			return false
		}
	}
}

// resumed asks for a watch that goes on where this one has ended; nil if it has said nowhere
// where that is.
func (w *watched) resumed(r *rand.Rand) *request {
	told, newest, _ := w.state()
	initial := w.req.opts.SendInitialEvents == nil || *w.req.opts.SendInitialEvents
	if rev, _ := (storage.APIObjectVersioner{}).ParseResourceVersion(w.req.opts.ResourceVersion); rev > 0 && w.req.opts.SendInitialEvents == nil {
		initial = false
	}
	for _, e := range told {
		initial = initial && !e.end
	}
	if len(told) == 0 || initial || newest == 0 || told[len(told)-1].rev == 0 || oneIn(r, 4) {
		return nil
	}
	q := w.req
	q.opts.SendInitialEvents, q.opts.ResourceVersionMatch = nil, ""
	q.opts.ResourceVersion = fmt.Sprint(told[len(told)-1].rev)
	return &q
}
