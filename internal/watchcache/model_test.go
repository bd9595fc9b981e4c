// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package watchcache

import (
	"fmt"
	"os"
	"strconv"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/apis/example"
	"k8s.io/apiserver/pkg/storage"
	etcdfeature "k8s.io/apiserver/pkg/storage/feature"
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

var modelPods = model.Kind{
	New: newPod, NewList: newPodList, Prefix: podPrefix, Attrs: podAttrs,
	IndexFields: []string{"spec.nodeName"},
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
}

// newModelWorld returns a world in which upstream's store, upstream's cacher and weir's cache are judged.
func newModelWorld(t *testing.T, o storeOptions, change func(*Config)) *model.World {
	t.Helper()
	o.prefix = "/registry"
	client := etcd.Run(t)
	direct := newStore(t, client, o)
	var stores []storage.Interface
	var observe []func(rev uint64)
	world := model.New(t, modelPods, &model.Subject{Name: "store", Storage: direct, PathPrefix: o.prefix}, func(rev uint64) {
		compactEtcd(t.Context(), t, client.Client, direct, int64(rev))
		for _, s := range stores {
			eventually(t, "the compaction to be observed", func() bool { return s.CompactRevision() == int64(rev) })
		}
		for _, f := range observe {
			f(rev)
		}
	}, randomSeed(t))

	behind := newStore(t, client, o)
	stores = append(stores, behind)
	cacher, delegator := startCacher(t, behind)
	eventually(t, "etcd's features to be known", func() bool {
		return etcdfeature.DefaultFeatureSupportChecker.Supports(storage.RequestWatchProgress)
	})
	observe = append(observe, func(rev uint64) {
		if err := cacher.Compact(fmt.Sprint(rev)); err != nil {
			t.Fatalf("compacting upstream's snapshots: %v", err)
		}
	})
	world.Add(&model.Subject{Name: "cacher", Storage: delegator, PathPrefix: o.prefix, Cached: true, Cuts: true})

	behind = newStore(t, client, o)
	stores = append(stores, behind)
	cfg := podConfig(behind, o.codec)
	change(&cfg)
	weir := startCache(t, cfg)
	observe = append(observe, func(uint64) { weir.observeCompaction() })
	world.Add(&model.Subject{Name: "weir", Storage: weir, PathPrefix: o.prefix, Cached: true, Impatient: cfg.Clock != nil})
	return world
}

// TestModel has one caller put random requests to upstream's store, upstream's cacher and weir's cache,
// over one etcd, and holds every answer against the model. WEIR_SEED repeats a run.
func TestModel(t *testing.T) {
	for name, o := range map[string]storeOptions{"protobuf": {}, "json": {codec: jsonCodec}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newModelWorld(t, o, func(*Config) {})
			w.Sequence(modelSteps(t, 1500))
			w.Sum("not found", "bad get", "bad list", "page", "end of initial events", "ADDED", "MODIFIED", "DELETED", "too large")
		})
	}
}

// TestModelConcurrently has many callers and watches at the same time, while weir's clock is
// moved, and judges everything afterwards.
func TestModelConcurrently(t *testing.T) {
	fake := stepped{clocktesting.NewFakeClock(time.Now())}
	w := newModelWorld(t, storeOptions{}, func(c *Config) { c.Clock = fake })
	n := 0
	w.Concurrently(3, modelSteps(t, 600), func() {
		n++
		if n%50 == 0 {
			fake.Step(40 * time.Second)
		} else {
			fake.Step(20 * time.Millisecond)
		}
	})
	w.Sum("not found", "page", "end of initial events", "ADDED", "MODIFIED", "DELETED")
}
