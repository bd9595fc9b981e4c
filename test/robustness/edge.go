// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package robustness

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weir-project/weir/test/robustness/check"
	"github.com/weir-project/weir/test/robustness/history"
)

// edgeOpen is how long a watch from the edge of history stays open.
const edgeOpen = time.Second

// deafAfter is how many watches in a row may end without a word: one or two do where a cache is read anew.
const deafAfter = 5

// edgeEvery is longer where more is kept: all of that is sent each time.
func (c Config) edgeEvery() time.Duration { return c.history() / 9 }

// edges asks servers where their history begins, and watches everything from there and from the revision before. A herd
// hardly ever meets the one revision at which it matters whether an event is still there.
func (r *Run) edges(ctx context.Context) {
	rnd := r.config.rand(streamEdges)
	clients := r.clients(1)
	defer closeAll(clients)
	deaf := make([]int, weirs)
	for ctx.Err() == nil {
		wait(ctx, r.config.edgeEvery())
		at := rnd.IntN(weirs)
		scope := history.Scope{Resource: pick(rnd, []string{pods, configMaps})}
		w := &history.Watch{ID: r.id(), Role: "edge", Format: string(inJSON), Scope: scope, Start: history.AtRevision, From: r.begin}
		r.open(ctx, clients[0][at], r.servers[at], w)
		if w.Status != http.StatusOK || len(w.Events) > 0 || w.End != io.EOF.Error() {
			deaf[at] = 0
		} else if deaf[at]++; deaf[at] == deafAfter {
			r.found.add([]check.Violation{{Rule: check.End, What: fmt.Sprintf("watches of %+v from %d at %s", scope, w.From, w.Server),
				Text: fmt.Sprintf("%d in a row have ended with neither an event nor an error: a client that goes on from there never learns that it cannot", deafAfter)}})
		}
		floor, ok := floorIn(w)
		if !ok {
			continue
		}
		var all sync.WaitGroup
		for from := floor - 1; from <= floor; from++ {
			w := &history.Watch{ID: r.id(), Role: "edge", Format: string(inProtobuf), Scope: scope, Start: history.AtRevision, From: from}
			all.Go(func() { r.open(ctx, clients[0][at], r.servers[at], w) })
		}
		all.Wait()
	}
}

// open keeps a watch open for a moment, and judges it.
func (r *Run) open(ctx context.Context, client *http.Client, s *server, w *history.Watch) {
	ctx, cancel := context.WithTimeout(ctx, edgeOpen)
	defer cancel()
	var seen atomic.Int64
	r.watch(ctx, ctx, client, s, w, 30, quick, &seen)
	r.judgeWatch(w)
}

// floorIn is the lowest revision from which a server can serve a watch, as it has said to one that asked for too old a one.
// It reports false as long as the server has everything.
func floorIn(w *history.Watch) (int64, bool) {
	if !w.Gone() || len(w.Events) == 0 {
		return 0, false
	}
	var asked, floor int64
	if _, err := fmt.Sscanf(w.Events[len(w.Events)-1].Message, "too old resource version: %d (%d)", &asked, &floor); err != nil {
		return 0, false // worded otherwise
	}
	return floor, floor > asked+1
}
