// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package robustness

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/weir-project/weir/test/robustness/history"
)

// clock tells revisions that etcd had after a time. It is safe for concurrent use.
type clock struct {
	mu       sync.Mutex
	asked    time.Time // before etcd was asked
	revision int64     // its answer
}

// etcdPatience is how long it is waited for etcd's word on how far it is. Records wait meanwhile, and so do clients.
const etcdPatience = 5 * time.Minute

// etcdAfter is a revision that etcd had after a time: what had been written then is not later. It waits until etcd answers; if
// it does not the run is worth nothing, this reports false, and what needs to know that revision cannot be judged.
func (r *Run) etcdAfter(ctx context.Context, at time.Time) (int64, bool) {
	c := &r.clock
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.asked.After(at) {
		return c.revision, true
	}
	ctx, cancel := context.WithTimeout(ctx, etcdPatience)
	defer cancel()
	for {
		asked := time.Now()
		one, done := context.WithTimeout(ctx, 5*time.Second)
		resp, err := r.etcd.Get(one, "robustness-head", clientv3.WithCountOnly())
		done()
		if err == nil {
			c.asked, c.revision = asked, resp.Header.Revision
			return c.revision, true
		}
		if wait(ctx, retry); ctx.Err() != nil {
			r.fail(fmt.Errorf("read etcd's revision: %w", err))
			return 0, false
		}
	}
}

// peak says how much memory this process has used at most, where the system tells.
func peak() string {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return ""
	}
	_, rest, found := strings.Cut(string(status), "VmHWM:")
	if !found {
		return ""
	}
	size, _, _ := strings.Cut(rest, "\n")
	return "; the test itself " + strings.TrimSpace(size) + " at most"
}

// trimEvery is how often what nobody needs any more is let go of.
const trimEvery = 20 * time.Second

// keeps is how long the truth is kept at least: longer than the time from the revision that a watch begins at to its judgement.
func (c Config) keeps() time.Duration { return 2*c.history() + 3*time.Minute }

const (
	// waited is how many times as long the truth is kept for acts that are not judged yet, on a machine that is too slow. What
	// waits for longer is not judged, so that the memory is that of the changes of so long a time.
	waited = 3
	// leastChanges are kept whatever their age: a server keeps some of each resource, and gives them to a watch.
	leastChanges = 10_000
)

// trim lets go of what was before what is needed at a time.
func trim(t *history.Truth, needs int64, now time.Time, keeps time.Duration) {
	rev := max(min(t.RevisionAt(now.Add(-keeps)), needs), t.RevisionAt(now.Add(-waited*keeps)))
	t.Trim(min(rev, t.RevisionBefore(leastChanges)))
}

// trims lets go of what is older than any record that is still to be judged.
func (r *Run) trims(ctx context.Context) {
	for range every(ctx, trimEvery) {
		if r.found.any() {
			r.recordChanges()
		}
		trim(r.truth, r.objects.Needs(), time.Now(), r.config.keeps())
	}
}

// recordChanges puts those changes into the history that are not in it yet, when something was found: the cause may be what was
// before that. It is called by one goroutine at a time.
func (r *Run) recordChanges() {
	head := r.truth.Head()
	for _, c := range r.truth.Changes(r.recorded, head) {
		r.record.write(line{Change: &c})
	}
	r.recorded = head
}
