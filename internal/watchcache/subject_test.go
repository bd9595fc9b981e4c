// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package watchcache

import (
	"context"
	"errors"
	"fmt"
	"path"
	"sync/atomic"
	"testing"

	"go.etcd.io/etcd/client/v3/kubernetes"

	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/apis/example"
	"k8s.io/apiserver/pkg/storage"
	storagetesting "k8s.io/apiserver/pkg/storage/testing"
	"k8s.io/apiserver/pkg/storage/value"

	"github.com/weir-project/weir/internal/frame"
	"github.com/weir-project/weir/test/etcd"
)

// subject is a cache of Pods over an etcd of its own, for one of upstream's tests.
type subject struct {
	*Cache
	client *kubernetes.Client
	opts   storeOptions
}

type option func(*storeOptions, *Config)

// newSubject starts a cache as upstream's tests of the cacher start theirs.
func newSubject(t *testing.T, options ...option) *subject {
	t.Helper()
	o := storeOptions{prefix: "/registry"}
	for _, set := range options {
		set(&o, &Config{})
	}
	client := etcd.Run(t)
	store := newStore(t, client, o)
	cfg := podConfig(store, o.codec)
	cfg.Trigger, cfg.Indexers = nil, nil
	for _, set := range options {
		set(&storeOptions{}, &cfg)
	}
	return &subject{Cache: startCache(t, cfg), client: client, opts: o}
}

func withIndexes(_ *storeOptions, c *Config) {
	c.Trigger, c.Indexers = nodeNameTrigger, &podIndexers
}

func withClusterScope(_ *storeOptions, c *Config) {
	c.KeyFunc = func(obj runtime.Object) (string, error) { return storage.NoNamespaceKeyFunc(podPrefix, obj) }
}

func withTransformer(v value.Transformer) option {
	return func(o *storeOptions, _ *Config) { o.transformer = v }
}

func withCodec(codec runtime.Codec) option {
	return func(o *storeOptions, c *Config) { o.codec, c.Codec = codec, codec }
}

// withoutPrefix keeps Pods as those tests expect that compare keys with etcd's.
func withoutPrefix(o *storeOptions, _ *Config) { o.prefix, o.bare = "", true }

// storedAs checks that what is in etcd under a key is a Pod without what only the
// server may add. Upstream does so below its cacher only.
func (s *subject) storedAs(prefix string) storagetesting.KeyValidation {
	return func(ctx context.Context, t *testing.T, key string) {
		t.Helper()
		got, err := s.client.KV.Get(ctx, path.Join(s.opts.prefix, key))
		if err != nil || len(got.Kvs) != 1 {
			t.Fatalf("reading %s from etcd: %d values, %v", key, len(got.Kvs), err)
		}
		obj, err := runtime.Decode(s.cfg.Codec, got.Kvs[0].Value[len(prefix):])
		if err != nil {
			t.Fatalf("decoding what is stored under %s: %v", key, err)
		}
		if pod := obj.(*example.Pod); pod.ResourceVersion != "" || pod.SelfLink != "" {
			t.Errorf("%s is stored with resourceVersion %q and selfLink %q, want neither", key, pod.ResourceVersion, pod.SelfLink)
		}
	}
}

// compact compacts etcd and lets the cache observe it.
func (s *subject) compact(ctx context.Context, t *testing.T, resourceVersion string) {
	t.Helper()
	rev := revision(t, resourceVersion)
	compactEtcd(ctx, t, s.client.Client, s.cfg.Storage, int64(rev))
	s.observeCompaction()
}

// compactHistory makes the cache forget the events up to a revision, which no
// compaction of etcd does, and compacts etcd too.
func (s *subject) compactHistory(ctx context.Context, t *testing.T, resourceVersion string) {
	t.Helper()
	rev := revision(t, resourceVersion)
	waitRevision(t, s.Cache, rev)
	s.forgetHistory(t)
	if _, err := s.client.Compact(ctx, int64(rev)); err != nil {
		t.Fatalf("compacting etcd to revision %d: %v", rev, err)
	}
}

// forgetHistory makes the cache forget all events, as the bounds on it do.
func (s *subject) forgetHistory(t *testing.T) {
	t.Helper()
	gen, _, v, err := s.current()
	if err != nil {
		t.Fatal(err)
	}
	// A change that is none to anybody, and larger than the log may be, leaves nothing in it.
	const size = 1 << 40
	ch := &change{rev: gen.log.Stats().Head}
	v.objects.Ascend("", "", func(_ string, f *frame.Frame) bool {
		ch.last.Store(f)
		return false
	})
	s.history.add(size)
	if err := gen.log.Append(ch.rev, size, ch); err != nil {
		t.Fatal(err)
	}
	if stats := gen.log.Stats(); stats.Events > 0 || stats.Floor != ch.rev {
		t.Fatalf("the log holds %+v", stats)
	}
}

// increase moves etcd's revision on without a change of the resource.
func (s *subject) increase(ctx context.Context, t *testing.T) int64 {
	t.Helper()
	got, err := s.client.KV.Put(ctx, "increaseRV", "ok")
	if err != nil {
		t.Fatalf("moving etcd's revision on: %v", err)
	}
	return got.Header.Revision
}

func (s *subject) recorder() *storagetesting.KubernetesRecorder {
	return s.client.Kubernetes.(*storagetesting.KubernetesRecorder)
}

// uncounted is for reads of etcd: the cache answers, so there are none to count.
func uncounted(*testing.T, uint64, uint64) {}

// caughtUp is a cache whose Create returns when the cache has the object, which
// tests that expect certain initial events need.
type caughtUp struct{ *Cache }

func (c caughtUp) Create(ctx context.Context, key string, obj, out runtime.Object, ttl uint64) error {
	if err := c.Cache.Create(ctx, key, obj, out, ttl); err != nil {
		return err
	}
	rev, err := c.cfg.Versioner.ObjectResourceVersion(out)
	if err != nil {
		return err
	}
	if _, _, _, err := c.waitFresh(ctx, rev); err != nil {
		return err
	}
	got := newPod()
	if err := c.Get(ctx, key, storage.GetOptions{ResourceVersion: "0"}, got); err != nil {
		return err
	}
	if !apiequality.Semantic.DeepEqual(got, out) {
		return fmt.Errorf("created %v, the cache has %v", out, got)
	}
	return nil
}

// prefixed is a cache over a store whose values have a prefix that tests change.
type prefixed struct {
	*subject
	transformer *switched
}

const valuePrefix = "test!"

func newPrefixed(t *testing.T, options ...option) prefixed {
	t.Helper()
	s := newSwitched(storagetesting.NewPrefixTransformer([]byte(valuePrefix), false))
	return prefixed{newSubject(t, append(options, withCodec(jsonCodec), withTransformer(s))...), s}
}

// UpdatePrefixTransformer implements storagetesting.InterfaceWithPrefixTransformer.
func (p prefixed) UpdatePrefixTransformer(modify storagetesting.PrefixTransformerModifier) func() {
	// Not a copy of the one in use: that counts its reads.
	return p.transformer.set(modify(storagetesting.NewPrefixTransformer([]byte(valuePrefix), false)))
}

// overridden is a cache over a store whose transformer tests replace.
type overridden struct {
	*subject
	transformer *switched
}

// UpdateTransformer implements storagetesting.InterfaceWithTransformerOverride.
func (o overridden) UpdateTransformer(modify storagetesting.TransformerModifier) func() {
	return o.transformer.set(modify(o.transformer.get()))
}

// aggregated is a cache whose lists report all that is corrupt.
type aggregated struct {
	overridden
	lists storage.Interface
}

func (a aggregated) GetList(ctx context.Context, key string, opts storage.ListOptions, listObj runtime.Object) error {
	return a.lists.GetList(ctx, key, opts, listObj)
}

// paged is a cache for RunTestListInconsistentContinuation, which does two things that
// no client can do with a cache, be it upstream's: it has lists with resourceVersion 0
// paged, and it moves an object to another namespace under its old key.
type paged struct{ *subject }

func (p paged) GetList(ctx context.Context, key string, opts storage.ListOptions, listObj runtime.Object) error {
	if opts.ResourceVersion == "0" {
		opts.ResourceVersion = ""
	}
	return p.subject.GetList(ctx, key, opts, listObj)
}

func (p paged) GuaranteedUpdate(ctx context.Context, key string, destination runtime.Object, ignoreNotFound bool, preconditions *storage.Preconditions, tryUpdate storage.UpdateFunc, cached runtime.Object) error {
	return p.subject.GuaranteedUpdate(ctx, key, destination, ignoreNotFound, preconditions, func(obj runtime.Object, meta storage.ResponseMeta) (runtime.Object, *uint64, error) {
		out, ttl, err := tryUpdate(obj, meta)
		if err == nil {
			out.(*example.Pod).Namespace = obj.(*example.Pod).Namespace
		}
		return out, ttl, err
	}, cached)
}

// decodedEvents is a cache whose watches hand out decoded objects: some tests ask the
// object of an event for its metadata, which is for those who encode events to do
// after GetObject.
type decodedEvents struct{ *subject }

func (d decodedEvents) Watch(ctx context.Context, key string, opts storage.ListOptions) (watch.Interface, error) {
	w, err := d.subject.Watch(ctx, key, opts)
	if err != nil {
		return nil, err
	}
	return watch.Filter(w, func(event watch.Event) (watch.Event, bool) {
		if shared, ok := event.Object.(runtime.CacheableObject); ok {
			event.Object = shared.GetObject()
		}
		return event, true
	}), nil
}

// errUnreadable is what failing transformers and codecs say.
var errUnreadable = errors.New("made unreadable by the test")

// failingTransformer fails to read while fail is set.
type failingTransformer struct {
	value.Transformer
	fail atomic.Bool
}

func (f *failingTransformer) TransformFromStorage(ctx context.Context, data []byte, dataCtx value.Context) ([]byte, bool, error) {
	if f.fail.Load() {
		return nil, false, errUnreadable
	}
	return f.Transformer.TransformFromStorage(ctx, data, dataCtx)
}

// failingCodec fails to decode while fail is set.
type failingCodec struct {
	runtime.Codec
	fail atomic.Bool
}

func (f *failingCodec) Decode(data []byte, defaults *schema.GroupVersionKind, into runtime.Object) (runtime.Object, *schema.GroupVersionKind, error) {
	if f.fail.Load() {
		return nil, nil, errUnreadable
	}
	return f.Codec.Decode(data, defaults, into)
}
