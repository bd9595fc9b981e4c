// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// watchersScenario: what a watch costs while nothing happens.
type watchersScenario struct {
	Count         int      `json:"count"`
	PerConnection int      `json:"perConnection"`
	Format        format   `json:"format"`
	Scope         string   `json:"scope"` // scopeNamespace or scopeAll
	Data          []string `json:"data"`
}

const (
	scopeNamespace = "namespace" // watch lists of one namespace with three Pods
	scopeAll       = "all"       // all Pods from the current resourceVersion, without initial events

	watchersPods   = 3
	watchersAtOnce = 16
)

func (*watchersScenario) name() string          { return "watchers" }
func (sc *watchersScenario) label() string      { return "watchers-" + sc.Scope }
func (sc *watchersScenario) datasets() []string { return sc.Data }
func (*watchersScenario) rounds() int           { return 1 }
func (*watchersScenario) writes() []string      { return []string{"pods"} }

func (sc *watchersScenario) run(ctx context.Context, s *session) error {
	if err := s.ready(ctx); err != nil {
		return err
	}
	client := s.server.client
	namespace, remove, err := s.prepareExtras(ctx, sc)
	if err != nil {
		return err
	}
	defer remove()
	if err := s.place.preparePods(ctx, client); err != nil {
		return err
	}
	for i := range watchersPods {
		pod := s.place.pod(i)
		pod.Labels[scenarioLabel] = sc.name()
		if err := createPod(ctx, client, namespace, pod, i); err != nil {
			return fmt.Errorf("prepare a Pod to watch: %w", err)
		}
	}
	path := "/api/v1/namespaces/" + namespace + "/pods" + watchListQuery
	if sc.Scope == scopeAll {
		list, err := client.CoreV1().Pods(s.place.only).List(ctx, metav1.ListOptions{Limit: 1})
		if err != nil {
			return fmt.Errorf("find the current resourceVersion: %w", err)
		}
		path = s.place.collection("/api/v1", "pods") + "?watch=1&allowWatchBookmarks=true&timeoutSeconds=3600&resourceVersion=" + list.ResourceVersion
	}
	readers, err := s.startReaders(ctx, readerJob{
		Paths: []string{path}, Format: sc.Format, Streams: sc.Count, PerConnection: sc.PerConnection, Until: untilEnd,
		// A few at a time: what a crowd costs while it arrives is another scenario's question.
		AtOnce: watchersAtOnce, Initial: sc.Scope == scopeNamespace,
	})
	if err != nil {
		return err
	}
	defer endReaders(readers)
	if _, err := s.sampler.waitQuiet(ctx); err != nil {
		return err
	}
	before, err := s.server.scrapeHeap(ctx, true)
	if err != nil {
		return err
	}
	p, err := s.phase(ctx, fmt.Sprintf("watchers %s x%d", sc.Scope, sc.Count), func(ctx context.Context, _ *Phase) error {
		if err := readers.say("go"); err != nil {
			return err
		}
		_, err := hearStage(ctx, readers, stageOpen)
		return err
	})
	if err != nil {
		return err
	}
	if _, err := s.sampler.waitQuiet(ctx); err != nil {
		return err
	}
	after, err := s.server.scrapeHeap(ctx, true)
	if err != nil {
		return err
	}
	idle, err := s.sampler.take()
	if err != nil {
		return err
	}
	perWatch := func(bytes int64) float64 { return float64(bytes) / float64(sc.Count) / 1e3 }
	p.Figures["RSS kB/watch"] = perWatch(idle.RSS - p.RSSBefore)
	p.Figures["stack kB/watch"] = perWatch(after.Stack - before.Stack)
	p.Figures["goroutines/watch"] = float64(after.Goroutines-before.Goroutines) / float64(sc.Count)
	if s.server.process != nil { // else nothing has collected its garbage
		p.Figures["heap live kB/watch"] = perWatch(after.Alloc - before.Alloc)
		p.Figures["heap inuse kB/watch"] = perWatch(after.Inuse - before.Inuse)
		p.Figures["live+stack kB/watch"] = perWatch(after.Alloc - before.Alloc + after.Stack - before.Stack)
	}
	_ = readers.in.Close()
	_, err = hearStage(ctx, readers, stageDone)
	return err
}
