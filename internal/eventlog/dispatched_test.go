// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package eventlog

import (
	"sync"
	"testing"
)

// TestDispatchedWhileParked has a log begin a goroutine for the first cursor that parks, and end it when none is parked any more; what
// has come while nobody was parked is handed to nobody a second time.
func TestDispatchedWhileParked(t *testing.T) {
	var running sync.WaitGroup
	begun := 0
	h := newHarness(10, func(c *Config[string, event]) {
		c.Go = func(f func()) {
			begun++ // under the log's lock
			running.Go(f)
		}
	})
	defer h.Close()
	for round := 1; round <= 3; round++ {
		if rev := uint64(10 * round); round > 1 {
			for i := range uint64(5) {
				if err := h.Append(rev+i, 1, event{name: "unheard", rev: rev + i, size: 1}); err != nil {
					t.Fatal(err)
				}
			}
		}
		var cursors []*Cursor[string, event]
		var boxes []*taker
		for range 2 {
			c, err := h.Follow(h.Stats().Head)
			if err != nil {
				t.Fatal(err)
			}
			cursors, boxes = append(cursors, c), append(boxes, &taker{events: make(chan event, 10)})
		}
		var parked []*Parked[string, event]
		for i, c := range cursors {
			p, ok := c.Park(boxes[i])
			if !ok {
				t.Fatal("a cursor that has read everything cannot be parked")
			}
			parked = append(parked, p)
		}
		if begun != round {
			t.Fatalf("%d goroutines have begun in round %d", begun, round)
		}
		rev := uint64(10*round + 7)
		if err := h.Append(rev, 1, event{name: "heard", rev: rev, size: 1}); err != nil {
			t.Fatal(err)
		}
		for _, b := range boxes {
			if e := <-b.events; e.rev != rev {
				t.Errorf("revision %d is handed over, want %d", e.rev, rev)
			}
		}
		for _, p := range parked {
			c, ok := p.Unpark()
			if !ok {
				t.Fatal("the cursor is not parked any more")
			}
			c.Close()
		}
		running.Wait() // for ever, if it does not end
		if h.dispatching {
			t.Fatal("nobody dispatches, and the log holds that somebody does")
		}
	}
}

// taker is a reader that takes everything.
type taker struct{ events chan event }

func (k *taker) Deliver(e event) bool {
	k.events <- e
	return true
}

func (k *taker) Resume(*Cursor[string, event]) {}
