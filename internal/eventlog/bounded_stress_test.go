// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package eventlog

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// TestBoundsBesideDispatchers has a log of few events, whose dispatcher comes and goes: who is parked is given everything, in order and once, and
// nobody else may lose anything without being told.
func TestBoundsBesideDispatchers(t *testing.T) {
	for _, n := range []uint64{1, 2, 5} { // the fewer there are, the more often nobody is parked
		t.Run(fmt.Sprint(n, " readers"), func(t *testing.T) { testBoundsBesideDispatchers(t, n) })
	}
}

func testBoundsBesideDispatchers(t *testing.T, n uint64) {
	s := &stress{left: 1_500, seed: random(t).Uint64()}
	var begun atomic.Int64
	var others, readers sync.WaitGroup
	s.log = New(0, Config[string, uint64]{
		MaxBytes:  func() int64 { return 1 << 40 },
		MaxEvents: 6,
		MinEvents: 2,
		Window:    4 * time.Second,
		Now:       func() time.Time { return start.Add(time.Duration(s.now.Load())) },
		Keys:      keysOf,
		Go: func(f func()) {
			begun.Add(1)
			others.Go(f)
		},
	})
	done := make(chan struct{})
	others.Go(func() {
		r := rand.New(rand.NewPCG(s.seed, 1<<32))
		for rev := uint64(1); !closed(done); rev++ {
			s.now.Add(int64(r.IntN(80)) * int64(time.Millisecond))
			if err := s.log.Append(rev, 1, rev); err != nil {
				panic(err)
			}
			if r.IntN(3) > 0 {
				runtime.Gosched()
			}
		}
	})
	for i := range n {
		readers.Go(func() {
			rnd := rand.New(rand.NewPCG(s.seed, i))
			for s.take() {
				if err := s.follow(t.Context(), rnd); err != nil && !errors.Is(err, ErrTrimmed) {
					t.Error(err)
					return
				}
			}
		})
	}
	readers.Wait()
	close(done)
	s.log.Close()
	others.Wait()
	t.Logf("%d given, %d read, parked %d times, %d dispatchers", s.given.Load(), s.read.Load(), s.parked.Load(), begun.Load())
	if n == 1 && begun.Load() < 5 {
		t.Errorf("a dispatcher has begun %d times, which is too little to have tested anything", begun.Load())
	}
}
