// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package watchcache

import (
	"slices"
	"sort"
	"sync/atomic"
	"time"

	"k8s.io/utils/clock"

	"github.com/weir-project/weir/internal/eventlog"
)

// generation is the cache between one full read of etcd and the next. All fields
// but log and back are guarded by follower.mu.
type generation struct {
	log *eventlog.Log[scope, *change]
	// back, with room for one, tells the source why everything has to be read anew.
	back chan error
	// rev is the revision up to which the state is known: view.rev <= rev.
	rev  uint64
	view view
	// past are earlier views by ascending revision, for exact reads; the last is view.
	past []view
	// floor is the lowest revision that past can answer for.
	floor uint64
	// stalled is why rev cannot grow, as far as known: the watch of the storage fails. It is
	// nil while that tells something.
	stalled error
	// moved is closed, and replaced, when rev grows or stalled is set.
	moved chan struct{}

	// expiring says that expire is going to be called, by timer; ended that it is not, ever. expiring is not
	// guarded.
	expiring atomic.Bool
	timer    clock.Timer
	ended    bool
}

// expireLater has expire called in a while, unless it is going to be called anyway. So
// there is a timer for as long as there are events that become too old, also while nothing
// happens, and no longer.
func (g *generation) expireLater(c *follower, in time.Duration) {
	if g.expiring.Load() || g.expiring.Swap(true) {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !g.ended {
		g.timer = c.cfg.Clock.AfterFunc(in+time.Second, func() { g.expire(c) })
	}
}

// end has expire not called any more. It needs follower.mu.
func (g *generation) end() {
	g.ended = true
	if g.timer != nil {
		g.timer.Stop()
	}
}

// expire lets go of events that have become too old, and of the views before them.
func (g *generation) expire(c *follower) {
	g.expiring.Store(false)
	in := g.log.Expire()
	g.follow(c, g.log.Floor())
	if in > 0 {
		g.expireLater(c, in)
	}
}

// follow drops the views that answer only for revisions below floor, the log's.
func (g *generation) follow(c *follower, floor uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	g.advance(g.rev, floor)
}

// publish makes v the state, and drops the views that answer only for revisions below
// floor, the log's: a view is kept as long as the events that lead on from it.
func (g *generation) publish(v view, keep bool, floor uint64) {
	g.view = v
	if !keep {
		g.past = nil
		g.floor = v.rev
	} else {
		g.past = append(g.past, v)
	}
	g.advance(v.rev, floor)
}

// forget drops the views that answer only for revisions below floor. The floor may lie
// ahead of rev: etcd was compacted in the name of another resource, and refuses what
// is below too.
func (g *generation) forget(floor uint64) {
	n := sort.Search(len(g.past), func(i int) bool { return g.past[i].rev > floor })
	// past[n-1] answers for floor itself.
	if n > 1 {
		// The dropped views must not stay reachable through the array.
		clear(g.past[:n-1])
		g.past = g.past[n-1:]
		if cap(g.past) > 64 && len(g.past) <= cap(g.past)/4 {
			g.past = slices.Clone(g.past) // the array may be that of a burst
		}
	}
	g.floor = max(g.floor, floor)
}

// advance sets rev, if it is higher, and drops the views that answer only for revisions
// below floor, the log's: also when rev is what it was.
func (g *generation) advance(rev, floor uint64) {
	if len(g.past) > 0 {
		g.forget(floor)
	}
	if rev <= g.rev {
		return
	}
	g.rev = rev
	g.stalled = nil
	g.wake()
}

// stall says that rev cannot grow.
func (g *generation) stall(why error) {
	g.stalled = why
	g.wake()
}

// wake has those who wait for a revision look again.
func (g *generation) wake() {
	close(g.moved)
	g.moved = make(chan struct{})
}

// at returns the state at exactly rev, if it is known and still kept.
func (g *generation) at(rev uint64) (view, bool) {
	if rev > g.rev || rev < g.floor {
		return view{}, false
	}
	if rev >= g.view.rev {
		return g.view, true
	}
	n := sort.Search(len(g.past), func(i int) bool { return g.past[i].rev > rev })
	if n == 0 {
		return view{}, false
	}
	return g.past[n-1], true
}
