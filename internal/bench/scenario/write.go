// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weir-project/weir/internal/bench/client"
	"github.com/weir-project/weir/internal/bench/dataset"
	"github.com/weir-project/weir/internal/bench/report"
)

// Fanout holds that every update reaches every watcher.
type Fanout struct {
	Watchers      int           `json:"watchers"`
	Updates       int           `json:"updates"`
	Rate          float64       `json:"rate"`    // updates per second; 0 for one after the other without pause
	Objects       int           `json:"objects"` // updated in turn
	ObjectSize    int           `json:"objectSize"`
	PerConnection int           `json:"perConnection"`
	Format        client.Format `json:"format"`
	// Gzip asks for compressed watches. Upstream's server compresses watch lists only, so the watches are such then.
	Gzip bool     `json:"gzip,omitempty"`
	Data []string `json:"data"`
}

// About implements Scenario.
func (sc *Fanout) About() About {
	what := "watches"
	if sc.Gzip {
		what = "watch lists, whose live events count"
	}
	return About{
		Name: "fanout", Label: labelled("fanout", sc.Gzip), Datasets: sc.Data, Rounds: 1, Writes: []string{"configmaps"},
		Asks: asks("readers", what, sc.Format, sc.Gzip),
	}
}

func (sc *Fanout) run(ctx context.Context, s *session) error {
	if err := s.ready(ctx); err != nil {
		return err
	}
	namespace, remove, err := s.prepareExtras(ctx, sc)
	if err != nil {
		return err
	}
	defer remove()
	configMaps := s.server.Client.CoreV1().ConfigMaps(namespace)
	object := func(i, version int) *corev1.ConfigMap {
		object := dataset.NewConfigMap("fanout", i, version, sc.ObjectSize)
		object.Labels[dataset.ScenarioLabel] = sc.About().Name
		return object
	}
	var version string
	for i := range sc.Objects {
		created, err := configMaps.Create(ctx, object(i, 0), metav1.CreateOptions{})
		if err != nil {
			return fmt.Errorf("prepare an object to update: %w", err)
		}
		version = created.ResourceVersion
	}
	query := "?watch=1&allowWatchBookmarks=true&timeoutSeconds=3600&resourceVersion=" + version
	if sc.Gzip {
		query = watchListQuery
	}
	readers, err := s.startReaders(ctx, client.Job{
		Paths:  []string{"/api/v1/namespaces/" + namespace + "/configmaps" + query},
		Format: sc.Format, Streams: sc.Watchers, PerConnection: sc.PerConnection, Until: client.UntilCount, Expect: int64(sc.Updates),
		Gzip: sc.Gzip, Initial: sc.Gzip,
	})
	if err != nil {
		return err
	}
	defer readers.End()
	if err := readers.Go(); err != nil {
		return err
	}
	if _, err := readers.Hear(ctx, client.StageOpen); err != nil {
		return err
	}
	name := "fanout"
	if sc.Gzip {
		name += " gzip"
	}
	_, err = s.phase(ctx, fmt.Sprintf("%s %d x%d", name, sc.Updates, sc.Watchers), func(ctx context.Context, p *report.Phase) error {
		began := time.Now()
		for i := range sc.Updates {
			if sc.Rate > 0 {
				due := began.Add(time.Duration(float64(i) / sc.Rate * float64(time.Second)))
				if err := client.Pause(ctx, time.Until(due)); err != nil {
					return err
				}
			}
			if _, err := configMaps.Update(ctx, object(i%sc.Objects, i+1), metav1.UpdateOptions{}); err != nil {
				return fmt.Errorf("update %d: %w", i, err)
			}
		}
		p.Figures["updates s"] = time.Since(began).Seconds()
		done, err := readers.Hear(ctx, client.StageDone)
		if err != nil {
			return err
		}
		p.Figures["events"] = float64(done.Events)
		p.Figures["reconnects"] = float64(done.Reconnects)
		s.tellWire(p, done, sc.Gzip)
		return nil
	})
	return err
}

// Writes measures how many writes per second a few busy clients get done.
type Writes struct {
	Writers    int      `json:"writers"`
	Operations int      `json:"operations"` // half creates, half updates of what was created
	WarmUp     int      `json:"warmUp"`     // operations before, not measured
	ObjectSize int      `json:"objectSize"`
	Data       []string `json:"data"`
	// CreatePods has Pods created in place of ConfigMaps, and none updated.
	CreatePods bool `json:"createPods,omitempty"`
}

// About implements Scenario.
func (sc *Writes) About() About {
	about := About{Name: "writes", Label: "writes", Datasets: sc.Data, Rounds: 4, Writes: []string{"configmaps"}}
	if sc.CreatePods {
		about.Label, about.Writes = "writes-pods", []string{"pods"}
	}
	return about
}

func (sc *Writes) run(ctx context.Context, s *session) error {
	if err := s.ready(ctx); err != nil {
		return err
	}
	namespace, remove, err := s.prepareExtras(ctx, sc)
	if err != nil {
		return err
	}
	defer remove()
	name, together, write := "writes", 2, sc.writeConfigMap
	if sc.CreatePods {
		name, together, write = "creations of Pods", 1, sc.createPod
		if err := s.Place.PreparePods(ctx, s.server.Client); err != nil {
			return err
		}
	}
	// One worker's task is a create and the update after it, so that the update finds its object.
	writes := func(ctx context.Context, first, n int, latency []float64) error {
		return dataset.InParallel(ctx, sc.Writers, n/together, func(ctx context.Context, _, task int) error {
			for i := together * task; i < together*(task+1); i++ {
				began := time.Now()
				if err := write(ctx, s, namespace, first+i); err != nil {
					return fmt.Errorf("write %d: %w", first+i, err)
				}
				if latency != nil {
					latency[i] = time.Since(began).Seconds()
				}
			}
			return nil
		})
	}
	warmUp := sc.WarmUp / together * together
	if err := writes(ctx, 0, warmUp, nil); err != nil {
		return err
	}
	_, err = s.phase(ctx, fmt.Sprintf("%s x%d", name, sc.Writers), func(ctx context.Context, p *report.Phase) error {
		latency := make([]float64, sc.Operations/together*together)
		began := time.Now()
		if err := writes(ctx, warmUp, sc.Operations, latency); err != nil {
			return err
		}
		p.Figures["writes/s"] = float64(len(latency)) / time.Since(began).Seconds()
		p.Figures["write median ms"] = report.Median(latency) * 1e3
		p.Figures["write p99 ms"] = report.Quantile(latency, 0.99) * 1e3
		return nil
	})
	return err
}

// writeConfigMap creates a ConfigMap if i is even, and updates that if it is not.
func (sc *Writes) writeConfigMap(ctx context.Context, s *session, namespace string, i int) error {
	configMaps := s.server.Client.CoreV1().ConfigMaps(namespace)
	object := dataset.NewConfigMap("writes", i/2, i, sc.ObjectSize)
	object.Labels[dataset.ScenarioLabel] = sc.About().Name
	var err error
	if i%2 == 0 {
		_, err = configMaps.Create(ctx, object, metav1.CreateOptions{})
	} else {
		_, err = configMaps.Update(ctx, object, metav1.UpdateOptions{})
	}
	return err
}

// createPod creates Pod i as a controller does.
func (sc *Writes) createPod(ctx context.Context, s *session, namespace string, i int) error {
	pod := s.Place.Pod(i)
	pod.Labels[dataset.ScenarioLabel] = sc.About().Name
	_, err := s.server.Client.CoreV1().Pods(namespace).Create(ctx, pod, metav1.CreateOptions{FieldManager: "kube-controller-manager"})
	return err
}
