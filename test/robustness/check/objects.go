// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package check

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/weir-project/weir/test/robustness/history"
)

const (
	// settled is how much later than a moment a record has to have ended, so that all that began before that moment has been
	// recorded. It is longer than a client waits for any answer.
	settled = 15 * time.Second
	// lost is how long a write without an answer can still happen, after its client has given it up: etcd has it, and no majority.
	// 165 s were seen on a machine that had far too much to do.
	lost = 5 * time.Minute
	// enough is the number of acts from which on a part of an object's history is judged by itself, and old the age of the
	// first of them, whatever their number.
	enough = 300
	old    = time.Minute
	// sweep is how often it is looked for old ones.
	sweep = 5 * time.Second
	// thinking is how long one part may take to be judged.
	thinking = time.Minute
)

// Objects judges writes and reads of single objects: whether each object's have an order in which each has the outcome that
// its client was told, and which agrees with their times. That is what porcupine finds out, of what clients have seen. The
// truth tells which of the writes without an answer happened, and which deletion a deletion without an answer is; and that
// all changes are somebody's.
//
// A long history is judged in parts, each of which begins with the state that the one before has ended with. The truth must
// have reached the revision of each write and read that is given to it, and should know all since Needs. Where it does not,
// what came before its floor is not judged, and counted: see Unjudged. It is safe for concurrent use.
type Objects struct {
	// Pictures, if not empty, is a directory for porcupine's own drawings of what has no order. It is set before all else.
	Pictures string

	truth *history.Truth

	mu sync.Mutex
	of map[history.Key]*acts
	// collections are the deletions of collections that are not long ago.
	collections []*history.Write
	// wrote and read are the ends of the latest acknowledged write and of the latest read, swept that of when it was looked
	// for old ones.
	wrote, read, swept time.Time
	judged, undecided  int
	unjudged           int
}

// acts are one object's that are not judged yet.
type acts struct {
	key   history.Key
	begin object
	from  time.Time // what began up to this moment was judged
	upTo  int64     // all changes up to this revision were judged
	// floor and floorAt are the truth's when the beginning was moved to it: what may have been before is not judged.
	floor    int64
	floorAt  time.Time
	writes   []history.Write
	reads    []history.Read
	tryAgain int // the number of acts from which on it is tried again to judge a part
	// happened are those of writes that have no answer and have made a change, as far as it has been looked at.
	happened map[*history.Write]bool
}

// NewObjects returns one for a truth.
func NewObjects(t *history.Truth) *Objects {
	return &Objects{truth: t, of: map[history.Key]*acts{}}
}

// Judged is the number of acts that were judged.
func (o *Objects) Judged() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.judged
}

// Undecided is the number of parts for which the time was not enough.
func (o *Objects) Undecided() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.undecided
}

// Unjudged is the number of acts that were not judged, because the truth had let go of their time.
func (o *Objects) Unjudged() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.unjudged
}

// Needs is the revision after which the truth must know all for the acts that are not judged yet: math.MaxInt64 without any. What has
// no answer and was there when a part was judged needs nothing: see rise.
func (o *Objects) Needs() int64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	first := int64(math.MaxInt64)
	for _, a := range o.of {
		if len(a.reads) > 0 || slices.ContainsFunc(a.writes, func(w history.Write) bool { return w.Begun.After(a.from) }) {
			first = min(first, a.upTo)
		}
	}
	return first
}

// rise moves the beginning of what is to be judged to the truth's floor, if that has passed it.
func (o *Objects) rise(a *acts) {
	floor, at := o.truth.FloorAt()
	for floor > a.upTo {
		a.begin, a.upTo, a.floor, a.floorAt = o.at(a.key, floor), floor, floor, at
		floor, at = o.truth.FloorAt()
	}
}

// changes are an object's that are not judged yet. Acts that may have been before the truth's floor are taken off: but for writes
// without an answer, which nothing is said of if no change is theirs.
func (o *Objects) changes(a *acts) []history.Change {
	var list []history.Change
	for {
		o.rise(a)
		if list = o.truth.ChangesOf(a.key, a.upTo); o.truth.Floor() <= a.upTo {
			break
		}
	}
	n := len(a.writes) + len(a.reads)
	a.reads = slices.DeleteFunc(a.reads, func(r history.Read) bool {
		return !r.Opened.After(a.floorAt) && r.Revision <= a.floor
	})
	a.writes = slices.DeleteFunc(a.writes, func(w history.Write) bool {
		if w.Begun.After(a.floorAt) || w.Outcome == history.Unanswered || w.Revision > a.floor {
			return false
		}
		return !w.Deleted || w.Revision > 0 || !slices.ContainsFunc(list, func(c history.Change) bool { return c.Next == nil && c.Prev.UID == w.UID })
	})
	o.unjudged += n - len(a.writes) - len(a.reads)
	return list
}

// rebase moves the beginning of what is to be judged to when an object is asked for again: it may have expired since, long ago,
// and the truth lets go of that.
func (o *Objects) rebase(a *acts, begun time.Time) {
	if len(a.writes)+len(a.reads) > 0 {
		return
	}
	o.rise(a)
	for _, c := range o.truth.ChangesOf(a.key, a.upTo) {
		if a.key.Resource != expiring || c.Next != nil || !c.At.Before(begun) {
			return
		}
		a.upTo = c.Revision
		a.begin = o.at(a.key, c.Revision)
	}
}

// at is an object as it was at a revision, by the truth.
func (o *Objects) at(k history.Key, rev int64) object {
	s := o.truth.At(k, rev)
	if s == nil {
		return object{revision: rev}
	}
	return object{there: true, uid: s.UID, op: s.Op, revision: s.Revision, exact: true, Digests: s.Digests}
}

func (o *Objects) acts(k history.Key, begun time.Time) *acts {
	a := o.of[k]
	if a == nil {
		a = &acts{key: k, tryAgain: enough}
		o.of[k] = a
	}
	o.rebase(a, begun)
	return a
}

// Write takes a write, and returns what was found when a part of its object's history is complete.
func (o *Objects) Write(w history.Write) []Violation {
	o.mu.Lock()
	defer o.mu.Unlock()
	if w.Outcome == history.Acknowledged && w.Revision > 0 && w.At.After(o.wrote) {
		o.wrote = w.At
	}
	if w.Verb == history.DeleteCollection {
		o.collections = append(o.collections, &w)
		return nil
	}
	a := o.acts(w.Key, w.Begun)
	a.writes = append(a.writes, w)
	return append(o.part(a), o.sweep()...)
}

// Read takes a read. Only consistent ones are judged.
func (o *Objects) Read(r history.Read) []Violation {
	if r.Mode != history.Consistent {
		return nil
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if r.Closed.After(o.read) {
		o.read = r.Closed
	}
	a := o.acts(r.Key, r.Opened)
	a.reads = append(a.reads, r)
	return o.part(a)
}

// complete is a moment such that all acts that began before it have been taken, and all that they changed is in the truth.
func (o *Objects) complete() time.Time {
	if o.read.Before(o.wrote) {
		return o.read.Add(-settled)
	}
	return o.wrote.Add(-settled)
}

// sweep judges parts of those objects that wait for long.
func (o *Objects) sweep() []Violation {
	now := o.complete()
	if now.Sub(o.swept) < sweep {
		return nil
	}
	o.swept = now
	var found []Violation
	for _, a := range o.of {
		if a.oldest().Before(now.Add(-old)) {
			a.tryAgain = 0
			found = append(found, o.part(a)...)
		}
	}
	_, floorAt := o.truth.FloorAt()
	o.collections = slices.DeleteFunc(o.collections, func(w *history.Write) bool {
		return w.At.Before(now.Add(-10*time.Minute)) && w.At.Before(floorAt.Add(-lost))
	})
	return found
}

func (a *acts) oldest() time.Time {
	first := time.Unix(math.MaxInt32, 0)
	if len(a.writes) > 0 {
		first = a.writes[0].Begun
	}
	if len(a.reads) > 0 && a.reads[0].Opened.Before(first) {
		first = a.reads[0].Opened
	}
	return first
}

// End judges what is left, when nothing is written any more and the truth has all of it.
func (o *Objects) End() []Violation {
	o.mu.Lock()
	defer o.mu.Unlock()
	var found []Violation
	for _, k := range slices.SortedFunc(maps.Keys(o.of), func(a, b history.Key) int { return strings.Compare(a.Path(), b.Path()) }) {
		found = append(found, o.judge(o.of[k], time.Time{})...)
		delete(o.of, k)
	}
	return found
}

// part judges a part if there is enough for one: up to a moment at which nothing is going on, so long ago that all that had
// begun then is known. Of its writes those stay that have no answer, for as long as they can still happen.
func (o *Objects) part(a *acts) []Violation {
	if len(a.writes)+len(a.reads) < a.tryAgain {
		return nil
	}
	aged := a.tryAgain == 0
	a.tryAgain += enough / 4
	before := o.complete()
	ops := o.operations(a, time.Time{}, &findings{}, false)
	slices.SortFunc(ops, func(a, b porcupine.Operation) int { return cmp.Compare(a.Call, b.Call) })
	cut, end := 0, int64(math.MinInt64)
	for i, op := range ops {
		if op.Call > before.UnixNano() {
			break
		}
		if op.Call > end {
			cut = i
		}
		end = max(end, op.Return)
	}
	var until time.Time
	switch {
	case aged && len(ops) > 0 && end < before.UnixNano() && ops[len(ops)-1].Call <= before.UnixNano():
		until = before // that is all of them
	case aged && len(ops) == 0 && !slices.ContainsFunc(a.writes, func(w history.Write) bool { return w.At.After(before.Add(-lost)) }):
		until = before // none of them has happened, and none will
	case cut == 0 || cut < enough/2 && !aged:
		return nil
	default:
		until = time.Unix(0, ops[cut].Call)
	}
	rest := *a
	a.writes, rest.writes = split(a.writes, until, func(w history.Write) time.Time { return w.Begun })
	a.reads, rest.reads = split(a.reads, until, func(r history.Read) time.Time { return r.Opened })
	found := o.judge(a, until)
	var late []history.Write
	for i := range a.writes {
		if w := &a.writes[i]; w.Outcome == history.Unanswered && !a.happened[w] && w.At.After(until.Add(-lost)) {
			late = append(late, *w)
		}
	}
	rest.begin, rest.upTo, rest.tryAgain, rest.from = a.begin, a.upTo, enough, until.Add(-1)
	rest.writes = append(late, rest.writes...)
	*a = rest
	return found
}

// split divides records by whether they began before a moment.
func split[T any](all []T, at time.Time, began func(T) time.Time) (before, behind []T) {
	for _, r := range all {
		if began(r).Before(at) {
			before = append(before, r)
		} else {
			behind = append(behind, r)
		}
	}
	return before, behind
}

// judge judges all acts of an object, those before a moment if it is not zero, and sets the state that comes after them.
func (o *Objects) judge(a *acts, until time.Time) []Violation {
	f := findings{what: fmt.Sprintf("reads and writes of %v", a.key)}
	defer func() {
		for i := range f.list {
			f.list[i].Key = a.key
		}
	}()
	ops := o.operations(a, until, &f, until.IsZero())
	o.judged += len(ops)
	model := linearizable(a.begin)
	result, info := porcupine.CheckOperationsVerbose(model, ops, thinking)
	switch result {
	case porcupine.Unknown:
		o.undecided++
	case porcupine.Illegal:
		longest, end := furthest(a.begin, info)
		told, at := stuck(ops, longest)
		f.add(Linearizable, "%d acts from %v on have no order: %d of them lead to %v, where this cannot be: %s",
			len(ops), a.begin, len(longest), end, told)
		f.list[len(f.list)-1].At = at
		if o.Pictures != "" {
			name := filepath.Join(o.Pictures, strings.ReplaceAll(a.key.Path(), "/", "-")+".html")
			if err := porcupine.VisualizePath(model, info, name); err != nil {
				f.add(Linearizable, "its picture: %v", err)
			}
		}
	}
	// There may be several orders, which end differently.
	a.begin = o.at(a.key, a.upTo)
	return f.list
}

// furthest is the longest order that was found of the acts, and the state that it ends with.
func furthest(begin object, info porcupine.LinearizationInfo) (map[*act]bool, object) {
	var longest []porcupine.Operation
	for _, partition := range info.PartialLinearizationsOperations() {
		for _, order := range partition {
			if len(order) > len(longest) {
				longest = order
			}
		}
	}
	in := map[*act]bool{}
	for _, op := range longest {
		a := op.Input.(*act)
		in[a] = true
		begin, _ = begin.step(a)
	}
	return in, begin
}

// stuck is the first act to end of those that are in no order, and its time.
func stuck(ops []porcupine.Operation, in map[*act]bool) (string, time.Time) {
	first := porcupine.Operation{Return: math.MaxInt64}
	for _, op := range ops {
		if !in[op.Input.(*act)] && op.Return <= first.Return {
			first = op
		}
	}
	if first.Input == nil {
		return "nothing", time.Time{}
	}
	return fmt.Sprintf("%v, from %s to %s", first.Input, clock(first.Call), clock(first.Return)), time.Unix(0, first.Call)
}

func clock(nanos int64) string { return time.Unix(0, nanos).UTC().Format("15:04:05.000000") }

// operations makes porcupine's operations of an object's acts. With until, these are all that have begun before, and of the
// truth only their changes are looked at. With open there are those as well that have not happened and still may. What it finds is
// about the authors of changes.
func (o *Objects) operations(a *acts, until time.Time, f *findings, open bool) []porcupine.Operation {
	changes := o.changes(a)
	var ops []porcupine.Operation
	add := func(begun, ended time.Time, act *act) {
		end := int64(math.MaxInt64)
		if !ended.IsZero() {
			end = ended.UnixNano()
		}
		act.graceful = a.key.Resource == graceful
		ops = append(ops, porcupine.Operation{Input: act, Call: begun.UnixNano(), Return: end})
	}
	for _, r := range a.reads {
		add(r.Opened, r.Closed, &act{
			verb: http.MethodGet, server: r.Server, outcome: history.Acknowledged,
			found: r.Found, uid: r.UID, op: r.Op, revision: r.Revision, Digests: r.Digests,
		})
	}
	authors := authors{revisions: map[int64]bool{}, uids: map[string]bool{}, marks: map[string]*history.Write{}}
	a.happened = map[*history.Write]bool{}
	for i := range a.writes {
		w := &a.writes[i]
		if w.Outcome == history.Unanswered {
			authors.unanswered(w)
			continue
		}
		authors.answered(w)
		add(w.Begun, w.At, &act{
			verb: w.Verb, server: w.Server, outcome: w.Outcome, status: w.Status, sent: w.Sent, base: w.Base,
			deleted: w.Deleted || w.Verb == http.MethodDelete, uid: w.UID, op: w.Op, revision: w.Revision, Digests: w.Digests,
		})
	}
	for _, w := range o.collections {
		if w.Key.Resource != a.key.Resource || w.Key.Namespace != a.key.Namespace || !until.IsZero() && !w.Begun.Before(until) {
			continue
		}
		i := slices.IndexFunc(w.Collected, func(c history.Collected) bool { return c.Key == a.key })
		if w.Outcome == history.Acknowledged && i < 0 {
			continue
		}
		authors.deletions = append(authors.deletions, w)
		if i >= 0 && w.Begun.After(a.from) && w.Begun.After(a.floorAt) {
			authors.uids[w.Collected[i].UID] = true
			add(w.Begun, w.At, &act{verb: w.Verb, server: w.Server, outcome: w.Outcome, deleted: true})
		}
	}
	upTo := a.upTo
	for _, c := range changes {
		own := authors.own(c)
		if !own && !until.IsZero() && !c.At.Before(until) && c.Revision > authors.latest {
			break
		}
		upTo = max(upTo, c.Revision)
		if own || c.Next != nil && c.Prev != nil && a.key.Resource == graceful && c.Next.UID == c.Prev.UID && c.Next.Op == c.Prev.Op {
			continue
		}
		w, begun := authors.find(c, a.key.Resource == graceful)
		if w == nil && c.Next == nil && a.key.Resource == expiring {
			w, begun = &history.Write{Verb: "expiry", Server: "etcd"}, c.At.Add(-settled)
		}
		if w == nil {
			f.add(Unasked, "nobody has asked for what happened at revision %d: %s", c.Revision, changed(c))
			f.list[len(f.list)-1].At = c.At
			continue
		}
		a.happened[w] = true
		act := &act{verb: w.Verb, server: w.Server, outcome: history.Acknowledged, sent: w.Sent, base: w.Base, revision: c.Revision}
		if c.Next == nil {
			act.deleted, act.uid = true, c.Prev.UID
		} else {
			act.uid, act.op, act.Digests = c.Next.UID, c.Next.Op, c.Next.Digests
		}
		add(begun, c.At, act)
	}
	if !until.IsZero() {
		a.upTo = upTo
		return ops
	}
	if !open {
		return ops
	}
	// What has not happened yet may still. In the end it has not happened.
	for _, w := range authors.open {
		if !a.happened[w] && w.At.After(o.wrote.Add(-lost)) {
			add(w.Begun, time.Time{}, &act{verb: w.Verb, server: w.Server, outcome: w.Outcome, sent: w.Sent, base: w.Base, deleted: w.Verb == http.MethodDelete})
		}
	}
	return ops
}

func changed(c history.Change) string {
	if c.Next == nil {
		return fmt.Sprintf("a deletion of uid %s", c.Prev.UID)
	}
	return fmt.Sprintf("mark %s of uid %s", c.Next.Op, c.Next.UID)
}

// authors are the writes of an object, by what etcd's changes can be known by.
type authors struct {
	revisions map[int64]bool            // of acknowledged writes
	latest    int64                     // of them
	uids      map[string]bool           // of acknowledged deletions without a revision
	marks     map[string]*history.Write // of writes without an answer
	deletions []*history.Write          // without an answer, or of collections
	open      []*history.Write          // all without an answer
}

func (s *authors) answered(w *history.Write) {
	switch {
	case w.Outcome != history.Acknowledged:
	case w.Revision > 0:
		s.revisions[w.Revision] = true
		s.latest = max(s.latest, w.Revision)
	case w.Deleted:
		s.uids[w.UID] = true
	}
}

func (s *authors) unanswered(w *history.Write) {
	s.open = append(s.open, w)
	if w.Verb == http.MethodDelete {
		s.deletions = append(s.deletions, w)
	} else {
		s.marks[w.Sent] = w
	}
}

// own tells whether a change was acknowledged.
func (s *authors) own(c history.Change) bool {
	return s.revisions[c.Revision] || c.Next == nil && s.uids[c.Prev.UID]
}

// find returns a write that can have made a change that was not acknowledged, and the earliest moment at which one can have
// done so; nil if there is none. A mark is found once. A graceful object that is being deleted is deleted by any write.
func (s *authors) find(c history.Change, graceful bool) (*history.Write, time.Time) {
	if c.Next != nil {
		w := s.marks[c.Next.Op]
		if w == nil || w.Begun.After(c.At) {
			return nil, time.Time{}
		}
		delete(s.marks, c.Next.Op)
		return w, w.Begun
	}
	var first *history.Write
	deletions := s.deletions
	if graceful {
		deletions = slices.Concat(deletions, s.open)
	}
	for _, w := range deletions {
		if w.Base > 0 && w.Base != c.Prev.Revision && !graceful {
			continue
		}
		late := lost
		if w.Outcome == history.Acknowledged {
			late = settled
		}
		if !w.Begun.After(c.At) && !w.At.Before(c.At.Add(-late)) && (first == nil || w.Begun.Before(first.Begun)) {
			first = w
		}
	}
	if first == nil {
		return nil, time.Time{}
	}
	return first, first.Begun
}
