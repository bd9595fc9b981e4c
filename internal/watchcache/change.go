// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package watchcache

import (
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/apiserver/pkg/storage"

	"github.com/weir-project/weir/internal/frame"
)

// change is one event of the log: an object went from prev to cur.
type change struct {
	rev uint64
	// cur is the new state, nil if the object was deleted.
	cur *frame.Frame
	// prev is the state before, nil if there was none.
	prev *frame.Frame
	// same says that cur and prev are there, and that a selector selects both or neither.
	same bool
	// recorded is when the storage layer decoded the event, received when it came here.
	recorded, received time.Time

	// last is the previous state with the revision of this change, which is what those
	// are sent for whom the object is gone. It is there from the start for a deletion,
	// and made when first asked for where an object has only left a selector.
	last    atomic.Pointer[frame.Frame]
	late    atomic.Int64 // what last is booked with if it was made when first asked for, or leftLog
	mu      sync.Mutex   // makes last
	lastErr error        // of making it, guarded by mu
}

// frame returns the change's object, as it was before if it has been deleted.
func (c *change) frame() *frame.Frame {
	switch {
	case c.cur != nil:
		return c.cur
	case c.prev != nil:
		return c.prev
	default:
		return c.last.Load()
	}
}

// What it costs, in bytes, to keep the state of before a change: a node is copied on each
// level of each of the state's ordered maps. changeCost is what is kept beside: the change,
// its place in the log, and the view. TestHistoryIsBooked holds them against the heap.
const (
	nodeCost   = 800
	changeCost = 350
)

// size returns the bytes that only the log keeps alive, of a change to s.
func (c *change) size(s *state) int64 {
	n := int64(changeCost + nodeCost*s.objects.Depth())
	for _, i := range s.indexes {
		n += nodeCost * int64(i.objects.Depth())
	}
	if c.prev != nil {
		n += c.prev.Size()
	}
	if c.cur == nil {
		n += c.last.Load().Size()
	}
	return n
}

// gone returns the previous state at the revision of the change. The change must
// have one. What it may have to do first takes as long as encoding an object.
func (c *change) gone(codec *frame.Codec, versioner storage.Versioner, books *history) (*frame.Frame, error) {
	if last := c.last.Load(); last != nil {
		return last, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if last := c.last.Load(); last != nil || c.lastErr != nil {
		return last, c.lastErr
	}
	last, err := c.makeLast(codec, versioner)
	if err != nil {
		c.lastErr = err
		return nil, err
	}
	c.last.Store(last)
	books.addLate(c, last.Size())
	return last, nil
}

func (c *change) makeLast(codec *frame.Codec, versioner storage.Versioner) (*frame.Frame, error) {
	obj, err := c.prev.Decode()
	if err != nil {
		return nil, err
	}
	if err := versioner.UpdateObject(obj, c.rev); err != nil {
		return nil, err
	}
	return codec.Encode(c.prev.Key(), obj)
}
