// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"context"
	"sync"
	"time"

	"github.com/weir-project/weir/internal/bench/client"
	"github.com/weir-project/weir/internal/bench/report"
)

// sampler reads a server's memory and processor time until it is stopped. It is safe for concurrent use.
type sampler struct {
	usage
	origin time.Time

	mu      sync.Mutex
	samples []report.Sample
	peak    int64 // highest RSS since resetPeak

	cancel context.CancelFunc
	done   chan struct{}
}

func startSampler(of usage, origin time.Time) *sampler {
	ctx, cancel := context.WithCancel(context.Background())
	s := &sampler{usage: of, origin: origin, cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(s.done)
		tick := time.NewTicker(s.every)
		defer tick.Stop()
		for {
			// A process that has ended gives no more samples; who waits for it learns of the end elsewhere.
			_, _ = s.take()
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
		}
	}()
	return s
}

// take adds a sample now and returns it.
func (s *sampler) take() (report.Sample, error) {
	u, err := s.read()
	if err != nil {
		return report.Sample{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	sample := report.Sample{Seconds: time.Since(s.origin).Seconds(), RSS: u.RSS, CPU: u.CPU}
	s.samples = append(s.samples, sample)
	s.peak = max(s.peak, u.RSS)
	return sample, nil
}

// resetPeak begins a new stretch for peakRSS.
func (s *sampler) resetPeak() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.peak = 0
}

func (s *sampler) peakRSS() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.peak
}

// latestRSS is the server's memory by the last sample, 0 before the first.
func (s *sampler) latestRSS() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.samples) == 0 {
		return 0
	}
	return s.samples[len(s.samples)-1].RSS
}

// stop ends the sampling and returns all samples.
func (s *sampler) stop() []report.Sample {
	s.cancel()
	<-s.done
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.samples
}

const (
	quietShare  = 0.03            // of one processor
	quietWindow = 2 * time.Second // for so long
)

// waitQuiet waits until the server uses next to no processor time, so that a phase does not pay for what came before
// it. It reports false when the server was still busy after usage.limit.
func (s *sampler) waitQuiet(ctx context.Context) (bool, error) {
	deadline := time.Now().Add(s.limit)
	for {
		began := time.Now()
		before, err := s.read()
		if err != nil {
			return false, err
		}
		if err := client.Pause(ctx, quietWindow); err != nil {
			return false, err
		}
		after, err := s.read()
		if err != nil {
			return false, err
		}
		if (after.CPU-before.CPU)/time.Since(began).Seconds() < quietShare {
			return true, nil
		}
		if time.Now().After(deadline) {
			return false, nil
		}
	}
}
