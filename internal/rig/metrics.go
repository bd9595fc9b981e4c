// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package rig

import (
	"bytes"
	"context"
	"fmt"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// Metrics is a Go server's own account of what it uses, from /metrics. What it does not tell is 0.
type Metrics struct {
	RSS     int64   // bytes of resident memory
	CPU     float64 // seconds of processor time since the process started
	Started float64 // when that was, in Unix seconds: tells processes apart

	Heap Heap
	// Allocated is what has been allocated on the heap since the start, in bytes.
	Allocated  float64
	Goroutines int64
	// Descriptors are open files and connections.
	Descriptors int64
	// Purposes is what weir says of the bytes that it holds, by what they are for; empty for other servers.
	Purposes map[string]int64
}

// Heap is a Go server's own account of its memory, in bytes.
type Heap struct {
	Alloc int64 // live and not yet swept objects
	Inuse int64 // spans with at least one object
	Stack int64 // spans of goroutine stacks
}

// Metrics reads the server's account.
func (a *Admin) Metrics(ctx context.Context) (Metrics, error) {
	body, err := a.Get(ctx, "/metrics")
	if err != nil {
		return Metrics{}, err
	}
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(bytes.NewReader(body))
	if err != nil {
		return Metrics{}, err
	}
	value := func(name string) float64 {
		family := families[name]
		if family == nil || len(family.GetMetric()) == 0 {
			return 0
		}
		m := family.GetMetric()[0]
		return m.GetGauge().GetValue() + m.GetCounter().GetValue() // it has one of them
	}
	purposes := map[string]int64{}
	for _, m := range families["weir_memory_bytes"].GetMetric() {
		for _, l := range m.GetLabel() {
			if l.GetName() == "purpose" {
				purposes[l.GetValue()] = int64(m.GetGauge().GetValue())
			}
		}
	}
	return Metrics{
		RSS:     int64(value("process_resident_memory_bytes")),
		CPU:     value("process_cpu_seconds_total"),
		Started: value("process_start_time_seconds"),
		Heap: Heap{
			Alloc: int64(value("go_memstats_heap_alloc_bytes")),
			Inuse: int64(value("go_memstats_heap_inuse_bytes")),
			Stack: int64(value("go_memstats_stack_inuse_bytes")),
		},
		Allocated:   value("go_memstats_alloc_bytes_total"),
		Goroutines:  int64(value("go_goroutines")),
		Descriptors: int64(value("process_open_fds")),
		Purposes:    purposes,
	}, nil
}

// Collections are how many collections Collect asks for.
const Collections = 2

// Collect has the server run its garbage collector twice, so that its account is of live memory: the second pass frees
// what finalizers held.
func (a *Admin) Collect(ctx context.Context) error {
	for range Collections {
		if _, err := a.Get(ctx, "/debug/pprof/heap?gc=1"); err != nil {
			return fmt.Errorf("have the server collect garbage: %w", err)
		}
	}
	return nil
}
