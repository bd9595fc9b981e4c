// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package model

import (
	"errors"
	"fmt"
	"strings"

	"github.com/google/go-cmp/cmp"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/utils/ptr"
)

// call is one request to a subject, and what is known of when it was.
type call struct {
	on  *Subject
	req request
	ans answer
	// before is etcd's revision when it was put, after when it was answered.
	before, after uint64
	// shown is a revision that the subject's cache had reached before.
	shown uint64
	// compacted is the revision that all knew to be compacted before, and compacting the
	// highest one at which a compaction had been asked for when it was answered.
	compacted, compacting uint64
}

func (c *call) errorf(format string, args ...any) error {
	return fmt.Errorf("%s: %s, between revisions %d and %d: %w", c.on.Name, c.req, c.before, c.after, fmt.Errorf(format, args...))
}

// revisionOf returns the revision of an object, 0 if it has none.
func revisionOf(obj runtime.Object) uint64 {
	rev, err := storage.APIObjectVersioner{}.ObjectResourceVersion(obj)
	if err != nil {
		return 0
	}
	return rev
}

// wrote returns the revision of the change that the call has made, 0 if it has made none.
func (c *call) wrote() uint64 {
	if c.ans.err != nil {
		return 0
	}
	rev := revisionOf(c.ans.obj)
	switch c.req.verb {
	case create, remove:
		return rev
	case update:
		if c.ans.given == nil || rev != revisionOf(c.ans.given) {
			return rev
		}
	}
	return 0
}

// write judges a write that made a change, and adds that to the history. Writes come in the
// order of their revisions.
func (h *history) write(c *call) error {
	rev := c.wrote()
	prev := h.head()[c.req.key]
	next := change{rev: rev, key: c.req.key, prev: prev}
	var problem error
	switch {
	case rev <= h.last():
		return c.errorf("wrote at revision %d, after another at %d", rev, h.last())
	case rev <= c.before || rev > c.after:
		problem = c.errorf("wrote at revision %d", rev)
	case c.req.verb == create && revisionOf(c.req.obj) != 0:
		problem = c.errorf("created what has a revision")
	case c.req.verb == create && prev != nil:
		problem = c.errorf("created what was there: %+v", prev)
	case c.req.verb == remove && prev == nil:
		problem = c.errorf("deleted what was not there")
	case c.req.verb == update && prev == nil && !c.req.ignoreNotFound:
		problem = c.errorf("updated what was not there")
	}
	seen := prev
	if seen == nil {
		seen = h.kind.New()
	}
	if problem == nil && c.req.verb != create {
		switch {
		case c.ans.given == nil || !equal(c.ans.given, seen):
			problem = c.errorf("the caller's function was given\n%+v\nof what was\n%+v", c.ans.given, seen)
		case c.req.pre.Check("", seen) != nil:
			problem = c.errorf("wrote against its preconditions over %+v", seen)
		case c.req.refuse != nil && h.kind.node(seen) == *c.req.refuse:
			problem = c.errorf("wrote what was refused")
		}
	}
	want := at(seen, rev)
	if c.req.verb != remove {
		if c.req.obj == nil {
			problem = errors.Join(problem, c.errorf("wrote at revision %d though nothing changed", rev))
		} else {
			want = at(c.req.obj, rev)
		}
		next.cur = want
	}
	if !equal(want, c.ans.obj) {
		problem = errors.Join(problem, c.errorf("returned (-want +got):\n%s", cmp.Diff(want, c.ans.obj)))
	}
	h.add(next)
	return problem
}

// judge judges a call that has made no change. All changes up to its end are known.
func (h *history) judge(c *call) error {
	switch c.req.verb {
	case get:
		return h.judgeGet(c)
	case list:
		return h.judgeList(c)
	case stats:
		if storage.IsTooLargeResourceVersion(c.ans.err) && c.on.Cached {
			c.on.late()
			return nil
		}
		if c.ans.err != nil {
			return c.errorf("failed: %w", c.ans.err)
		}
		if !h.some(c.before, c.after, func(_ uint64, s state) bool { return int64(len(s)) == c.ans.count }) {
			return c.errorf("counted %d objects, there are %d", c.ans.count, len(h.head()))
		}
		return nil
	case ready:
		if c.ans.err != nil {
			return c.errorf("is not ready: %w", c.ans.err)
		}
		return nil
	default:
		return h.judgeUnwritten(c)
	}
}

// judgeUnwritten judges a write that failed, or changed nothing: etcd had a state that is the
// reason for it.
func (h *history) judgeUnwritten(c *call) error {
	var failed *storage.StorageError
	var reason func(obj runtime.Object) bool // of the object, nil if there is none
	zero := h.kind.New()
	switch {
	case c.req.verb == create && revisionOf(c.req.obj) != 0:
		if !errors.Is(c.ans.err, storage.ErrResourceVersionSetOnCreate) {
			return c.errorf("has a revision, and got %s", c.ans)
		}
		c.on.met("revision on create")
		return nil
	case c.ans.err == nil:
		// An update to what the object was already.
		reason = func(obj runtime.Object) bool {
			return obj != nil && equal(obj, c.ans.obj) && equal(obj, c.ans.given) && (c.req.obj == nil || equal(at(c.req.obj, 0), at(obj, 0)))
		}
	case errors.Is(c.ans.err, errRefused):
		reason = func(obj runtime.Object) bool {
			if obj == nil {
				obj = zero
			}
			return c.req.refuse != nil && h.kind.node(obj) == *c.req.refuse && equal(obj, c.ans.given)
		}
	case !errors.As(c.ans.err, &failed):
		return c.errorf("failed: %w", c.ans.err)
	case failed.Key != c.on.PathPrefix+c.req.key:
		return c.errorf("failed with the key %q: %w", failed.Key, c.ans.err)
	default:
		switch failed.Code {
		case storage.ErrCodeKeyExists:
			reason = func(obj runtime.Object) bool { return c.req.verb == create && obj != nil }
		case storage.ErrCodeKeyNotFound:
			reason = func(obj runtime.Object) bool { return c.req.verb != create && !c.req.ignoreNotFound && obj == nil }
		case storage.ErrCodeInvalidObj:
			reason = func(obj runtime.Object) bool {
				if obj == nil && c.req.verb == update && c.req.ignoreNotFound {
					obj = zero
				}
				return obj != nil && c.req.pre != nil && c.req.pre.Check("", obj) != nil
			}
		default:
			return c.errorf("failed: %w", c.ans.err)
		}
	}
	if !h.some(c.before, c.after, func(_ uint64, s state) bool { return reason(s[c.req.key]) }) {
		return c.errorf("there was never a reason for %s; the object is %+v", c.ans, h.head()[c.req.key])
	}
	return nil
}

// invalid tells whether an error says that the request is wrong.
func invalid(err error) bool {
	return apierrors.IsBadRequest(err) || storage.IsInvalidError(err)
}

// judgeFuture judges whether a call failed that asks for a revision, if that is of the future.
// It returns true if that is all there is to judge.
func (c *call) judgeFuture(rev uint64) (done bool, problem error) {
	if !storage.IsTooLargeResourceVersion(c.ans.err) {
		if rev > c.after {
			return true, c.errorf("is of a revision of the future, and got %s", c.ans)
		}
		return false, nil
	}
	switch {
	case rev > c.before:
		c.on.met("too large")
	case c.on.Cached && rev > c.shown:
		c.on.late()
	default:
		return true, c.errorf("failed though the revision had been: %w", c.ans.err)
	}
	return true, nil
}

func (h *history) judgeGet(c *call) error {
	if _, err := storage.PrepareKey(h.kind.Prefix, c.req.key, false); err != nil {
		if c.ans.err == nil {
			return c.errorf("succeeded with a key that is none")
		}
		c.on.met("bad key")
		return nil
	}
	rev, err := storage.APIObjectVersioner{}.ParseResourceVersion(c.req.opts.ResourceVersion)
	if err != nil {
		if !invalid(c.ans.err) {
			return c.errorf("got %s", c.ans)
		}
		c.on.met("bad get")
		return nil
	}
	if done, problem := c.judgeFuture(rev); done {
		return problem
	}
	lowest := c.before
	cached := c.on.Cached && c.req.opts.ResourceVersion != ""
	if cached {
		lowest = max(rev, c.shown)
	}
	var missing *storage.StorageError
	switch {
	case c.ans.err == nil:
		zero := equal(c.ans.obj, h.kind.New())
		if !h.some(lowest, c.after, func(_ uint64, s state) bool {
			obj, exists := s[c.req.key]
			return exists && equal(obj, c.ans.obj) || !exists && zero && c.req.ignoreNotFound
		}) {
			return c.errorf("got what was not between %d and %d: %s; it is %+v", lowest, c.after, c.ans, h.head()[c.req.key])
		}
	case errors.As(c.ans.err, &missing) && missing.Code == storage.ErrCodeKeyNotFound && !c.req.ignoreNotFound:
		// A revision of the error, if any, is one at which the object was not there.
		wanted := c.on.PathPrefix + c.req.key
		if cached {
			wanted = c.req.key
		}
		lo, hi := lowest, c.after
		if rev := uint64(missing.ResourceVersion); rev != 0 {
			if rev < lowest || rev > c.after {
				return c.errorf("not found at %d: %w", rev, c.ans.err)
			}
			lo, hi = rev, rev
		} else if cached && !c.on.Absent {
			return c.errorf("not found without a revision: %w", c.ans.err)
		} else {
			wanted = c.on.PathPrefix + c.req.key
		}
		if missing.Key != wanted {
			return c.errorf("not found with the key %q: %w", missing.Key, c.ans.err)
		}
		if !h.some(lo, hi, func(_ uint64, s state) bool { return s[c.req.key] == nil }) {
			return c.errorf("was there from %d to %d: %w", lo, hi, c.ans.err)
		}
		c.on.met("not found")
	default:
		return c.errorf("failed: %w", c.ans.err)
	}
	return nil
}

// showed returns a revision that the subject's cache has surely reached, by the answer: what
// it answered itself, since it never goes back.
func (c *call) showed() uint64 {
	var missing *storage.StorageError
	switch {
	case !c.on.Cached || c.req.opts.ResourceVersion == "":
	case c.req.verb == get && c.ans.err == nil:
		return revisionOf(c.ans.obj)
	case c.req.verb == get && errors.As(c.ans.err, &missing):
		return uint64(missing.ResourceVersion)
	case c.req.verb == list && c.ans.err == nil:
		promise, _, _, err := reads(c.req.where.prefix(), c.req.opts)
		if err != nil || promise != notOlder || !c.req.opts.Recursive && c.req.opts.Predicate.Limit > 0 && c.req.opts.ResourceVersionMatch == "" {
			return 0 // it may be etcd's answer
		}
		if got, err := meta.ListAccessor(c.ans.obj); err == nil {
			rev, _ := storage.APIObjectVersioner{}.ParseResourceVersion(got.GetResourceVersion())
			return rev
		}
	}
	return 0
}

// consistency is what a list promises.
type consistency int

const (
	newest consistency = iota
	exact
	notOlder
)

// reads returns what a list promises, of which revision, and the key to go on from. The error
// says that the request is not allowed.
func reads(prefix string, opts storage.ListOptions) (consistency, uint64, string, error) {
	// What is checked first is upstream's to say.
	if _, _, err := storage.ValidateListOptions(prefix, storage.APIObjectVersioner{}, opts); err != nil {
		return 0, 0, "", err
	}
	if opts.Predicate.Continue != "" {
		from, rev, err := storage.DecodeContinue(opts.Predicate.Continue, prefix)
		if err != nil || rev < 0 {
			return newest, 0, from, err
		}
		return exact, uint64(rev), from, nil
	}
	if opts.ResourceVersion == "" {
		return newest, 0, "", nil
	}
	rev, err := storage.APIObjectVersioner{}.ParseResourceVersion(opts.ResourceVersion)
	switch {
	case err != nil:
		return 0, 0, "", err
	case opts.ResourceVersionMatch == metav1.ResourceVersionMatchExact,
		opts.ResourceVersionMatch == "" && opts.Recursive && opts.Predicate.Limit > 0 && rev > 0:
		return exact, rev, "", nil
	default:
		return notOlder, rev, "", nil
	}
}

func (h *history) judgeList(c *call) error {
	opts := c.req.opts
	prefix := c.req.where.prefix()
	if _, err := storage.PrepareKey(h.kind.Prefix, prefix, opts.Recursive); err != nil {
		if c.ans.err == nil {
			return c.errorf("succeeded with a key that is none")
		}
		c.on.met("bad key")
		return nil
	}
	promise, rev, from, err := reads(prefix, opts)
	if err != nil {
		if c.ans.err == nil || apierrors.IsResourceExpired(c.ans.err) || storage.IsTooLargeResourceVersion(c.ans.err) {
			return c.errorf("is not allowed, and got %s", c.ans)
		}
		if !strings.HasPrefix(string(opts.ResourceVersionMatch), "Rough") && !invalid(c.ans.err) {
			return c.errorf("is not allowed, and failed: %w", c.ans.err)
		}
		c.on.met("bad list")
		return nil
	}
	if promise != newest {
		if done, problem := c.judgeFuture(rev); done {
			return problem
		}
	}
	if apierrors.IsResourceExpired(c.ans.err) {
		return h.judgeExpired(c, promise, rev, from)
	}
	if c.ans.err != nil {
		return c.errorf("failed: %w", c.ans.err)
	}
	if promise == exact && rev < c.compacted {
		return c.errorf("succeeded though everything up to %d is compacted", c.compacted)
	}
	return h.judgePage(c, promise, rev, from)
}

// judgeExpired judges whether a list may say that its revision is compacted.
func (h *history) judgeExpired(c *call, promise consistency, rev uint64, from string) error {
	if promise != exact || rev >= c.compacting {
		return c.errorf("failed though no more than %d is compacted: %w", c.compacting, c.ans.err)
	}
	c.on.met("expired list")
	if c.req.opts.Predicate.Continue == "" {
		return nil
	}
	// The client may go on with what there is now.
	var status apierrors.APIStatus
	if !errors.As(c.ans.err, &status) {
		return c.errorf("failed without a status: %w", c.ans.err)
	}
	next, rv, err := storage.DecodeContinue(status.Status().Continue, c.req.where.prefix())
	if err != nil || rv != -1 || next < from {
		return c.errorf("says to go on from %q at %d (%v), want %q at -1", next, rv, err, from)
	}
	if next > from {
		// Upstream's store reads several times for a list that selects. If the compaction comes
		// between, it says to go on from there, and what it had selected before is lost.
		if c.req.opts.Predicate.Empty() || c.before == c.after {
			return c.errorf("says to go on from %q, want %q", next, from)
		}
		c.on.met("inconsistent continue too far")
	}
	c.on.met("inconsistent continue")
	return nil
}

func (h *history) judgePage(c *call, promise consistency, rev uint64, from string) error {
	opts := c.req.opts
	got, err := meta.ListAccessor(c.ans.obj)
	if err != nil {
		return c.errorf("returned no list: %w", err)
	}
	items, err := meta.ExtractList(c.ans.obj)
	if err != nil {
		return c.errorf("returned no list: %w", err)
	}
	told, err := storage.APIObjectVersioner{}.ParseResourceVersion(got.GetResourceVersion())
	if err != nil {
		return c.errorf("is of resourceVersion %q: %w", got.GetResourceVersion(), err)
	}
	lo, hi := c.before, c.after
	switch {
	case promise == exact:
		lo, hi = rev, rev
	case promise == notOlder && c.on.Cached:
		lo = max(rev, c.shown)
	}
	if told < lo || told > hi {
		return c.errorf("is of revision %d, want one from %d to %d", told, lo, hi)
	}
	s, kept := h.at(told)
	if !kept {
		return nil
	}
	limit := opts.Predicate.Limit
	if c.on.Cached && opts.ResourceVersion == "0" {
		limit = 0 // caches have no page of any state
	}
	want, err := h.list(s, c.req.where, opts.Predicate, from, limit)
	if err != nil {
		return c.errorf("cannot be answered: %w", err)
	}
	if len(items) != len(want.items) {
		return c.errorf("has %d items at revision %d, want %d:\n%s", len(items), told, len(want.items), differences(want.items, items))
	}
	for i := range items {
		if !equal(items[i], want.items[i]) {
			return c.errorf("at revision %d has as item %d (-want +got):\n%s", told, i, cmp.Diff(want.items[i], items[i]))
		}
	}
	token := got.GetContinue()
	indexed := false // then others of the index have to follow, not others of the scope
	for _, field := range opts.Predicate.IndexFields {
		_, is := opts.Predicate.Field.RequiresExactMatch(field)
		indexed = indexed || is && c.on.Cached && promise != exact && from == ""
	}
	if token == "" {
		if want.more && !indexed || want.wanted {
			return c.errorf("has no token, though %d objects follow", want.left)
		}
		if got.GetRemainingItemCount() != nil {
			return c.errorf("has no token, and says that %d follow", *got.GetRemainingItemCount())
		}
		return nil
	}
	next, at, err := storage.DecodeContinue(token, c.req.where.prefix())
	if err != nil || !want.more || at != int64(told) || next != want.last+"\x00" {
		return c.errorf("goes on from %q at %d (%v), want %q at %d, and anything to follow: %v", next, at, err, want.last+"\x00", told, want.more)
	}
	c.on.met("page")
	if !opts.Predicate.Empty() {
		if got.GetRemainingItemCount() != nil {
			return c.errorf("selects, and says that %d follow", *got.GetRemainingItemCount())
		}
		return nil
	}
	if got.GetRemainingItemCount() == nil || *got.GetRemainingItemCount() != want.left {
		return c.errorf("says that %d follow, want %d", ptr.Deref(got.GetRemainingItemCount(), -1), want.left)
	}
	return nil
}

// differences says which objects are in one list only.
func differences(want, got []runtime.Object) string {
	return cmp.Diff(identities(want), identities(got))
}

func identities(list []runtime.Object) []string {
	var all []string
	for _, obj := range list {
		accessor, err := meta.Accessor(obj)
		if err != nil {
			continue
		}
		all = append(all, fmt.Sprintf("%s/%s@%s", accessor.GetNamespace(), accessor.GetName(), accessor.GetResourceVersion()))
	}
	return all
}
