// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"

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
// (the second pass frees what finalizers held), so that the figures are of live memory.
func (s *server) scrapeHeap(ctx context.Context, collect bool) (Heap, error) {
	if collect {
		for range 2 {
			if _, err := s.get(ctx, "/debug/pprof/heap?gc=1"); err != nil {
				return Heap{}, fmt.Errorf("have %s collect garbage: %w", s.name, err)
			}
		}
	}
	body, err := s.get(ctx, "/metrics")
	if err != nil {
		return Heap{}, fmt.Errorf("metrics of %s: %w", s.name, err)
	}
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(bytes.NewReader(body))
	if err != nil {
		return Heap{}, fmt.Errorf("metrics of %s: %w", s.name, err)
	}
	gauge := func(name string) int64 {
		family := families[name]
		if family == nil || len(family.GetMetric()) == 0 {
			return 0
		}
		return int64(family.GetMetric()[0].GetGauge().GetValue())
	}
	return Heap{
		Alloc:      gauge("go_memstats_heap_alloc_bytes"),
		Inuse:      gauge("go_memstats_heap_inuse_bytes"),
		Stack:      gauge("go_memstats_stack_inuse_bytes"),
		Goroutines: gauge("go_goroutines"),
	}, nil
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
				result <- fmt.Errorf("profile %s: %w", s.name, err)
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
		return fmt.Errorf("heap profile of %s: %w", s.name, err)
	}
	return os.WriteFile(filepath.Join(dir, name+"-heap.pprof"), data, 0o644)
}
