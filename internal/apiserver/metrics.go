// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"sync"
	"sync/atomic"

	"k8s.io/component-base/metrics"
	"k8s.io/component-base/metrics/legacyregistry"

	"github.com/weir-project/weir/internal/ledger"
	"github.com/weir-project/weir/internal/pacer"
	"github.com/weir-project/weir/internal/watchcache"
)

const subsystem = "weir"

// memoryHelp says what each purpose is, and what the figures are not.
const memoryHelp = "Bytes held by weir's watch cache and its streams, by purpose: frames (objects of the current state, encoded once), " +
	"history (what only the event log needs), derived (other encodings, made on demand), compressed (rows of objects, compressed on demand), " +
	"streams (write buffers), readers (earlier states that only lists and watches being sent need), compressors (those that are compressing), " +
	"decoded (objects decoded for one request), informers (what the server's own informers hold beside the frames)."

// serving has the caches of the servers that run in this process, whose resources are told apart in metrics: one but in
// tests.
var serving = struct {
	mu     sync.Mutex
	caches map[*watchcache.Caches]bool
}{caches: map[*watchcache.Caches]bool{}}

// limited is the limit of the process, as the metrics tell it.
var limited atomic.Pointer[pacer.Limit]

// serveMetrics has the metrics tell of caches, and of the limit, until ctx ends.
func serveMetrics(ctx context.Context, caches *watchcache.Caches, limit pacer.Limit) {
	registerMetrics()
	limited.Store(&limit)
	serving.mu.Lock()
	defer serving.mu.Unlock()
	serving.caches[caches] = true
	context.AfterFunc(ctx, func() {
		serving.mu.Lock()
		defer serving.mu.Unlock()
		delete(serving.caches, caches)
	})
}

// registerMetrics adds weir's own metrics to the process's registry: what is served
// at /metrics beside everything that upstream has there.
var registerMetrics = sync.OnceFunc(func() {
	legacyregistry.CustomMustRegister(theCacheMetrics)
	for _, purpose := range ledger.Purposes() {
		legacyregistry.RawMustRegister(metrics.NewGaugeFunc(&metrics.GaugeOpts{
			Subsystem:      subsystem,
			Name:           "memory_bytes",
			Help:           memoryHelp,
			ConstLabels:    map[string]string{"purpose": purpose.String()},
			StabilityLevel: metrics.ALPHA,
		}, func() float64 { return float64(ledger.Process.Bytes(purpose)) }))
	}
	for _, gauge := range []struct {
		name, help string
		of         func(pacer.Limit) int64
	}{
		{"memory_limit_bytes", "Bytes that the process may take in all, by --memory-limit or its control group; 0 if that is not limited.", func(l pacer.Limit) int64 { return l.Total }},
		{"memory_limit_go_bytes", "Bytes that Go's runtime may take: heap, free heap, stacks and its own; 0 if that is not limited.", func(l pacer.Limit) int64 { return l.Go }},
	} {
		legacyregistry.RawMustRegister(metrics.NewGaugeFunc(&metrics.GaugeOpts{
			Subsystem:      subsystem,
			Name:           gauge.name,
			Help:           gauge.help,
			StabilityLevel: metrics.ALPHA,
		}, func() float64 {
			if l := limited.Load(); l != nil {
				return float64(gauge.of(*l))
			}
			return 0
		}))
	}
	legacyregistry.CustomMustRegister(&resourceMemory{})
})

// resourceMemory collects what the resources hold.
type resourceMemory struct{ metrics.BaseStableCollector }

var resourceMemoryDesc = metrics.NewDesc(
	metrics.BuildFQName("", subsystem, "resource_memory_bytes"),
	"Bytes held by the watch cache of a resource, by purpose; see weir_memory_bytes, which has the same of all resources together.",
	[]string{"group", "resource", "purpose"}, nil, metrics.ALPHA, "",
)

// DescribeWithStability implements metrics.StableCollector.
func (*resourceMemory) DescribeWithStability(ch chan<- *metrics.Desc) { ch <- resourceMemoryDesc }

// CollectWithStability implements metrics.StableCollector.
func (*resourceMemory) CollectWithStability(ch chan<- metrics.Metric) {
	books := watchcache.Books{}
	serving.mu.Lock()
	for caches := range serving.caches {
		caches.AddTo(books)
	}
	serving.mu.Unlock()
	for resource, held := range books {
		for purpose, n := range held {
			ch <- metrics.NewLazyConstMetric(resourceMemoryDesc, metrics.GaugeValue, float64(n), resource.Group, resource.Resource, purpose.String())
		}
	}
}
