// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package frameinformer

import (
	"context"
	"testing"
	"time"

	"go.etcd.io/etcd/client/v3/kubernetes"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/etcd3"
	"k8s.io/apiserver/pkg/storage/value/encrypt/identity"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/cache"
	"k8s.io/utils/clock"

	"github.com/weir-project/weir/internal/frame"
	"github.com/weir-project/weir/internal/ledger"
	"github.com/weir-project/weir/internal/watchcache"
	"github.com/weir-project/weir/test/etcd"
	"github.com/weir-project/weir/test/wait"
)

// timeLimit bounds every wait. It decides nothing but when a test that has failed already says so.
const timeLimit = time.Minute

func eventually(t testing.TB, what string, done func() bool) {
	t.Helper()
	wait.Until(t, what, timeLimit, done)
}

var (
	v1 = corev1.SchemeGroupVersion
	// protobufs stores and sends as the API server does by default.
	protobufs = func() runtime.Codec {
		s := protobuf.NewSerializer(scheme.Scheme, scheme.Scheme)
		return scheme.Codecs.CodecForVersions(s, s, v1, v1)
	}()
	// jsons is how objects are stored with --storage-media-type=application/json.
	jsons = func() runtime.Codec {
		info, _ := runtime.SerializerInfoForMediaType(scheme.Codecs.SupportedMediaTypes(), runtime.ContentTypeJSON)
		return scheme.Codecs.CodecForVersions(info.Serializer, info.Serializer, v1, v1)
	}()
)

// kind is a resource to test with.
type kind struct {
	resource string
	Type
	list func() runtime.Object
}

var (
	pods    = kind{"pods", TypeOf[corev1.Pod](), func() runtime.Object { return &corev1.PodList{} }}
	secrets = kind{"secrets", TypeOf[corev1.Secret](), func() runtime.Object { return &corev1.SecretList{} }}
	configs = kind{"configmaps", TypeOf[corev1.ConfigMap](), func() runtime.Object { return &corev1.ConfigMapList{} }}
)

// world is a resource in an etcd.
type world struct {
	kind
	t     testing.TB
	codec runtime.Codec
	etcd  *kubernetes.Client
	// store is for writing.
	store storage.Interface
}

func (k kind) open(t testing.TB, codec runtime.Codec) *world {
	t.Helper()
	w := &world{kind: k, t: t, codec: codec, etcd: etcd.Run(t)}
	w.store = w.open()
	return w
}

// open returns another store of the resource.
func (w *world) open() storage.Interface {
	w.t.Helper()
	versioner := storage.APIObjectVersioner{}
	compactor := etcd3.NewCompactor(w.etcd.Client, 0, clock.RealClock{}, nil)
	w.t.Cleanup(compactor.Stop)
	s, err := etcd3.New(w.etcd, compactor, w.codec, w.newObject, w.list, "", w.prefix(), schema.GroupResource{Resource: w.resource},
		identity.NewEncryptCheckTransformer(), etcd3.NewDefaultLeaseManagerConfig(), etcd3.NewDefaultDecoder(w.codec, versioner), versioner)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(s.Close)
	return s
}

func (w *world) prefix() string            { return "/" + w.resource + "/" }
func (w *world) newObject() runtime.Object { return w.new() }
func (w *world) key(obj metav1.Object) string {
	return w.prefix() + obj.GetNamespace() + "/" + obj.GetName()
}

// cache starts a watch cache of the resource.
func (w *world) cache() *watchcache.Cache {
	w.t.Helper()
	c, err := watchcache.New(watchcache.Config{
		Storage:        w.open(),
		Versioner:      storage.APIObjectVersioner{},
		GroupResource:  schema.GroupResource{Resource: w.resource},
		History:        watchcache.MinHistory,
		ResourcePrefix: w.prefix(),
		KeyFunc:        func(obj runtime.Object) (string, error) { return storage.NamespaceKeyFunc(w.prefix(), obj) },
		GetAttrs:       attrs,
		NewFunc:        w.newObject,
		NewListFunc:    w.list,
		Codec:          w.codec,
		Store:          frame.NewStore(frame.DefaultBudget, ledger.Process),
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(c.Stop)
	return c
}

func attrs(obj runtime.Object) (labels.Set, fields.Set, error) {
	accessor, err := meta.Accessor(obj)
	if err != nil {
		return nil, nil, err
	}
	return accessor.GetLabels(), fields.Set{"metadata.name": accessor.GetName(), "metadata.namespace": accessor.GetNamespace()}, nil
}

// trim is the transform of kube-apiserver's informers.
func trim(obj any) (any, error) {
	if accessor, err := meta.Accessor(obj); err == nil && accessor.GetManagedFields() != nil {
		accessor.SetManagedFields(nil)
	}
	return obj, nil
}

// config is that of an informer that reads from a cache.
func (w *world) config(source func() Source) Config {
	return Config{
		Resource:   v1.WithResource(w.resource),
		Type:       w.Type,
		Encoder:    protobufs,
		Source:     source,
		Connection: noConnection{w.t},
		Ledger:     &ledger.Ledger{},
	}
}

// start makes an informer, has it run until the end of the test, and returns what is within.
func start(t testing.TB, cfg Config, handlers ...cache.ResourceEventHandler) *informer {
	t.Helper()
	shared := New(cfg)
	if err := shared.SetTransform(trim); err != nil {
		t.Fatal(err)
	}
	for _, h := range handlers {
		if _, err := shared.AddEventHandler(h); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); shared.RunWithContext(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	return shared.(*informer)
}

// noConnection is for informers that have to do without.
type noConnection struct{ t testing.TB }

func (n noConnection) List(metav1.ListOptions) (runtime.Object, error) {
	n.t.Error("a list went over the connection")
	return nil, context.Canceled
}

func (n noConnection) Watch(metav1.ListOptions) (watch.Interface, error) {
	n.t.Error("a watch went over the connection")
	return nil, context.Canceled
}
