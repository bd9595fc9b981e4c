// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package watchcache

import (
	"context"
	"math/bits"
	"sync"

	"google.golang.org/grpc/metadata"

	"k8s.io/apiserver/pkg/storage/cacher/delegator"
)

// rpc is what the cache's watch of etcd, and what asks for its progress, tell etcd's client, so that both share an RPC, and
// share it with nobody else.
var rpc = metadata.Pairs("source", "cache")

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
