// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package robustness

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/weir-project/weir/test/robustness/check"
	"github.com/weir-project/weir/test/robustness/history"
)

// truthPatience is how long a record may wait for etcd's own watch before it is judged.
const truthPatience = time.Minute

// Run is one run. Open one, call Do once, and Close it.
type Run struct {
	config  Config
	servers []*server
	etcd    *clientv3.Client
	truth   *history.Truth
	begin   int64 // the revision at which the load begins
	began   time.Time

	known    atomic.Int64 // the latest revision of an acknowledged write
	ids      atomic.Int64
	presence presence
	record   *record
	stats    counts
	refusals refusals
	found    found

	acks  chan history.Write // all writes, whatever became of them
	reads chan *history.Read
	clock clock

	recorded int64 // the revision up to which changes are in the history: see recordChanges

	objects   *check.Objects
	informers []*informing

	cluster   cluster
	converter *converter
	excuses   excuses
	outcomes  map[faultKind]outcome // of the faults that were made
	skipped   map[faultKind]string  // why there can be none of a kind here
}

// Do puts the load on, with the faults, for the run's duration, and then checks that all agree. An error is a violation, or
// says why the run is worth nothing.
func (r *Run) Do(ctx context.Context) error {
	following, stopFollowing := context.WithCancel(ctx)
	var follower sync.WaitGroup
	defer follower.Wait()
	defer stopFollowing()
	began := make(chan struct{})
	followed := make(chan error, 1)
	follower.Go(func() {
		err := follow(following, r.etcd, r.truth, began)
		if err != nil {
			r.fail(err)
		}
		followed <- err
	})
	select {
	case <-began:
	case err := <-followed:
		return err
	}
	if err := r.makeNamespaces(ctx); err != nil {
		return err
	}
	if err := r.defineGadgets(ctx); err != nil {
		return err
	}
	r.begin, r.began = r.truth.Head(), time.Now()

	r.load(ctx)
	if r.stopped() {
		return r.verdict()
	}
	if err := errors.Join(r.agree(ctx), r.informersAgree(ctx), r.processes(ctx)); err != nil {
		r.fail(err)
	}
	return r.verdict()
}

func (r *Run) makeNamespaces(ctx context.Context) error {
	var failures []error
	for i := range namespaces {
		w := &writer{run: r, clients: r.direct()}
		body := map[string]any{"metadata": metadata{Name: namespace(i)}}
		made := history.Write{Verb: http.MethodPost, Key: history.Key{Resource: "namespaces", Name: namespace(i)}}
		refused, unanswered := r.stats.refused.Load(), r.stats.unanswered.Load()
		w.send(ctx, 0, operation{http.MethodPost, "/api/v1/namespaces", plainJSON, body, made})
		if r.stats.refused.Load() != refused || r.stats.unanswered.Load() != unanswered {
			failures = append(failures, fmt.Errorf("make namespace %s: %s", namespace(i), r.refusals.String()))
		}
	}
	return errors.Join(append(failures, r.define(ctx))...)
}

// load runs all that acts, and returns when all of it has ended and is judged.
func (r *Run) load(ctx context.Context) {
	whole, stop := context.WithCancel(ctx)
	defer stop()
	if r.config.StopAtFirst {
		r.found.stop = stop
	}
	ctx, cancel := context.WithTimeout(whole, r.config.Duration)
	defer cancel()
	var clerk, acts, reads sync.WaitGroup
	clerk.Go(func() { r.judgeWrites(whole) })
	for i := range writers {
		w := &writer{run: r, id: i, rand: r.config.rand(streamWriters + uint64(i)), clients: r.direct()}
		acts.Go(func() { w.write(ctx) })
	}
	for i := range sharers {
		acts.Go(func() { r.share(ctx, i) })
	}
	acts.Go(func() { r.twins(ctx) })
	acts.Go(func() { r.faults(ctx, r.began) })
	acts.Go(func() { r.herds(ctx) })
	acts.Go(func() { r.storms(ctx) })
	acts.Go(func() { r.edges(ctx) })
	acts.Go(func() { r.lists(ctx) })
	acts.Go(func() { r.redefines(ctx) })
	acts.Go(func() { r.trims(ctx) })
	for i := range getters {
		acts.Go(func() { r.gets(ctx, r.config.rand(streamGetters+uint64(i))) })
	}
	clerk.Go(func() { r.judgeReads(whole) })
	reading, stopReading := context.WithCancel(whole)
	defer stopReading()
	for i := range r.config.scaled(sessions) {
		s := r.session(i)
		reads.Go(func() {
			defer closeAll([][]*http.Client{s.clients})
			s.live(reading)
		})
	}
	r.convertedLoad(ctx, reading, &acts, &reads)
	acts.Wait() // nothing is written any more, all is healed
	close(r.acks)
	close(r.reads)
	clerk.Wait()
	end, known := r.etcdAfter(whole, time.Now())
	if known {
		r.reach(whole, end)
	}
	if last := (line{Violations: r.objects.End()}); len(last.Violations) > 0 {
		r.found.add(last.Violations)
		r.record.write(last)
	}
	stopReading()
	reads.Wait()
}

// sessions is the number of sessions: of each kind of scope in each habit some.
const sessions = 24

func (r *Run) session(i int) *session {
	rnd := r.config.rand(streamSessions + uint64(i))
	s := &session{run: r, rand: rnd, scope: anyScope(rnd), format: formats[i%len(formats)], habit: quick, clients: r.clients(1)[0]}
	switch {
	case i == 0:
		s.scope = history.Scope{Resource: pods}
	case i%6 == 4:
		s.habit = slow
	case i%6 == 5:
		s.habit = stops
	}
	if s.habit != quick {
		for at, server := range r.servers {
			s.clients[at] = smallBuffers(server.behind.CA)
		}
	}
	return s
}

// clients makes n clients for each server, each with connections of its own.
func (r *Run) clients(n int) [][]*http.Client {
	all := make([][]*http.Client, n)
	for i := range all {
		all[i] = r.direct()
	}
	return all
}

// direct makes one client for each server.
func (r *Run) direct() []*http.Client {
	var list []*http.Client
	for _, s := range r.servers {
		client, _, err := s.rig.HTTPClient("robustness")
		if err != nil {
			r.fail(err)
			client = http.DefaultClient
		}
		list = append(list, client)
	}
	return list
}

func closeAll(clients [][]*http.Client) {
	for _, list := range clients {
		for _, c := range list {
			c.CloseIdleConnections()
		}
	}
}

func (r *Run) id() int64 { return r.ids.Add(1) }

func (r *Run) down(at int) bool { return r.servers[at].down.Load() }

// wrote takes the record of a write.
func (r *Run) wrote(w history.Write) {
	w.At = time.Now()
	switch w.Outcome {
	case history.Acknowledged:
		r.stats.acknowledged.Add(1)
	case history.Refused:
		r.stats.refused.Add(1)
	default:
		r.stats.unanswered.Add(1)
	}
	r.told(w.Revision)
	if !slices.Contains(resources, w.Key.Resource) {
		return
	}
	r.acks <- w
}

// judgeWrites judges writes until there are no more. One that cannot be is still taken for the author of what nobody else has
// done.
func (r *Run) judgeWrites(ctx context.Context) {
	for w := range r.acks {
		l := line{Write: &w}
		known := true
		if w.Outcome == history.Acknowledged && w.Revision == 0 {
			w.Reached, known = r.etcdAfter(ctx, w.At)
		}
		if known && r.reach(ctx, max(w.Revision, w.Reached)) {
			if w.Outcome == history.Acknowledged {
				l.Violations = check.Write(r.truth, w)
			}
			l.Violations = append(l.Violations, r.objects.Write(w)...)
		} else if w.Outcome == history.Acknowledged {
			author := w // all that is known is that it may have made a change
			author.Outcome = history.Unanswered
			l.Violations = r.objects.Write(author)
		}
		r.found.add(l.Violations)
		r.record.write(l)
	}
}

// reach waits until the truth is at a revision. If it does not come there the run is worth nothing.
func (r *Run) reach(ctx context.Context, rev int64) bool {
	ctx, cancel := context.WithTimeout(ctx, truthPatience)
	defer cancel()
	if err := r.truth.Wait(ctx, rev); err != nil {
		r.fail(err)
		return false
	}
	return true
}

func (r *Run) judgeWatch(w *history.Watch) {
	r.stats.watches.Add(1)
	if w.Start == history.AtRevision {
		r.stats.resumed.Add(1)
	}
	if w.Status == 0 {
		r.stats.notAnswered.Add(1)
	}
	if w.Gone() {
		r.stats.gone.Add(1)
	}
	if refused(w) {
		r.refusals.note(fmt.Sprintf("WATCH error %d", w.Events[0].Code), []byte(w.Events[0].Message))
	}
	last := w.Due
	for _, e := range w.Events {
		if e.Kind == history.Bookmark {
			r.stats.bookmark.Add(1)
		} else {
			r.stats.events.Add(1)
		}
		last = max(last, e.Revision)
	}
	l := line{Watch: w, Events: len(w.Events)}
	if r.reach(context.Background(), last) {
		l.Violations = r.excuses.allow(w, check.Watch(r.truth, w))
		r.found.add(l.Violations)
	}
	if len(l.Violations) == 0 {
		short := *w
		short.Events = nil
		l.Watch = &short
	}
	r.record.write(l)
}

func (r *Run) judgeList(l *history.List) {
	r.stats.lists.Add(1)
	out := line{List: l}
	latest := max(l.Known, l.Asked)
	for _, rev := range l.Revisions {
		latest = max(latest, rev)
	}
	if r.reach(context.Background(), latest) {
		out.Violations = check.List(r.truth, l)
		r.found.add(out.Violations)
	}
	if len(out.Violations) == 0 {
		short := *l
		short.Items = nil
		out.List = &short
	}
	r.record.write(out)
}

// stopped tells whether the run is over because something was found.
func (r *Run) stopped() bool {
	found, _ := r.First()
	return r.config.StopAtFirst && len(found) > 0
}

// First returns what was found about the first record with a violation, or some of it, and how long after the load began
// that was; nil if nothing was found so far.
func (r *Run) First() (found []check.Violation, after time.Duration) {
	r.found.mu.Lock()
	defer r.found.mu.Unlock()
	return r.found.firsts, r.found.first.Sub(r.began)
}

// agree checks, when all is at rest, that lists of everything at each server and etcd's own state are the truth.
func (r *Run) agree(ctx context.Context) error {
	var failures []error
	head := r.truth.Head()
	r.known.Store(max(r.known.Load(), head))
	for _, s := range r.servers {
		for _, scope := range everything() {
			l := &history.List{Scope: scope, Format: string(inJSON), Mode: history.Consistent}
			// A server that was started again serves a custom resource some time after it is ready.
			patience, done := context.WithTimeout(ctx, duePatience)
			answered := r.list(ctx, s.rig.HTTP, s, l)
			for ; !answered && patience.Err() == nil; answered = r.list(ctx, s.rig.HTTP, s, l) {
				wait(patience, retry)
				l.Revisions, l.Items = nil, nil
			}
			if done(); !answered {
				failures = append(failures, fmt.Errorf("the last list of %s at %s was not answered: %s", scope, s.name, r.refusals.String()))
			}
		}
	}
	for _, resource := range resources {
		resp, err := r.etcd.Get(ctx, prefix(resource), clientv3.WithPrefix())
		if err != nil {
			return fmt.Errorf("read etcd: %w", err)
		}
		if !r.reach(ctx, resp.Header.Revision) {
			continue
		}
		l := &history.List{Scope: history.Scope{Resource: resource}, Server: "etcd", Mode: history.Any, Revisions: []int64{resp.Header.Revision}}
		for _, kv := range resp.Kvs {
			o, err := decode(kv.Value)
			if err != nil {
				return fmt.Errorf("%s in etcd: %w", kv.Key, err)
			}
			l.Items = append(l.Items, history.Item{Key: o.key(resource), Revision: kv.ModRevision, Digests: o.digests(resource, inProtobuf)})
		}
		r.judgeList(l)
	}
	return errors.Join(failures...)
}

// verdict is what was found, nil for nothing. With something, the changes that etcd had go to the history too.
func (r *Run) verdict() error {
	f := &r.found
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.violations) == 0 && len(f.failures) == 0 {
		return nil
	}
	r.recordChanges()
	list := f.failures
	if len(f.violations) > 0 {
		list = append(list, fmt.Errorf("%d records with violations, the first found %v after the load began", f.records, f.first.Sub(r.began).Round(time.Millisecond)))
	}
	for _, v := range f.violations {
		list = append(list, errors.New(v.String()))
	}
	return errors.Join(list...)
}

// Report says what was done and what it took, for a person.
func (r *Run) Report() string {
	cpu := ""
	for _, s := range r.servers {
		if u, err := s.rig.Usage(); err == nil {
			cpu += fmt.Sprintf("; %s has used %.0f s of processor time since it was started last, %d MB", s.rig.Name(), u.CPU, u.RSS>>20)
		}
	}
	judged := fmt.Sprintf("; %d reads and writes of single objects put in order, %d parts undecided, %d not judged", r.objects.Judged(), r.objects.Undecided(), r.objects.Unjudged())
	return r.stats.String() + judged + cpu + peak() + "\n" + r.refusals.String() + r.faultReport()
}
