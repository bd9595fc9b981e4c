// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package watchcache

import (
	"context"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"k8s.io/apiserver/pkg/storage"
	"k8s.io/component-base/tracing"

	"github.com/weir-project/weir/internal/frame"
)

// Spans and their events have upstream's names, in upstream's order, where the cache does
// the same step; see k8s.io/apiserver/pkg/storage/cacher.

// traced tells whether somebody wants to know in detail what happens to a request.
func traced(ctx context.Context) bool { return trace.SpanFromContext(ctx).IsRecording() }

// traceListed tells the span of a list how many objects there are to select from. Where
// counting means walking, they are counted only if that is recorded.
func (c *Cache) traceListed(ctx context.Context, sel *selection, prefix string, opts storage.ListOptions) {
	var count []attribute.KeyValue
	switch {
	case opts.Recursive && sel.whole(prefix, c.cfg.ResourcePrefix):
		count = append(count, attribute.Int("count", sel.view.objects.Len()))
	case traced(ctx):
		n := 0
		sel.ascend(prefix, opts.Recursive, func(*frame.Frame) bool { n++; return true })
		count = append(count, attribute.Int("count", n))
	}
	tracing.SpanFromContext(ctx).AddEvent("Listed items from cache", count...)
}
