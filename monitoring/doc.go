// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

// Package monitoring has what Prometheus and Grafana are given to watch a weir: dashboard.json and alerts.yaml. There is no code but
// the tests that hold both against a running server, with Prometheus' own parser and engine. It is a module of its own because
// of that dependency.
package monitoring
