// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package eventlog

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// patience bounds what a test waits for; it decides nothing unless something hangs.
const patience = time.Minute

// cursor follows everything, or the key if there is one.
func (h *harness) cursor(rev uint64, key string) (*Cursor[string, event], error) {
	if key == "" {
		return h.Follow(rev)
	}
	return h.FollowKey(rev, key)
}

// never is a revision that no test reaches.
const never = 1 << 63

// follow reads until the event of revision last has been seen, and is parked whenever it
// has read everything. It returns the revisions read.
func follow(ctx context.Context, c *Cursor[string, event], last uint64, batch int) ([]uint64, error) {
	dst := make([]event, batch)
	var seen []uint64
	w := newWaiter()
	for {
		b, err := c.Next(dst)
		if err != nil {
			return seen, err
		}
		for _, e := range dst[:b.N] {
			seen = append(seen, e.rev)
		}
		if len(seen) > 0 && seen[len(seen)-1] == last {
			return seen, nil
		}
		if !b.Drained {
			continue
		}
		p, ok := c.Park(w)
		if !ok {
			continue
		}
		select {
		case <-w:
		case <-ctx.Done():
			p.Unpark()
			return seen, fmt.Errorf("a wake-up was lost, or the test is stuck: the reader waits after %d events", len(seen))
		}
	}
}

// TestWakeUpsAreNotLost has readers that wait to be resumed whenever they have read
// everything, while the appender does not wait for them.
func TestWakeUpsAreNotLost(t *testing.T) {
	const last = 20_000
	keys := []string{"", "a", "b", "a", ""}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	h := newHarness(0, nil)
	h.dispatched(t)
	var readers sync.WaitGroup
	for i, key := range keys {
		c, err := h.cursor(0, key)
		if err != nil {
			t.Fatal(err)
		}
		readers.Go(func() {
			defer c.Close()
			seen, err := follow(ctx, c, last, 1+i*7)
			if err != nil {
				t.Errorf("reader %d of key %q: %v", i, key, err)
				return
			}
			want := 0
			for rev := uint64(1); rev <= last; rev++ {
				if key != "" && rev != last && rev%2 != uint64(key[0])%2 {
					continue
				}
				if want >= len(seen) || seen[want] != rev {
					t.Errorf("reader %d of key %q missed or repeated revision %d", i, key, rev)
					return
				}
				want++
			}
		})
	}
	// Cursors that come and go in between, so that chains begin and end.
	done := make(chan struct{})
	readers.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-done:
				return
			default:
			}
			c, err := h.FollowKey(h.Floor(), []string{"a", "b", "c"}[i%3])
			if err != nil {
				t.Error(err)
				return
			}
			if _, err := c.Next(make([]event, 3)); err != nil {
				t.Error(err)
			}
			c.Close()
		}
	})
	for rev := uint64(1); rev <= last; rev++ {
		e := event{rev: rev, size: 1, keys: []string{string(rune('a' + (rev+1)%2))}}
		if rev == last {
			e.keys = []string{"a", "b"}
		}
		h.append(e)
	}
	close(done)
	readers.Wait()
	h.check(t)
	if s := h.Stats(); s.Cursors != 0 {
		t.Errorf("%d cursors are left", s.Cursors)
	}
}

// TestNoSilentSkip has readers race with the bound on the number of events: what they
// read is without a gap until they are told that there is one.
func TestNoSilentSkip(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	h := newHarness(0, func(c *Config[string, event]) {
		c.MaxEvents = 50
		c.Trimmed = nil
	})
	h.dispatched(t)
	r, burst := random(t), 0
	var told, read atomic.Int64
	var readers sync.WaitGroup
	for i := range 4 {
		key := []string{"", "even"}[i%2]
		readers.Go(func() {
			for {
				from := h.Stats().Head
				c, err := h.cursor(from, key)
				if errors.Is(err, ErrTrimmed) {
					continue // trimmed between the two calls
				}
				var seen []uint64
				if err == nil {
					seen, err = follow(ctx, c, never, 1+i)
					c.Close()
				}
				next := from + 1
				for _, rev := range seen {
					if key != "" && next%2 == 1 {
						next++
					}
					if rev != next {
						t.Errorf("reader %d that began after %d was given %d where %d comes next", i, from, rev, next)
						return
					}
					next++
				}
				read.Add(int64(len(seen)))
				if errors.Is(err, ErrClosed) {
					return
				}
				if !errors.Is(err, ErrTrimmed) {
					t.Error(err)
					return
				}
				told.Add(1)
			}
		})
	}
	for rev := uint64(1); told.Load() < 50 || read.Load() < 5000; rev++ {
		if ctx.Err() != nil {
			t.Errorf("%d readers were overtaken and %d events read in %v", told.Load(), read.Load(), patience)
			break
		}
		e := event{rev: rev, size: 1}
		if rev%2 == 0 {
			e.keys = []string{"even"}
		}
		h.append(e)
		// Readers get their turn after bursts that are shorter, and longer, than the log.
		if burst--; burst <= 0 {
			burst = r.IntN(100)
			runtime.Gosched()
		}
	}
	h.check(t)
	h.Close()
	readers.Wait()
}

// TestCloseEndsEveryReader closes a log under readers that wait.
func TestCloseEndsEveryReader(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	h := newHarness(7, nil)
	h.dispatched(t)
	h.append(event{rev: 8, size: 5, keys: []string{"a"}})
	var readers sync.WaitGroup
	waiting := make(chan struct{}, 20)
	for i := range cap(waiting) {
		c, err := h.cursor(8, []string{"", "a"}[i%2])
		if err != nil {
			t.Fatal(err)
		}
		readers.Go(func() {
			defer c.Close()
			b, err := c.Next(make([]event, 1))
			if err != nil || !b.Drained {
				t.Errorf("Next with nothing to read: %+v, %v", b, err)
			}
			w := newWaiter()
			p, ok := c.Park(w)
			if !ok {
				t.Error("a drained cursor cannot be parked")
				return
			}
			waiting <- struct{}{}
			select {
			case <-w:
			case <-ctx.Done():
				t.Error("Close did not resume the reader")
				p.Unpark()
			}
			if _, ok := p.Unpark(); ok {
				t.Error("a cursor is parked in a closed log")
			}
			if _, ok := c.Park(w); ok {
				t.Error("a cursor can be parked in a closed log")
			}
			if _, err := c.Next(make([]event, 1)); !errors.Is(err, ErrClosed) {
				t.Errorf("Next on a closed log: %v", err)
			}
		})
	}
	for range cap(waiting) {
		<-waiting
	}
	h.Close()
	h.Close()
	readers.Wait()
	if err := h.Append(9, 1, event{name: "late", rev: 9, size: 1}); err != ErrClosed {
		t.Errorf("Append to a closed log: %v", err)
	}
	if s := h.Stats(); s.Events != 0 || s.Bytes != 0 || s.Cursors != 0 || len(h.trimmed) != 1 {
		t.Errorf("a closed log holds %+v and gave back %v", s, h.trimmed)
	}
	if _, err := h.Follow(9); !errors.Is(err, ErrClosed) {
		t.Errorf("Follow on a closed log: %v", err)
	}
	if _, err := h.FollowKey(9, "a"); !errors.Is(err, ErrClosed) {
		t.Errorf("FollowKey on a closed log: %v", err)
	}
	h.check(t)
}
