// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/registry/generic"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/etcd3/metrics"
	"k8s.io/apiserver/pkg/storage/storagebackend"
	"k8s.io/apiserver/pkg/storage/storagebackend/factory"
	flowcontrol "k8s.io/apiserver/pkg/util/flowcontrol/request"
	"k8s.io/client-go/tools/cache"
	"k8s.io/component-base/metrics/legacyregistry"
	clocktesting "k8s.io/utils/clock/testing"

	"github.com/weir-project/weir/test/wait"
)

// sized is a storage of which nothing is asked but how much it has.
type sized struct {
	storage.Interface
	mu    sync.Mutex
	n     int64
	err   error
	asked int
}

func (s *sized) Stats(context.Context) (storage.Stats, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked++
	return storage.Stats{ObjectCount: s.n, EstimatedAverageObjectSizeBytes: 100}, s.err
}

func (s *sized) set(n int64, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.n, s.err = n, err
}

// told returns what the metrics say of a resource, by name, and "" if they say nothing.
func told(t *testing.T, resource schema.GroupResource) string {
	t.Helper()
	families, err := legacyregistry.DefaultGatherer.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, family := range families {
		for _, m := range family.GetMetric() {
			for _, label := range m.GetLabel() {
				if label.GetName() == "resource" && (label.GetValue() == resource.String() || label.GetValue() == resource.Resource) {
					all = append(all, fmt.Sprint(family.GetName(), " ", m.GetGauge().GetValue()))
				}
			}
		}
	}
	return strings.Join(all, "\n")
}

// TestCounting has two versions of a resource, and another resource, be counted: the newest version alone is asked, at once and then after a while;
// metrics and flow control are told what upstream tells them, and nothing is left of what is gone.
func TestCounting(t *testing.T) {
	metrics.Register()
	clock := clocktesting.NewFakeClock(time.Now())
	c := newCounting(clock)
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { c.run(ctx) })
	defer running.Wait()
	defer cancel()

	tracker := flowcontrol.NewStorageObjectCountTracker()
	ended := 0
	open := func(resource schema.GroupResource, s storage.Interface) func() {
		t.Helper()
		options := c.over(generic.RESTOptions{CountMetricPollPeriod: time.Minute, StorageObjectCountTracker: tracker, Decorator: func(*storagebackend.ConfigForResource, string, func(runtime.Object) (string, error), func() runtime.Object,
			func() runtime.Object, storage.AttrFunc, storage.IndexerFuncs, *cache.Indexers) (storage.Interface, factory.DestroyFunc, error) {
			return s, func() { ended++ }, nil
		}})
		if options.CountMetricPollPeriod != 0 {
			t.Error("upstream counts, too")
		}
		made, destroy, err := options.Decorator(&storagebackend.ConfigForResource{GroupResource: resource}, "", nil, nil, nil, nil, nil, nil)
		if err != nil || made != s {
			t.Fatalf("%v %v", made, err)
		}
		return destroy
	}
	eventually := func(what string, done func() bool) {
		t.Helper()
		wait.Until(t, what, time.Minute, done)
	}
	moths, flies := schema.GroupResource{Group: "counting.example.com", Resource: "countedmoths"}, schema.GroupResource{Group: "counting.example.com", Resource: "countedflies"}
	old, moth, fly := &sized{n: 3}, &sized{n: 5}, &sized{err: errors.New("not ready")}
	closeOld := open(moths, old)
	eventually("a new resource to be counted", func() bool { return strings.Contains(told(t, moths), "apiserver_resource_objects 3") })
	closeMoth := open(moths, moth)
	closeFly := open(flies, fly)
	eventually("a new version to be asked", func() bool { return strings.Contains(told(t, moths), "apiserver_resource_objects 5") })
	eventually("what cannot be counted to be told as such", func() bool { return strings.Contains(told(t, flies), "apiserver_resource_objects -1") })
	if stats, err := tracker.Get(moths.String()); err != nil || stats.ObjectCount != 5 {
		t.Errorf("flow control is told of %v %v", stats, err)
	}
	if _, err := tracker.Get(flies.String()); err == nil {
		t.Error("flow control is told of what cannot be counted")
	}
	moth.set(7, nil)
	fly.set(9, nil)
	clock.Step(time.Minute + time.Duration(countJitter*float64(time.Minute)))
	eventually("they to be counted again", func() bool {
		return strings.Contains(told(t, moths), "apiserver_resource_objects 7") && strings.Contains(told(t, flies), "apiserver_resource_objects 9")
	})
	if old.asked != 1 {
		t.Errorf("the version that is not the newest has been asked %d times", old.asked)
	}
	closeMoth()
	if told(t, moths) == "" {
		t.Error("a resource is not told of that has a version yet")
	}
	closeOld()
	closeOld()
	closeFly()
	if left := told(t, moths) + told(t, flies); left != "" {
		t.Errorf("what is gone is told of: %s", left)
	}
	if ended != 4 {
		t.Errorf("%d of 3 storages have been ended, one of them twice", ended)
	}
}
