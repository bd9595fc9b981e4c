// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package robustness

import (
	"context"
	"fmt"
	"time"

	"github.com/weir-project/weir/test/robustness/history"
)

// faults does what the plan says. It returns when all is healed and ready.
func (r *Run) faults(ctx context.Context, begun time.Time) {
	for _, f := range r.config.faults() {
		wait(ctx, time.Until(begun.Add(f.at)))
		if ctx.Err() != nil {
			return
		}
		done := history.Fault{Kind: string(f.kind), Server: r.servers[f.server].name, Begin: time.Now()}
		if err := r.fault(ctx, f); err != nil {
			r.fail(fmt.Errorf("fault %s at %s: %w", f.kind, done.Server, err))
		}
		done.End = time.Now()
		r.stats.faults.Add(1)
		r.record.write(line{Fault: &done})
	}
}

func (r *Run) fault(ctx context.Context, f fault) error {
	s := r.servers[f.server]
	// It is healed also when the run is at its end.
	whole := context.WithoutCancel(ctx)
	switch f.kind {
	case faultCut:
		s.link.Cut()
		wait(ctx, f.lasts)
		return s.link.Heal()
	case faultDelay:
		if err := s.link.Delay(60*time.Millisecond, 50*time.Millisecond); err != nil {
			return err
		}
		wait(ctx, f.lasts)
		return s.link.Heal()
	case faultKill:
		s.down.Store(true)
		defer s.down.Store(false)
		s.rig.Kill()
		if err := s.rig.Restart(); err != nil {
			return err
		}
		return s.rig.WaitReady(whole)
	case faultPause:
		if err := s.rig.Pause(); err != nil {
			return err
		}
		s.down.Store(true)
		defer s.down.Store(false)
		wait(ctx, f.lasts)
		return s.rig.Resume()
	case faultCompact:
		rev := r.truth.RevisionAt(time.Now().Add(-f.lasts))
		if _, err := r.etcd.Compact(whole, rev); err != nil {
			return fmt.Errorf("compact etcd at revision %d: %w", rev, err)
		}
		return nil
	default:
		wait(ctx, f.lasts)
		return nil
	}
}
