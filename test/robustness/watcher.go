// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package robustness

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weir-project/weir/test/robustness/history"
)

const (
	// headerPatience is how long a reader waits for an answer to begin: a server may be paused.
	headerPatience = 10 * time.Second
	// duePatience is how long a watch may take at the end of a run, when nothing is written any more and all servers are
	// ready, for what it has yet to deliver.
	duePatience = 30 * time.Second
	// retry is how long a reader waits after it was not answered.
	retry = 200 * time.Millisecond
)

// habit is how a reader reads.
type habit string

const (
	quick habit = "quick"
	slow  habit = "slow"  // a few events, then a little while nothing
	stops habit = "stops" // reads nothing at all for seconds, in the middle
)

// pause waits as a reader of this habit does before its n-th event.
func (h habit) pause(ctx context.Context, n int) {
	var d time.Duration
	switch {
	case h == slow && n%4 == 3:
		d = 40 * time.Millisecond
	case h == stops && n%400 == 20:
		d = 4 * time.Second
	default:
		return
	}
	wait(ctx, d)
}

func wait(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// watch opens a watch, reads it to its end or until ctx is done, and fills the record. seen is kept at the latest revision
// that came. When lazy is done it reads as quickly as it can, whatever its habit.
func (r *Run) watch(ctx, lazy context.Context, client *http.Client, s *server, w *history.Watch, seconds int, h habit, seen *atomic.Int64) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	w.Server, w.Opened = s.name, time.Now()
	defer func() { w.Closed = time.Now() }()
	q := url.Values{"watch": {"1"}, "allowWatchBookmarks": {"true"}, "timeoutSeconds": {strconv.Itoa(seconds)}}
	switch w.Start {
	case history.AtRevision:
		q.Set("resourceVersion", strconv.FormatInt(w.From, 10))
	case history.AtZero:
		q.Set("resourceVersion", "0")
	case history.WatchList:
		w.Known = r.known.Load()
		q.Set("sendInitialEvents", "true")
		q.Set("resourceVersionMatch", "NotOlderThan")
	}
	f := format(w.Format).of(w.Scope.Resource)
	w.Format = string(f)
	req, err := s.request(ctx, f, forWatch, path(w.Scope, q))
	if err != nil {
		r.fail(err)
		return
	}
	late := time.AfterFunc(headerPatience, cancel)
	resp, err := client.Do(req)
	late.Stop()
	if err != nil {
		w.End = "not answered: " + err.Error()
		return
	}
	defer resp.Body.Close()
	w.Status = resp.StatusCode
	if w.Status != http.StatusOK {
		body, err := io.ReadAll(io.LimitReader(resp.Body, 1000))
		if err != nil {
			body = []byte(err.Error())
		}
		w.End = fmt.Sprintf("answered %d: %s", w.Status, body)
		r.refusals.note(fmt.Sprintf("WATCH %d", w.Status), body)
		return
	}
	events := newStream(f, w.Scope, unzipped(resp))
	for {
		h.pause(lazy, len(w.Events))
		e, err := events.next()
		switch {
		case errors.Is(err, errStream):
			r.broken(fmt.Sprintf("watch %d (%s, %s) of %+v at %s", w.ID, w.Role, w.Format, w.Scope, w.Server), err)
			fallthrough
		case err != nil:
			w.End = err.Error()
			return
		}
		w.Events = append(w.Events, e)
		r.told(e.Revision)
		if e.Revision > seen.Load() {
			seen.Store(e.Revision)
		}
	}
}

// session is one client that watches the same all the time, and goes on when its watch ends.
type session struct {
	run     *Run
	rand    *rand.Rand
	scope   history.Scope
	format  format
	habit   habit
	clients []*http.Client // one for each server
}

// live watches until ctx is done and what is due has come.
func (s *session) live(ctx context.Context) {
	r := s.rand
	at := r.IntN(weirs)
	var prev *history.Watch
	for ctx.Err() == nil {
		w := &history.Watch{ID: s.run.id(), Role: "session, " + string(s.habit), Format: string(s.format), Scope: s.scope}
		start, back, other, seconds, closes := r.IntN(10), s.run.config.ago(r)/2, r.IntN(2) == 0, 4+r.IntN(10), r.IntN(4) == 0
		w.Start = pick(r, []history.Start{history.WatchList, history.AtZero})
		if prev != nil && !prev.Gone() && prev.Last() > 0 && start < 8 {
			w.Start, w.From, w.Resumes = history.AtRevision, prev.Last(), prev.ID
			if start < 2 {
				w.From = max(min(w.From, s.run.truth.RevisionAt(time.Now().Add(-back))), s.run.begin)
			}
		}
		if other {
			at = (at + 1) % weirs
		}
		if !closes {
			seconds = min(seconds, 8)
		}
		s.watch(ctx, at, w, seconds, closes)
		if w.Status != http.StatusOK {
			wait(ctx, retry)
			if !w.Gone() {
				continue // the next goes on from where this one would have
			}
		}
		prev = w
	}
}

// watch reads one watch, which the client closes after half its time if it closes, and judges it.
func (s *session) watch(ctx context.Context, at int, w *history.Watch, seconds int, closes bool) {
	reading, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	if closes {
		early := time.AfterFunc(time.Duration(seconds)*time.Second/2, cancel)
		defer early.Stop()
	}
	var seen, due atomic.Int64
	atEnd := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(atEnd)
		defer cancel()
		events := s.run.truth.Events(s.scope, w.From, s.run.truth.Head())
		if len(events) == 0 {
			return
		}
		last := events[len(events)-1].Revision
		patience, done := context.WithTimeout(reading, duePatience)
		defer done()
		for seen.Load() < last && patience.Err() == nil && !s.run.stopped() {
			wait(patience, 10*time.Millisecond)
		}
		if reading.Err() == nil && !s.run.stopped() {
			due.Store(last)
		}
	})
	s.run.watch(reading, ctx, s.clients[at], s.run.servers[at], w, seconds, s.habit, &seen)
	cancel()
	if !stop() {
		<-atEnd
	}
	w.Due = due.Load()
	s.run.judgeWatch(w)
}

// herds opens many keyed watches at once, each from some time ago, at either server, again and again. The next does not wait
// for the one before to end. All use the same connections, so that they arrive together.
func (r *Run) herds(ctx context.Context) {
	rnd := r.config.rand(streamHerds)
	clients := r.clients(herdClients)
	defer closeAll(clients)
	wait(ctx, r.config.calm())
	var all sync.WaitGroup
	defer all.Wait()
	for ctx.Err() == nil {
		begun := time.Now()
		for i := range r.config.scaled(r.config.Herd) {
			at := rnd.IntN(weirs)
			w := &history.Watch{ID: r.id(), Role: "herd", Format: string(pick(rnd, formats)), Scope: herdScope(rnd), Start: history.AtRevision}
			w.From = max(r.truth.RevisionAt(begun.Add(-r.config.ago(rnd))), r.begin)
			all.Go(func() {
				var seen atomic.Int64
				r.watch(ctx, ctx, clients[i%herdClients][at], r.servers[at], w, herdSeconds, quick, &seen)
				r.judgeWatch(w)
			})
		}
		r.stats.herds.Add(1)
		wait(ctx, herdEvery-time.Since(begun))
	}
}

// herdSeconds is how long the server is asked to keep a herd's watch: the bookmark that tells that events were passed over
// comes two seconds before.
const herdSeconds = 3

// herdClients is how many connections to each server the herds share.
const herdClients = 4

// storms opens and closes watches at once.
func (r *Run) storms(ctx context.Context) {
	rnd := r.config.rand(streamStorms)
	for ctx.Err() == nil {
		wait(ctx, time.Duration(2+rnd.IntN(4))*time.Second)
		clients := r.clients(1)
		var all sync.WaitGroup
		for range r.config.scaled(40) {
			at, open := rnd.IntN(weirs), time.Duration(rnd.IntN(800))*time.Millisecond
			w := &history.Watch{ID: r.id(), Role: "storm", Format: string(pick(rnd, formats)), Scope: anyScope(rnd), Start: history.AtRevision}
			w.From = r.truth.RevisionAt(time.Now().Add(-r.config.ago(rnd) / 4))
			if w.From <= r.begin || rnd.IntN(4) == 0 {
				w.Start, w.From = history.WatchList, 0
			}
			all.Go(func() {
				ctx, cancel := context.WithTimeout(ctx, open)
				defer cancel()
				var seen atomic.Int64
				r.watch(ctx, ctx, clients[0][at], r.servers[at], w, 30, quick, &seen)
				r.judgeWatch(w)
			})
		}
		all.Wait()
		closeAll(clients)
	}
}
