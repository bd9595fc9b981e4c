// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package known

import (
	"fmt"
	"maps"
	"net/http"
	"sync"
	"sync/atomic"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/proto"

	"github.com/weir-project/weir/test/robustness/history"
	"github.com/weir-project/weir/test/servers"
)

// held keeps back what etcd says to the watch of ConfigMaps.
type held struct {
	mu  sync.Mutex
	all []*etcdserverpb.WatchResponse
}

func (h *held) lie(keep func(r *etcdserverpb.WatchResponse) bool) lie {
	return func(key string, r *etcdserverpb.WatchResponse) []*etcdserverpb.WatchResponse {
		if key != configMapsKey || !keep(r) {
			return []*etcdserverpb.WatchResponse{r}
		}
		h.mu.Lock()
		defer h.mu.Unlock()
		h.all = append(h.all, r)
		return nil
	}
}

func (h *held) take() []*etcdserverpb.WatchResponse {
	h.mu.Lock()
	defer h.mu.Unlock()
	all := h.all
	h.all = nil
	return all
}

// etcd says how far it is before it tells what happened up to there. What a server has said by then cannot be taken back: it
// may not go on as if nothing were wrong.
func etcd15220lie(w *world) {
	ns := w.namespace()
	start := w.create(ns, "before", "1")
	w.ready(ns, start)
	open := w.watch(w.a, all(ns), history.AtRevision, start)
	h := &held{}
	w.tap.tell(h.lie(func(r *etcdserverpb.WatchResponse) bool { return len(r.Events) > 0 }))
	x := w.create(ns, "late", "1")
	// The list asks for progress, and is told it.
	servers.Eventually(w, "a to believe that it has all", func() bool {
		status, l := w.list(w.a, pathOf(ns)+"?resourceVersion=0")
		_, _ = w.list(w.a, pathOf(ns))
		return status == http.StatusOK && l.rev >= x
	})
	believed := w.mustList(w.a, pathOf(ns)+"?resourceVersion=0").rev
	misled := w.watch(w.a, all(ns), history.AtRevision, believed)
	w.tap.tell(nil)
	for _, r := range h.take() {
		if n, err := w.tap.say(configMapsKey, r); err != nil || n == 0 {
			w.Fatalf("saying it to %d watches: %v", n, err)
		}
	}
	// Who was told a revision without the event does not get it any more: such a watch has to end.
	misled.waitEnd()
	w.ready(ns, x)
	last := w.update(ns, "late", "2")
	open.settle(last)
	w.ready(ns, last)
	if l := w.mustList(w.a, pathOf(ns)+"?resourceVersion=0"); !maps.Equal(l.names, map[string]int64{"before": start, "late": last}) {
		w.Errorf("there is %v", l.names)
	}

	// The other way round: less than what was told before. Nothing follows from it.
	r := w.watch(w.a, all(ns), history.AtRevision, last)
	if n, err := w.tap.say(configMapsKey, &etcdserverpb.WatchResponse{Header: &etcdserverpb.ResponseHeader{Revision: start}}); err != nil || n == 0 {
		w.Fatalf("saying it to %d watches: %v", n, err)
	}
	if l := w.mustList(w.a, pathOf(ns)+"?resourceVersion=0"); l.rev < last {
		w.Errorf("the state is of revision %d after one of revision %d", l.rev, last)
	}
	last = w.update(ns, "late", "3")
	if h := r.settle(last); h.Due == 0 {
		w.Errorf("a watch has ended for nothing: %+v", h)
	}
}

// What was acknowledged is in the next list, at another server and while the caches of both ask etcd how far it is.
func etcd15220reads(w *world) {
	ns := w.namespace()
	at := &atomic.Int64{}
	wait := w.churn(w.Context(), ns, 400, 4, at)
	for i := range 120 {
		name := fmt.Sprintf("r-%d", i%10)
		var rev int64
		if i < 10 {
			rev = w.create(ns, name, "1")
		} else {
			rev = w.update(ns, name, fmt.Sprint(i))
		}
		path := pathOf(ns)
		switch i % 3 {
		case 1:
			path += "?fieldSelector=metadata.name%3D" + name
		case 2:
			path += fmt.Sprintf("?resourceVersion=%d", rev)
		}
		l := w.mustList(w.a, path)
		if l.rev < rev || l.names[name] != rev {
			w.Errorf("%s after a write of revision %d: revision %d with %s of %d", path, rev, l.rev, name, l.names[name])
		}
	}
	wait()
}

// etcd tells some events twice, at once and later.
func etcd17247(w *world) {
	ns := w.namespace()
	at := &atomic.Int64{}
	at.Store(w.create(ns, "first", "1"))
	for _, later := range []bool{false, true} {
		var n atomic.Int64
		w.ready(ns, at.Load())
		var before *etcdserverpb.WatchResponse // of one watch, whose answers come one by one
		var mu sync.Mutex
		w.tap.tell(func(key string, r *etcdserverpb.WatchResponse) []*etcdserverpb.WatchResponse {
			if key != configMapsKey || len(r.Events) == 0 {
				return []*etcdserverpb.WatchResponse{r}
			}
			mu.Lock()
			defer mu.Unlock()
			again := r
			if later {
				again, before = before, r
			}
			if n.Add(1)%20 == 5 && again != nil {
				return []*etcdserverpb.WatchResponse{r, proto.Clone(again).(*etcdserverpb.WatchResponse)}
			}
			return []*etcdserverpb.WatchResponse{r}
		})
		wait := w.churn(w.Context(), ns, 240, 4, at)
		var watches []*watching
		for range 12 {
			for _, c := range []history.Scope{all(ns), one(ns, "churn-1")} {
				watches = append(watches, w.begin(w.a, c, history.AtRevision, at.Load()), w.begin(w.a, c, history.WatchList, 0))
			}
			watches[len(watches)-1].answered()
		}
		wait()
		w.tap.tell(nil)
		last := w.create(ns, fmt.Sprintf("last-%t", later), "1")
		w.ready(ns, last)
		for _, r := range watches {
			r.settle(last)
		}
		at.Store(last)
		w.same(ns)
	}
	if n, err := w.tap.say(configMapsKey, &etcdserverpb.WatchResponse{Header: &etcdserverpb.ResponseHeader{Revision: at.Load()}}); err != nil || n == 0 {
		w.Fatalf("%d watches: %v", n, err)
	}
}

// same holds that a's cache is what etcd has.
func (w *world) same(ns string) {
	w.Helper()
	l := w.mustList(w.a, pathOf(ns)+"?resourceVersion=0")
	w.reached(l.rev)
	want := map[string]int64{}
	for k, s := range w.truth.States(all(ns), l.rev) {
		want[k.Name] = s.Revision
	}
	if !maps.Equal(l.names, want) {
		w.Errorf("at revision %d the cache has %v, etcd %v", l.rev, l.names, want)
	}
}

// etcd leaves out a deletion. That shows when an object of the same name is made: its creation does not lead on from what is
// there. Until then nobody can see it, but for the consistency checker.
func etcd18089lie(w *world) {
	ns := w.namespace()
	start := w.create(ns, "goes", "1")
	w.ready(ns, start)
	watches := []*watching{w.watch(w.a, all(ns), history.AtRevision, start), w.watch(w.a, one(ns, "goes"), history.AtRevision, start)}
	w.tap.tell(func(key string, r *etcdserverpb.WatchResponse) []*etcdserverpb.WatchResponse {
		if key == configMapsKey {
			var told []*mvccpb.Event
			for _, e := range r.Events {
				if e.Type != mvccpb.DELETE {
					told = append(told, e)
				}
			}
			r.Events = told
		}
		return []*etcdserverpb.WatchResponse{r}
	})
	w.remove(ns, "goes")
	last := w.create(ns, "goes", "2")
	w.ready(ns, last)
	w.same(ns)
	w.tap.tell(nil)
	for _, r := range watches {
		r.settle(last)
	}

	// A creation that is left out shows at the next change.
	watches = []*watching{w.watch(w.a, all(ns), history.AtRevision, last), w.watch(w.a, one(ns, "unborn"), history.AtRevision, last)}
	w.tap.tell(func(key string, r *etcdserverpb.WatchResponse) []*etcdserverpb.WatchResponse {
		if key == configMapsKey {
			var told []*mvccpb.Event
			for _, e := range r.Events {
				if !created(e) {
					told = append(told, e)
				}
			}
			r.Events = told
		}
		return []*etcdserverpb.WatchResponse{r}
	})
	w.create(ns, "unborn", "1")
	last = w.update(ns, "unborn", "2")
	w.ready(ns, last)
	w.same(ns)
	for _, r := range watches {
		r.settle(last)
	}
}

func created(e *mvccpb.Event) bool { return (*clientv3.Event)(e).IsCreate() }

// The connection to etcd is lost, and etcd compacted just at, before or after the revision of a deletion that the server has to
// take up again from.
func etcd18089and19179(w *world) {
	ns := w.namespace()
	for i, round := range []struct {
		at       int64 // the compaction's revision, from that of the first deletion on
		physical bool
	}{{0, true}, {1, false}, {-1, true}, {2, true}} {
		name := fmt.Sprintf("k-%d", i)
		w.create(ns, name+"-other", "1")
		start := w.create(ns, name, "1")
		w.ready(ns, start)
		watches := []*watching{w.watch(w.a, all(ns), history.AtRevision, start), w.watch(w.a, one(ns, name), history.AtRevision, start)}
		w.link.Cut()
		gone := w.remove(ns, name)
		w.remove(ns, name+"-other")
		last := w.create(ns, name, "2")
		if gone != start+1 {
			w.Logf("the deletion is of revision %d, not the one after %d", gone, start)
		}
		w.reached(last)
		if round.physical {
			w.compact(gone+round.at, clientv3.WithCompactPhysical())
		} else {
			w.compact(gone + round.at)
		}
		if err := w.link.Heal(); err != nil {
			w.Fatal(err)
		}
		w.ready(ns, last)
		w.same(ns)
		for _, r := range watches {
			r.settle(last)
		}
	}
}

// etcd tells a watch what was before the revision from which it was asked for.
func etcd20221lie(w *world) {
	ns := w.namespace()
	w.create(ns, "one", "1")
	start := w.update(ns, "one", "2")
	w.ready(ns, start)
	watches := []*watching{
		w.watch(w.a, all(ns), history.AtRevision, start), w.watch(w.a, one(ns, "one"), history.AtRevision, start),
		w.watch(w.a, all(ns), history.WatchList, 0),
	}
	old := make(chan *etcdserverpb.WatchResponse, 100)
	w.tap.tell(func(key string, r *etcdserverpb.WatchResponse) []*etcdserverpb.WatchResponse {
		if key == configMapsKey && len(r.Events) > 0 {
			select {
			case old <- proto.Clone(r).(*etcdserverpb.WatchResponse):
			default:
			}
		}
		return []*etcdserverpb.WatchResponse{r}
	})
	first := w.update(ns, "one", "3")
	w.create(ns, "two", "1")
	second := w.update(ns, "one", "4")
	w.ready(ns, second)
	w.tap.tell(nil)
	r := <-old
	if n, err := w.tap.say(configMapsKey, &etcdserverpb.WatchResponse{Header: &etcdserverpb.ResponseHeader{Revision: first}}); err != nil || n == 0 {
		w.Fatalf("%d watches: %v", n, err)
	}
	if n, err := w.tap.say(configMapsKey, r); err != nil || n == 0 {
		w.Fatalf("%d watches: %v", n, err)
	}
	last := w.update(ns, "one", "5")
	w.ready(ns, last)
	w.same(ns)
	for _, r := range watches {
		r.settle(last)
	}
}

// Watches are opened quickly, one after the other, at recent revisions, while much is written: none may miss what has happened
// since.
func etcd20655(w *world) {
	ns := w.namespace()
	at := &atomic.Int64{}
	at.Store(w.create(ns, "first", "1"))
	wait := w.churn(w.Context(), ns, 480, 6, at)
	var watches []*watching
	for i := range 40 {
		for n := range 5 {
			c := []history.Scope{all(ns), one(ns, fmt.Sprintf("churn-%d", i%6)), one("", fmt.Sprintf("churn-%d", n)), all(""), one(ns, "last")}[n]
			c.Resource = configMaps
			watches = append(watches, w.begin(w.a, c, history.AtRevision, at.Load()))
		}
		if i%4 == 0 {
			watches[len(watches)-1].answered()
		}
	}
	wait()
	last := w.create(ns, "last", "1")
	w.ready(ns, last)
	for _, r := range watches {
		r.settle(last)
	}
}

// futureRevision watches from what has not happened yet.
func futureRevision(w *world) {
	ns := w.namespace()
	w.create(ns, "one", "0")
	head := w.head()
	var watches []*watching
	for _, ahead := range []int64{1, 3, 5} {
		for _, c := range []history.Scope{all(ns), one(ns, "one"), one("", "one")} {
			c.Resource = configMaps
			watches = append(watches, w.watch(w.a, c, history.AtRevision, head+ahead))
		}
	}
	for i := range 8 {
		w.update(ns, "one", fmt.Sprint(i+1))
	}
	for _, r := range watches {
		if h := r.settle(w.head()); h.Due == 0 || len(h.Events) == 0 {
			w.Errorf("a watch of the future has ended, or has not told it: %+v", h)
		}
	}
}
