// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package check

import (
	"fmt"
	"net/http"
	"strings"

	"github.com/anishathalye/porcupine"

	"github.com/weir-project/weir/test/robustness/history"
)

// graceful is the resource whose objects are deleted in two steps. The first sets a deletionTimestamp: the object has a new
// revision and its old mark. A deletion that finds the object gone by then is acknowledged all the same, and an update that
// comes between the steps deletes.
const graceful = "pods"

// expiring is the resource whose objects etcd deletes by itself, after some time.
const expiring = "events"

// act is what was asked of one object, and what came of it: porcupine's input and output in one.
type act struct {
	verb     string // a method of HTTP, or history.Apply
	server   string
	graceful bool // the object is of the graceful resource
	outcome  history.Outcome
	status   int
	sent     string // the mark that it is to get
	base     int64  // the revision that it has to have before; 0 for any
	deleted  bool   // it is deleted, by the verb or because it was being deleted

	// What follows is the answer's.

	found    bool // by a read
	uid, op  string
	revision int64
	history.Digests
}

func (a *act) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s at %s", a.verb, a.server)
	if a.base > 0 {
		fmt.Fprintf(&b, ", of revision %d", a.base)
	}
	if a.sent != "" && !a.deleted {
		fmt.Fprintf(&b, ", mark %s", a.sent)
	}
	switch {
	case a.outcome != history.Acknowledged:
		fmt.Fprintf(&b, ": %s", a.outcome)
		if a.status > 0 {
			fmt.Fprintf(&b, " (%d)", a.status)
		}
	case a.verb == http.MethodGet && !a.found:
		b.WriteString(": nothing")
	case a.deleted:
		fmt.Fprintf(&b, ": deleted uid %s, revision %d", a.uid, a.revision)
	default:
		fmt.Fprintf(&b, ": mark %s, revision %d, uid %s", a.op, a.revision, a.uid)
	}
	return b.String()
}

// object is the state of one object. uid, op and Meta are empty while they are not known: a write without an answer does
// not tell them, and whoever reads or writes next does.
type object struct {
	there bool
	// uid is that of the last one while the object is not there: the next has another.
	uid, op string
	// revision is its own if exact; otherwise it has a later one. While the object is not there, it is one before which
	// the next cannot be made.
	revision int64
	exact    bool
	history.Digests
}

func (o object) String() string {
	switch {
	case !o.there:
		return "nothing"
	case !o.exact:
		return fmt.Sprintf("mark %s, a revision after %d", o.op, o.revision)
	}
	return fmt.Sprintf("mark %s, revision %d, uid %s", o.op, o.revision, o.uid)
}

// linearizable is the model of one object that begins in a state. Each act happens at one moment between its call and its
// return. An act without an answer may happen at any time after its call; that it never happens is the same as that it
// happens last, or when it can change nothing.
func linearizable(begin object) porcupine.Model {
	return porcupine.Model{
		Init: func() any { return begin },
		Step: func(state, input, _ any) (bool, any) {
			next, can := state.(object).step(input.(*act))
			return can, next
		},
		Hash:              func(state any) uint64 { return uint64(state.(object).revision) },
		DescribeOperation: func(input, _ any) string { return input.(*act).String() },
		DescribeState:     func(state any) string { return state.(object).String() },
	}
}

// step is the object after an act, if the act can have its outcome now.
func (o object) step(a *act) (object, bool) {
	var next object
	var can bool
	switch {
	case a.verb == http.MethodGet:
		return o.read(a)
	case a.outcome == history.Refused:
		return o, o.refuses(a)
	case a.deleted:
		next, can = o.delete(a)
	default:
		next, can = o.write(a)
	}
	if !can {
		return o, a.outcome == history.Unanswered
	}
	return next, true
}

func (o object) read(a *act) (object, bool) {
	switch {
	case !a.found || !o.there:
		return o, a.found == o.there
	case o.uid != "" && o.uid != a.uid, o.op != a.op, o.Meta != 0 && !o.Agree(a.Digests):
		return o, false
	case a.revision == o.revision && o.exact:
		if a.Body == 0 {
			a = &act{uid: a.uid, op: a.op, revision: a.revision, Digests: history.Digests{Meta: a.Meta, Body: o.Body}}
		}
	case a.revision > o.revision && (!o.exact || a.graceful): // a graceful one has begun to be deleted
	default:
		return o, false
	}
	return o.learn(a), true
}

// learn is the object that an answer tells of.
func (object) learn(a *act) object {
	return object{there: true, uid: a.uid, op: a.op, revision: a.revision, exact: true, Digests: a.Digests}
}

func (o object) refuses(a *act) bool {
	switch {
	case a.status == http.StatusNotFound:
		return !o.there
	case a.status == http.StatusConflict && a.verb == http.MethodPost:
		return o.there
	case a.status == http.StatusConflict && a.base > 0:
		return o.there && !(o.exact && o.revision == a.base)
	}
	return true
}

// at tells whether the object can be at the revision that an act is of. A graceful one that has begun to be deleted has a
// later one than is known.
func (o object) at(a *act) bool {
	return a.base == 0 || a.base == o.revision || a.base > o.revision && (!o.exact || a.graceful)
}

func (o object) delete(a *act) (object, bool) {
	switch {
	case !o.there:
		// Of two that delete a graceful one, both may be told that they did. Of a collection's objects, some may be gone.
		tolerant := a.graceful && a.revision == 0 || a.verb == history.DeleteCollection
		return o, tolerant && a.outcome == history.Acknowledged
	case a.uid != "" && o.uid != "" && a.uid != o.uid, a.revision > 0 && a.revision <= o.revision, !o.at(a):
		return o, false
	}
	return object{revision: max(o.revision, a.revision), uid: o.uid}, true
}

func (o object) write(a *act) (object, bool) {
	switch {
	case a.verb == http.MethodPost && o.there, a.verb != http.MethodPost && a.verb != history.Apply && !o.there:
		return o, false
	case o.there && !o.at(a):
		return o, false
	case a.outcome == history.Unanswered && !o.there:
		return object{there: true, op: a.sent, revision: o.revision}, true
	case a.outcome == history.Unanswered:
		return object{there: true, uid: o.uid, op: a.sent, revision: o.revision}, true
	case a.revision <= o.revision, a.op != a.sent, o.uid != "" && o.there != (o.uid == a.uid):
		return o, false
	}
	return o.learn(a), true
}
