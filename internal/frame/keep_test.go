// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package frame

import (
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/weir-project/weir/internal/ledger"
)

// TestKeep: a smaller budget is kept to at once, none keeps nothing, and a larger one keeps again.
func TestKeep(t *testing.T) {
	const n, size = 2000, 1000
	s := storeOf(1 << 30)
	frames := make([]Frame, n)
	all := pointers(frames)
	fill(s, frames, size)
	s.Keep(n * size / 2)
	s.check(t, all...)
	if kept := s.ledger.Bytes(ledger.Derived); kept < n*size/3 {
		t.Errorf("of a budget of %d bytes %d are kept", n*size/2, kept)
	}
	s.Keep(0)
	s.check(t, all...)
	if kept := s.ledger.Bytes(ledger.Derived); kept != 0 {
		t.Errorf("without a budget %d bytes are kept", kept)
	}
	synctest.Test(t, func(t *testing.T) {
		builds, got, errs := askers(s, &frames[0], 8, bytesOf(size))
		for _, err := range errs {
			if err != nil {
				t.Error(err)
			}
		}
		if builds != 1 || len(got) != 8 || len(got[7].data) != size {
			t.Errorf("8 who ask at the same time have it made %d times, and get %d", builds, len(got))
		}
		builds, _, _ = askers(s, &frames[0], 1, bytesOf(size))
		if builds != 1 {
			t.Error("without a budget it is kept")
		}
		s.sweepAll() // ends the timers
	})
	s.check(t, all...)
	s.Keep(1 << 30)
	fill(s, frames, size)
	s.check(t, all...)
	if kept := s.ledger.Bytes(ledger.Derived); kept < n*size {
		t.Errorf("with a budget again %d bytes are kept", kept)
	}
}

// TestKeepBesideReaders: the budget changes while encodings are asked for. Everybody gets what was asked for, and what
// is kept is what is booked, within the budget of then.
func TestKeepBesideReaders(t *testing.T) {
	s := storeOf(1 << 20)
	frames := make([]Frame, 500)
	var readers, changers sync.WaitGroup
	done := make(chan struct{})
	changers.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
				s.Keep(rand.Int64N(4) * 100_000)
			}
		}
	})
	for range 4 {
		readers.Go(func() {
			for range 20_000 {
				i := rand.IntN(len(frames))
				e, err := s.get(&frames[i], name(i%3), bytesOf(i))
				if err != nil || len(e.data) != i {
					t.Errorf("asked for %d bytes and got %d: %v", i, len(e.data), err)
				}
			}
		})
	}
	readers.Wait()
	close(done)
	changers.Wait()
	s.Keep(50_000)
	s.check(t, pointers(frames)...)
}

func pointers(frames []Frame) []*Frame {
	all := make([]*Frame, len(frames))
	for i := range frames {
		all[i] = &frames[i]
	}
	return all
}
