// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"sync"

	"k8s.io/component-base/metrics"
	"k8s.io/component-base/metrics/legacyregistry"

	"github.com/weir-project/weir/internal/budget"
)

// rejected counts the requests that were refused for want of memory.
var rejected = metrics.NewCounterVec(&metrics.CounterOpts{
	Subsystem: subsystem,
	Name:      "memory_rejected_requests_total",
	Help: "Requests answered 429 for want of memory, by reason: time-out (waited for as long as it may), queue-full (too many of its priority level " +
		"wait), too-large (there is never that much), cancelled (the client has left while it waited).",
	StabilityLevel: metrics.ALPHA,
}, []string{"reason"})

// registerBudgetMetrics adds those of the process's budget.
var registerBudgetMetrics = sync.OnceFunc(func() {
	legacyregistry.MustRegister(rejected)
	for _, reason := range []string{"time-out", "queue-full", "too-large", "cancelled"} {
		rejected.WithLabelValues(reason) // shown as 0 before there is one
	}
	for _, m := range []struct {
		name, help string
		value      func(budget.Usage) int64
	}{
		{"memory_requests_budget_bytes",
			"Bytes that requests may hold together while they are answered: the memory limit, without what is held anyway and room for garbage. Without a limit it is the greatest number that there is.",
			func(u budget.Usage) int64 { return u.Size }},
		{"memory_requests_in_use_bytes",
			"Bytes that the requests which are being answered may hold together, estimated. 0 without a memory limit.",
			func(u budget.Usage) int64 { return u.InUse }},
		{"memory_requests_waiting",
			"Requests that wait for memory.",
			func(u budget.Usage) int64 { return int64(u.Waiting) }},
	} {
		legacyregistry.RawMustRegister(metrics.NewGaugeFunc(&metrics.GaugeOpts{
			Subsystem: subsystem, Name: m.name, Help: m.help, StabilityLevel: metrics.ALPHA,
		}, func() float64 { return float64(m.value(budget.Process.Usage())) }))
	}
})
