// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package watchcache

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apiserver/pkg/apis/example"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/utils/ptr"

	"github.com/weir-project/weir/test/etcd"
)

// spans runs do under a span, and returns those that caches have begun and ended below
// it, each as its name, its attributes and its events.
func spans(t *testing.T, do func(context.Context)) []string {
	t.Helper()
	recorder := tracetest.NewSpanRecorder()
	provider := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(recorder))
	ctx, root := provider.Tracer("test").Start(t.Context(), "request")
	do(ctx)
	root.End()
	var out []string
	for _, span := range recorder.Ended() {
		if !strings.HasPrefix(span.Name(), "cacher.") {
			continue
		}
		lines := []string{fmt.Sprint(span.Name(), " ", span.Attributes())}
		for _, event := range span.Events() {
			if event.Name == "Resized result" {
				continue // there is no slice to resize
			}
			lines = append(lines, fmt.Sprint("  ", event.Name, " ", event.Attributes))
		}
		out = append(out, strings.Join(lines, "\n"))
	}
	return out
}

// TestSpansAreUpstreams puts the same requests to upstream's cacher and to the cache, and
// compares what traces tell of them.
func TestSpansAreUpstreams(t *testing.T) {
	client := etcd.Run(t)
	o := storeOptions{prefix: "/registry"}
	_, stock := startCacher(t, newStore(t, client, o))
	weir := &subject{Cache: startCache(t, podConfig(newStore(t, client, o), nil)), client: client, opts: o}
	for i := range 5 {
		p := pod(fmt.Sprintf("p%d", i))
		p.Spec.NodeName = fmt.Sprintf("n%d", i%2)
		weir.put(t, p)
	}
	last := weir.put(t, pod("last"))
	rev := last.ResourceVersion
	waitRevision(t, weir.Cache, revision(t, rev))
	newest := fmt.Sprint(weir.increase(t.Context(), t)) // which takes a progress notification to reach
	first := &example.PodList{}
	page := storage.SelectionPredicate{Label: labels.Everything(), Field: fields.Everything(), Limit: 2}
	if err := stock.GetList(t.Context(), podPrefix, storage.ListOptions{Predicate: page, Recursive: true}, first); err != nil {
		t.Fatal(err)
	}
	more := page
	more.Continue = first.Continue
	labelled := storage.SelectionPredicate{Label: labels.SelectorFromSet(labels.Set{"a": "b"}), Field: fields.Everything(), GetAttrs: podAttrs}

	get := func(key string, opts storage.GetOptions) func(context.Context, storage.Interface) error {
		return func(ctx context.Context, s storage.Interface) error { return s.Get(ctx, key, opts, &example.Pod{}) }
	}
	list := func(key string, opts storage.ListOptions) func(context.Context, storage.Interface) error {
		if opts.Predicate.Label == nil {
			opts.Predicate = storage.Everything
		}
		return func(ctx context.Context, s storage.Interface) error {
			return s.GetList(ctx, key, opts, &example.PodList{})
		}
	}
	follow := func(opts storage.ListOptions) func(context.Context, storage.Interface) error {
		opts.Predicate, opts.Recursive = storage.Everything, true
		opts.Predicate.AllowWatchBookmarks = true
		return func(ctx context.Context, s storage.Interface) error {
			w, err := s.Watch(ctx, podPrefix, opts)
			if err == nil {
				w.Stop()
			}
			return err
		}
	}
	for name, request := range map[string]func(context.Context, storage.Interface) error{
		"get":                      get("/pods/a/p1", storage.GetOptions{ResourceVersion: "0"}),
		"get of the newest":        get("/pods/a/p1", storage.GetOptions{ResourceVersion: newest}),
		"get of nothing":           get("/pods/a/nothing", storage.GetOptions{ResourceVersion: "0"}),
		"get of no revision":       get("/pods/a/p1", storage.GetOptions{}),
		"get of a bad revision":    get("/pods/a/p1", storage.GetOptions{ResourceVersion: "x"}),
		"list":                     list(podPrefix, storage.ListOptions{Recursive: true}),
		"list of a revision":       list(podPrefix, storage.ListOptions{Recursive: true, ResourceVersion: rev}),
		"list of any revision":     list(podPrefix, storage.ListOptions{Recursive: true, ResourceVersion: "0"}),
		"list of exactly":          list(podPrefix, storage.ListOptions{Recursive: true, ResourceVersion: rev, ResourceVersionMatch: metav1.ResourceVersionMatchExact}),
		"list of exactly long ago": list(podPrefix, storage.ListOptions{Recursive: true, ResourceVersion: "1", ResourceVersionMatch: metav1.ResourceVersionMatchExact}),
		"list of a namespace":      list("/pods/a/", storage.ListOptions{Recursive: true}),
		"list of one":              list("/pods/a/p1", storage.ListOptions{}),
		"list of one, old":         list("/pods/a/p1", storage.ListOptions{ResourceVersion: "0"}),
		"list of none":             list("/pods/a/nothing", storage.ListOptions{}),
		"list of a node":           list(podPrefix, storage.ListOptions{Recursive: true, Predicate: ofNode("n1")}),
		"list by a label":          list(podPrefix, storage.ListOptions{Recursive: true, Predicate: labelled}),
		"page":                     list(podPrefix, storage.ListOptions{Recursive: true, Predicate: page}),
		"page of any revision":     list(podPrefix, storage.ListOptions{Recursive: true, Predicate: page, ResourceVersion: "0"}),
		"next page":                list(podPrefix, storage.ListOptions{Recursive: true, Predicate: more}),
		"watch":                    follow(storage.ListOptions{ResourceVersion: rev}),
		"watch from any revision":  follow(storage.ListOptions{ResourceVersion: "0"}),
		"watch from now":           follow(storage.ListOptions{SendInitialEvents: ptr.To(false), ResourceVersionMatch: metav1.ResourceVersionMatchNotOlderThan}),
		"watch list":               follow(storage.ListOptions{SendInitialEvents: ptr.To(true), ResourceVersionMatch: metav1.ResourceVersionMatchNotOlderThan}),
		"watch of a bad revision":  follow(storage.ListOptions{ResourceVersion: "x"}),
	} {
		t.Run(name, func(t *testing.T) {
			var stockErr, weirErr error
			want := spans(t, func(ctx context.Context) { stockErr = request(ctx, stock) })
			got := spans(t, func(ctx context.Context) { weirErr = request(ctx, weir.Cache) })
			if (stockErr == nil) != (weirErr == nil) {
				t.Errorf("answered with %v, stock with %v", weirErr, stockErr)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("-stock +weir:\n%s", diff)
			}
		})
	}
	got := spans(t, func(ctx context.Context) {
		if _, err := weir.keys(ctx); err != nil {
			t.Error(err)
		}
	})
	// Upstream's is not to be called from here.
	if len(got) != 1 || !strings.HasPrefix(got[0], "cacher.getKeys ") {
		t.Errorf("asked for all keys, a trace tells of %v", got)
	}
	for _, event := range []string{"GetCurrentResourceVersion succeed", "watchCache locked acquired", "watchCache fresh enough", "ListKeys success"} {
		if !strings.Contains(strings.Join(got, ""), "\n  "+event) {
			t.Errorf("asked for all keys, a trace does not tell %q: %v", event, got)
		}
	}
}
