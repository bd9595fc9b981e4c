// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"sync"
	"time"
)

// usage is where a server's memory and processor time can be read, and how often that is reasonable.
type usage struct {
	read  func() (rss int64, cpu float64, err error) // bytes, and seconds since the server started
	every time.Duration                              // distance of two samples
	limit time.Duration                              // how long to wait for the server to become idle
}

// processUsage reads a process of this machine.
func processUsage(pid int) usage {
	return usage{every: 100 * time.Millisecond, limit: time.Minute, read: func() (int64, float64, error) {
		rss, err := residentBytes(pid)
		if err != nil {
			return 0, 0, err
		}
		cpu, err := cpuSeconds(pid)
		return rss, cpu, err
	}}
}

// Sample is the state of a server at one time.
type Sample struct {
	Seconds float64 `json:"t"`   // since the run began
	RSS     int64   `json:"rss"` // bytes
	CPU     float64 `json:"cpu"` // seconds used since the server started
}

// sampler reads a server's memory and processor time until it is stopped. It is safe for concurrent use.
type sampler struct {
	usage
	origin time.Time

	mu      sync.Mutex
	samples []Sample
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
func (s *sampler) take() (Sample, error) {
	rss, cpu, err := s.read()
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
func (s *sampler) stop() []Sample {
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
		_, before, err := s.read()
		if err != nil {
			return false, err
		}
		if err := pause(ctx, quietWindow); err != nil {
			return false, err
		}
		_, after, err := s.read()
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
