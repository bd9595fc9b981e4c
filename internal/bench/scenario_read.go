// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"fmt"
	"time"
)

// startScenario: what a server holds once it has started over the data and has come to rest.
type startScenario struct {
	Settle time.Duration `json:"settle"` // after the server is ready and idle
}

func (*startScenario) name() string       { return "start" }
func (sc *startScenario) label() string   { return "start" }
func (*startScenario) datasets() []string { return []string{"a", "b"} }
func (*startScenario) rounds() int        { return 1 }

func (sc *startScenario) run(ctx context.Context, s *session) error {
	// The phase begins with the process itself, so nothing waits for quiet before it.
	_, err := s.measure(ctx, "start", true, func(ctx context.Context, p *Phase) error {
		if err := s.server.waitReady(ctx); err != nil {
			return err
		}
		p.Figures["ready s"] = time.Since(s.started).Seconds()
		return s.ready(ctx)
	})
	if err != nil {
		return err
	}
	p, err := s.measure(ctx, "settled", true, func(ctx context.Context, _ *Phase) error { return pause(ctx, sc.Settle) })
	if err != nil {
		return err
	}
	heap, err := s.server.scrapeHeap(ctx, true)
	if err != nil {
		return err
	}
	p.Figures["heap live MB"] = float64(heap.Alloc) / 1e6
	return nil
}

// watchlistScenario: many clients ask for the same initial events at once.
type watchlistScenario struct {
	Dataset       string `json:"dataset"`
	Format        format `json:"format"`
	Streams       []int  `json:"streams"`
	PerConnection int    `json:"perConnection"`
	Again         int    `json:"again"` // how often each is measured on the same server
}

func (*watchlistScenario) name() string { return "watchlist" }
func (sc *watchlistScenario) label() string {
	return "watchlist-" + sc.Dataset + "-" + string(sc.Format)
}
func (sc *watchlistScenario) datasets() []string { return []string{sc.Dataset} }
func (*watchlistScenario) rounds() int           { return 1 }

func (sc *watchlistScenario) recordings(data map[string]Dataset) []recording {
	return []recording{{data: data[sc.Dataset], format: sc.Format}}
}

const watchListQuery = "?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true&timeoutSeconds=3600"

func (sc *watchlistScenario) run(ctx context.Context, s *session) error {
	if err := s.ready(ctx); err != nil {
		return err
	}
	data := s.data[sc.Dataset]
	for _, streams := range sc.Streams {
		for again := range sc.Again {
			name := fmt.Sprintf("watchlist %s %s x%d", sc.Dataset, sc.Format, streams)
			if again > 0 {
				name += fmt.Sprintf(" again %d", again)
			}
			if err := sc.once(ctx, s, data, streams, name); err != nil {
				return err
			}
		}
	}
	return nil
}

func (sc *watchlistScenario) once(ctx context.Context, s *session, data Dataset, streams int, name string) error {
	readers, err := s.startReaders(ctx, readerJob{
		Paths: []string{data.Resource + watchListQuery}, Format: sc.Format, Streams: streams,
		PerConnection: sc.PerConnection, Until: untilSynced, Expect: int64(data.Objects),
	})
	if err != nil {
		return err
	}
	defer endReaders(readers)
	_, err = s.phase(ctx, name, func(ctx context.Context, p *Phase) error {
		if err := readers.say("go"); err != nil {
			return err
		}
		report, err := hearStage(ctx, readers, stageDone)
		if err != nil {
			return err
		}
		p.Figures["received MB"] = float64(report.Bytes) / 1e6
		p.Figures["retries"] = float64(report.Retries)
		p.Figures["synced median s"] = median(report.Seconds)
		p.Figures["synced last s"] = quantile(report.Seconds, 1)
		return nil
	})
	return err
}
