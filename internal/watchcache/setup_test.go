// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package watchcache

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/kubernetes"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/apiserver/pkg/apis/example"
	examplev1 "k8s.io/apiserver/pkg/apis/example/v1"
	"k8s.io/apiserver/pkg/features"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/etcd3"
	etcdfeature "k8s.io/apiserver/pkg/storage/feature"
	"k8s.io/apiserver/pkg/storage/value"
	"k8s.io/apiserver/pkg/storage/value/encrypt/identity"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/client-go/tools/cache"
	"k8s.io/utils/clock"

	"github.com/weir-project/weir/internal/frame"
	"github.com/weir-project/weir/internal/ledger"
	"github.com/weir-project/weir/test/wait"
)

// patience bounds every wait of these tests. It decides nothing but when a test that
// has failed already says so.
const patience = time.Minute

var (
	scheme = runtime.NewScheme()
	codecs = serializer.NewCodecFactory(scheme)
	// protobufCodec stores as built-in resources do, jsonCodec as upstream's tests of
	// the store do.
	protobufCodec, jsonCodec runtime.Codec
)

func init() {
	metav1.AddToGroupVersion(scheme, metav1.SchemeGroupVersion)
	utilruntime.Must(example.AddToScheme(scheme))
	utilruntime.Must(examplev1.AddToScheme(scheme))
	pb := protobuf.NewSerializer(scheme, scheme)
	protobufCodec = codecs.CodecForVersions(pb, pb, examplev1.SchemeGroupVersion, nil)
	jsonCodec = codecs.LegacyCodec(examplev1.SchemeGroupVersion)
}

const podPrefix = "/pods/"

var podResource = schema.GroupResource{Resource: "pods"}

func newPod() runtime.Object     { return &example.Pod{} }
func newPodList() runtime.Object { return &example.PodList{} }

func podKey(p *example.Pod) string { return podPrefix + p.Namespace + "/" + p.Name }

// podAttrs are the labels and fields of a Pod, as in its registry strategy.
func podAttrs(obj runtime.Object) (labels.Set, fields.Set, error) {
	pod, ok := obj.(*example.Pod)
	if !ok {
		return nil, nil, fmt.Errorf("%T is no Pod", obj)
	}
	return pod.Labels, fields.Set{
		"metadata.name":      pod.Name,
		"metadata.namespace": pod.Namespace,
		"spec.nodeName":      pod.Spec.NodeName,
		"spec.restartPolicy": string(pod.Spec.RestartPolicy),
		"status.phase":       string(pod.Status.Phase),
	}, nil
}

// nodeNameTrigger and podIndexers are the indexes that Pods have.
var (
	nodeNameTrigger = storage.IndexerFuncs{
		"spec.nodeName": func(obj runtime.Object) string { return obj.(*example.Pod).Spec.NodeName },
	}
	podIndexers = cache.Indexers{
		storage.FieldIndex("spec.nodeName"): func(obj any) ([]string, error) {
			return []string{obj.(*example.Pod).Spec.NodeName}, nil
		},
		storage.FieldIndex("metadata.namespace"): func(obj any) ([]string, error) {
			return []string{obj.(*example.Pod).Namespace}, nil
		},
	}
)

// storeOptions say how the etcd3 store under test keeps Pods.
type storeOptions struct {
	// prefix is the part of the keys that belongs to the cluster.
	prefix      string
	codec       runtime.Codec
	transformer value.Transformer
	// bare leaves out the layer that tells corrupt objects from other errors.
	bare bool
	// still leaves out the one who looks at etcd's compactions.
	still bool
	// newFunc and newListFunc are of what is kept; Pods if they are nil.
	newFunc, newListFunc func() runtime.Object
}

// newStore returns upstream's store of Pods, put together as the storage factory does.
func newStore(t testing.TB, client *kubernetes.Client, o storeOptions) storage.Interface {
	t.Helper()
	if o.codec == nil {
		o.codec = protobufCodec
	}
	if o.transformer == nil {
		o.transformer = identity.NewEncryptCheckTransformer()
	}
	if o.newFunc == nil {
		o.newFunc, o.newListFunc = newPod, newPodList
	}
	versioner := storage.APIObjectVersioner{}
	decoder := etcd3.NewDefaultDecoder(o.codec, versioner)
	unsafeDeletion := utilfeature.DefaultFeatureGate.Enabled(features.AllowUnsafeMalformedObjectDeletion)
	if unsafeDeletion && !o.bare {
		o.transformer = etcd3.WithCorruptObjErrorHandlingTransformer(o.transformer)
		decoder = etcd3.WithCorruptObjErrorHandlingDecoder(decoder)
	}
	var compactor etcd3.Compactor
	if !o.still {
		c := etcd3.NewCompactor(client.Client, 0, clock.RealClock{}, nil)
		t.Cleanup(c.Stop)
		compactor = c
	}
	s, err := etcd3.New(client, compactor, o.codec, o.newFunc, o.newListFunc, o.prefix, podPrefix, podResource,
		o.transformer, etcd3.NewDefaultLeaseManagerConfig(), decoder, versioner)
	if err != nil {
		t.Fatalf("creating the etcd3 store: %v", err)
	}
	t.Cleanup(s.Close)
	if unsafeDeletion {
		return etcd3.NewStoreWithUnsafeCorruptObjectDeletion(s, podResource)
	}
	return s
}

// podConfig is the configuration of a cache of Pods over a store.
func podConfig(store storage.Interface, codec runtime.Codec) Config {
	if codec == nil {
		codec = protobufCodec
	}
	return Config{
		Storage:        store,
		Versioner:      storage.APIObjectVersioner{},
		GroupResource:  podResource,
		History:        MinHistory,
		ResourcePrefix: podPrefix,
		KeyFunc:        func(obj runtime.Object) (string, error) { return storage.NamespaceKeyFunc(podPrefix, obj) },
		GetAttrs:       podAttrs,
		Trigger:        nodeNameTrigger,
		Indexers:       &podIndexers,
		NewFunc:        newPod,
		NewListFunc:    newPodList,
		Codec:          codec,
		Store:          frame.NewStore(frame.DefaultBudget, ledger.Process),
	}
}

// startCache returns a cache that has read its resource.
func startCache(t testing.TB, cfg Config) *Cache {
	t.Helper()
	c, err := New(cfg)
	if err != nil {
		t.Fatalf("starting the cache: %v", err)
	}
	t.Cleanup(c.Stop)
	eventually(t, "the cache to be ready", func() bool { return c.Ready() })
	// The checker of etcd's features belongs to the process and learns in the
	// background; upstream's cacher answers differently until it has.
	eventually(t, "etcd's features to be known", func() bool {
		return etcdfeature.DefaultFeatureSupportChecker.Supports(storage.RequestWatchProgress)
	})
	return c
}

// eventually waits until done returns true.
func eventually(t testing.TB, what string, done func() bool) {
	t.Helper()
	wait.Until(t, what, patience, done)
}

// waitRevision waits until the cache knows the state at rev.
func waitRevision(t testing.TB, c *Cache, rev uint64) {
	t.Helper()
	eventually(t, fmt.Sprintf("the cache to reach revision %d", rev), func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		_, at, _, err := c.waitFresh(ctx, rev)
		return err == nil && at >= rev
	})
}

// revision reads a resourceVersion.
func revision(t testing.TB, resourceVersion string) uint64 {
	t.Helper()
	rev, err := storage.APIObjectVersioner{}.ParseResourceVersion(resourceVersion)
	if err != nil {
		t.Fatal(err)
	}
	return rev
}

// compactEtcd compacts etcd up to rev by the compactor's own protocol, and waits
// until the store has heard of it.
func compactEtcd(ctx context.Context, t testing.TB, client *clientv3.Client, store storage.Interface, rev int64) {
	t.Helper()
	// A call with the wrong number of compactions so far does nothing but tell the right one.
	version, at := int64(0), int64(0)
	for range 2 {
		var err error
		if version, _, at, err = etcd3.Compact(ctx, client, version, rev); err != nil {
			t.Fatalf("compacting etcd to revision %d: %v", rev, err)
		}
		if at == rev {
			break
		}
	}
	if at != rev {
		t.Fatalf("compacting etcd to revision %d: it is compacted to %d", rev, at)
	}
	if utilfeature.DefaultFeatureGate.Enabled(features.ListFromCacheSnapshot) {
		eventually(t, "the compaction to be observed", func() bool { return store.CompactRevision() == rev })
	}
}

// switched is a transformer that can be exchanged while a store uses it.
type switched struct {
	now atomic.Pointer[value.Transformer]
}

func newSwitched(t value.Transformer) *switched {
	s := &switched{}
	s.now.Store(&t)
	return s
}

// set puts next in place and returns what puts the one before back.
func (s *switched) set(next value.Transformer) (revert func()) {
	before := s.now.Swap(&next)
	return func() { s.now.Store(before) }
}

func (s *switched) get() value.Transformer { return *s.now.Load() }

// TransformFromStorage implements value.Transformer.
func (s *switched) TransformFromStorage(ctx context.Context, data []byte, dataCtx value.Context) ([]byte, bool, error) {
	return s.get().TransformFromStorage(ctx, data, dataCtx)
}

// TransformToStorage implements value.Transformer.
func (s *switched) TransformToStorage(ctx context.Context, data []byte, dataCtx value.Context) ([]byte, error) {
	return s.get().TransformToStorage(ctx, data, dataCtx)
}
