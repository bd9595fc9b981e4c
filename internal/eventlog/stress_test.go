// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package eventlog

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// TestFollowsBesideAgeing has readers come, read, be parked, be taken back and go, while the
// log's clock runs and its events age out. Nothing but age trims this log, so that a reader
// that was let in must be given everything. WEIR_FOLLOWS is how many readers come in all.
func TestFollowsBesideAgeing(t *testing.T) {
	t.Run("one dispatcher", func(t *testing.T) { testFollowsBesideAgeing(t, false) })
	t.Run("a dispatcher while cursors are parked", func(t *testing.T) { testFollowsBesideAgeing(t, true) })
}

func testFollowsBesideAgeing(t *testing.T, comesAndGoes bool) {
	follows := int64(20_000)
	if s := os.Getenv("WEIR_FOLLOWS"); s != "" {
		var err error
		if follows, err = strconv.ParseInt(s, 10, 64); err != nil {
			t.Fatalf("WEIR_FOLLOWS=%q is not a number: %v", s, err)
		}
	}
	s := &stress{left: follows, seed: random(t).Uint64()}
	cfg := Config[string, uint64]{
		MaxBytes:  func() int64 { return 1 << 40 },
		MaxEvents: 1 << 30,
		MinEvents: 10,
		Window:    4 * time.Second,
		Now:       func() time.Time { return start.Add(time.Duration(s.now.Load())) },
		Keys:      keysOf,
		Trimmed:   func(uint64, int64) { s.trimmed++ },
	}
	done := make(chan struct{})
	var others, readers sync.WaitGroup
	if comesAndGoes {
		cfg.Go = others.Go
	}
	s.log = New(0, cfg)
	if !comesAndGoes {
		others.Go(s.log.Dispatch)
	}
	others.Go(func() { s.write(done) })
	others.Go(func() {
		for !closed(done) {
			s.log.Expire()
			runtime.Gosched()
		}
	})
	for i := range uint64(16) {
		readers.Go(func() {
			r := rand.New(rand.NewPCG(s.seed, i))
			for s.take() {
				if err := s.follow(t.Context(), r); err != nil {
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
	t.Logf("%d events, of which %d aged out and %d were kept for readers of their keys; %d read and %d handed over to %d readers, who were parked %d times",
		s.written.Load(), s.trimmed, s.aged.Load(), s.read.Load(), s.given.Load(), follows, s.parked.Load())
	if t.Failed() {
		return
	}
	if n := follows / 10; s.trimmed < n || s.read.Load() < n || s.given.Load() < n || s.parked.Load() < n || s.aged.Load() == 0 {
		t.Error("which is too little to have tested anything")
	}
	if st := s.log.Stats(); st.Cursors != 0 || s.trimmed != s.written.Load() {
		t.Errorf("%d cursors are left, and %d of %d events have left the log", st.Cursors, s.trimmed, s.written.Load())
	}
}

// stress is a log whose events are their revisions, so that anybody knows what is in it.
type stress struct {
	log  *Log[string, uint64]
	seed uint64
	now  atomic.Int64
	// trimmed is guarded by the log's lock.
	trimmed int64

	mu   sync.Mutex
	left int64

	written, aged, read, given, parked atomic.Int64
}

// take tells whether another reader is to come.
func (s *stress) take() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.left--
	return s.left >= 0
}

// keysOf calls yield for the keys of the event of a revision: one of eight, often a second,
// and now and then one that is rare.
func keysOf(rev uint64, yield func(string)) {
	h := rev * 0x9e3779b97f4a7c15 >> 40
	yield(fmt.Sprint("k", h%8))
	if h%3 == 0 {
		yield(fmt.Sprint("k", h/8%8))
	}
	if h%61 == 0 {
		yield("rare")
	}
}

// wanted tells whether a reader of key, or of all, has to see the event of a revision.
func wanted(key string, rev uint64) bool {
	found := key == ""
	keysOf(rev, func(k string) { found = found || k == key })
	return found
}

// write appends events, 25 to a second of the log's clock, in bursts.
func (s *stress) write(done chan struct{}) {
	r := rand.New(rand.NewPCG(s.seed, 1<<32))
	for rev := uint64(1); ; {
		for range 1 + r.IntN(20) {
			if closed(done) {
				return
			}
			s.now.Add(int64(r.IntN(80)) * int64(time.Millisecond))
			if err := s.log.Append(rev, 1, rev); err != nil {
				if err != ErrClosed {
					panic(err)
				}
				return
			}
			s.written.Add(1)
			rev++
		}
		st := s.log.Stats()
		if st.Aged > 0 {
			s.aged.Add(1)
		}
		// Age alone does not bound a log to which is appended faster than is read.
		for st.Events > 500 && !closed(done) {
			runtime.Gosched()
			st = s.log.Stats()
		}
	}
}

func closed(done chan struct{}) bool {
	select {
	case <-done:
		return true
	default:
		return false
	}
}

// reader is one that has come.
type reader struct {
	s   *stress
	key string
	// next is the first revision that it has not been told of.
	next   uint64
	events chan uint64
	back   chan *Cursor[string, uint64]
}

// Deliver implements Reader.
func (r *reader) Deliver(rev uint64) bool {
	select {
	case r.events <- rev:
		return true
	default:
		return false
	}
}

// Resume implements Reader.
func (r *reader) Resume(c *Cursor[string, uint64]) { r.back <- c }

// see checks that rev is the next event that the reader has to see.
func (r *reader) see(rev uint64) error {
	for ; r.next < rev; r.next++ {
		if wanted(r.key, r.next) {
			return fmt.Errorf("a reader of %q was given %d, and never %d", r.key, rev, r.next)
		}
	}
	if rev < r.next || !wanted(r.key, rev) {
		return fmt.Errorf("a reader of %q was given %d when %d was next", r.key, rev, r.next)
	}
	r.next++
	return nil
}

// complete checks that the reader has seen all up to rev.
func (r *reader) complete(rev uint64) error {
	for ; r.next <= rev; r.next++ {
		if wanted(r.key, r.next) {
			return fmt.Errorf("a reader of %q was told that it has everything up to %d, and was not given %d", r.key, rev, r.next)
		}
	}
	return nil
}

// follow is the life of one reader.
func (s *stress) follow(ctx context.Context, rnd *rand.Rand) error {
	r := &reader{s: s, events: make(chan uint64, 1+rnd.IntN(4)), back: make(chan *Cursor[string, uint64], 1)}
	if n := rnd.IntN(12); n > 0 {
		r.key = append([]string{"rare", "rare"}, slices.Repeat([]string{"k1", "k2", "k3"}, 3)...)[n-1]
	}
	var c *Cursor[string, uint64]
	for c == nil {
		head := s.log.Stats().Head
		after := head - min(head, uint64(rnd.IntN(120)))
		var err error
		if r.key == "" {
			c, err = s.log.Follow(after)
		} else {
			c, err = s.log.FollowKey(after, r.key)
		}
		if err != nil && !errors.Is(err, ErrTrimmed) {
			return err
		}
		r.next = after + 1
	}
	var err error
	for range 1 + rnd.IntN(4) {
		if c, err = r.readSome(ctx, c, rnd); err != nil {
			return err
		}
	}
	c.Close()
	return nil
}

// readSome reads a little, or until it is parked, handed something and taken back.
func (r *reader) readSome(ctx context.Context, c *Cursor[string, uint64], rnd *rand.Rand) (*Cursor[string, uint64], error) {
	var dst [8]uint64
	b, err := c.Next(dst[:1+rnd.IntN(len(dst))])
	if err != nil {
		return nil, fmt.Errorf("a reader of %q that has seen all before %d: %w", r.key, r.next, err)
	}
	for _, rev := range dst[:b.N] {
		if err := r.see(rev); err != nil {
			return nil, err
		}
		r.s.read.Add(1)
	}
	if err := r.complete(b.Complete); err != nil || !b.Drained {
		return c, err
	}
	p, ok := c.Park(r)
	if !ok {
		return c, nil
	}
	r.s.parked.Add(1)
	return r.wait(ctx, p, rnd.IntN(6))
}

// wait takes n events from the dispatcher, or as many as it is handed before it is resumed.
func (r *reader) wait(ctx context.Context, p *Parked[string, uint64], n int) (*Cursor[string, uint64], error) {
	var c *Cursor[string, uint64]
	for ; n > 0 && c == nil; n-- {
		select {
		case rev := <-r.events:
			if err := r.take(rev); err != nil {
				return nil, err
			}
		case c = <-r.back:
		case <-ctx.Done():
			return nil, fmt.Errorf("a parked reader of %q is given nothing after %d", r.key, r.next)
		}
	}
	if c == nil {
		var ok bool
		if c, ok = p.Unpark(); !ok {
			c = <-r.back
		}
	}
	for {
		select {
		case rev := <-r.events:
			if err := r.take(rev); err != nil {
				return nil, err
			}
		default:
			return c, nil
		}
	}
}

func (r *reader) take(rev uint64) error {
	r.s.given.Add(1)
	return r.see(rev)
}
