// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package robustness

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// weirProcess kills, pauses or starves a weir.
func (r *Run) weirProcess(ctx context.Context, f fault, s *server) error {
	whole := context.WithoutCancel(ctx)
	switch f.kind {
	case faultPause:
		if err := s.rig.Pause(); err != nil {
			return err
		}
		s.down.Store(true)
		defer s.down.Store(false)
		over := time.Now().Add(f.lasts)
		err := silent(ctx, alive(s.rig))
		wait(ctx, time.Until(over))
		return errors.Join(err, s.rig.Resume())
	case faultMemory:
		if err := r.starve(whole, s); err != nil {
			return err
		}
		s.down.Store(true)
		defer s.down.Store(false)
	default:
		s.down.Store(true)
		defer s.down.Store(false)
		s.rig.Kill()
	}
	return s.restart(whole)
}

// starts is how often a weir is started that gives up before it is ready: upstream's server does where the first requests of
// its own take longer than a request may, which on a busy machine they do in a short run, and is to be started again.
const starts = 3

func (s *server) restart(ctx context.Context) error {
	var failures []error
	for range starts {
		if err := s.rig.Restart(); err != nil {
			return errors.Join(append(failures, err)...)
		}
		err := s.rig.WaitReady(ctx)
		if err == nil || s.rig.Died() == nil {
			return err
		}
		failures = append(failures, err)
	}
	return errors.Join(failures...)
}

// starve lowers a weir's memory limit below what it uses, until the kernel has killed it. A kernel that does not give a limit
// below what is used kills when more is wanted, so lists are asked for.
func (r *Run) starve(ctx context.Context, s *server) error {
	ctx, cancel := context.WithTimeout(ctx, biting)
	defer cancel()
	var eaters sync.WaitGroup
	defer eaters.Wait()
	defer cancel()
	for range 4 {
		eaters.Go(func() {
			for ctx.Err() == nil {
				if _, _, err := answer(ctx, s.rig, "GET", "/openapi/v2", nil); err != nil {
					wait(ctx, 10*time.Millisecond)
				}
			}
		})
	}
	for {
		u, err := s.rig.Usage()
		if err == nil {
			err = s.rig.Limit(u.RSS / 2)
		}
		select {
		case <-s.rig.Done():
			return nil // well knows it from a death by itself: it runs again
		case <-ctx.Done():
			return fmt.Errorf("%w: it lives, with %d MB: %w", errNothing, u.RSS>>20, errors.Join(err, s.rig.Limit(memoryLimit)))
		case <-time.After(200 * time.Millisecond):
		}
	}
}
