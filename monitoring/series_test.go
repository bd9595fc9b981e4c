// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package monitoring

import "fmt"

// collector is an hour of a process of two processors that is busy with half of one, and collects garbage for so many seconds a minute, idle of
// them on processors that nobody else wanted.
func collector(gc, idle int) []string {
	counter := func(name string, perMinute int) string {
		return fmt.Sprintf(`go_cpu_classes_%s_cpu_seconds_total{%s} 0+%dx60`, name, target, perMinute)
	}
	return []string{limit, counter("gc_total", gc), counter("gc_mark_idle", idle), counter("total", 120), counter("idle", 90-gc)}
}

func consistent(success string, perMinute int) string {
	return fmt.Sprintf(`apiserver_watch_cache_consistent_read_total{fallback="false", group="", resource="pods", success=%q, %s} 0+%dx60`, success, target, perMinute)
}

func watches(n int) string {
	return fmt.Sprintf(`weir_cache_watches{group="", resource="pods", %s} %dx60`, target, n)
}

func parked(values string) string {
	return fmt.Sprintf(`weir_cache_watches_parked{group="", resource="pods", %s} %s`, target, values)
}

func lists(way string, perMinute int) string {
	return fmt.Sprintf(`weir_lists_total{way=%q, %s} 0+%dx60`, way, target, perMinute)
}

func etcd(operation, le string, perMinute int) string {
	return fmt.Sprintf(`etcd_request_duration_seconds_bucket{operation=%q, le=%q, group="", resource="pods", %s} 0+%dx60`, operation, le, target, perMinute)
}
