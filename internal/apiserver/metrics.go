// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"sync"

	"k8s.io/component-base/metrics"
	"k8s.io/component-base/metrics/legacyregistry"

	"github.com/weir-project/weir/internal/ledger"
)

// registerMetrics adds weir's own metrics to the process's registry: what is served
// at /metrics beside everything that upstream has there.
var registerMetrics = sync.OnceFunc(func() {
	legacyregistry.CustomMustRegister(theCacheMetrics)
	for _, purpose := range ledger.Purposes() {
		legacyregistry.RawMustRegister(metrics.NewGaugeFunc(&metrics.GaugeOpts{
			Subsystem:      "weir",
			Name:           "memory_bytes",
			Help:           "Bytes held by weir's watch cache and its streams, by purpose: frames (objects of the current state, encoded once), history (what only the event log needs), derived (other encodings, made on demand), compressed (rows of objects, compressed on demand), streams (write buffers).",
			ConstLabels:    map[string]string{"purpose": purpose.String()},
			StabilityLevel: metrics.ALPHA,
		}, func() float64 { return float64(ledger.Process.Bytes(purpose)) }))
	}
})
