// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package snapshot_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/weir-project/weir/internal/snapshot"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// random returns a source of random numbers. Its seed is printed, and taken from
// WEIR_SEED to repeat a run.
func random(t *testing.T) *rand.Rand {
	seed := rand.Uint64()
	if s := os.Getenv("WEIR_SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatalf("WEIR_SEED=%q is not a number: %v", s, err)
		}
	}
	t.Logf("WEIR_SEED=%d repeats this run", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

// key returns one of a few hundred keys that share prefixes with each other.
func key(r *rand.Rand) string {
	namespaces := []string{"", "a", "a-b", "a/", "b", "load", "load2", "\xff"}
	return "/pods/" + namespaces[r.IntN(len(namespaces))] + "/" + fmt.Sprintf("%x", r.IntN(60))
}

func prefix(r *rand.Rand) string {
	k := key(r)
	return k[:r.IntN(len(k)+1)]
}

// picture is a View and, beside it, the map that it has to equal for ever.
type picture struct {
	view snapshot.View[int]
	twin map[string]int
}

// check compares one View with its twin.
func (p picture) check(t *testing.T, r *rand.Rand) {
	t.Helper()
	if p.view.Len() != len(p.twin) {
		t.Fatalf("%d keys, want %d", p.view.Len(), len(p.twin))
	}
	k := key(r)
	got, ok := p.view.Get(k)
	if want, has := p.twin[k]; got != want || ok != has {
		t.Fatalf("%q is %d, %v, want %d, %v", k, got, ok, want, has)
	}
	in, from := prefix(r), ""
	if r.IntN(2) == 0 {
		from = prefix(r)
	}
	var want []string
	for _, k := range slices.Sorted(maps.Keys(p.twin)) {
		if strings.HasPrefix(k, in) && k >= from {
			want = append(want, k)
		}
	}
	if n := p.view.Count(in, from); n != len(want) {
		t.Fatalf("%d keys with prefix %q from %q, want %d", n, in, from, len(want))
	}
	stop := len(want)
	if r.IntN(3) == 0 {
		stop = min(stop, 1+r.IntN(20))
	}
	var walked []string
	p.view.Ascend(in, from, func(k string, v int) bool {
		if v != p.twin[k] {
			t.Errorf("%q is %d, want %d", k, v, p.twin[k])
		}
		walked = append(walked, k)
		return len(walked) < stop
	})
	if !slices.Equal(walked, want[:stop]) {
		t.Fatalf("prefix %q from %q: %q, want %q", in, from, walked, want[:stop])
	}
}

// TestTwin runs random operations on a Map and on a Go map, and checks that every
// picture ever taken stays as it was.
func TestTwin(t *testing.T) {
	r := random(t)
	for range 20 {
		m := snapshot.New[int]()
		twin := map[string]int{}
		var pictures []picture
		for i := range 2000 {
			k := key(r)
			want, has := twin[k]
			switch r.IntN(8) {
			case 0, 1, 2, 3:
				if old, existed := m.Set(k, i+1); old != want || existed != has {
					t.Fatalf("Set(%q) replaces %d, %v, want %d, %v", k, old, existed, want, has)
				}
				twin[k] = i + 1
			case 4, 5:
				if old, existed := m.Delete(k); old != want || existed != has {
					t.Fatalf("Delete(%q) removes %d, %v, want %d, %v", k, old, existed, want, has)
				}
				delete(twin, k)
			case 6:
				if got, ok := m.Get(k); got != want || ok != has {
					t.Fatalf("Get(%q) is %d, %v, want %d, %v", k, got, ok, want, has)
				}
			default:
				pictures = append(pictures, picture{m.Freeze(), maps.Clone(twin)})
			}
			if m.Len() != len(twin) {
				t.Fatalf("%d keys, want %d", m.Len(), len(twin))
			}
			if len(pictures) > 0 && i%10 == 0 {
				pictures[r.IntN(len(pictures))].check(t, r)
			}
		}
		for _, p := range pictures {
			p.check(t, r)
		}
	}
}

// TestReadersAndOneWriter walks pictures while the writer goes on; the race detector
// watches, and a picture of n keys must show exactly those that were there.
func TestReadersAndOneWriter(t *testing.T) {
	m := snapshot.New[int]()
	views := make(chan snapshot.View[int])
	var readers sync.WaitGroup
	for range 3 {
		readers.Go(func() {
			for v := range views {
				n := v.Len()
				i := 0
				v.Ascend("k", "", func(k string, value int) bool {
					// Every key has been set as often as the map had keys then.
					if want := fmt.Sprintf("k%06d", i); k != want || value != n {
						t.Errorf("key %d of %d is %q = %d", i, n, k, value)
						return false
					}
					i++
					return true
				})
				if i != n {
					t.Errorf("walked %d of %d keys", i, n)
				}
			}
		})
	}
	for n := 1; n <= 300; n++ {
		for i := range n {
			m.Set(fmt.Sprintf("k%06d", i), n)
		}
		views <- m.Freeze()
		m.Set("later", 0)
		m.Delete("later")
	}
	close(views)
	readers.Wait()
}

func TestZeroView(t *testing.T) {
	var v snapshot.View[int]
	if _, ok := v.Get("a"); ok || v.Len() != 0 || v.Count("", "") != 0 {
		t.Error("the zero View is not empty")
	}
	v.Ascend("", "", func(string, int) bool { t.Error("the zero View is not empty"); return true })
}

// BenchmarkSetAndFreeze is one change to a map of 30,000 keys with a picture after it,
// as the source makes of every event.
func BenchmarkSetAndFreeze(b *testing.B) {
	const size = 30_000
	keys := make([]string, size)
	m := snapshot.New[*int]()
	for i := range keys {
		keys[i] = fmt.Sprintf("/pods/namespace-%d/pod-%d", i%100, i)
		m.Set(keys[i], new(int))
	}
	value := new(int)
	var v snapshot.View[*int]
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		m.Set(keys[i*7919%size], value)
		v = m.Freeze()
		i++
	}
	if v.Len() != size {
		b.Fatal(v.Len())
	}
}

// BenchmarkAscend is a walk over 30,000 keys.
func BenchmarkAscend(b *testing.B) {
	m := snapshot.New[*int]()
	for i := range 30_000 {
		m.Set(fmt.Sprintf("/pods/namespace-%d/pod-%d", i%100, i), new(int))
	}
	v := m.Freeze()
	b.ReportAllocs()
	for b.Loop() {
		if v.Count("/pods/", "") != 30_000 {
			b.Fatal("keys are missing")
		}
	}
}
