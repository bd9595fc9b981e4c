// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package watchcache

import (
	"sync"
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
	// recorded is when the storage layer decoded the event, received when it came here.
	recorded, received time.Time

	// last is the previous state with the revision of this change, which is what those
	// are sent for whom the object is gone. It is there from the start for a deletion,
	// and made when first asked for where an object has only left a selector.
	lastOnce sync.Once
	last     *frame.Frame
	lastErr  error
}

// treeCost is what it costs, in bytes, to keep the state of before a change: the
// nodes that were copied. BenchmarkSetFreeze of package snapshot has 3.5 KB for one
// map of 30,000 keys.
const treeCost = 4 << 10

// size returns the bytes that only the log keeps alive.
func (c *change) size() int64 {
	n := int64(treeCost)
	if c.prev != nil {
		n += c.prev.Size()
	}
	if c.cur == nil {
		n += c.last.Size()
	}
	return n
}

// gone returns the previous state at the revision of the change. The change must
// have one.
func (c *change) gone(codec *frame.Codec, versioner storage.Versioner) (*frame.Frame, error) {
	c.lastOnce.Do(func() {
		if c.last != nil {
			return
		}
		obj, err := c.prev.Decode()
		if err == nil {
			err = versioner.UpdateObject(obj, c.rev)
		}
		if err != nil {
			c.lastErr = err
			return
		}
		c.last, c.lastErr = codec.Encode(c.prev.Key(), obj)
	})
	return c.last, c.lastErr
}
