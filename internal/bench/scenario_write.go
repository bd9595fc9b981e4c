// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"encoding/hex"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// fanoutScenario: every update must reach every watcher.
type fanoutScenario struct {
	Watchers      int      `json:"watchers"`
	Updates       int      `json:"updates"`
	Rate          float64  `json:"rate"`    // updates per second; 0 for one after the other without pause
	Objects       int      `json:"objects"` // updated in turn
	ObjectSize    int      `json:"objectSize"`
	PerConnection int      `json:"perConnection"`
	Format        format   `json:"format"`
	Data          []string `json:"data"`
}

func (*fanoutScenario) name() string          { return "fanout" }
func (sc *fanoutScenario) label() string      { return "fanout" }
func (sc *fanoutScenario) datasets() []string { return sc.Data }
func (*fanoutScenario) rounds() int           { return 1 }
func (*fanoutScenario) writes() []string      { return []string{"configmaps"} }

func (sc *fanoutScenario) run(ctx context.Context, s *session) error {
	if err := s.ready(ctx); err != nil {
		return err
	}
	namespace, remove, err := s.prepareExtras(ctx, sc)
	if err != nil {
		return err
	}
	defer remove()
	configMaps := s.server.client.CoreV1().ConfigMaps(namespace)
	object := func(i, version int) *corev1.ConfigMap {
		object := newConfigMap("fanout", i, version, sc.ObjectSize)
		object.Labels[scenarioLabel] = sc.name()
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
	readers, err := s.startReaders(ctx, readerJob{
		Paths:  []string{"/api/v1/namespaces/" + namespace + "/configmaps?watch=1&allowWatchBookmarks=true&timeoutSeconds=3600&resourceVersion=" + version},
		Format: sc.Format, Streams: sc.Watchers, PerConnection: sc.PerConnection, Until: untilCount, Expect: int64(sc.Updates),
	})
	if err != nil {
		return err
	}
	defer endReaders(readers)
	if err := readers.say("go"); err != nil {
		return err
	}
	if _, err := hearStage(ctx, readers, stageOpen); err != nil {
		return err
	}
	_, err = s.phase(ctx, fmt.Sprintf("fanout %d x%d", sc.Updates, sc.Watchers), func(ctx context.Context, p *Phase) error {
		began := time.Now()
		for i := range sc.Updates {
			if sc.Rate > 0 {
				due := began.Add(time.Duration(float64(i) / sc.Rate * float64(time.Second)))
				if err := pause(ctx, time.Until(due)); err != nil {
					return err
				}
			}
			if _, err := configMaps.Update(ctx, object(i%sc.Objects, i+1), metav1.UpdateOptions{}); err != nil {
				return fmt.Errorf("update %d: %w", i, err)
			}
		}
		p.Figures["updates s"] = time.Since(began).Seconds()
		report, err := hearStage(ctx, readers, stageDone)
		if err != nil {
			return err
		}
		p.Figures["events"] = float64(report.Events)
		p.Figures["reconnects"] = float64(report.Reconnects)
		p.Figures["received MB"] = float64(report.Bytes) / 1e6
		return nil
	})
	return err
}

// writesScenario: how many writes per second a few busy clients get done.
type writesScenario struct {
	Writers    int      `json:"writers"`
	Operations int      `json:"operations"` // half creates, half updates of what was created
	WarmUp     int      `json:"warmUp"`     // operations before, not measured
	ObjectSize int      `json:"objectSize"`
	Data       []string `json:"data"`
}

func (*writesScenario) name() string          { return "writes" }
func (sc *writesScenario) label() string      { return "writes" }
func (sc *writesScenario) datasets() []string { return sc.Data }
func (*writesScenario) rounds() int           { return 4 }
func (*writesScenario) writes() []string      { return []string{"configmaps"} }

func (sc *writesScenario) run(ctx context.Context, s *session) error {
	if err := s.ready(ctx); err != nil {
		return err
	}
	namespace, remove, err := s.prepareExtras(ctx, sc)
	if err != nil {
		return err
	}
	defer remove()
	configMaps := s.server.client.CoreV1().ConfigMaps(namespace)
	write := func(ctx context.Context, prefix string, i int) error {
		object := newConfigMap(prefix, i/2, i, sc.ObjectSize)
		object.Labels[scenarioLabel] = sc.name()
		var err error
		if i%2 == 0 {
			_, err = configMaps.Create(ctx, object, metav1.CreateOptions{})
		} else {
			_, err = configMaps.Update(ctx, object, metav1.UpdateOptions{})
		}
		if err != nil {
			return fmt.Errorf("write %d: %w", i, err)
		}
		return nil
	}
	// One worker's task is a create and the update after it, so that the update finds its object.
	pairs := func(ctx context.Context, prefix string, n int, latency []float64) error {
		return inParallel(ctx, sc.Writers, n/2, func(ctx context.Context, _, pair int) error {
			for i := 2 * pair; i < 2*pair+2; i++ {
				began := time.Now()
				if err := write(ctx, prefix, i); err != nil {
					return err
				}
				if latency != nil {
					latency[i] = time.Since(began).Seconds()
				}
			}
			return nil
		})
	}
	if err := pairs(ctx, "warm-up", sc.WarmUp, nil); err != nil {
		return err
	}
	_, err = s.phase(ctx, fmt.Sprintf("writes x%d", sc.Writers), func(ctx context.Context, p *Phase) error {
		latency := make([]float64, sc.Operations/2*2)
		began := time.Now()
		if err := pairs(ctx, "writes", sc.Operations, latency); err != nil {
			return err
		}
		p.Figures["writes/s"] = float64(len(latency)) / time.Since(began).Seconds()
		p.Figures["write median ms"] = median(latency) * 1e3
		p.Figures["write p99 ms"] = quantile(latency, 0.99) * 1e3
		return nil
	})
	return err
}

// newConfigMap is object i of a set, with content of its own for every version.
func newConfigMap(prefix string, i, version, size int) *corev1.ConfigMap {
	return &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("%s-%06d", prefix, i), Labels: map[string]string{"app": "weir-bench"}},
		Data:       map[string]string{"payload": hex.EncodeToString(randomBytes(uint64(i)<<32|uint64(version), size/2))},
	}
}
