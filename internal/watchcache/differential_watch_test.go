// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package watchcache

import (
	"context"
	"fmt"
	"sync"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/apis/example"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/utils/ptr"
)

// pair is the same watch on both caches.
type pair struct {
	asked       string
	step        string
	pred        storage.SelectionPredicate
	key         string
	recursive   bool
	stock, weir *recording
	// slow watches are not read before the end, stopped ones not to the end.
	slow, stopped bool
}

// recording is what a watch tells, as one line per event.
type recording struct {
	w watch.Interface

	mu     sync.Mutex
	lines  []string
	last   uint64
	closed bool
	done   chan struct{}
}

func record(w watch.Interface) *recording { return &recording{w: w, done: make(chan struct{})} }

// read collects events until the watch ends.
func (r *recording) read() {
	defer close(r.done)
	for event := range r.w.ResultChan() {
		line, rev := lineOf(event)
		r.mu.Lock()
		if line != "" {
			r.lines = append(r.lines, line)
		}
		r.last = max(r.last, rev)
		r.mu.Unlock()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
}

// state returns what was told so far.
func (r *recording) state() (lines []string, last uint64, closed bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]string(nil), r.lines...), r.last, r.closed
}

// lineOf returns all that a client sees of an event, and its revision. Of bookmarks
// only the one that ends the initial events counts: when others come is a matter of
// time.
func lineOf(event watch.Event) (string, uint64) {
	obj := event.Object
	if shared, ok := obj.(runtime.CacheableObject); ok {
		obj = shared.GetObject()
	}
	if event.Type == watch.Error {
		status, ok := obj.(*metav1.Status)
		if !ok {
			return fmt.Sprintf("ERROR %T", obj), 0
		}
		return fmt.Sprintf("ERROR %s %d", status.Reason, status.Code), 0
	}
	accessor, err := meta.Accessor(obj)
	if err != nil {
		return fmt.Sprintf("%s of %T", event.Type, obj), 0
	}
	rev, err := storage.APIObjectVersioner{}.ParseResourceVersion(accessor.GetResourceVersion())
	if err != nil {
		return fmt.Sprintf("%s with resourceVersion %q", event.Type, accessor.GetResourceVersion()), 0
	}
	if event.Type == watch.Bookmark {
		if accessor.GetAnnotations()[metav1.InitialEventsAnnotationKey] == "true" {
			return "BOOKMARK end of initial events", rev
		}
		return "", rev
	}
	data, err := runtime.Encode(jsonCodec, obj)
	if err != nil {
		return fmt.Sprintf("%s that cannot be encoded: %v", event.Type, err), rev
	}
	return fmt.Sprintf("%s %s", event.Type, data), rev
}

// watch starts one random watch on both caches, which have settled.
func (d *differential) watch() {
	d.t.Helper()
	key, recursive, pred := d.randomScope()
	opts := storage.ListOptions{Recursive: recursive, Predicate: pred}
	opts.Predicate.AllowWatchBookmarks = d.rand.Intn(2) == 0
	switch d.rand.Intn(8) {
	case 0: // any state, by no resourceVersion
	case 1:
		opts.ResourceVersion = "0"
	case 2, 3, 4:
		opts.ResourceVersion = fmt.Sprint(d.randomRevision())
	case 5:
		opts.SendInitialEvents, opts.ResourceVersionMatch = ptr.To(true), metav1.ResourceVersionMatchNotOlderThan
	case 6:
		opts.SendInitialEvents, opts.ResourceVersionMatch = ptr.To(true), metav1.ResourceVersionMatchNotOlderThan
		opts.ResourceVersion = fmt.Sprint(d.randomRevision())
	case 7:
		opts.SendInitialEvents, opts.ResourceVersionMatch = ptr.To(false), metav1.ResourceVersionMatchNotOlderThan
		if d.rand.Intn(2) == 0 {
			opts.ResourceVersion = fmt.Sprint(d.randomRevision())
		}
	}
	d.startWatch(key, opts, d.rand.Intn(6) == 0)
}

func (d *differential) startWatch(key string, opts storage.ListOptions, slow bool) {
	d.t.Helper()
	pred, recursive := opts.Predicate, opts.Recursive
	p := &pair{
		step: d.step, key: key, recursive: recursive, pred: pred, slow: slow,
		asked: fmt.Sprintf("watch of %s (recursive %v) with resourceVersion %q sendInitialEvents %v bookmarks %v labels %q fields %q shard %v",
			key, recursive, opts.ResourceVersion, ptr.Deref(opts.SendInitialEvents, false), opts.Predicate.AllowWatchBookmarks, pred.Label, pred.Field, pred.ShardSelector),
	}
	// The request says what the handlers know of it, which upstream's cacher indexes by.
	ctx := d.t.Context()
	if !recursive {
		ctx = request.WithRequestInfo(ctx, &request.RequestInfo{Name: nameOf(key)})
	}
	stock, stockErr := d.stock.Watch(ctx, key, opts)
	weir, weirErr := d.weir.Watch(ctx, key, opts)
	if got, want := kindOf(weirErr), kindOf(stockErr); got != want {
		d.errorf("%s: error %s (%v), stock %s (%v)", p.asked, got, weirErr, want, stockErr)
	}
	if stockErr != nil || weirErr != nil {
		return
	}
	d.watches++
	p.stock, p.weir = record(stock), record(weir)
	if !p.slow {
		go p.stock.read()
		go p.weir.read()
	}
	d.pairs = append(d.pairs, p)
}

func nameOf(key string) string {
	for i := len(key) - 1; i >= 0; i-- {
		if key[i] == '/' {
			return key[i+1:]
		}
	}
	return key
}

// stopSome ends some of the watches, as clients do.
func (d *differential) stopSome() {
	for _, p := range d.pairs {
		if d.rand.Intn(8) == 0 {
			p.stopped = true
			p.stock.w.Stop()
			p.weir.w.Stop()
		}
	}
}

// compareWatches has every watch see a last event, compares what they told, and
// ends them.
func (d *differential) compareWatches() {
	d.t.Helper()
	for _, p := range d.pairs {
		if p.slow {
			go p.stock.read()
			go p.weir.read()
		}
	}
	for _, p := range d.pairs {
		mark := d.mark(p)
		for _, r := range []*recording{p.stock, p.weir} {
			eventually(d.t, p.step+": "+p.asked+" to tell of its last event", func() bool {
				_, last, closed := r.state()
				return closed || last >= mark
			})
		}
		d.comparePair(p, mark)
	}
	for _, p := range d.pairs {
		p.stock.w.Stop()
		p.weir.w.Stop()
	}
	ctx, cancel := context.WithTimeout(d.t.Context(), patience)
	defer cancel()
	for _, p := range d.pairs {
		for _, r := range []*recording{p.stock, p.weir} {
			select {
			case <-r.done:
			case <-ctx.Done():
				d.fatalf("%s: does not end when it is stopped", p.asked)
			}
		}
	}
	d.pairs = nil
}

// mark writes a Pod that a watch selects, and returns its revision.
func (d *differential) mark(p *pair) uint64 {
	d.t.Helper()
	pod := &example.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: namespaces[0], Name: "mark"}}
	switch {
	case !p.recursive:
		pod.Name = nameOf(p.key)
		pod.Namespace = p.key[len(podPrefix) : len(p.key)-len(pod.Name)-1]
	case p.key != podPrefix:
		pod.Namespace = p.key[len(podPrefix):]
	}
	name := pod.Name
	for n := range 1000 {
		if p.pred.ShardSelector != nil && p.recursive {
			pod.Name = fmt.Sprintf("%s%d", name, n%32)
			if p.key == podPrefix {
				pod.Namespace = d.oneOf(namespaces)
			}
		}
		d.mutate(pod)
		mine, err := p.pred.MatchesSharding(pod)
		if err != nil || !mine {
			continue
		}
		if ok, err := p.pred.Matches(pod); err == nil && ok {
			out := &example.Pod{}
			d.update(d.direct, podKey(pod), pod, out)
			d.exists[podKey(pod)] = out
			d.wrote(out)
			return d.last
		}
	}
	d.fatalf("%s: nothing that it selects could be made", p.asked)
	return 0
}

func (d *differential) comparePair(p *pair, mark uint64) {
	d.t.Helper()
	stock, _, stockClosed := p.stock.state()
	weir, last, weirClosed := p.weir.state()
	d.events += len(weir)
	failed := len(weir) == 1 && len(weir[0]) > 5 && weir[0][:5] == "ERROR"
	if failed {
		d.expired++
	}
	n := min(len(stock), len(weir))
	for i := range n {
		if stock[i] != weir[i] {
			d.errorf("%s: %s: event %d of %d is\n  %s\nstock\n  %s", p.step, p.asked, i, len(weir), weir[i], stock[i])
			return
		}
	}
	switch {
	case p.stopped:
	case failed && (!weirClosed || len(stock) != 1):
		d.errorf("%s: %s: an error, which has to end it; ended %v; stock told of %d events", p.step, p.asked, weirClosed, len(stock))
	case failed:
	case weirClosed || last < mark:
		d.errorf("%s: %s: ended at revision %d of %d after %d events; stock told of %d, ended %v", p.step, p.asked, last, mark, len(weir), len(stock), stockClosed)
	case stockClosed:
		// Upstream ends slow watches: what it told of before is a beginning.
		d.cut++
		if len(stock) > len(weir) {
			d.errorf("%s: %s: %d events, stock %d", p.step, p.asked, len(weir), len(stock))
		}
	case len(stock) != len(weir):
		d.errorf("%s: %s: %d events, stock %d", p.step, p.asked, len(weir), len(stock))
	}
}
