// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package frame

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"
)

// words are what keys and values are made of in these tests: few enough to meet, and
// with prefixes, gaps and lengths of one, two and three bytes of varint among them.
var words = []string{
	"", "a", "aa", "b", "app", "app.kubernetes.io/name", "é", "zone", "0", "7", "-3",
	strings.Repeat("x", 127), strings.Repeat("x", 128), strings.Repeat("y", 16383), strings.Repeat("y", 16384), strings.Repeat("z", 70_000),
}

func word(r *rand.Rand) string {
	if r.IntN(4) > 0 {
		return words[r.IntN(11)]
	}
	return words[r.IntN(len(words))]
}

func set(r *rand.Rand) map[string]string {
	m := map[string]string{}
	for range r.IntN(8) {
		m[word(r)] = word(r)
	}
	return m
}

// labelSelector returns a random selector of all kinds of requirements.
func labelSelector(t *testing.T, r *rand.Rand) labels.Selector {
	sel := labels.NewSelector()
	for range r.IntN(4) {
		ops := []selection.Operator{selection.In, selection.NotIn, selection.Equals, selection.NotEquals, selection.Exists, selection.DoesNotExist, selection.GreaterThan, selection.LessThan}
		op := ops[r.IntN(len(ops))]
		key := words[1+r.IntN(5)]
		var values []string
		switch op {
		case selection.Exists, selection.DoesNotExist:
		case selection.GreaterThan, selection.LessThan:
			values = []string{fmt.Sprint(r.IntN(10))}
		case selection.In, selection.NotIn:
			values = []string{words[r.IntN(6)], words[1+r.IntN(4)]}
		default:
			values = []string{words[r.IntN(6)]}
		}
		for i, v := range values {
			if v == "app.kubernetes.io/name" { // keys only
				values[i] = "app"
			}
		}
		req, err := labels.NewRequirement(key, op, values)
		if err != nil {
			t.Fatal(err)
		}
		sel = sel.Add(*req)
	}
	return sel
}

func fieldSelector(r *rand.Rand) fields.Selector {
	var terms []fields.Selector
	for range r.IntN(4) {
		if r.IntN(2) == 0 {
			terms = append(terms, fields.OneTermEqualSelector(word(r), word(r)))
		} else {
			terms = append(terms, fields.OneTermNotEqualSelector(word(r), word(r)))
		}
	}
	return fields.AndSelectors(terms...)
}

// TestAttrsTwin compares packed labels and fields with the maps that they were made of.
func TestAttrsTwin(t *testing.T) {
	r := random(t)
	var names fieldNames
	matched := 0
	for range 5000 {
		l, f := labels.Set(set(r)), fields.Set(set(r))
		if r.IntN(3) == 0 {
			for i := range fewLabels + r.IntN(30) {
				l[fmt.Sprint("m", i)] = word(r)
			}
		}
		frame := &Frame{attrs: pack(l, f, &names)}
		for _, w := range words {
			value, has := l[w]
			if got, ok := frame.Labels().Lookup(w); got != value || ok != has {
				t.Fatalf("labels %v: Lookup(%.50q) is %.50q, %v", l, w, got, ok)
			}
			if frame.Labels().Get(w) != value || frame.Labels().Has(w) != has {
				t.Fatalf("labels %v: Get or Has of %.50q is wrong", l, w)
			}
			value, has = f[w]
			if frame.Fields().Get(w) != value || frame.Fields().Has(w) != has {
				t.Fatalf("fields %v: Get or Has of %.50q is wrong", f, w)
			}
		}
		sel := labelSelector(t, r)
		if got, want := sel.Matches(frame.Labels()), sel.Matches(l); got != want {
			t.Fatalf("%q matches labels %v: %v, packed: %v", sel, l, want, got)
		} else if got && !sel.Empty() {
			matched++
		}
		by := fieldSelector(r)
		if got, want := by.Matches(frame.Fields()), by.Matches(f); got != want {
			t.Fatalf("%q matches fields %v: %v, packed: %v", by, f, want, got)
		} else if got && !by.Empty() {
			matched++
		}
	}
	if matched == 0 {
		t.Error("no selector ever matched: the test shows nothing")
	}
}

// TestCut reads back strings of every length of a length.
func TestCut(t *testing.T) {
	for _, n := range []int{0, 1, 127, 128, 129, 16383, 16384, 16385, 1<<21 - 1, 1 << 21} {
		s := strings.Repeat("s", n)
		first, rest := cut(string(appendString(appendString(nil, s), "rest")))
		if first != s {
			t.Errorf("a string of %d bytes comes back with %d", n, len(first))
		}
		if last, end := cut(rest); last != "rest" || end != "" {
			t.Errorf("after a string of %d bytes come %q and %q", n, last, end)
		}
	}
}

// TestFieldNamesAreShared has many goroutines pack objects of two kinds of fields.
func TestFieldNamesAreShared(t *testing.T) {
	var names fieldNames
	kinds := []fields.Set{{"a": "1", "b": "2"}, {"a": "1", "b": "2", "c": ""}, {}}
	var mu sync.Mutex
	seen := map[int][]*string{}
	var all sync.WaitGroup
	for i := range 30 {
		all.Go(func() {
			a := pack(nil, kinds[i%3], &names)
			if len(a.names) == 0 {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			seen[i%3] = append(seen[i%3], &a.names[0])
		})
	}
	all.Wait()
	for kind, firsts := range seen {
		if slices.ContainsFunc(firsts, func(p *string) bool { return p != firsts[0] }) {
			t.Errorf("the names of %v are kept several times", kinds[kind])
		}
	}
	if len(names.known) != 3 {
		t.Errorf("%d sets of names are kept, want 3", len(names.known))
	}
}

func BenchmarkLookup(b *testing.B) {
	l := labels.Set{"app": "web", "app.kubernetes.io/name": "web", "pod-template-hash": "5d4f8c7b9", "tier": "front", "zone": "a"}
	f := fields.Set{
		"metadata.name": "web-5d4f8c7b9-abcde", "metadata.namespace": "default", "spec.nodeName": "node-17", "spec.restartPolicy": "Always",
		"spec.schedulerName": "default-scheduler", "spec.serviceAccountName": "default", "spec.hostNetwork": "false", "status.phase": "Running", "status.podIP": "10.0.0.1", "status.nominatedNodeName": "",
	}
	var names fieldNames
	frame := &Frame{attrs: pack(l, f, &names)}
	b.Run("label", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if v, _ := frame.Labels().Lookup("tier"); v != "front" {
				b.Fatal(v)
			}
		}
	})
	b.Run("field", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if v := frame.Fields().Get("spec.nodeName"); v != "node-17" {
				b.Fatal(v)
			}
		}
	})
	b.Run("selector", func(b *testing.B) {
		sel := fields.OneTermEqualSelector("spec.nodeName", "node-17")
		b.ReportAllocs()
		for b.Loop() {
			if !sel.Matches(frame.Fields()) {
				b.Fatal("no match")
			}
		}
	})
}
