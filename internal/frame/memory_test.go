// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package frame

import (
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kruntime "k8s.io/apimachinery/pkg/runtime"

	"github.com/weir-project/weir/internal/ledger"
	"github.com/weir-project/weir/internal/snapshot"
)

// within is how far what is booked may be from what the heap grows by, in percent. Neither
// knows what the other rounds.
const within = 15

// heap returns how many bytes are alive.
func heap() int64 {
	var m runtime.MemStats
	runtime.GC() // what was pooled is given up by the second one
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

func holds(t *testing.T, what string, booked, grown int64) {
	t.Helper()
	t.Logf("%s: %d bytes are booked, the heap has grown by %d: %.2f", what, booked, grown, float64(booked)/float64(grown))
	if booked*100 < grown*(100-within) || booked*100 > grown*(100+within) {
		t.Errorf("%s: %d bytes are booked, but the heap has grown by %d", what, booked, grown)
	}
}

// TestFramesAreBooked holds Frame.Size against the heap, for small objects and large ones,
// with the map that they are in.
func TestFramesAreBooked(t *testing.T) {
	for name, make := range map[string]func(i int) (*Codec, kruntime.Object){
		"small": func(i int) (*Codec, kruntime.Object) {
			return nil, &v1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("c-", i), Namespace: "n", ResourceVersion: "1", Labels: map[string]string{"app": "a"}}, Data: map[string]string{"a": "b"}}
		},
		"medium": func(i int) (*Codec, kruntime.Object) {
			return nil, &v1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("c-", i), Namespace: "n", ResourceVersion: "1"}, Data: map[string]string{"a": strings.Repeat("x", i%9000)}}
		},
		"large": func(i int) (*Codec, kruntime.Object) {
			return nil, &v1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("c-", i), Namespace: "n", ResourceVersion: "1"}, Data: map[string]string{"a": strings.Repeat("x", 30_000+i*100)}}
		},
		"custom": func(i int) (*Codec, kruntime.Object) { return customCodec(), custom(strings.Repeat("x", i%2000)) },
		"exact": func(i int) (*Codec, kruntime.Object) {
			return customCodec(), custom([]any{1.0, strings.Repeat("x", i%2000)})
		},
	} {
		t.Run(name, func(t *testing.T) {
			common, _ := core("ConfigMap", "configmaps").codec(t, 0)
			if c, _ := make(0); c != nil {
				common = c
			}
			n := 20_000
			if name == "large" {
				n = 1000
			}
			objects := snapshot.New[*Frame]()
			before := heap()
			var booked int64
			for i := range n {
				_, obj := make(i)
				if _, ok := obj.(*v1.ConfigMap); ok {
					obj = internal(t, obj)
				}
				f, err := common.Encode(strings.Clone(fmt.Sprintf("/registry/configmaps/namespace-%d/configmap-%d", i%10, i)), obj)
				if err != nil {
					t.Fatal(err)
				}
				booked += f.Size()
				objects.Set(f.Key(), f)
			}
			holds(t, name, booked, heap()-before)
			runtime.KeepAlive(objects)
		})
	}
}

// TestDerivedAreBooked holds the ledger against the heap, for encodings of every size.
func TestDerivedAreBooked(t *testing.T) {
	for _, size := range []int{20, 300, 2000, 40_000} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			n := 50_000
			if size > 10_000 {
				n = 1000
			}
			l := &ledger.Ledger{}
			s := NewStore(1<<30, l)
			frames := make([]Frame, n)
			before := heap()
			fill(s, frames, size)
			holds(t, fmt.Sprint(size), l.Bytes(ledger.Derived), heap()-before)
			runtime.KeepAlive(frames)
			s.sweepAll()
			s.sweepAll()
			if left := heap() - before; l.Bytes(ledger.Derived) != 0 || left > int64(n)*10 {
				t.Errorf("%d bytes are booked when nothing is kept, and the heap has %d", l.Bytes(ledger.Derived), left)
			}
			runtime.KeepAlive(frames)
		})
	}
}

// fill gives each frame an encoding of size bytes.
func fill(s *Store, frames []Frame, size int) {
	object := make([]byte, size)
	for i := range frames {
		s.get(&frames[i], name(0), func() (encoded, error) { return enclose(0, object), nil })
	}
}

// BenchmarkSweep sweeps 400,000 encodings and tells how long Store.mu is held for that, at
// most and in 99 of 100 cases. The longest time has in it whatever else the machine did.
func BenchmarkSweep(b *testing.B) {
	const n = 400_000
	s := NewStore(1<<30, &ledger.Ledger{})
	frames := make([]Frame, n)
	var held []time.Duration
	for b.Loop() {
		b.StopTimer()
		fill(s, frames, 300)
		b.StartTimer()
		for range 2 { // all stay, and all go
			s.kept.sweeps++
			for more := true; more; {
				began := time.Now()
				more = s.sweepSome(&s.kept)
				held = append(held, time.Since(began))
			}
		}
	}
	slices.Sort(held)
	b.ReportMetric(float64(held[len(held)*99/100].Microseconds()), "µs-held-p99")
	b.ReportMetric(float64(held[len(held)-1].Microseconds()), "µs-held-max")
}
