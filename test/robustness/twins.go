// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package robustness

import (
	"context"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weir-project/weir/test/robustness/check"
	"github.com/weir-project/weir/test/robustness/history"
)

// twinsEvery is how often twins are opened, at most.
const twinsEvery = 6 * time.Second

// twins opens watches of one scope in all formats at all servers that go on from a list, and others with initial events, and
// has them compared with each other. Half of the lists are of some time ago, so that what follows them is history.
func (r *Run) twins(ctx context.Context) {
	rnd := r.config.rand(streamTwins)
	clients := r.clients(1)[0]
	defer closeAll([][]*http.Client{clients})
	for ctx.Err() == nil {
		begun := time.Now()
		at, back, seconds := rnd.IntN(weirs), r.config.ago(rnd)/2, 3+rnd.IntN(4)
		t := &history.Twins{List: &history.List{Scope: twinScope(rnd), Format: string(pick(rnd, formats)), Mode: history.Consistent}}
		if rnd.IntN(2) == 0 {
			t.List.Mode, t.List.Asked = history.Exact, max(r.truth.RevisionAt(begun.Add(-back)), r.begin)
		}
		zipped := rnd.IntN(2)
		if !r.list(ctx, clients[at], r.servers[at], t.List) {
			wait(ctx, retry)
			continue
		}
		var servers []int
		for i, f := range []format{inJSON, inProtobuf, asMetadata, asTable} {
			for at := range r.servers {
				w := &history.Watch{Format: string(f), Start: history.AtRevision, From: t.List.Revisions[0]}
				t.Watches, servers = append(t.Watches, w), append(servers, at)
				if i%2 == at%2 { // half of the formats at each server
					if i/2 == zipped {
						f += gzipped
					}
					w := &history.Watch{Format: string(f), Start: history.WatchList}
					t.Watches, servers = append(t.Watches, w), append(servers, at)
				}
			}
		}
		var all sync.WaitGroup
		for i, w := range t.Watches {
			w.ID, w.Role, w.Scope = r.id(), "twin", t.List.Scope
			all.Go(func() {
				var seen atomic.Int64
				r.watch(ctx, ctx, clients[servers[i]], r.servers[servers[i]], w, seconds, quick, &seen)
				r.judgeWatch(w)
			})
		}
		all.Wait()
		r.judgeTwins(t)
		wait(ctx, twinsEvery-time.Since(begun))
	}
}

// twinScope is wide in most cases, so that there is something to compare.
func twinScope(r *rand.Rand) history.Scope {
	k := anyKey(r)
	c := scopeOf(r, k.Resource)
	switch r.IntN(5) {
	case 0:
	case 1:
		c.LabelKey, c.LabelValue = side, pick(r, sides)
	case 2:
		c.Namespace = k.Namespace
	default:
		return anyScope(r)
	}
	return c
}

func (r *Run) judgeTwins(t *history.Twins) {
	found, compared := check.Twins(t)
	r.stats.compared.Add(int64(compared))
	if len(found) == 0 {
		return
	}
	r.found.add(found)
	r.record.write(line{Twins: t, Violations: found})
}
