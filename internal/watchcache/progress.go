// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package watchcache

import (
	"context"
	"math/bits"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/metadata"

	"k8s.io/apiserver/pkg/storage/cacher/delegator"
	"k8s.io/apiserver/pkg/storage/cacher/progress"
	"k8s.io/utils/clock"
)

// followers counts those that there have been.
var followers atomic.Uint64

// newRPC returns what a cache's watch of etcd, and what asks for its progress, tell etcd's client, so that both share an RPC, and
// share it with nobody else: the client may be that of other caches, too.
func newRPC() metadata.MD {
	return metadata.Pairs("source", "cache", "cache", strconv.FormatUint(followers.Add(1), 10))
}

// progressIdle is for how long nobody has waited for progress when the goroutines that ask for it end, at the next look.
const progressIdle = 10 * time.Second

// requester asks etcd for progress while somebody waits for it. Upstream's, which does that, has two goroutines; it is there from the
// first who waits until nobody has for a while.
type requester struct {
	request progress.WatchProgressRequester
	clock   clock.WithTickerAndDelayedExecution
	rpc     metadata.MD
	// begin runs a function in a goroutine.
	begin func(func())

	mu sync.Mutex
	// waiting is how many wait; if none, nobody has since idle.
	waiting int
	idle    time.Time
	// now asks until stop is closed; nil if nothing does. While waiting > 0 it is not nil, unless ended.
	now   *progress.ConditionalProgressRequester
	stop  chan struct{}
	ended bool
}

// Add says that somebody waits. Remove must be called.
func (r *requester) Add() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.waiting++
	if r.now == nil && !r.ended {
		now, stop := progress.NewConditionalProgressRequester(r.request, atOnce{r.clock}, r.rpc), make(chan struct{})
		r.now, r.stop = now, stop
		r.begin(func() { now.Run(stop) })
	}
	if r.now != nil {
		r.now.Add()
	}
}

// Remove says that one who waited does not any more.
func (r *requester) Remove() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.now != nil {
		r.now.Remove()
	}
	if r.waiting--; r.waiting == 0 {
		r.idle = r.clock.Now()
	}
}

// sweep ends the goroutines if nobody has waited for progressIdle.
func (r *requester) sweep() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.waiting == 0 && r.clock.Since(r.idle) >= progressIdle {
		r.endLocked()
	}
}

// end ends the goroutines, and none begin any more.
func (r *requester) end() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ended = true
	r.endLocked()
}

func (r *requester) endLocked() {
	if r.now != nil {
		close(r.stop)
		r.now, r.stop = nil, nil
	}
}

// atOnce is a clock by which upstream's requester asks as soon as it runs: it lets the time between two requests go by first.
type atOnce struct {
	clock.WithTickerAndDelayedExecution
}

// NewTimer implements progress.TickerFactory.
func (c atOnce) NewTimer(time.Duration) clock.Timer {
	return c.WithTickerAndDelayedExecution.NewTimer(0)
}

// doubts keeps count of the progress notifications that may not be meant for the watch which gets them.
//
// etcd answers a request for progress when all watches of the RPC have been told of everything, and not at all if there is
// none. If one that is ending is still there, the answer is the present revision; and if a watch is then created, from a
// revision before, etcd may send it that answer before its own events (etcd 3.7.0; that it is created is told through a channel
// of its own). It would say that the cache is at a revision whose events are yet to come. So what was asked for before the watch
// has told anything is passed over when it comes. Nothing is in doubt behind an event: an answer of before comes before it.
//
// The RPC ends with its watch, and answers that are still on their way with it; what was asked for between two watches begins
// the next RPC. Answers that never come, because etcd gives none while a watch has yet to catch up, or the connection is lost,
// cost those who wait as many of the next ones: so what is in doubt has to stay little.
type doubts struct {
	mu sync.Mutex
	// silent says that the watch has told nothing since it was taken up. It is true before the first one, too.
	silent bool
	// calls counts who would have asked while it was silent.
	calls uint
	// doubtful is how many answers are passed over yet: what was asked for before this watch was taken up, on the RPC that it
	// may have found, and while it was silent.
	doubtful int
	// recent is how many were asked for since the watch was taken up, or since it has last told anything; after its end, those
	// that may be asked for on the next RPC.
	recent int
}

// asks tells whether to ask for progress now: while nothing comes more seldom, because each answer will be passed over, but at
// every eighth call.
func (d *doubts) asks() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.silent {
		if d.calls++; bits.OnesCount(d.calls) > 1 && d.calls%8 != 0 {
			return false
		}
		d.doubtful++
	}
	d.recent++
	return true
}

// begin says that a watch is taken up.
func (d *doubts) begin() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.doubtful = d.recent // answers to what was asked for before that have ended with their RPC
	d.silent, d.calls, d.recent = true, 0, 0
}

// end says that the watch has ended, and its RPC with it. Whoever asks is one, and may have been waiting for an RPC: of what
// was asked for before, no more than that one request can be on the next.
func (d *doubts) end() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.silent, d.calls, d.recent = true, 0, min(d.recent, 1)
}

// event says that the watch has told of an event.
func (d *doubts) event() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.silent, d.doubtful, d.recent = false, 0, 0
}

// trusts says that a progress notification has come, and tells whether it is to be believed.
func (d *doubts) trusts() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.silent, d.recent = false, 0
	if d.doubtful == 0 {
		return true
	}
	d.doubtful--
	return false
}

// requestProgress asks etcd how far the cache's watch is, if etcd's answer can be relied on.
func (c *follower) requestProgress(ctx context.Context) error {
	if !delegator.ConsistentReadSupported() || !c.doubts.asks() {
		return nil
	}
	return c.cfg.Storage.RequestWatchProgress(ctx)
}
