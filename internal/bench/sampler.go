// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"sync"
	"time"
)

// sampleEvery is the distance of two samples of a server.
const sampleEvery = 100 * time.Millisecond

// Sample is the state of a server at one time.
type Sample struct {
	Seconds float64 `json:"t"`   // since the run began
	RSS     int64   `json:"rss"` // bytes
	CPU     float64 `json:"cpu"` // seconds used since the server started
}

// sampler reads a server's memory and processor time until it is stopped. It is safe for concurrent use.
type sampler struct {
	pid    int
	origin time.Time

	mu      sync.Mutex
	samples []Sample
	peak    int64 // highest RSS since resetPeak

	cancel context.CancelFunc
	done   chan struct{}
}

func startSampler(pid int, origin time.Time) *sampler {
	ctx, cancel := context.WithCancel(context.Background())
	s := &sampler{pid: pid, origin: origin, cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(s.done)
		tick := time.NewTicker(sampleEvery)
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
func (s *sampler) take() (Sample, error) {
	rss, err := residentBytes(s.pid)
	if err != nil {
		return Sample{}, err
	}
	cpu, err := cpuSeconds(s.pid)
	if err != nil {
		return Sample{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	sample := Sample{Seconds: time.Since(s.origin).Seconds(), RSS: rss, CPU: cpu}
	s.samples = append(s.samples, sample)
	s.peak = max(s.peak, rss)
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

// stop ends the sampling and returns all samples.
func (s *sampler) stop() []Sample {
	s.cancel()
	<-s.done
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.samples
}

const (
	quietShare  = 0.03             // of one processor
	quietWindow = 2 * time.Second  // for so long
	quietLimit  = 60 * time.Second // waited for so long at most
)

// waitQuiet waits until the server uses next to no processor time, so that a phase does not pay for what came before
// it. It reports false when the server was still busy after quietLimit.
func (s *sampler) waitQuiet(ctx context.Context) (bool, error) {
	deadline := time.Now().Add(quietLimit)
	for {
		began := time.Now()
		before, err := cpuSeconds(s.pid)
		if err != nil {
			return false, err
		}
		if err := pause(ctx, quietWindow); err != nil {
			return false, err
		}
		after, err := cpuSeconds(s.pid)
		if err != nil {
			return false, err
		}
		if (after-before)/time.Since(began).Seconds() < quietShare {
			return true, nil
		}
		if time.Now().After(deadline) {
			return false, nil
		}
	}
}

// pause waits for d, or returns the reason why ctx ended.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
