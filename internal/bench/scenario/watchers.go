// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"context"
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weir-project/weir/internal/bench/client"
	"github.com/weir-project/weir/internal/bench/dataset"
	"github.com/weir-project/weir/internal/bench/report"
)

// Watchers measures what a watch costs while nothing happens.
type Watchers struct {
	Count         int           `json:"count"`
	PerConnection int           `json:"perConnection"`
	Format        client.Format `json:"format"`
	Scope         string        `json:"scope"` // ScopeNamespace or ScopeAll
	// Gzip asks for compressed watches; upstream's server compresses watch lists, which are those of ScopeNamespace.
	Gzip bool     `json:"gzip,omitempty"`
	Data []string `json:"data"`
}

// The scopes of Watchers.
const (
	ScopeNamespace = "namespace" // watch lists of one namespace with three Pods
	ScopeAll       = "all"       // all Pods from the current resourceVersion, without initial events

	watchersPods   = 3
	watchersAtOnce = 16
)

// About implements Scenario.
func (sc *Watchers) About() About {
	what := "watch lists"
	if sc.Scope == ScopeAll {
		what = "watches without initial events"
	}
	return About{
		Name: "watchers", Label: labelled("watchers-"+sc.Scope, sc.Gzip), Datasets: sc.Data, Rounds: 1, Writes: []string{"pods"},
		Asks: asks("readers", what, sc.Format, sc.Gzip),
	}
}

func (sc *Watchers) run(ctx context.Context, s *session) error {
	if err := s.ready(ctx); err != nil {
		return err
	}
	api := s.server.Client
	namespace, remove, err := s.prepareExtras(ctx, sc)
	if err != nil {
		return err
	}
	defer remove()
	if err := s.Place.PreparePods(ctx, api); err != nil {
		return err
	}
	for i := range watchersPods {
		pod := s.Place.Pod(i)
		pod.Labels[dataset.ScenarioLabel] = sc.About().Name
		if err := dataset.CreatePod(ctx, api, namespace, pod, i); err != nil {
			return fmt.Errorf("prepare a Pod to watch: %w", err)
		}
	}
	path := "/api/v1/namespaces/" + namespace + "/pods" + watchListQuery
	if sc.Scope == ScopeAll {
		list, err := api.CoreV1().Pods(s.Place.Only).List(ctx, metav1.ListOptions{Limit: 1})
		if err != nil {
			return fmt.Errorf("find the current resourceVersion: %w", err)
		}
		path = s.Place.Collection("/api/v1", "pods") + "?watch=1&allowWatchBookmarks=true&timeoutSeconds=3600&resourceVersion=" + list.ResourceVersion
	}
	readers, err := s.startReaders(ctx, client.Job{
		Paths: []string{path}, Format: sc.Format, Streams: sc.Count, PerConnection: sc.PerConnection, Until: client.UntilEnd,
		// A few at a time: what a crowd costs while it arrives is another scenario's question.
		AtOnce: watchersAtOnce, Initial: sc.Scope == ScopeNamespace, Gzip: sc.Gzip,
	})
	if err != nil {
		return err
	}
	defer readers.End()
	if _, err := s.sampler.waitQuiet(ctx); err != nil {
		return err
	}
	before, err := s.server.metrics(ctx, true)
	if err != nil {
		return err
	}
	scope := sc.Scope
	if sc.Gzip {
		scope += " gzip"
	}
	p, err := s.phase(ctx, fmt.Sprintf("watchers %s x%d", scope, sc.Count), func(ctx context.Context, _ *report.Phase) error {
		if err := readers.Go(); err != nil {
			return err
		}
		_, err := readers.Hear(ctx, client.StageOpen)
		return err
	})
	if err != nil {
		return err
	}
	if _, err := s.sampler.waitQuiet(ctx); err != nil {
		return err
	}
	after, err := s.server.metrics(ctx, true)
	if err != nil {
		return err
	}
	idle, err := s.sampler.take()
	if err != nil {
		return err
	}
	perWatch := func(bytes int64) float64 { return float64(bytes) / float64(sc.Count) / 1e3 }
	p.Figures["RSS kB/watch"] = perWatch(idle.RSS - p.RSSBefore)
	p.Figures["stack kB/watch"] = perWatch(after.Heap.Stack - before.Heap.Stack)
	p.Figures["goroutines/watch"] = float64(after.Goroutines-before.Goroutines) / float64(sc.Count)
	if s.server.Started != nil { // else nothing has collected its garbage
		p.Figures["heap live kB/watch"] = perWatch(after.Heap.Alloc - before.Heap.Alloc)
		p.Figures["heap inuse kB/watch"] = perWatch(after.Heap.Inuse - before.Heap.Inuse)
		p.Figures["live+stack kB/watch"] = perWatch(after.Heap.Alloc - before.Heap.Alloc + after.Heap.Stack - before.Heap.Stack)
	}
	readers.Finish()
	done, err := readers.Hear(ctx, client.StageDone)
	if err == nil {
		s.tellWire(p, done, sc.Gzip)
	}
	return err
}
