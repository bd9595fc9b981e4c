// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package robustness

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"regexp"
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

// starts is how often a weir is started that gives up before it is ready: see gaveUp.
const starts = 20

// gaveUp is the last word of upstream's server where the first requests of its own take longer than the half minute or the minute
// that it gives them: while etcd has no leader, or on a busy machine. It is to be started again then, as a kubelet does.
var gaveUp = regexp.MustCompile(`(?m)^F.*PostStartHook "(?:rbac/bootstrap-roles|start-service-ip-repair-controllers)" failed: .*(?:timed out waiting for the condition|\(timeout\))`)

// gaveUp tells whether it has ended for that reason, by what its log says since it was started last.
func (s *server) gaveUp() (bool, error) {
	if s.rig.Died() == nil {
		return false, nil
	}
	log, err := os.Open(s.rig.Log())
	if err != nil {
		return false, err
	}
	defer log.Close()
	said, err := io.ReadAll(io.NewSectionReader(log, s.said, math.MaxInt64-s.said))
	return gaveUp.Match(said), err
}

// restart starts a weir that has ended, until it is ready. One that ends for another reason than that it gave up has failed.
func (s *server) restart(ctx context.Context) error {
	for n := 1; ; n++ {
		log, err := os.Stat(s.rig.Log())
		if err != nil {
			return err
		}
		s.said = log.Size()
		if err := s.rig.Restart(); err != nil {
			return err
		}
		err = s.rig.WaitReady(ctx)
		again, logErr := s.gaveUp()
		if err == nil || logErr != nil || !again || n == starts {
			return errors.Join(err, logErr)
		}
		s.again.Add(1)
	}
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
