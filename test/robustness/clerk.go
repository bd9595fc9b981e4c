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
)

// clock tells revisions that etcd had after a time. It is safe for concurrent use.
type clock struct {
	mu       sync.Mutex
	asked    time.Time // before etcd was asked
	revision int64     // its answer
}

// etcdAfter is a revision that etcd had after a time: what had been written then is not later. It waits until etcd answers; if
// it does not the run is worth nothing, and this is 0.
func (r *Run) etcdAfter(ctx context.Context, at time.Time) int64 {
	c := &r.clock
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.asked.After(at) {
		return c.revision
	}
	ctx, cancel := context.WithTimeout(ctx, truthPatience)
	defer cancel()
	for {
		asked := time.Now()
		one, done := context.WithTimeout(ctx, 5*time.Second)
		resp, err := r.etcd.Get(one, "robustness-head", clientv3.WithCountOnly())
		done()
		if err == nil {
			c.asked, c.revision = asked, resp.Header.Revision
			return c.revision
		}
		if wait(ctx, retry); ctx.Err() != nil {
			r.fail(fmt.Errorf("read etcd's revision: %w", err))
			return 0
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

// keeps is how long the truth is kept: longer than the time from the revision that a watch begins at to its judgement.
func (c Config) keeps() time.Duration { return 2*c.history() + 3*time.Minute }

// trims lets go of what is older than any record that is still to be judged.
func (r *Run) trims(ctx context.Context) {
	for range every(ctx, trimEvery) {
		if r.found.any() {
			r.recordChanges()
		}
		r.truth.Trim(r.truth.RevisionAt(time.Now().Add(-r.config.keeps())))
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
