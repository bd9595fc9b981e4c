// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// Heap is a Go server's own account of its memory, in bytes, from /metrics.
type Heap struct {
	Alloc      int64 `json:"alloc"`      // live and not yet swept objects
	Inuse      int64 `json:"inuse"`      // spans with at least one object
	Stack      int64 `json:"stack"`      // spans of goroutine stacks
	Goroutines int64 `json:"goroutines"` // a count
}

// scrapeHeap reads the server's memory account. With collect, the server runs its garbage collector twice before
// (the second pass frees what finalizers held), so that the figures are of live memory. A server that bench did not start
// is not made to.
func (s *server) scrapeHeap(ctx context.Context, collect bool) (Heap, error) {
	if collect && s.process != nil {
		for range 2 {
			if _, err := s.get(ctx, "/debug/pprof/heap?gc=1"); err != nil {
				return Heap{}, fmt.Errorf("have %s collect garbage: %w", s.target.Name, err)
			}
		}
	}
	m, err := s.scrape(ctx)
	return m.heap, err
}

// scraped is what bench reads from a server's /metrics.
type scraped struct {
	heap Heap
	rss  int64   // bytes
	cpu  float64 // seconds since the process started
	// allocated is what has been allocated on the heap since then, in bytes.
	allocated float64
	started   float64 // when the process started, in Unix seconds: tells processes apart
}

func (s *server) scrape(ctx context.Context) (scraped, error) {
	body, err := s.get(ctx, "/metrics")
	if err != nil {
		return scraped{}, fmt.Errorf("metrics of %s: %w", s.target.Name, err)
	}
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(bytes.NewReader(body))
	if err != nil {
		return scraped{}, fmt.Errorf("metrics of %s: %w", s.target.Name, err)
	}
	value := func(name string) float64 {
		family := families[name]
		if family == nil || len(family.GetMetric()) == 0 {
			return 0
		}
		m := family.GetMetric()[0]
		return m.GetGauge().GetValue() + m.GetCounter().GetValue() // it has one of them
	}
	return scraped{
		heap: Heap{
			Alloc:      int64(value("go_memstats_heap_alloc_bytes")),
			Inuse:      int64(value("go_memstats_heap_inuse_bytes")),
			Stack:      int64(value("go_memstats_stack_inuse_bytes")),
			Goroutines: int64(value("go_goroutines")),
		},
		rss:       int64(value("process_resident_memory_bytes")),
		cpu:       value("process_cpu_seconds_total"),
		started:   value("process_start_time_seconds"),
		allocated: value("go_memstats_alloc_bytes_total"),
	}, nil
}

// clusterUsage reads a server that bench did not start from its /metrics. Each reading costs the server some processor
// time, so they are few; and a cluster in use never becomes idle, so there is no long wait for that.
func clusterUsage(ctx context.Context, s *server) (usage, error) {
	first, err := s.scrape(ctx)
	if err != nil {
		return usage{}, err
	}
	if first.rss == 0 || first.cpu == 0 {
		return usage{}, fmt.Errorf("metrics of %s: no process_resident_memory_bytes or process_cpu_seconds_total in them", s.target.Name)
	}
	return usage{every: 2 * time.Second, limit: 5 * time.Second, read: func() (int64, float64, error) {
		ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
		defer cancel()
		m, err := s.scrape(ctx)
		if err != nil {
			return 0, 0, err
		}
		if m.started != first.started {
			return 0, 0, fmt.Errorf("metrics of %s: they come from another process than at the beginning: the server has restarted, or several answer behind %s", s.target.Name, s.url)
		}
		return m.rss, m.cpu, nil
	}}, nil
}

// profileCPU takes processor profiles of seconds each, one after the other, into dir/name-cpu-N.pprof; "go tool pprof"
// merges several. The returned function has the profile that is under way be the last, and waits for it.
func (s *server) profileCPU(ctx context.Context, dir, name string, seconds int) (finish func() error) {
	last := make(chan struct{})
	result := make(chan error, 1)
	go func() {
		for i := 0; ; i++ {
			data, err := s.get(ctx, fmt.Sprintf("/debug/pprof/profile?seconds=%d", seconds))
			if err == nil {
				err = os.WriteFile(filepath.Join(dir, fmt.Sprintf("%s-cpu-%d.pprof", name, i)), data, 0o644)
			}
			if err != nil {
				result <- fmt.Errorf("profile %s: %w", s.target.Name, err)
				return
			}
			select {
			case <-last:
				result <- nil
				return
			default:
			}
		}
	}()
	return func() error {
		close(last)
		return <-result
	}
}

// profileHeap saves the heap after a collection to dir/name-heap.pprof.
func (s *server) profileHeap(ctx context.Context, dir, name string) error {
	data, err := s.get(ctx, "/debug/pprof/heap?gc=1")
	if err != nil {
		return fmt.Errorf("heap profile of %s: %w", s.target.Name, err)
	}
	return os.WriteFile(filepath.Join(dir, name+"-heap.pprof"), data, 0o644)
}
