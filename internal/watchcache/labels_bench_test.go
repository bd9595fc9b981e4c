// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package watchcache

import (
	"fmt"
	"runtime"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/apis/example"

	"github.com/weir-project/weir/internal/frame"
)

// labelled returns an object of a namespace with so many labels of two or three letters.
func (h *handoverBench) labelled(b testing.TB, namespace string, n int) *frame.Frame {
	b.Helper()
	h.rev++
	set := map[string]string{}
	const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
	for i := range n {
		set[string([]byte{letters[i/len(letters)], letters[i%len(letters)]})] = ""
	}
	f, err := h.codec.Encode(podPrefix+namespace+"/p", &example.Pod{ObjectMeta: metav1.ObjectMeta{
		Namespace: namespace, Name: "p", ResourceVersion: fmt.Sprint(h.rev), Labels: set,
	}})
	if err != nil {
		b.Fatal(err)
	}
	return f
}

// BenchmarkCostlyQuickSelectors is BenchmarkCostlySelectors with selectors and labels that
// are just within what counts as quick.
func BenchmarkCostlyQuickSelectors(b *testing.B) {
	for _, watches := range []int{20, 200} {
		b.Run(fmt.Sprint(watches), func(b *testing.B) {
			h := newHandoverBench(b)
			var terms []string
			for i := range 8 { // 16 terms
				terms = append(terms, fmt.Sprintf("zz notin (x%d)", i))
			}
			selector := strings.Join(terms, ",")
			prev, cur := h.labelled(b, "a", 1000), h.labelled(b, "a", 1001)
			other := h.frame(b, "b")
			var costly []*watcher
			for range watches {
				costly = append(costly, h.watch(b, "a", selector, handover))
			}
			if !costly[0].match.quick {
				b.Fatal("not quick")
			}
			w := h.watch(b, "b", "", handover)
			var late lateness
			for b.Loop() {
				late.observe(b, h, prev, cur, other, w)
				<-h.handed
				<-h.handed
				for _, c := range costly {
					<-c.result
				}
			}
			late.report(b)
		})
	}
}

// BenchmarkWokenByLabels is an event of one object with many labels to 5,000 watches of the
// whole resource with an ordinary selector, which it is not for; and of one with few.
func BenchmarkWokenByLabels(b *testing.B) {
	for _, n := range []int{10, 1500} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			h := newHandoverBench(b)
			go func() {
				for {
					select {
					case <-h.handed:
					case <-b.Context().Done():
						return
					}
				}
			}()
			for range 5000 {
				h.watch(b, "", "app=none", handover)
			}
			odd := h.labelled(b, "a", n)
			plain := h.frame(b, "b")
			w := h.watch(b, "b", "", handover)
			var late lateness
			for b.Loop() {
				late.observe(b, h, odd, odd, plain, w)
				b.StopTimer()
				for h.log.Stats().Parked != 5001 {
					runtime.Gosched()
				}
				b.StartTimer()
			}
			late.report(b)
		})
	}
}
