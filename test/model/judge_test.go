// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package model

import (
	"fmt"
	"math/rand"
	"slices"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/apis/example"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/utils/ptr"
)

var pods = Kind{
	New:     func() runtime.Object { return &example.Pod{} },
	NewList: func() runtime.Object { return &example.PodList{} },
	Prefix:  "/pods/",
	Attrs: func(obj runtime.Object) (labels.Set, fields.Set, error) {
		pod := obj.(*example.Pod)
		return pod.Labels, fields.Set{"metadata.name": pod.Name, "metadata.namespace": pod.Namespace, "spec.nodeName": pod.Spec.NodeName, "status.phase": string(pod.Status.Phase)}, nil
	},
	Make: func(namespace, name string, c Content) runtime.Object {
		pod := &example.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, UID: c.UID, Labels: map[string]string{"app": c.App}, Annotations: map[string]string{"n": fmt.Sprint(c.N)}}}
		pod.Spec.NodeName, pod.Status.Phase = c.Node, example.PodPhase(c.Phase)
		return pod
	},
}

// past makes a history of n changes, of which each second revision is one.
func past(r *rand.Rand, n int) *history {
	h := &history{kind: pods}
	for i := range n {
		namespace, name := oneOf(r, namespaces), oneOf(r, names)
		key := pods.key(namespace, name)
		c := change{rev: uint64(10 + 2*i), key: key, prev: h.head()[key]}
		if c.prev == nil || !oneIn(r, 4) {
			c.cur = at(pods.Make(namespace, name, drawContent(r)), c.rev)
		}
		h.add(c)
	}
	return h
}

func subject(cached bool) *Subject {
	return &Subject{Name: "told", PathPrefix: "/registry", Cached: cached, counts: map[string]int{}}
}

// truth is what a watch of everything in a history has to tell.
func truth(h *history, w *watched, begin uint64) []told {
	var all []told
	if ptr.Deref(w.req.opts.SendInitialEvents, false) {
		s, _ := h.at(begin)
		p, _ := h.list(s, w.req.where, w.req.opts.Predicate, "", 0)
		for _, obj := range p.items {
			all = append(all, told{kind: watch.Added, obj: obj, rev: revisionOf(obj)})
		}
		all = append(all, told{kind: watch.Bookmark, obj: at(pods.New(), begin), rev: begin, end: true})
	}
	for _, c := range h.changes[h.after(begin):] {
		if e, is, _ := h.eventOf(c, w.req.where, w.req.opts.Predicate); is {
			all = append(all, told{kind: watch.EventType(e.kind), obj: e.obj, rev: e.rev})
		}
	}
	return all
}

// TestJudgeWatch has the truth be believed, and every lie be found.
func TestJudgeWatch(t *testing.T) {
	type lie func(r *rand.Rand, events []told) []told
	after := func(events []told) int { // the first event after the initial ones
		return 1 + slices.IndexFunc(events, func(e told) bool { return e.end })
	}
	lies := map[string]lie{
		"an event is left out": func(r *rand.Rand, e []told) []told {
			n := after(e) + r.Intn(len(e)-after(e))
			return slices.Delete(e, n, n+1)
		},
		"the last event is left out": func(_ *rand.Rand, e []told) []told { return e[:len(e)-1] },
		"an event comes twice": func(r *rand.Rand, e []told) []told {
			n := after(e) + r.Intn(len(e)-after(e))
			return slices.Insert(e, n, e[n])
		},
		"two events are exchanged": func(r *rand.Rand, e []told) []told {
			n := after(e) + r.Intn(len(e)-after(e)-1)
			e[n], e[n+1] = e[n+1], e[n]
			return e
		},
		"an event is of another type": func(r *rand.Rand, e []told) []told {
			n := after(e) + r.Intn(len(e)-after(e))
			if e[n].kind == watch.Modified {
				e[n].kind = watch.Added
			} else {
				e[n].kind = watch.Modified
			}
			return e
		},
		"an event has another content": func(r *rand.Rand, e []told) []told {
			n := r.Intn(len(e))
			for e[n].kind == watch.Bookmark {
				n = r.Intn(len(e))
			}
			pod := e[n].obj.DeepCopyObject().(*example.Pod)
			pod.Annotations["n"] = "another"
			e[n].obj = pod
			return e
		},
		"an event has another revision": func(r *rand.Rand, e []told) []told {
			n := after(e) + r.Intn(len(e)-after(e))
			e[n].rev++
			e[n].obj = at(e[n].obj, e[n].rev)
			return e
		},
		"a bookmark is too high": func(r *rand.Rand, e []told) []told {
			n := after(e) + r.Intn(len(e)-after(e))
			return slices.Insert(e, n, told{kind: watch.Bookmark, rev: e[n].rev, obj: at(pods.New(), e[n].rev)})
		},
		"a bookmark goes back": func(_ *rand.Rand, e []told) []told {
			return append(e, told{kind: watch.Bookmark, rev: e[len(e)-1].rev - 1, obj: at(pods.New(), 1)})
		},
		"an event comes after an error": func(_ *rand.Rand, e []told) []told {
			return slices.Insert(e, len(e)-1, told{kind: watch.Error, obj: &metav1.Status{Reason: metav1.StatusReasonExpired}})
		},
		"an error has no reason": func(_ *rand.Rand, e []told) []told {
			return append(e[:after(e)], told{kind: watch.Error, obj: &metav1.Status{Reason: metav1.StatusReasonExpired}})
		},
	}
	initial := map[string]lie{
		"an object is left out of the initial events": func(r *rand.Rand, e []told) []told {
			n := r.Intn(after(e) - 1)
			return slices.Delete(e, n, n+1)
		},
		"a change is among the initial events": func(_ *rand.Rand, e []told) []told {
			n := after(e)
			e[n-1], e[n] = e[n], e[n-1]
			return e
		},
		"the initial events have no end": func(_ *rand.Rand, e []told) []told {
			n := after(e) - 1
			return slices.Delete(e, n, n+1)
		},
		"their end is of another revision": func(_ *rand.Rand, e []told) []told {
			e[after(e)-1].rev += 60
			return e
		},
	}
	for seed := range int64(30) {
		r := rand.New(rand.NewSource(seed))
		h := past(r, 120)
		judge := func(withInitial bool, doctor lie) error {
			w := &watched{call: call{on: subject(true), before: h.last(), after: h.last(), req: request{where: scope{key: "/pods/", recursive: true}}}}
			w.req.opts.Predicate = storage.SelectionPredicate{Label: labels.SelectorFromSet(labels.Set{"app": "web"}), Field: fields.Everything(), GetAttrs: pods.Attrs, AllowWatchBookmarks: true}
			w.req.opts.ResourceVersion = "110"
			if withInitial {
				w.req.opts.SendInitialEvents = ptr.To(true)
			}
			w.told = truth(h, w, 110)
			if doctor != nil {
				w.told = doctor(r, w.told)
			}
			w.ended = w.told[len(w.told)-1].kind == watch.Error
			return h.judgeWatch(w, h.last(), false)
		}
		for _, withInitial := range []bool{false, true} {
			if err := judge(withInitial, nil); err != nil {
				t.Fatalf("seed %d: the truth is not believed: %v", seed, err)
			}
			for name, doctor := range lies {
				if judge(withInitial, doctor) == nil {
					t.Errorf("seed %d: %s, and it is believed", seed, name)
				}
			}
		}
		for name, doctor := range initial {
			if judge(true, doctor) == nil {
				t.Errorf("seed %d: %s, and it is believed", seed, name)
			}
		}
	}
}

// TestJudgeList does the same with lists.
func TestJudgeList(t *testing.T) {
	items := func(c *call) *[]example.Pod { return &c.ans.obj.(*example.PodList).Items }
	meta := func(c *call) *metav1.ListMeta { return &c.ans.obj.(*example.PodList).ListMeta }
	lies := map[string]func(c *call){
		"an object is missing":            func(c *call) { *items(c) = slices.Delete(*items(c), 2, 3) },
		"an object comes twice":           func(c *call) { *items(c) = slices.Insert(*items(c), 2, (*items(c))[2]) },
		"two objects are exchanged":       func(c *call) { i := *items(c); i[0], i[1] = i[1], i[0] },
		"an object is another":            func(c *call) { (*items(c))[1].Spec.NodeName = "another" },
		"the revision is another":         func(c *call) { meta(c).ResourceVersion = "150" },
		"the revision is of the future":   func(c *call) { meta(c).ResourceVersion = "9999" },
		"there is no token":               func(c *call) { meta(c).Continue = "" },
		"the token goes on from the last": func(c *call) { meta(c).Continue, _ = storage.EncodeContinue(pods.key("a", "p1"), "/pods/", 110) },
		"the token has another revision": func(c *call) {
			from, _, _ := storage.DecodeContinue(meta(c).Continue, "/pods/")
			meta(c).Continue, _ = storage.EncodeContinue(from, "/pods/", 112)
		},
		"one more follows":               func(c *call) { *meta(c).RemainingItemCount++ },
		"it is not said that any follow": func(c *call) { meta(c).RemainingItemCount = nil },
		"it is expired":                  func(c *call) { c.ans.err = apierrors.NewResourceExpired("old") },
		"it is too large":                func(c *call) { c.ans.err = storage.NewTooLargeResourceVersionError(110, 100, 1) },
		"it is internal":                 func(c *call) { c.ans.err = storage.NewInternalError(errRefused) },
		"it should have expired":         func(c *call) { c.compacted, c.compacting = 150, 150 },
		"it should have been too large":  func(c *call) { c.req.opts.ResourceVersion, c.after = "400", 300 },
		"it should have been invalid":    func(c *call) { c.req.opts.ResourceVersion = "abc" },
	}
	for seed := range int64(10) {
		h := past(rand.New(rand.NewSource(seed)), 120)
		judge := func(lie func(*call)) error {
			c := &call{on: subject(true), before: h.last(), after: h.last(), shown: h.last(), req: request{verb: list, where: scope{key: "/pods/", recursive: true}}}
			c.req.opts = storage.ListOptions{ResourceVersion: "110", Recursive: true, Predicate: storage.Everything}
			c.req.opts.Predicate.Limit = 6
			s, _ := h.at(110)
			p, err := h.list(s, c.req.where, c.req.opts.Predicate, "", 6)
			if err != nil || !p.more {
				t.Fatalf("seed %d: %v, and more: %v", seed, err, p.more)
			}
			answer := &example.PodList{ListMeta: metav1.ListMeta{ResourceVersion: "110", RemainingItemCount: &p.left}}
			answer.Continue, _ = storage.EncodeContinue(p.last+"\x00", "/pods/", 110)
			for _, obj := range p.items {
				answer.Items = append(answer.Items, *obj.DeepCopyObject().(*example.Pod))
			}
			c.ans.obj = answer
			lie(c)
			return h.judge(c)
		}
		if err := judge(func(*call) {}); err != nil {
			t.Fatalf("seed %d: the truth is not believed: %v", seed, err)
		}
		for name, lie := range lies {
			if judge(lie) == nil {
				t.Errorf("seed %d: %s, and it is believed", seed, name)
			}
		}
	}
}

// TestJudgeObject does the same with reads and writes of one object.
func TestJudgeObject(t *testing.T) {
	fail := func(c *call, err error) { c.ans = answer{err: err} }
	key, missing := pods.key("a", "p1"), pods.key("b", "p2")
	old := pods.Make("a", "p1", Content{Node: "n1", N: 1})
	now := pods.Make("a", "p1", Content{Node: "n2", N: 2})
	next := pods.Make("a", "p1", Content{N: 3})
	wrong := storage.NewUIDPreconditions("another")
	for name, c := range map[string]struct {
		q    request
		tell func(c *call)
		lie  bool
	}{
		"get":                                {q: request{verb: get, key: key}, tell: func(c *call) { c.ans.obj = at(now, 14) }},
		"get of the past":                    {q: request{verb: get, key: key}, tell: func(c *call) { c.ans.obj = at(old, 12) }, lie: true},
		"get at another revision":            {q: request{verb: get, key: key}, tell: func(c *call) { c.ans.obj = at(now, 15) }, lie: true},
		"get of nothing":                     {q: request{verb: get, key: key}, tell: func(c *call) { fail(c, storage.NewKeyNotFoundError("/registry"+key, 0)) }, lie: true},
		"not found":                          {q: request{verb: get, key: missing}, tell: func(c *call) { fail(c, storage.NewKeyNotFoundError("/registry"+missing, 0)) }},
		"not found by another key":           {q: request{verb: get, key: missing}, tell: func(c *call) { fail(c, storage.NewKeyNotFoundError("/registry"+key, 0)) }, lie: true},
		"update":                             {q: request{verb: update, key: key, obj: next}, tell: func(c *call) { c.ans.given, c.ans.obj = at(now, 14), at(next, 16) }},
		"update of the past":                 {q: request{verb: update, key: key, obj: next}, tell: func(c *call) { c.ans.given, c.ans.obj = at(old, 12), at(next, 16) }, lie: true},
		"update that is not returned":        {q: request{verb: update, key: key, obj: next}, tell: func(c *call) { c.ans.given, c.ans.obj = at(now, 14), at(now, 16) }, lie: true},
		"update of the future":               {q: request{verb: update, key: key, obj: next}, tell: func(c *call) { c.ans.given, c.ans.obj = at(now, 14), at(next, 99) }, lie: true},
		"update against preconditions":       {q: request{verb: update, key: key, obj: next, pre: wrong}, tell: func(c *call) { c.ans.given, c.ans.obj = at(now, 14), at(next, 16) }, lie: true},
		"update that is refused":             {q: request{verb: update, key: key, obj: next, refuse: &nodes[2]}, tell: func(c *call) { c.ans.given, c.ans.err = at(now, 14), errRefused }},
		"update that is refused of the past": {q: request{verb: update, key: key, obj: next, refuse: &nodes[1]}, tell: func(c *call) { c.ans.given, c.ans.err = at(old, 12), errRefused }, lie: true},
		"update of nothing":                  {q: request{verb: update, key: missing, obj: next}, tell: func(c *call) { c.ans.given, c.ans.obj = pods.New(), at(next, 16) }, lie: true},
		"update to the same":                 {q: request{verb: update, key: key}, tell: func(c *call) { c.ans.given, c.ans.obj = at(now, 14), at(now, 14) }},
		"update to the same of the past":     {q: request{verb: update, key: key}, tell: func(c *call) { c.ans.given, c.ans.obj = at(old, 12), at(old, 12) }, lie: true},
		"update to the same that wrote":      {q: request{verb: update, key: key}, tell: func(c *call) { c.ans.given, c.ans.obj = at(now, 14), at(now, 16) }, lie: true},
		"delete":                             {q: request{verb: remove, key: key}, tell: func(c *call) { c.ans.given, c.ans.obj = at(now, 14), at(now, 16) }},
		"delete at the old revision":         {q: request{verb: remove, key: key}, tell: func(c *call) { c.ans.given, c.ans.obj = at(now, 14), at(now, 14) }, lie: true},
		"delete of nothing":                  {q: request{verb: remove, key: missing}, tell: func(c *call) { c.ans.given, c.ans.obj = at(now, 14), at(now, 16) }, lie: true},
		"delete not found":                   {q: request{verb: remove, key: key}, tell: func(c *call) { fail(c, storage.NewKeyNotFoundError("/registry"+key, 0)) }, lie: true},
		"delete against preconditions":       {q: request{verb: remove, key: key, pre: wrong}, tell: func(c *call) { fail(c, storage.NewInvalidObjError("/registry"+key, "")) }},
		"delete invalid":                     {q: request{verb: remove, key: key}, tell: func(c *call) { fail(c, storage.NewInvalidObjError("/registry"+key, "")) }, lie: true},
		"create":                             {q: request{verb: create, key: missing, obj: next}, tell: func(c *call) { c.ans.obj = at(next, 16) }},
		"create over an object":              {q: request{verb: create, key: key, obj: next}, tell: func(c *call) { c.ans.obj = at(next, 16) }, lie: true},
		"create that exists":                 {q: request{verb: create, key: key, obj: next}, tell: func(c *call) { fail(c, storage.NewKeyExistsError("/registry"+key, 0)) }},
		"create that does not exist":         {q: request{verb: create, key: missing, obj: next}, tell: func(c *call) { fail(c, storage.NewKeyExistsError("/registry"+missing, 0)) }, lie: true},
	} {
		t.Run(name, func(t *testing.T) {
			h := &history{kind: pods}
			h.add(change{rev: 12, key: key, cur: at(old, 12)})
			h.add(change{rev: 14, key: key, prev: at(old, 12), cur: at(now, 14)})
			one := &call{on: subject(false), before: 15, after: 17, req: c.q}
			c.tell(one)
			var err error
			if one.wrote() != 0 {
				err = h.write(one)
			} else {
				err = h.judge(one)
			}
			if (err != nil) != c.lie {
				t.Errorf("judged %v, a lie: %v", err, c.lie)
			}
		})
	}
}
