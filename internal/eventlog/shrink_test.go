// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package eventlog

import (
	"errors"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// TestShrinkBesideReaders has several logs share what they may hold, which changes all the time and is asked for while events are
// appended, handed over and read. A reader gets every event, in order, or is told that it has lost some. What the logs say that they
// hold is what they hold.
func TestShrinkBesideReaders(t *testing.T) {
	const logs, events, readers, floor = 3, 10_000, 4, 100
	const behind = 1000 // how far the slowest reader may be behind
	r := random(t)
	var held, allowed, overtaken, read atomic.Int64
	allowed.Store(100_000)
	var all []*Log[string, uint64]
	for range logs {
		var l *Log[string, uint64]
		l = New(0, Config[string, uint64]{
			MaxBytes:  func() int64 { return 1 << 40 },
			Excess:    func() int64 { return held.Load() - allowed.Load() },
			MaxEvents: 1 << 30,
			MinEvents: 10,
			MinBytes:  floor,
			Window:    time.Hour,
			Now:       time.Now,
			Keys:      keysOf,
			Trimmed:   func(_ uint64, size int64) { held.Add(-size) },
		})
		all = append(all, l)
	}
	var writers, others, reading sync.WaitGroup
	done := make(chan struct{})
	for i, l := range all {
		others.Go(l.Dispatch)
		at := make([]atomic.Uint64, readers)
		seed := r.Uint64()
		writers.Go(func() {
			r := rand.New(rand.NewPCG(seed, 0))
			for rev := uint64(1); rev <= events; rev++ {
				for i := range at {
					for at[i].Load()+behind < rev {
						runtime.Gosched()
					}
				}
				size := r.Int64N(50)
				held.Add(size)
				if err := l.Append(rev, size, rev); err != nil {
					t.Errorf("log %d: %v", i, err)
					return
				}
			}
		})
		for i := range readers {
			reading.Go(func() { readAll(t, l, &at[i], events, &overtaken, &read) })
		}
	}
	others.Go(func() {
		r := rand.New(rand.NewPCG(r.Uint64(), 0))
		for !closed(done) {
			allowed.Store(r.Int64N(400_000) - 20_000)
			all[r.IntN(logs)].Shrink()
		}
	})
	writers.Wait()
	reading.Wait()
	close(done)
	allowed.Store(0)
	for i, l := range all {
		l.Shrink()
		if s := l.Stats(); s.Bytes > floor {
			t.Errorf("log %d: nothing is left for it, and it holds %+v", i, s)
		}
		l.Close()
	}
	others.Wait()
	if n := held.Load(); n != 0 {
		t.Errorf("%d bytes are said to be held by closed logs", n)
	}
	t.Logf("%d events were read, and readers were overtaken %d times", read.Load(), overtaken.Load())
	if read.Load() < events/2 || overtaken.Load() == 0 {
		t.Error("which is too little to have tested anything")
	}
}

// readAll reads up to the last event, tells in pos how far it is, and begins again where the log begins when it is overtaken.
func readAll(t *testing.T, l *Log[string, uint64], pos *atomic.Uint64, last uint64, overtaken, read *atomic.Int64) {
	at := uint64(0)
	defer pos.Store(last) // whatever happens, nobody waits for it then
	for at < last {
		pos.Store(at)
		c, err := l.Follow(at)
		var old *TooOldError
		if errors.As(err, &old) {
			overtaken.Add(1)
			at = old.Floor
			continue
		}
		if err != nil {
			t.Error(err)
			return
		}
		if at, err = readSome(t, c, pos, at, last, read); !errors.Is(err, ErrTrimmed) && err != nil {
			t.Error(err)
		} else if err != nil {
			overtaken.Add(1)
			at = l.Floor()
		}
	}
}

// readSome reads until the last event, or an error, and returns what it has read.
func readSome(t *testing.T, c *Cursor[string, uint64], pos *atomic.Uint64, at, last uint64, read *atomic.Int64) (uint64, error) {
	var batch [7]uint64
	for at < last {
		b, err := c.Next(batch[:])
		if err != nil {
			c.Close()
			return at, err
		}
		for _, rev := range batch[:b.N] {
			if rev != at+1 {
				t.Errorf("event %d came after %d", rev, at)
			}
			at = rev
			pos.Store(at)
			read.Add(1)
		}
		if !b.Drained || at == last {
			continue
		}
		w := make(waiting, 1)
		if _, ok := c.Park(w); ok {
			c = <-w
		}
	}
	c.Close()
	return at, nil
}

// waiting is a reader that takes nothing while it is parked.
type waiting chan *Cursor[string, uint64]

// Deliver implements Reader.
func (w waiting) Deliver(uint64) bool { return false }

// Resume implements Reader.
func (w waiting) Resume(c *Cursor[string, uint64]) { w <- c }
