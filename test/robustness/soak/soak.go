// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package soak

import (
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/weir-project/weir/internal/rig"
)

// Sample is what one server used at one time.
type Sample struct {
	Server string
	// After is the time since the sampler has begun.
	After time.Duration
	rig.Metrics
	// Live is the memory of live objects in bytes, right after a collection; 0 where there was none.
	Live int64
}

// Sampler asks servers for what they use. Its zero value of all but Servers and Every is ready.
type Sampler struct {
	Servers []*rig.Server
	// Every is the time between two samples of a server. Each CollectEvery-th has the server collect garbage first; 0 is never.
	Every        time.Duration
	CollectEvery int
}

// Run samples until ctx is done, and returns what it has seen, in order of time. A server that does not answer once is an
// error, and left out that time.
func (s *Sampler) Run(ctx context.Context) ([]Sample, error) {
	var samples []Sample
	var failures []error
	began := time.Now()
	tick := time.NewTicker(s.Every)
	defer tick.Stop()
	for n := 0; ; n++ {
		for _, server := range s.Servers {
			one := Sample{Server: server.Name(), After: time.Since(began)}
			var err error
			// The usual sample comes first: a collection would change it.
			if one.Metrics, err = server.Metrics(ctx); err == nil && s.CollectEvery > 0 && n%s.CollectEvery == s.CollectEvery-1 {
				one.Live, err = live(ctx, server)
			}
			switch {
			case ctx.Err() != nil:
				return samples, errors.Join(failures...)
			case err != nil:
				failures = append(failures, fmt.Errorf("ask %s after %v what it uses: %w", server.Name(), one.After, err))
			default:
				samples = append(samples, one)
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return samples, errors.Join(failures...)
		}
	}
}

func live(ctx context.Context, server *rig.Server) (int64, error) {
	if err := server.Collect(ctx); err != nil {
		return 0, err
	}
	m, err := server.Metrics(ctx)
	return m.Heap.Alloc, err
}

// measure is one thing that a sample tells, and by how much it may be more in the end.
type measure struct {
	name  string
	of    func(Sample) (value float64, told bool)
	slack float64 // in the measure's own unit, beside tolerance
}

// tolerance is the part by which a measure may be more in the last quarter than in the second.
const tolerance = 0.05

const mb = 1e6

var measures = []measure{
	{"RSS MB", func(s Sample) (float64, bool) { return float64(s.RSS) / mb, true }, 10},
	{"live heap MB", func(s Sample) (float64, bool) { return float64(s.Live) / mb, s.Live > 0 }, 2},
	{"goroutines", func(s Sample) (float64, bool) { return float64(s.Goroutines), true }, 20},
	{"descriptors", func(s Sample) (float64, bool) { return float64(s.Descriptors), true }, 10},
}

// of are the measures of these samples: those above, and one for each purpose of the ledger.
func of(samples []Sample) []measure {
	list := slices.Clone(measures)
	purposes := map[string]bool{}
	for _, s := range samples {
		for p := range s.Purposes {
			purposes[p] = true
		}
	}
	for _, p := range slices.Sorted(maps.Keys(purposes)) {
		list = append(list, measure{"ledger " + p + " MB", func(s Sample) (float64, bool) {
			v, told := s.Purposes[p]
			return float64(v) / mb, told
		}, 2})
	}
	return list
}

// Row is what a measure of a server was, as medians.
type Row struct {
	Server, Measure string
	Early, Late     float64 // of the second quarter of the time, and of the last
	Most            float64 // that the late one may be
	Grown           bool
}

// Judge compares the last quarter with the second, for each server and measure. With too little to compare it returns an
// error: nothing is said to be flat that was not seen.
func Judge(samples []Sample) ([]Row, error) {
	const least = 3
	if len(samples) == 0 {
		return nil, errors.New("soak: there are no samples")
	}
	whole := samples[len(samples)-1].After
	var rows []Row
	var failures []error
	for _, m := range of(samples) {
		for _, server := range servers(samples) {
			var early, late []float64
			for _, s := range samples {
				v, told := m.of(s)
				switch {
				case !told || s.Server != server:
				case s.After >= whole*3/4:
					late = append(late, v)
				case s.After >= whole/4 && s.After < whole/2:
					early = append(early, v)
				}
			}
			if len(early) < least || len(late) < least {
				failures = append(failures, fmt.Errorf("soak: %s of %s was told %d and %d times in the quarters to compare, %d are needed: run longer", m.name, server, len(early), len(late), least))
				continue
			}
			r := Row{Server: server, Measure: m.name, Early: median(early), Late: median(late)}
			r.Most = r.Early*(1+tolerance) + m.slack
			r.Grown = r.Late > r.Most
			rows = append(rows, r)
		}
	}
	return rows, errors.Join(failures...)
}

func servers(samples []Sample) []string {
	var names []string
	for _, s := range samples {
		if !slices.Contains(names, s.Server) {
			names = append(names, s.Server)
		}
	}
	return names
}

func median(values []float64) float64 {
	slices.Sort(values)
	return values[len(values)/2]
}

func (r Row) String() string {
	verdict := "flat"
	if r.Grown {
		verdict = "GROWN"
	}
	return fmt.Sprintf("%-8s %-22s %9.1f %9.1f  (at most %.1f) %s", r.Server, r.Measure, r.Early, r.Late, r.Most, verdict)
}

// WriteCSV writes one line for each sample, with seconds, server and all measures; what was not told is empty.
func WriteCSV(w io.Writer, samples []Sample) error {
	out := csv.NewWriter(w)
	list := of(samples)
	head := []string{"seconds", "server"}
	for _, m := range list {
		head = append(head, m.name)
	}
	rows := [][]string{head}
	for _, s := range samples {
		row := []string{strconv.FormatFloat(s.After.Seconds(), 'f', 0, 64), s.Server}
		for _, m := range list {
			text := ""
			if v, told := m.of(s); told {
				text = strconv.FormatFloat(v, 'f', 1, 64)
			}
			row = append(row, text)
		}
		rows = append(rows, row)
	}
	return out.WriteAll(rows)
}
