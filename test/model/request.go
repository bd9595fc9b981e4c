// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package model

import (
	"context"
	"errors"
	"fmt"
	"math/rand"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/storage"
)

type verb string

const (
	create verb = "create"
	update verb = "update"
	remove verb = "delete"
	get    verb = "get"
	list   verb = "list"
	stats  verb = "stats"
	ready  verb = "readiness"
)

// request is one call of a storage.
type request struct {
	verb verb
	// key is the object's, where the scope of a list.
	key   string
	where scope
	// obj is what is created, or what an update makes of the object; nil if that is to stay as it is.
	obj runtime.Object
	// pre, ignoreNotFound and suggestion are arguments of the call.
	pre            *storage.Preconditions
	ignoreNotFound bool
	suggestion     runtime.Object
	// refuse is a node: an update or deletion of an object that is on it is refused.
	refuse *string
	// opts are those of a list; opts.ResourceVersion is that of a get.
	opts storage.ListOptions
}

// answer is what came of it.
type answer struct {
	obj runtime.Object
	err error
	// given is what the caller's function was given last; nil if it was not called.
	given runtime.Object
	// count is the number of objects of stats.
	count int64
}

func (r request) String() string {
	switch r.verb {
	case list:
		return fmt.Sprintf("list of %s (recursive %v) with resourceVersion %q match %q limit %d continue %s labels %q fields %q indexes %v",
			r.where.key, r.where.recursive, r.opts.ResourceVersion, r.opts.ResourceVersionMatch, r.opts.Predicate.Limit,
			readToken(r.opts.Predicate.Continue), r.opts.Predicate.Label, r.opts.Predicate.Field, r.opts.Predicate.IndexFields)
	case get:
		return fmt.Sprintf("get of %s with resourceVersion %q ignoring that it is not found %v", r.key, r.opts.ResourceVersion, r.ignoreNotFound)
	}
	text := fmt.Sprintf("%s of %s", r.verb, r.key)
	if r.pre != nil {
		if r.pre.UID != nil {
			text += fmt.Sprintf(" if its UID is %q", *r.pre.UID)
		}
		if r.pre.ResourceVersion != nil {
			text += fmt.Sprintf(" if its resourceVersion is %q", *r.pre.ResourceVersion)
		}
	}
	if r.refuse != nil {
		text += fmt.Sprintf(" unless it is on node %q", *r.refuse)
	}
	return fmt.Sprintf("%s (ignoring that it is not found %v, unchanged %v, with a suggestion %v)", text, r.ignoreNotFound, r.obj == nil, r.suggestion != nil)
}

func (a answer) String() string {
	if a.err != nil {
		return fmt.Sprintf("%T: %v", a.err, a.err)
	}
	return fmt.Sprintf("%+v", a.obj)
}

// readToken makes a continue token readable.
func readToken(token string) string {
	if token == "" {
		return "none"
	}
	from, rev, err := storage.DecodeContinue(token, "/")
	if err != nil {
		return fmt.Sprintf("unreadable (%v)", err)
	}
	return fmt.Sprintf("%q@%d", from, rev)
}

// errRefused is what the caller's functions say.
var errRefused = errors.New("refused by the caller")

// put has a storage do what is asked.
func (k Kind) put(ctx context.Context, s storage.Interface, r request) answer {
	var a answer
	switch r.verb {
	case create:
		a.obj = k.New()
		a.err = s.Create(ctx, r.key, r.obj.DeepCopyObject(), a.obj, 0)
	case update:
		a.obj = k.New()
		a.err = s.GuaranteedUpdate(ctx, r.key, a.obj, r.ignoreNotFound, r.pre, func(obj runtime.Object, _ storage.ResponseMeta) (runtime.Object, *uint64, error) {
			a.given = obj.DeepCopyObject()
			if r.refuse != nil && k.node(obj) == *r.refuse {
				return nil, nil, errRefused
			}
			if r.obj == nil {
				return obj, nil, nil
			}
			return r.obj.DeepCopyObject(), nil, nil
		}, r.suggestion)
	case remove:
		a.obj = k.New()
		a.err = s.Delete(ctx, r.key, a.obj, r.pre, func(_ context.Context, obj runtime.Object) error {
			a.given = obj.DeepCopyObject()
			if r.refuse != nil && k.node(obj) == *r.refuse {
				return errRefused
			}
			return nil
		}, r.suggestion, storage.DeleteOptions{})
	case get:
		a.obj = k.New()
		a.err = s.Get(ctx, r.key, storage.GetOptions{ResourceVersion: r.opts.ResourceVersion, IgnoreNotFound: r.ignoreNotFound}, a.obj)
	case list:
		a.obj = k.NewList()
		a.err = s.GetList(ctx, r.where.key, r.opts, a.obj)
	case stats:
		var told storage.Stats
		told, a.err = s.Stats(ctx)
		a.count = told.ObjectCount
	case ready:
		a.err = s.ReadinessCheck()
	}
	return a
}

// known is what a caller can know, and draws its arguments from.
type known struct {
	// now is etcd's revision, and revisions are those of some writes.
	now       uint64
	revisions []uint64
	// objects are some that there are or were, by key.
	objects map[string]runtime.Object
	// token is that of a page, and where and pred are what was listed; "" if there is none.
	token string
	where scope
	pred  storage.SelectionPredicate
}

// drawRevision is one of a write, one before or after, or of none that was; rarely of the
// future.
func drawRevision(r *rand.Rand, k *known, future int) string {
	if future > 0 && oneIn(r, future) {
		return fmt.Sprint(k.now + 1 + uint64(r.Intn(10)))
	}
	switch r.Intn(8) {
	case 0:
		return fmt.Sprint(k.now)
	case 1:
		return fmt.Sprint(1 + r.Int63n(int64(k.now)))
	case 2:
		return "1"
	default:
		if len(k.revisions) == 0 {
			return fmt.Sprint(k.now)
		}
		rev := k.revisions[max(0, len(k.revisions)-1-r.Intn(60))]
		return fmt.Sprint(min(k.now, rev-1+uint64(r.Intn(3))))
	}
}

// drawWrite asks for a write.
func (k Kind) drawWrite(r *rand.Rand, from *known) request {
	namespace, name := oneOf(r, namespaces), oneOf(r, names)
	q := request{key: k.key(namespace, name), obj: k.Make(namespace, name, drawContent(r))}
	seen := from.objects[q.key]
	switch n := r.Intn(10); {
	case n < 3 || n < 6 && seen == nil:
		q.verb = create
		if oneIn(r, 30) {
			q.obj = at(q.obj, 5) // which is not allowed
		}
		return q
	case n < 7:
		q.verb = update
		q.ignoreNotFound = oneIn(r, 3)
		if !q.ignoreNotFound && oneIn(r, 5) {
			q.obj = nil
		}
	default:
		q.verb = remove
	}
	if oneIn(r, 4) {
		q.pre = &storage.Preconditions{}
		uid, rv := types.UID("other"), "1"
		if seen != nil && !oneIn(r, 6) {
			if accessor, err := meta.Accessor(seen); err == nil {
				uid, rv = accessor.GetUID(), accessor.GetResourceVersion()
			}
		}
		if oneIn(r, 2) {
			q.pre.UID = &uid
		} else {
			q.pre.ResourceVersion = &rv
		}
	}
	if oneIn(r, 5) {
		q.refuse = &nodes[r.Intn(len(nodes))]
	}
	if seen != nil && oneIn(r, 3) {
		q.suggestion = seen.DeepCopyObject()
	}
	return q
}

// drawRead asks for a read. Once in future times it is of a revision that there is not yet,
// for which caches wait; never if that is 0.
func (k Kind) drawRead(r *rand.Rand, from *known, future int) request {
	switch n := r.Intn(20); {
	case n == 0:
		return request{verb: stats}
	case n == 1:
		return request{verb: ready}
	case n < 7:
		q := request{verb: get, key: k.key(oneOf(r, namespaces), oneOf(r, names)), ignoreNotFound: oneIn(r, 3)}
		switch r.Intn(5) {
		case 0:
		case 1:
			q.opts.ResourceVersion = "0"
		default:
			q.opts.ResourceVersion = drawRevision(r, from, future)
		}
		if oneIn(r, 40) {
			q.opts.ResourceVersion = "abc"
		}
		if oneIn(r, 40) {
			q.key = k.Prefix + "a/../p0"
		}
		return q
	}
	q := request{verb: list, where: k.drawScope(r)}
	q.opts.Predicate = k.drawPredicate(r, q.where)
	if oneIn(r, 2) {
		q.opts.Predicate.Limit = int64(1 + r.Intn(8))
	}
	switch r.Intn(6) {
	case 0:
		q.opts.ResourceVersion = "0"
	case 1:
		q.opts.ResourceVersion, q.opts.ResourceVersionMatch = "0", metav1.ResourceVersionMatchNotOlderThan
	case 2:
		q.opts.ResourceVersion = drawRevision(r, from, future)
	case 3:
		q.opts.ResourceVersion, q.opts.ResourceVersionMatch = drawRevision(r, from, future), metav1.ResourceVersionMatchNotOlderThan
	case 4:
		q.opts.ResourceVersion, q.opts.ResourceVersionMatch = drawRevision(r, from, future), metav1.ResourceVersionMatchExact
	}
	switch {
	case from.token != "" && oneIn(r, 2):
		q.where = from.where
		q.opts.Predicate = from.pred
		q.opts.Predicate.Continue, q.opts.Predicate.Limit = from.token, int64(r.Intn(6))
		q.opts.ResourceVersion, q.opts.ResourceVersionMatch = "", ""
		if oneIn(r, 20) {
			q.opts.ResourceVersion = "5" // which is not allowed with a token
		}
	case oneIn(r, 60):
		q.opts.ResourceVersion, q.opts.ResourceVersionMatch = "abc", ""
	case oneIn(r, 60):
		q.opts.ResourceVersion, q.opts.ResourceVersionMatch = "5", "Roughly"
	case oneIn(r, 60):
		q.where.key = "/others/"
	case oneIn(r, 60) && q.where.recursive:
		q.opts.ResourceVersion, q.opts.ResourceVersionMatch = "", ""
		q.opts.Predicate.Continue = "unreadable"
	}
	q.opts.Recursive = q.where.recursive
	return q
}
