// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package known

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weir-project/weir/test/robustness/check"
	"github.com/weir-project/weir/test/robustness/history"
	"github.com/weir-project/weir/test/servers"
)

// item is what is read of any object, list or Status.
type item struct {
	Kind     string `json:"kind"`
	Metadata struct {
		Name            string            `json:"name"`
		Namespace       string            `json:"namespace"`
		UID             string            `json:"uid"`
		ResourceVersion string            `json:"resourceVersion"`
		Labels          map[string]string `json:"labels"`
		Annotations     map[string]string `json:"annotations"`
		Continue        string            `json:"continue"`
	} `json:"metadata"`
	Data    map[string]string `json:"data"`
	Items   []item            `json:"items"`
	Code    int               `json:"code"`
	Message string            `json:"message"`
	Details *struct {
		RetryAfterSeconds int                  `json:"retryAfterSeconds"`
		Causes            []metav1.StatusCause `json:"causes"`
	} `json:"details"`
}

func (o *item) revision() int64 {
	rev, err := strconv.ParseInt(o.Metadata.ResourceVersion, 10, 64)
	if err != nil {
		return 0 // no revision
	}
	return rev
}

// listed is an answered list.
type listed struct {
	item
	rev int64
	// names are those of its items, with their revisions.
	names map[string]int64
}

// list asks for one.
func (w *world) list(s *servers.Server, path string) (status int, l listed) {
	w.Helper()
	status, body := s.Do(http.MethodGet, path, nil)
	if err := json.Unmarshal(body, &l.item); err != nil {
		l.Message = fmt.Sprintf("%.200s", body)
	}
	l.rev, l.names = l.revision(), map[string]int64{}
	for _, o := range l.Items {
		l.names[o.Metadata.Name] = o.revision()
	}
	return status, l
}

// mustList asks for one that has to be answered.
func (w *world) mustList(s *servers.Server, path string) listed {
	w.Helper()
	status, l := w.list(s, path)
	if status != http.StatusOK {
		w.Fatalf("%s: %s: %d %s", s.Name, path, status, l.Message)
	}
	return l
}

// write makes one request in JSON. It may be called by any goroutine.
func write(ctx context.Context, s *servers.Server, method, path string, body any) (rev int64, err error) {
	r := servers.Request{Method: method, Path: path, Header: http.Header{"Content-Type": {"application/json"}}}
	if body != nil {
		if r.Body, err = json.Marshal(body); err != nil {
			return 0, err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, servers.Patience)
	defer cancel()
	resp, err := s.Answer(ctx, r)
	if err != nil {
		return 0, err
	}
	if resp.Status/100 != 2 {
		return 0, fmt.Errorf("%d %.300s", resp.Status, resp.Body)
	}
	var o item
	err = json.Unmarshal(resp.Body, &o)
	return o.revision(), err
}

// watching is a watch that is being read and recorded.
type watching struct {
	w      *world
	cancel context.CancelFunc
	done   chan struct{} // closed when it has ended

	mu    sync.Mutex
	watch history.Watch
	grown chan struct{} // closed when there is another event, and replaced
}

// watchIDs numbers them.
var watchIDs atomic.Int64

// watch opens one of ConfigMaps, and returns when it is answered.
func (w *world) watch(s *servers.Server, c history.Scope, start history.Start, from int64) *watching {
	w.Helper()
	r := w.begin(s, c, start, from)
	r.answered()
	return r
}

// begin opens one, and does not wait for the answer.
func (w *world) begin(s *servers.Server, c history.Scope, start history.Start, from int64) *watching {
	q := url.Values{}
	path := "/api/v1/" + configMaps
	if c.Namespace != "" {
		path = pathOf(c.Namespace)
	}
	if c.Name != "" {
		q.Set("fieldSelector", "metadata.name="+c.Name)
	}
	if c.LabelKey != "" {
		q.Set("labelSelector", c.LabelKey+"="+c.LabelValue)
	}
	return w.beginPath(s, path, q, history.Watch{Scope: c, Start: start, From: from})
}

// beginPath opens a watch of any path.
func (w *world) beginPath(s *servers.Server, path string, q url.Values, record history.Watch) *watching {
	q.Set("watch", "1")
	q.Set("allowWatchBookmarks", "true")
	switch record.Start {
	case history.AtRevision:
		q.Set("resourceVersion", strconv.FormatInt(record.From, 10))
	case history.AtZero:
		q.Set("resourceVersion", "0")
	case history.WatchList:
		q.Set("sendInitialEvents", "true")
		q.Set("resourceVersionMatch", "NotOlderThan")
	}
	ctx, cancel := context.WithCancel(w.Context())
	record.ID, record.Server, record.Format, record.Opened = watchIDs.Add(1), s.Name, "json", time.Now()
	r := &watching{w: w, cancel: cancel, done: make(chan struct{}), grown: make(chan struct{}), watch: record}
	w.Cleanup(r.stop)
	go r.read(ctx, s, path+"?"+q.Encode())
	return r
}

func (r *watching) note(f func(h *history.Watch)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f(&r.watch)
	close(r.grown)
	r.grown = make(chan struct{})
}

func (r *watching) read(ctx context.Context, s *servers.Server, path string) {
	defer close(r.done)
	end := func(format string, args ...any) {
		r.note(func(h *history.Watch) { h.End, h.Closed = fmt.Sprintf(format, args...), time.Now() })
	}
	resp, err := s.Open(ctx, servers.Request{Path: path})
	if err != nil {
		end("not answered: %v", err)
		return
	}
	defer func() { _ = resp.Body.Close() }()
	r.note(func(h *history.Watch) { h.Status = resp.StatusCode })
	if resp.StatusCode != http.StatusOK {
		body, err := io.ReadAll(resp.Body)
		end("answered %d: %.300s %v", resp.StatusCode, body, err)
		return
	}
	events := json.NewDecoder(resp.Body)
	for {
		var e struct {
			Type   history.Kind `json:"type"`
			Object item         `json:"object"`
		}
		if err := events.Decode(&e); err != nil {
			end("%v", err)
			return
		}
		o := &e.Object
		record := history.Event{Kind: e.Type, Revision: o.revision()}
		switch e.Type {
		case history.Error:
			if o.Code == http.StatusTooManyRequests {
				end("told to come back: %s", o.Message) // its cache is being read: it is an end like another
				return
			}
			record.Code, record.Message = o.Code, o.Message
		case history.Bookmark:
			record.InitialEnd = o.Metadata.Annotations[metav1.InitialEventsAnnotationKey] == "true"
		default:
			record.Key = history.Key{Resource: configMaps, Namespace: o.Metadata.Namespace, Name: o.Metadata.Name}
			record.Digests = digest(o.Metadata.UID, o.Metadata.Labels, o.Data)
		}
		r.note(func(h *history.Watch) { h.Events = append(h.Events, record) })
	}
}

func (r *watching) stop() {
	r.cancel()
	<-r.done
}

// record is what has come so far.
func (r *watching) record() history.Watch {
	r.mu.Lock()
	defer r.mu.Unlock()
	h := r.watch
	h.Events = slices.Clone(h.Events)
	return h
}

// wait waits until done returns true of what has come, or the watch has ended. It returns false if it ended before.
func (r *watching) wait(what string, done func(h *history.Watch) bool) bool {
	r.w.Helper()
	patience := time.NewTimer(servers.Patience / 2)
	defer patience.Stop()
	for {
		r.mu.Lock()
		ok, grown := done(&r.watch), r.grown
		r.mu.Unlock()
		if ok {
			return true
		}
		select {
		case <-r.done:
			r.mu.Lock()
			defer r.mu.Unlock()
			return done(&r.watch)
		case <-grown:
		case <-patience.C:
			r.w.Fatalf("watch %+v does not get %s", r.record(), what)
		}
	}
}

func (r *watching) answered() {
	r.w.Helper()
	r.wait("an answer", func(h *history.Watch) bool { return h.Status != 0 })
}

func (r *watching) waitEnd() {
	r.w.Helper()
	if r.wait("its end", func(*history.Watch) bool { return false }) {
		r.w.Fatal("a watch has two ends")
	}
}

// event waits for one of an object at a revision. It is false if the watch ended before.
func (r *watching) event(kind history.Kind, name string, rev int64) bool {
	r.w.Helper()
	return r.wait(fmt.Sprintf("%s of %s at revision %d", kind, name, rev), func(h *history.Watch) bool {
		return slices.ContainsFunc(h.Events, func(e history.Event) bool { return e.Kind == kind && e.Key.Name == name && e.Revision == rev })
	})
}

// settle waits until the watch has delivered what is due up to a revision, or has ended, and has it judged. A watch that stays
// open and silent fails.
func (r *watching) settle(due int64) history.Watch {
	r.w.Helper()
	r.w.reached(due)
	h := r.record()
	last := h.From
	if events := r.w.truth.Events(h.Scope, h.From, due); len(events) > 0 {
		last = events[len(events)-1].Revision
	}
	got := r.wait(fmt.Sprintf("what is due up to revision %d", last), func(h *history.Watch) bool {
		if h.Start == history.WatchList && !slices.ContainsFunc(h.Events, func(e history.Event) bool { return e.InitialEnd }) {
			return false
		}
		for _, e := range h.Events {
			if e.Revision >= last {
				return true
			}
		}
		return len(h.Events) == 0 && last == h.From
	})
	r.stop()
	h = r.record()
	if got {
		h.Due = due
	}
	r.w.judge(&h)
	return h
}

// judge tells what is wrong with a watch.
func (w *world) judge(h *history.Watch) {
	w.Helper()
	var to int64
	for _, e := range h.Events {
		to = max(to, e.Revision)
	}
	w.reached(to)
	all := check.Watch(w.truth, h)
	for i, v := range all {
		if i == 3 {
			w.Errorf("and %d more", len(all)-i)
			break
		}
		w.Error(v)
	}
}

// expired tells whether a watch was refused because what it asks for is gone.
func expired(h *history.Watch) bool { return h.Gone() }
