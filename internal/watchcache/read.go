// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package watchcache

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"reflect"
	"slices"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/conversion"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/audit"
	"k8s.io/apiserver/pkg/features"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/cacher/delegator"
	"k8s.io/apiserver/pkg/storage/cacher/metrics"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/component-base/tracing"

	"github.com/weir-project/weir/internal/convoy"
	"github.com/weir-project/weir/internal/frame"
	"github.com/weir-project/weir/internal/liststream"
)

// Get implements storage.Interface.
func (c *Cache) Get(ctx context.Context, key string, opts storage.GetOptions, objPtr runtime.Object) error {
	// Without a revision the newest state is wanted, which only etcd can vouch for; and
	// a single object is no load on etcd while the cache is not ready.
	if opts.ResourceVersion == "" || !c.Ready() {
		return c.cfg.Storage.Get(ctx, key, opts, objPtr)
	}
	rev, err := c.cfg.Versioner.ParseResourceVersion(opts.ResourceVersion)
	if err != nil {
		return err
	}
	ctx, span := tracing.Start(ctx, "cacher.Get",
		attribute.String("audit-id", audit.GetAuditIDTruncated(ctx)),
		attribute.String("key", key),
		attribute.String("resource-version", opts.ResourceVersion))
	prepared, err := storage.PrepareKey(c.cfg.ResourcePrefix, key, false)
	if err != nil {
		return err
	}
	out, err := conversion.EnforcePtr(objPtr)
	if err != nil {
		return err
	}
	stalled := (*stalledError)(nil)
	if err := c.arrive(ctx); errors.As(err, &stalled) {
		return c.cfg.Storage.Get(ctx, key, opts, objPtr)
	} else if err != nil {
		return err
	}
	_, at, v, err := c.reach(ctx, rev)
	if errors.As(err, &stalled) {
		return c.cfg.Storage.Get(ctx, key, opts, objPtr)
	}
	if err != nil {
		return err
	}
	// As with upstream, what only waited is not worth a line in the log.
	defer span.End(500 * time.Millisecond)
	key = prepared
	f, ok := v.objects.Get(key)
	span.AddEvent("GetByKey success")
	if !ok {
		out.Set(reflect.Zero(out.Type()))
		if opts.IgnoreNotFound {
			return nil
		}
		return storage.NewKeyNotFoundError(key, int64(at))
	}
	obj, err := f.DecodeIn(c.version)
	if err != nil {
		return storage.NewInternalError(err)
	}
	out.Set(reflect.ValueOf(obj).Elem())
	return nil
}

// GetList implements storage.Interface. What the cache may not answer goes to etcd by
// upstream's rules; see CacheDelegator in k8s.io/apiserver/pkg/storage/cacher.
func (c *Cache) GetList(ctx context.Context, key string, opts storage.ListOptions, listObj runtime.Object) error {
	key = c.continued(key, opts)
	if _, _, err := storage.ValidateListOptions(c.cfg.ResourcePrefix, c.cfg.Versioner, opts); err != nil {
		return err
	}
	rule, err := delegator.ShouldDelegateList(opts, rules{c.follower})
	if err != nil {
		return err
	}
	if rule.ShouldDelegate {
		return c.cfg.Storage.GetList(ctx, key, opts, listObj)
	}
	if _, err := c.cfg.Versioner.ParseResourceVersion(opts.ResourceVersion); err != nil {
		return err
	}
	if opts.Predicate.Limit > 0 && selectsAll(opts.Predicate) && !c.Ready() || !opts.Recursive && c.unreadable() {
		// A bounded load on etcd. Upstream has single objects wait, too, until the cache is
		// ready: at a start it soon is, but not if some other object cannot be read.
		return c.cfg.Storage.GetList(ctx, key, opts, listObj)
	}

	if err = c.arrive(ctx); err == nil {
		err = c.list(ctx, key, opts, listObj)
	}
	if apierrors.IsResourceExpired(err) && utilfeature.DefaultFeatureGate.Enabled(features.ListFromCacheSnapshot) {
		return c.cfg.Storage.GetList(ctx, key, opts, listObj)
	}
	stalled := (*stalledError)(nil)
	past := errors.As(err, &stalled)
	if past {
		err = c.listPast(ctx, stalled, key, opts, listObj)
	}
	if !rule.ConsistentRead {
		return err
	}
	fallback := "false"
	switch {
	case past:
		fallback = "true"
	case storage.IsTooLargeResourceVersion(err):
		if c.cfg.Bounded || utilfeature.DefaultFeatureGate.Enabled(features.ConsistentListFromCacheSkipTimeoutFallback) {
			fallback = "skipped"
			err = apierrors.NewTooManyRequests(err.Error(), tooHighRetrySeconds)
		} else {
			fallback = "true"
			err = c.cfg.Storage.GetList(ctx, key, opts, listObj)
		}
	}
	if liststream.Again(ctx) {
		return err // it has been counted
	}
	metrics.ConsistentReadTotal.WithLabelValues(c.cfg.GroupResource.Group, c.cfg.GroupResource.Resource, fmt.Sprint(err == nil), fallback).Add(1)
	return err
}

// continued returns the key under which a list in pages goes on. A list in all namespaces whose field selector names one is
// read under that namespace: upstream's registry.Store sees to that for the first page, of which the token tells the name of
// its last object alone. For later pages it does not, and that name is then taken for a namespace's, so that objects come
// twice or, with a namespace that sorts before it, are left out. A token with a namespace in it is one that upstream has
// made for such a page, and is good for the whole resource.
func (c *Cache) continued(key string, opts storage.ListOptions) string {
	root := strings.TrimSuffix(c.cfg.ResourcePrefix, "/")
	if opts.Predicate.Continue == "" || !opts.Recursive || opts.Predicate.Field == nil || strings.TrimSuffix(key, "/") != root {
		return key
	}
	namespace, ok := opts.Predicate.Field.RequiresExactMatch("metadata.namespace")
	if !ok || len(validation.ValidateNamespaceName(namespace, false)) > 0 {
		return key
	}
	from, _, err := storage.DecodeContinue(opts.Predicate.Continue, root+"/")
	if err != nil || strings.Contains(strings.TrimPrefix(from, root+"/"), "/") {
		return key
	}
	return root + "/" + namespace
}

func selectsAll(p storage.SelectionPredicate) bool {
	return (p.Label == nil || p.Label.Empty()) && (p.Field == nil || p.Field.Empty())
}

// rules tells delegator.ShouldDelegateList what the cache can answer.
type rules struct{ c *follower }

var _ delegator.Helper = rules{}

func (r rules) exact(rev uint64) (delegator.Result, error) {
	gen, at, _, err := r.c.current()
	if err != nil {
		// As upstream's cache, which then knows no revision and is behind every one.
		return delegator.Result{ShouldDelegate: !delegator.ConsistentReadSupported()}, nil
	}
	if rev > at {
		// A revision of the future needs progress notifications to become known.
		return delegator.Result{ShouldDelegate: !delegator.ConsistentReadSupported()}, nil
	}
	_, ok := r.c.viewAt(gen, rev)
	return delegator.Result{ShouldDelegate: !ok}, nil
}

func (r rules) keepsViews() bool {
	r.c.mu.RLock()
	defer r.c.mu.RUnlock()
	return r.c.keepViewsLocked()
}

// ShouldDelegateExactRV implements delegator.Helper.
func (r rules) ShouldDelegateExactRV(resourceVersion string, recursive bool) (delegator.Result, error) {
	if !recursive || !r.keepsViews() {
		return delegator.Result{ShouldDelegate: true}, nil
	}
	rev, err := r.c.cfg.Versioner.ParseResourceVersion(resourceVersion)
	if err != nil {
		return delegator.Result{}, err
	}
	return r.exact(rev)
}

// ShouldDelegateContinue implements delegator.Helper.
func (r rules) ShouldDelegateContinue(token string, recursive bool) (delegator.Result, error) {
	if !recursive || !r.keepsViews() {
		return delegator.Result{ShouldDelegate: true}, nil
	}
	_, rev, err := storage.DecodeContinue(token, r.c.cfg.ResourcePrefix)
	if err != nil {
		return delegator.Result{}, err
	}
	if rev > 0 {
		return r.exact(uint64(rev))
	}
	return r.ShouldDelegateConsistentRead() // a continuation that settled for the present
}

// ShouldDelegateConsistentRead implements delegator.Helper.
func (r rules) ShouldDelegateConsistentRead() (delegator.Result, error) {
	return delegator.Result{ConsistentRead: true, ShouldDelegate: !delegator.ConsistentReadSupported()}, nil
}

func (c *follower) viewAt(gen *generation, rev uint64) (view, bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return gen.at(rev)
}

// selection is what a list reads: a view, and where in it.
type selection struct {
	view view
	// rev is the resourceVersion of the answer.
	rev uint64
	// from is the key to go on from, "" for the first.
	from string
	// index is the position of the index to use in view.byIndex, or -1, and value the
	// value to look up there.
	index int
	value string
}

// whole tells whether the selection under prefix is all of the view.
func (s *selection) whole(prefix, resource string) bool {
	return s.from == "" && s.index < 0 && prefix == resource+"/"
}

// ascend calls yield for the selected objects under prefix, in the order of their keys.
func (s *selection) ascend(prefix string, recursive bool, yield func(*frame.Frame) bool) {
	switch {
	case !recursive:
		if f, ok := s.view.objects.Get(prefix); ok {
			yield(f)
		}
	case s.index >= 0:
		s.view.byIndex[s.index].Ascend(indexKey(s.value, prefix), "", func(_ string, f *frame.Frame) bool { return yield(f) })
	default:
		s.view.objects.Ascend(prefix, s.from, func(_ string, f *frame.Frame) bool { return yield(f) })
	}
}

// picked is what a list is of.
type picked struct {
	// frames are its objects, count how many.
	frames iter.Seq[*frame.Frame]
	count  int
	// defaulted are those of them that are DefaultedOnRead, and messages is the size that the
	// others have as items of a list in protobuf.
	defaulted iter.Seq[*frame.Frame]
	messages  int
	// seen is how many were looked at, last the key of the last that is in the list, and more
	// says that others come after it.
	seen int
	last string
	more bool
}

// all returns a list of all objects of the view. Nothing is looked at for that.
func (v *view) all() picked {
	return picked{
		frames: v.objects.All(), count: v.objects.Len(),
		defaulted: v.defaulted.All(), messages: v.messages,
		seen: v.objects.Len(),
	}
}

// pick returns a list of the selected objects under prefix that m wants, up to limit of them
// if that is not 0.
func (s *selection) pick(m *matcher, prefix string, recursive bool, limit int) (picked, error) {
	var p picked
	var failed error
	var frames, defaulted []*frame.Frame
	s.ascend(prefix, recursive, func(f *frame.Frame) bool {
		if limit > 0 && len(frames) == limit {
			p.more = true
			return false
		}
		p.seen++
		ok, err := m.matches(f)
		if err != nil {
			failed = fmt.Errorf("shard matching failed: %w", err)
			return false
		}
		if !ok {
			return true
		}
		frames = append(frames, f)
		if f.DefaultedOnRead() {
			defaulted = append(defaulted, f)
		} else {
			p.messages += f.MessageSize()
		}
		return true
	})
	if n := len(frames); n > 0 {
		p.last = frames[n-1].Key()
	}
	p.frames, p.count, p.defaulted = slices.Values(frames), len(frames), slices.Values(defaulted)
	return p, failed
}

// list answers from the cache.
func (c *Cache) list(ctx context.Context, key string, opts storage.ListOptions, listObj runtime.Object) error {
	prefix, err := storage.PrepareKey(c.cfg.ResourcePrefix, key, opts.Recursive)
	if err != nil {
		return err
	}
	ctx, span := tracing.Start(ctx, "cacher.GetList",
		attribute.String("audit-id", audit.GetAuditIDTruncated(ctx)),
		attribute.Stringer("type", c.cfg.GroupResource))
	defer span.End(500 * time.Millisecond)

	items, err := itemsOf(listObj)
	if err != nil {
		return err
	}
	sel, err := c.selectView(ctx, prefix, opts)
	if err != nil {
		return err
	}
	c.traceListed(ctx, &sel, prefix, opts)

	limit := int64(0)
	if opts.ResourceVersion != "0" {
		limit = max(0, opts.Predicate.Limit)
	}
	m := newMatcher(prefix, opts.Predicate, func() {})
	m.done = ctx.Done()
	if !opts.Recursive {
		m.prefix = strings.TrimSuffix(prefix, "/")
	}
	var p picked
	if limit == 0 && m.wantsAll() && sel.whole(prefix, c.cfg.ResourcePrefix) {
		p = sel.view.all()
	} else if p, err = sel.pick(&m, prefix, opts.Recursive, int(limit)); err != nil {
		return err
	}
	if !liststream.Again(ctx) {
		used := ""
		if sel.index >= 0 {
			used = c.indexes[sel.index]
		}
		metrics.RecordListCacheMetrics(c.cfg.GroupResource, used, p.seen, p.count)
	}
	leave := c.readers.enter(sel.view.bytes)
	plan := liststream.Plan{Frames: c.served(p.frames), Count: p.count, Messages: p.messages, Done: leave}
	if !p.more && m.wantsAll() && sel.from == "" && sel.index < 0 {
		plan.Join = func(form string) *convoy.Walk { return c.join(prefix, form, ctx.Done()) }
	}
	for range p.defaulted {
		plan.DefaultedOnRead++
	}
	// If the objects go to the connection as they are, the list gets those only that the
	// resource's REST storage has to see.
	returned, count := p.frames, p.count
	if liststream.From(ctx).Take(c.cfg.GroupResource, plan) {
		returned, count = p.defaulted, plan.DefaultedOnRead
	} else {
		defer leave()
	}
	items.Set(reflect.MakeSlice(items.Type(), 0, count))
	for f := range returned {
		obj, err := f.DecodeIn(c.version)
		if err != nil {
			return storage.NewInternalError(err)
		}
		items.Set(reflect.Append(items, reflect.ValueOf(obj).Elem()))
	}
	if p.more {
		// The rest has not been looked at; remainingItemCount is about all that there is.
		p.seen += sel.view.objects.Count(prefix, p.last+"\x00")
	}
	span.AddEvent("Filtered items", attribute.Int("count", p.count))
	token, remaining, err := storage.PrepareContinueToken(p.last, key, int64(sel.rev), int64(p.seen), p.more, opts)
	if err != nil {
		return err
	}
	if err := c.cfg.Versioner.UpdateList(listObj, sel.rev, token, remaining); err != nil {
		return err
	}
	if utilfeature.DefaultFeatureGate.Enabled(features.ShardedListAndWatch) {
		opts.Predicate.SetShardInfoOnList(listObj)
	}
	return nil
}

// served returns frames in the version that is served.
func (c *Cache) served(frames iter.Seq[*frame.Frame]) iter.Seq[*frame.Frame] {
	if c.version == nil {
		return frames
	}
	return func(yield func(*frame.Frame) bool) {
		for f := range frames {
			if !yield(c.as(f)) {
				return
			}
		}
	}
}

// itemsOf returns the slice of items of a list.
func itemsOf(listObj runtime.Object) (reflect.Value, error) {
	ptr, err := meta.GetItemsPtr(listObj)
	if err != nil {
		return reflect.Value{}, err
	}
	items, err := conversion.EnforcePtr(ptr)
	if err != nil {
		return reflect.Value{}, err
	}
	if items.Kind() != reflect.Slice {
		return reflect.Value{}, fmt.Errorf("need a pointer to slice, got %v", items.Kind())
	}
	return items, nil
}

// selectView waits until the cache can answer opts, and says with what. The cases are
// those of delegator.ShouldDelegateList.
func (c *Cache) selectView(ctx context.Context, prefix string, opts storage.ListOptions) (selection, error) {
	span := tracing.SpanFromContext(ctx)
	if _, _, _, err := c.current(); err != nil {
		return selection{}, err
	}
	span.AddEvent("Ready")
	rev, err := c.cfg.Versioner.ParseResourceVersion(opts.ResourceVersion)
	if err != nil {
		return selection{}, err
	}
	from, indexed := "", true
	exact := opts.ResourceVersionMatch == metav1.ResourceVersionMatchExact
	if opts.ResourceVersionMatch == "" && opts.Recursive {
		switch {
		case opts.Predicate.Continue != "":
			var at int64
			if from, at, err = storage.DecodeContinue(opts.Predicate.Continue, prefix); err != nil {
				return selection{}, apierrors.NewBadRequest(fmt.Sprintf("invalid continue token: %v", err))
			}
			indexed = false
			if at > 0 {
				rev, exact = uint64(at), true
			}
		case opts.Predicate.Limit > 0 && rev > 0:
			exact = true
		}
	}
	if opts.ResourceVersionMatch == "" && opts.ResourceVersion == "" && !exact {
		if rev, err = c.storageRevision(ctx); err != nil {
			return selection{}, err
		}
		if opts.Recursive {
			span.AddEvent("getCurrentRV success")
		}
	}
	gen, at, v, err := c.reach(ctx, rev)
	if err != nil {
		return selection{}, err
	}
	sel := selection{view: v, rev: at, from: from, index: -1}
	if exact {
		past, ok := c.viewAt(gen, rev)
		if !ok {
			err := apierrors.NewResourceExpired(fmt.Sprintf("too old resource version: %d", rev))
			span.AddEvent("GetExactSnapshotLocked failed", attribute.String("error", err.Error()))
			return selection{}, err
		}
		span.AddEvent("GetExactSnapshotLocked success")
		sel.view, sel.rev = past, rev
		return sel, nil
	}
	if indexed && opts.Recursive {
		sel.index, sel.value = c.indexFor(ctx, opts.Predicate)
	}
	switch {
	case !opts.Recursive:
		span.AddEvent("GetByKey success")
	case sel.index >= 0:
		span.AddEvent("GetByIndexSnapshot success", attribute.String("index", c.indexes[sel.index]))
	default:
		span.AddEvent("GetLatestSnapshotOrBuildLocked success")
	}
	return sel, nil
}

// indexFor returns the position in view.byIndex of an index that has all that pred can
// select, and the value to look up there; -1 if there is none.
func (c *Cache) indexFor(ctx context.Context, pred storage.SelectionPredicate) (position int, value string) {
	for _, match := range pred.MatcherIndex(ctx) {
		for i, name := range c.indexes {
			if name == match.IndexName {
				return i, match.Value
			}
		}
	}
	return -1, ""
}

// keys returns the key of every object, for the estimate of their size.
func (c *follower) keys(ctx context.Context) ([]string, error) {
	ctx, span := tracing.Start(ctx, "cacher.getKeys",
		attribute.String("audit-id", audit.GetAuditIDTruncated(ctx)))
	defer span.End(500 * time.Millisecond)
	rev, err := c.storageRevision(ctx)
	if err != nil {
		return nil, err
	}
	span.AddEvent("GetCurrentResourceVersion succeed", attribute.Int64("resource-version", int64(rev)))
	_, _, v, err := c.waitFresh(ctx, rev)
	if err != nil {
		return nil, err
	}
	keys := make([]string, 0, v.objects.Len())
	v.objects.Ascend("", "", func(key string, _ *frame.Frame) bool {
		keys = append(keys, key)
		return true
	})
	span.AddEvent("ListKeys success")
	return keys, nil
}

// identities is the cache as the consistency checker sees it: its objects have a
// namespace, a name and a revision, and nothing else. The checker looks at no more, and
// decoding the whole resource every few minutes would cost what the cache saves.
type identities struct{ *follower }

// GetList fills listObj with all objects of the cache, whatever opts say: the checker
// asks for nothing else.
func (d identities) GetList(ctx context.Context, key string, _ storage.ListOptions, listObj runtime.Object) error {
	_, at, v, err := d.current()
	if err != nil {
		return err
	}
	items, err := itemsOf(listObj)
	if err != nil {
		return err
	}
	items.Set(reflect.MakeSlice(items.Type(), 0, v.objects.Len()))
	v.objects.Ascend("", "", func(_ string, f *frame.Frame) bool {
		obj := d.cfg.NewFunc()
		accessor, e := meta.Accessor(obj)
		if e != nil {
			err = e
			return false
		}
		accessor.SetNamespace(f.Fields().Get("metadata.namespace"))
		accessor.SetName(f.Fields().Get("metadata.name"))
		accessor.SetResourceVersion(fmt.Sprint(f.Revision()))
		items.Set(reflect.Append(items, reflect.ValueOf(obj).Elem()))
		return true
	})
	if err != nil {
		return err
	}
	return d.cfg.Versioner.UpdateList(listObj, at, "", nil)
}
