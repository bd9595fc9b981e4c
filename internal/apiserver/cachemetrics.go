// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"sync/atomic"
	"time"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/component-base/metrics"

	"github.com/weir-project/weir/internal/usage"
	"github.com/weir-project/weir/internal/watchcache"
)

// cacheMetrics tells of the caches and of who reads them. A process has one registry of metrics: with several servers in it
// they are those of the last.
type cacheMetrics struct {
	metrics.BaseStableCollector
	parts atomic.Pointer[parts]
}

// theCacheMetrics are what registerMetrics registers.
var theCacheMetrics = &cacheMetrics{}

var _ metrics.StableCollector = (*cacheMetrics)(nil)

func desc(name, help string, labels ...string) *metrics.Desc {
	return metrics.NewDesc("weir_"+name, help, labels, nil, metrics.ALPHA, "")
}

// The metrics. docs/metrics.md has all of them.
var (
	cacheReady = desc("cache_ready", "Whether the watch cache of a resource has read it from etcd (1) or not (0).", "group", "resource")
	cacheOf    = []struct {
		desc  *metrics.Desc
		value func(watchcache.Status) float64
	}{
		{desc("cache_objects", "Objects in the watch cache of a resource.", "group", "resource"),
			func(s watchcache.Status) float64 { return float64(s.Objects) }},
		{desc("cache_watches", "Watches open on the watch cache of a resource.", "group", "resource"),
			func(s watchcache.Status) float64 { return float64(s.Watches) }},
		{desc("cache_watches_parked", "Watches on the watch cache of a resource that have been sent everything and wait for the next event.", "group", "resource"),
			func(s watchcache.Status) float64 { return float64(s.Parked) }},
		{desc("cache_history_events", "Events of the past that the watch cache of a resource keeps for watches that go on or come back.", "group", "resource"),
			func(s watchcache.Status) float64 { return float64(s.Events) }},
		{desc("cache_history_seconds", "Age of the oldest event of the past that the watch cache of a resource keeps, 0 if it keeps none.", "group", "resource"),
			func(s watchcache.Status) float64 { return age(time.Now(), s.Oldest) }},
	}
	historyCut   = desc("cache_history_cut_total", "Events of the past that the watch cache of a resource has let go of before their time, because they were too many or took too many bytes. It begins anew when the cache is read anew.", "group", "resource")
	customTotal  = desc("custom_resources_read_total", "Custom resources that the watch caches have read, at first, with each change, and anew when their definition changes, by how they were taken: stored (as they are stored) or decoded (decoded and encoded again).", "way")
	listsTotal   = desc("lists_total", "Lists that have been answered, by how: streamed (from encoded objects) or decoded (decoded and encoded for this one list).", "way")
	watchesTotal = desc("watches_total", "Watches that have been begun, by kind: watchlist (with sendInitialEvents) or watch (all others).", "kind")
	sentTotal    = desc("sent_bytes_total", "Bytes sent in answer to lists and watches, as they went out.")
)

// DescribeWithStability implements metrics.StableCollector.
func (c *cacheMetrics) DescribeWithStability(ch chan<- *metrics.Desc) {
	ch <- cacheReady
	for _, m := range cacheOf {
		ch <- m.desc
	}
	ch <- historyCut
	ch <- customTotal
	ch <- listsTotal
	ch <- watchesTotal
	ch <- sentTotal
}

// CollectWithStability implements metrics.StableCollector.
func (c *cacheMetrics) CollectWithStability(ch chan<- metrics.Metric) {
	p := c.parts.Load()
	if p == nil {
		return
	}
	all, _ := p.caches.Status(0)
	for resource, s := range byResource(all) {
		labels := []string{resource.Group, resource.Resource}
		ready := 0.0
		if s.Ready {
			ready = 1
		}
		ch <- metrics.NewLazyConstMetric(cacheReady, metrics.GaugeValue, ready, labels...)
		for _, m := range cacheOf {
			ch <- metrics.NewLazyConstMetric(m.desc, metrics.GaugeValue, m.value(s), labels...)
		}
		ch <- metrics.NewLazyConstMetric(historyCut, metrics.CounterValue, float64(s.Cut), labels...)
	}
	var sum usage.Account
	for _, a := range p.usage.Snapshot() {
		sum.ListsStreamed += a.ListsStreamed
		sum.ListsDecoded += a.ListsDecoded
		sum.WatchLists += a.WatchLists
		sum.Watches += a.Watches
		sum.Bytes += a.Bytes
	}
	count := func(d *metrics.Desc, n int64, labels ...string) {
		ch <- metrics.NewLazyConstMetric(d, metrics.CounterValue, float64(n), labels...)
	}
	stored, decoded := p.caches.Taken()
	count(customTotal, int64(stored), "stored")
	count(customTotal, int64(decoded), "decoded")
	count(listsTotal, sum.ListsStreamed, "streamed")
	count(listsTotal, sum.ListsDecoded, "decoded")
	count(watchesTotal, sum.WatchLists, "watchlist")
	count(watchesTotal, sum.Watches, "watch")
	count(sentTotal, sum.Bytes)
}

// byResource adds the caches of a resource up: a custom resource has one for each served version.
func byResource(all []watchcache.Status) map[schema.GroupResource]watchcache.Status {
	sums := map[schema.GroupResource]watchcache.Status{}
	for _, s := range all {
		sum, there := sums[s.Resource]
		sum.Ready = s.Ready && (sum.Ready || !there)
		sum.Objects += s.Objects
		sum.Watches += s.Watches
		sum.Parked += s.Parked
		sum.Events += s.Events
		sum.Cut += s.Cut
		// Of the versions' histories the shortest says what a client of this resource can rely on.
		if s.Oldest.After(sum.Oldest) {
			sum.Oldest = s.Oldest
		}
		sums[s.Resource] = sum
	}
	return sums
}
