// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package liststream

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// Lists of what compresses and what does not, of all sizes, with objects of both sorts in all
// places, asked for by several at once.
func TestRowsAtRandom(t *testing.T) {
	for seed := range uint64(4) {
		random := rand.New(rand.NewPCG(seed, 1))
		var objects []*corev1.ConfigMap
		for i := range 150 + random.IntN(300) {
			var marks []string
			if random.IntN(40) == 0 {
				marks = []string{defaulted}
			}
			size := random.IntN(1 << random.IntN(15))
			if random.IntN(60) == 0 {
				size = random.IntN(300_000)
			}
			m := newMap(fmt.Sprintf("m-%04d", i), strings.Repeat("content <", size/9), marks...)
			if random.IntN(2) == 0 {
				noise := make([]byte, size)
				for i := range noise {
					noise[i] = byte(random.Uint32())
				}
				m.BinaryData = map[string][]byte{"noise": noise}
				if random.IntN(2) == 0 {
					m.Data = map[string]string{"": ""}
				}
			}
			objects = append(objects, m)
		}
		w := newWorld(t, objects...)
		var all sync.WaitGroup
		for _, f := range forms {
			if !f.gzip || f.query != "" || strings.Contains(f.accept, "yaml") || strings.Contains(f.accept, "Table") || strings.Contains(f.accept, "cbor") {
				continue
			}
			want := ask(w.upstream(), f)
			body := inflated(t, want)
			for range 3 {
				all.Go(func() {
					own := &world{frames: w.frames, scope: w.scope, tables: w.tables}
					got := ask(own.streaming(), f)
					if got.Header().Get("Content-Encoding") != want.Header().Get("Content-Encoding") {
						t.Errorf("%s: %v, upstream %v", f, got.Header(), want.Header())
					}
					if string(inflated(t, got)) != string(body) {
						t.Errorf("seed %d, %s: another list than upstream's", seed, f)
					}
				})
			}
		}
		all.Wait()
	}
}
