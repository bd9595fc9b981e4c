// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package watchcache

import (
	"fmt"
	"os"
	"strconv"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/kubernetes"
	"go.uber.org/zap"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/apis/example"
	"k8s.io/apiserver/pkg/storage"
	etcdfeature "k8s.io/apiserver/pkg/storage/feature"
	"k8s.io/client-go/tools/cache"
	clocktesting "k8s.io/utils/clock/testing"

	"github.com/weir-project/weir/test/etcd"
	"github.com/weir-project/weir/test/model"
)

// modelSteps is how many steps a run of the model takes; WEIR_MODEL_STEPS says otherwise.
func modelSteps(t *testing.T, steps int) int {
	t.Helper()
	if s := os.Getenv("WEIR_MODEL_STEPS"); s != "" {
		var err error
		if steps, err = strconv.Atoi(s); err != nil {
			t.Fatalf("WEIR_MODEL_STEPS=%q is no number: %v", s, err)
		}
	}
	return steps
}

// modelled is what is kept in a run of the model.
type modelled struct {
	kind  model.Kind
	codec runtime.Codec
}

// modelPods are Pods that are stored by a codec; modelWidgets are custom resources.
func modelPods(codec runtime.Codec) modelled {
	return modelled{codec: codec, kind: model.Kind{
		New: newPod, NewList: newPodList, Prefix: podPrefix, Attrs: podAttrs, IndexFields: []string{"spec.nodeName"},
		Make: func(namespace, name string, c model.Content) runtime.Object {
			pod := &example.Pod{ObjectMeta: metav1.ObjectMeta{
				Namespace: namespace, Name: name, UID: c.UID,
				Annotations: map[string]string{"n": fmt.Sprint(c.N)},
			}}
			if c.App != "" {
				pod.Labels = map[string]string{"app": c.App}
			}
			pod.Spec.NodeName, pod.Status.Phase = c.Node, example.PodPhase(c.Phase)
			return pod
		},
	}}
}

func modelWidgets() modelled {
	return modelled{codec: unstructured.UnstructuredJSONScheme, kind: model.Widgets(podPrefix)}
}

// config returns the configuration of a cache over a store.
func (m modelled) config(store storage.Interface) Config {
	cfg := podConfig(store, m.codec)
	cfg.NewFunc, cfg.NewListFunc, cfg.GetAttrs = m.kind.New, m.kind.NewList, m.kind.Attrs
	if _, custom := m.kind.New().(*unstructured.Unstructured); custom {
		cfg.Trigger = storage.IndexerFuncs{"spec.nodeName": func(obj runtime.Object) string { return model.WidgetNode(obj.(*unstructured.Unstructured)) }}
		cfg.Indexers = &cache.Indexers{storage.FieldIndex("spec.nodeName"): func(obj any) ([]string, error) {
			return []string{model.WidgetNode(obj.(*unstructured.Unstructured))}, nil
		}}
	}
	return cfg
}

// dialAgain returns another client of the same etcd: in a server each storage has one of its
// own, and etcd tells all watches of a connection of the progress that one asks for.
func dialAgain(t *testing.T, client *kubernetes.Client) *kubernetes.Client {
	t.Helper()
	again, err := kubernetes.New(clientv3.Config{Endpoints: client.Endpoints(), DialTimeout: patience, Logger: zap.NewNop()})
	if err != nil {
		t.Fatalf("connecting to etcd: %v", err)
	}
	t.Cleanup(func() { _ = again.Close() }) // says only that it was closed
	return again
}

// newModelWorld returns a world in which upstream's store, upstream's cacher and weir's cache
// are judged. Weir's has fake for its clock if that is not nil.
func newModelWorld(t *testing.T, m modelled, fake *stepped) *model.World {
	t.Helper()
	o := storeOptions{prefix: "/registry", codec: m.codec, newFunc: m.kind.New, newListFunc: m.kind.NewList}
	client := etcd.Run(t)
	direct := newStore(t, client, o)
	var stores []storage.Interface
	var observe []func(rev uint64)
	world := model.New(t, m.kind, &model.Subject{Name: "store", Storage: direct, PathPrefix: o.prefix}, func(rev uint64) {
		compactEtcd(t.Context(), t, client.Client, direct, int64(rev))
		for _, s := range stores {
			eventually(t, "the compaction to be observed", func() bool { return s.CompactRevision() == int64(rev) })
		}
		for _, f := range observe {
			f(rev)
		}
	}, randomSeed(t))

	behind := newStore(t, dialAgain(t, client), o)
	stores = append(stores, behind)
	cacher, delegator := startCacherOf(t, behind, m.config(nil))
	eventually(t, "etcd's features to be known", func() bool {
		return etcdfeature.DefaultFeatureSupportChecker.Supports(storage.RequestWatchProgress)
	})
	observe = append(observe, func(rev uint64) {
		if err := cacher.Compact(fmt.Sprint(rev)); err != nil {
			t.Fatalf("compacting upstream's snapshots: %v", err)
		}
	})
	world.Add(&model.Subject{Name: "cacher", Storage: delegator, PathPrefix: o.prefix, Cached: true, Cuts: true})

	behind = newStore(t, dialAgain(t, client), o)
	stores = append(stores, behind)
	cfg := m.config(behind)
	if fake != nil {
		cfg.Clock = *fake
	}
	weir := startCache(t, cfg)
	observe = append(observe, func(rev uint64) {
		weir.observeCompaction()
		if got := weir.CompactRevision(); got != int64(rev) {
			t.Errorf("weir says that %d is compacted, want %d", got, rev)
		}
	})
	world.Add(&model.Subject{Name: "weir", Storage: weir, PathPrefix: o.prefix, Cached: true, Impatient: fake != nil})
	return world
}

// TestModel has one caller put random requests to upstream's store, upstream's cacher and
// weir's cache, over one etcd, and holds every answer against the model. WEIR_SEED repeats a run.
func TestModel(t *testing.T) {
	for name, m := range map[string]modelled{"protobuf": modelPods(protobufCodec), "json": modelPods(jsonCodec), "custom": modelWidgets()} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newModelWorld(t, m, nil)
			wanted := []string{"not found", "bad list", "page", "end of initial events", "ADDED", "MODIFIED", "DELETED", "too large"}
			// Few of the requests meet some of these: what chance has left out comes with more of them.
			for range 5 {
				w.Sequence(modelSteps(t, 400))
				if w.Met(wanted...) {
					break
				}
			}
			w.Sum(wanted...)
		})
	}
}

// TestModelConcurrently has many callers and watches at the same time, and judges everything
// afterwards; once while weir's clock is moved, so that it trims its history and sends
// bookmarks all the time.
func TestModelConcurrently(t *testing.T) {
	for name, fake := range map[string]*stepped{"still": nil, "moved": {clocktesting.NewFakeClock(time.Now())}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := 0
			w := newModelWorld(t, modelPods(protobufCodec), fake)
			w.Concurrently(3, modelSteps(t, 150), func() {
				n++
				switch {
				case fake == nil:
				case n%50 == 0:
					fake.Step(40 * time.Second)
				default:
					fake.Step(20 * time.Millisecond)
				}
			})
			w.Sum("not found", "page", "ADDED", "MODIFIED", "DELETED")
		})
	}
}
