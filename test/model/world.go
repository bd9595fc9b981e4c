// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package model

import (
	"context"
	"fmt"
	"math/rand"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/storage"
)

// patience bounds every wait. It decides nothing but when a test that has failed says so.
const patience = time.Minute

// Subject is a storage that is judged.
type Subject struct {
	// Name is for messages.
	Name string
	// Storage is over the etcd of the World, and lasts as long as the test.
	Storage storage.Interface
	// PathPrefix is what its errors put before a key of etcd.
	PathPrefix string
	// Cached says that it answers from a cache what upstream's cacher does.
	Cached bool
	// Absent says that its cache is not there all the time, and that single objects then come from etcd.
	Absent bool
	// Cuts says that it may end a watch that is read too slowly.
	Cuts bool
	// Impatient says that the test moves its clock: its waits may be over before its cache has
	// caught up, and it may forget events.
	Impatient bool

	// filled is a revision up to which everything was there when a cache was started, since
	// one that it had reached before there was anything else.
	filled, since uint64
	// shown is the highest revision that a cache has surely reached.
	shown atomic.Uint64

	mu sync.Mutex
	// counts says how often what was met.
	counts map[string]int
}

func (s *Subject) met(what string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.counts[what]++
}

// late counts a request that failed because the cache had not reached a revision in its time,
// which it had not promised to.
func (s *Subject) late() { s.met("late") }

func (s *Subject) reached(rev uint64) {
	for {
		old := s.shown.Load()
		if rev <= old || s.shown.CompareAndSwap(old, rev) {
			return
		}
	}
}

// World is an etcd, the storages over it and the history of what was written.
type World struct {
	t    *testing.T
	kind Kind
	// direct is upstream's store, for what is to be sure; it is the first of subjects.
	direct   *Subject
	subjects []*Subject
	// compact compacts etcd, and returns when all subjects know. It may be nil.
	compact func(rev uint64)
	rand    *rand.Rand
	history history

	// known is what a single caller knows.
	known known
	// compacted is the revision of the last compaction that all know of, compacting that of
	// the last one that was asked for.
	compacted, compacting atomic.Uint64
	// asked counts the requests.
	asked    atomic.Int64
	watches  []*watched
	failures int
}

// New returns a World with some objects in it. Direct is upstream's store over an empty etcd, and
// compact compacts that: it returns when all subjects have heard of it, and is called by the
// test's goroutine only. Nothing is compacted if it is nil.
func New(t *testing.T, kind Kind, direct *Subject, compact func(rev uint64), seed int64) *World {
	t.Helper()
	w := &World{t: t, kind: kind, compact: compact, rand: rand.New(rand.NewSource(seed)), history: history{kind: kind}}
	w.known.objects = map[string]runtime.Object{}
	w.direct = direct
	w.Add(direct)
	for range 30 {
		w.know()
		w.write(direct)
	}
	return w
}

// Add adds a subject. A cache has to be ready, and to have been started after New; nothing
// must be written before all are added.
func (w *World) Add(s *Subject) {
	w.t.Helper()
	s.counts = map[string]int{}
	w.subjects = append(w.subjects, s)
	if !s.Cached {
		return
	}
	s.filled = w.history.last()
	obj := w.kind.NewList()
	if err := s.Storage.GetList(w.t.Context(), w.kind.Prefix, storage.ListOptions{ResourceVersion: "0", Recursive: true, Predicate: storage.Everything}, obj); err != nil {
		w.t.Fatalf("%s: listing what it began with: %v", s.Name, err)
	}
	accessor, err := meta.ListAccessor(obj)
	if err != nil {
		w.t.Fatal(err)
	}
	if s.since, err = s.Storage.Versioner().ParseResourceVersion(accessor.GetResourceVersion()); err != nil {
		w.t.Fatal(err)
	}
	s.reached(s.since)
}

// report counts a failure. There is an end to them.
func (w *World) report(err error) {
	w.t.Helper()
	if err == nil {
		return
	}
	w.failures++
	w.t.Error(err)
	if w.failures >= 5 {
		w.t.Fatal("enough")
	}
}

// revision returns etcd's.
func (w *World) revision(ctx context.Context) uint64 {
	rev, err := w.direct.Storage.GetCurrentResourceVersion(ctx)
	if err != nil {
		w.t.Errorf("reading etcd's revision: %v", err)
	}
	return rev
}

func (w *World) know() {
	w.t.Helper()
	if w.known.now = w.revision(w.t.Context()); w.known.now == 0 {
		w.t.FailNow()
	}
}

// ask puts a request to a subject.
func (w *World) ask(on *Subject, q request, k *known) *call {
	ctx := w.t.Context()
	c := &call{on: on, req: q, before: w.revision(ctx), shown: on.shown.Load(), compacted: w.compacted.Load()}
	c.ans = w.kind.put(ctx, on.Storage, q)
	c.compacting = w.compacting.Load()
	c.after = w.revision(ctx)
	on.reached(c.showed())
	w.asked.Add(1)
	on.met(fmt.Sprintf("%s %s", q.verb, kindOf(c.ans.err)))
	k.learn(c)
	return c
}

func kindOf(err error) string {
	if err != nil {
		return "refused"
	}
	return "answered"
}

// learn has a caller know what it was answered.
func (k *known) learn(c *call) {
	k.now = max(k.now, c.after)
	if c.ans.err != nil {
		return
	}
	switch c.req.verb {
	case create, update, remove, get:
		if rev := revisionOf(c.ans.obj); rev > 0 {
			k.objects[c.req.key] = c.ans.obj
			k.revisions = append(k.revisions, rev)
		}
	case list:
		if accessor, err := meta.ListAccessor(c.ans.obj); err == nil && accessor.GetContinue() != "" {
			k.token, k.where, k.pred = accessor.GetContinue(), c.req.where, c.req.opts.Predicate
		}
	}
}

// write has a subject write something, and judges it.
func (w *World) write(on *Subject) {
	w.t.Helper()
	w.settle(w.ask(on, w.kind.drawWrite(w.rand, &w.known), &w.known))
}

// settle takes the outcome of a single caller's call.
func (w *World) settle(c *call) {
	w.t.Helper()
	if c.wrote() != 0 {
		w.report(w.history.write(c))
	} else {
		w.report(w.history.judge(c))
	}
}

// watch starts a watch. A slow one is not read before the end.
func (w *World) watch(ctx context.Context, r *rand.Rand, on *Subject, q request, slow bool) *watched {
	one := &watched{call: call{on: on, req: q, before: w.revision(ctx), shown: on.shown.Load(), compacted: w.compacted.Load()}}
	one.slow = slow
	one.timed = !slow && oneIn(r, 5)
	one.start(ctx, !oneIn(r, 3))
	one.compacting, one.after = w.compacting.Load(), w.revision(ctx)
	on.met("watch")
	return one
}

// finish has all watches tell of a last event, judges them and ends them.
func (w *World) finish() {
	w.t.Helper()
	var open []*watched
	for _, one := range w.watches {
		if one.err != nil {
			w.report(w.history.judgeWatch(one, 0, false))
			continue
		}
		open = append(open, one)
		if one.slow {
			go one.read()
		}
		if !one.timed {
			w.mark(one)
		}
	}
	w.watches = nil
	upTo := w.revision(w.t.Context())
	for _, one := range open {
		one.compacting = w.compacting.Load()
		// If it does not tell, what it has told says more than that it took too long.
		eventually(func() bool { return w.hasTold(one, upTo) })
		w.report(w.history.judgeWatch(one, upTo, false))
		one.w.Stop()
	}
	for _, one := range open {
		if !one.end() {
			w.report(one.errorf("does not end when it is stopped"))
		}
	}
}

// mark writes an object that a watch selects, at a revision that it is to tell of.
func (w *World) mark(one *watched) {
	w.t.Helper()
	start, _ := storage.APIObjectVersioner{}.ParseResourceVersion(one.req.opts.ResourceVersion)
	where, pred := one.req.where, one.req.opts.Predicate
	for range 10000 {
		namespace, name := where.namespace, where.name
		if namespace == "" {
			namespace = oneOf(w.rand, namespaces)
		}
		if name == "" {
			name = oneOf(w.rand, names)
		}
		q := request{verb: update, key: w.kind.key(namespace, name), ignoreNotFound: true, obj: w.kind.Make(namespace, name, drawContent(w.rand))}
		if ok, err := pred.Matches(q.obj); err != nil || !ok {
			continue
		}
		w.know()
		w.settle(w.ask(w.direct, q, &w.known))
		if w.history.last() > start {
			return
		}
	}
	w.t.Fatalf("%s: nothing that it selects could be made", one)
}

// hasTold tells whether a watch has told of its last event up to a revision, or never will.
func (w *World) hasTold(one *watched, upTo uint64) bool {
	told, newest, ended := one.state()
	if one.timed {
		return true
	}
	if ended || len(told) > 0 && told[len(told)-1].kind == watch.Error {
		return ended
	}
	if one.req.opts.ProgressNotify && newest < upTo {
		if err := one.on.Storage.RequestWatchProgress(one.progress); err != nil {
			w.t.Fatalf("%s: requesting progress: %v", one, err)
		}
		return false
	}
	for i := len(w.history.changes) - 1; i >= 0; i-- {
		if _, is, err := w.history.eventOf(w.history.changes[i], one.req.where, one.req.opts.Predicate); is || err != nil {
			return newest >= w.history.changes[i].rev
		}
	}
	return true
}

// eventually waits until done returns true; it returns false if it never does.
func eventually(done func() bool) bool {
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-tick.C:
		case <-deadline.C:
			return false
		}
	}
	return true
}

// Met tells whether every subject has met all of these.
func (w *World) Met(wanted ...string) bool {
	for _, s := range w.subjects {
		s.mu.Lock()
		missing := slices.ContainsFunc(wanted, func(what string) bool { return s.counts[what] == 0 })
		s.mu.Unlock()
		if missing {
			return false
		}
	}
	return true
}

// Sum fails if something that was to be met was not, by any subject, and logs what was.
func (w *World) Sum(wanted ...string) {
	w.t.Helper()
	for _, s := range w.subjects {
		s.mu.Lock()
		var all []string
		for what, n := range s.counts {
			all = append(all, fmt.Sprintf("%s %d", what, n))
		}
		slices.Sort(all)
		w.t.Logf("%s: %s", s.Name, strings.Join(all, ", "))
		if n := s.counts["late"]; !s.Impatient && n > 10+int(w.asked.Load())/50 {
			w.t.Errorf("%s: was late %d times", s.Name, n)
		}
		for _, what := range wanted {
			if s.counts[what] == 0 {
				w.t.Errorf("%s: no %q was met", s.Name, what)
			}
		}
		s.mu.Unlock()
	}
	w.t.Logf("%d writes", len(w.history.changes))
}
