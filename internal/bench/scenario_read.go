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
func (*startScenario) startsServer()      {}

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

// readScenario: many clients ask for the same collection at once, as lists, as watch lists, or as one after the other.
type readScenario struct {
	command       string
	Dataset       string   `json:"dataset"`
	Verbs         []string `json:"verbs"` // verbList, verbWatchList
	Format        format   `json:"format"`
	Streams       []int    `json:"streams"` // a dataset served in several versions has its streams spread over them
	PerConnection int      `json:"perConnection"`
	Again         int      `json:"again"` // how often each is measured on the same server
	// Consistent lists are asked for without a resourceVersion; Gzip has them compressed.
	Consistent bool `json:"consistent,omitempty"`
	Gzip       bool `json:"gzip,omitempty"`
}

const (
	verbList      = "list"
	verbWatchList = "watchlist"

	watchListQuery = "?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true&timeoutSeconds=3600"
	// listQuery lets the server answer from its cache without asking etcd first.
	listQuery = "?resourceVersion=0"
)

func (sc *readScenario) name() string       { return sc.command }
func (sc *readScenario) datasets() []string { return []string{sc.Dataset} }
func (sc *readScenario) rounds() int        { return 1 }
func (sc *readScenario) label() string {
	label := sc.command + "-" + sc.Dataset + "-" + string(sc.Format)
	if sc.Consistent {
		label += "-consistent"
	}
	if sc.Gzip {
		label += "-gzip"
	}
	return label
}

func (sc *readScenario) recordings(data map[string]Dataset) []recording {
	var list []recording
	for _, verb := range sc.Verbs {
		query, until := sc.request(verb)
		for _, path := range data[sc.Dataset].Resources {
			list = append(list, recording{path: path + query, format: sc.Format, until: until})
		}
	}
	return list
}

// request gives a verb's query and when its response is complete.
func (sc *readScenario) request(verb string) (query string, until readUntil) {
	switch {
	case verb != verbList:
		return watchListQuery, untilSynced
	case sc.Consistent:
		return "", untilBody
	default:
		return listQuery, untilBody
	}
}

func (sc *readScenario) run(ctx context.Context, s *session) error {
	if err := s.ready(ctx); err != nil {
		return err
	}
	var last *Phase
	for _, verb := range sc.Verbs {
		for _, streams := range sc.Streams {
			for again := range sc.Again {
				name := fmt.Sprintf("%s %s %s x%d", verb, sc.Dataset, sc.Format, streams)
				if again > 0 {
					name += fmt.Sprintf(" again %d", again)
				}
				var err error
				if last, err = sc.once(ctx, s, verb, streams, name); err != nil {
					return err
				}
			}
		}
	}
	if s.server.process == nil || s.server.target.static {
		return nil
	}
	// Only now: a forced collection changes what the next phase would find.
	heap, err := s.server.scrapeHeap(ctx, true)
	if err != nil {
		return err
	}
	last.Figures["heap live MB"] = float64(heap.Alloc) / 1e6
	return nil
}

func (sc *readScenario) once(ctx context.Context, s *session, verb string, streams int, name string) (*Phase, error) {
	data := s.data[sc.Dataset]
	query, until := sc.request(verb)
	readers, err := s.startReaders(ctx, readerJob{
		Paths: pathsOf(data, query), Format: sc.Format, Streams: streams,
		PerConnection: sc.PerConnection, Until: until, Expect: data.served, Gzip: sc.Gzip && verb == verbList,
	})
	if err != nil {
		return nil, err
	}
	defer endReaders(readers)
	before, counted := s.allocated(ctx)
	p, err := s.phase(ctx, name, func(ctx context.Context, p *Phase) error { return drain(ctx, readers, p) })
	if after, ok := s.allocated(ctx); err == nil && ok && counted {
		p.Figures["allocated MB"] = (after - before) / 1e6
	}
	return p, err
}

// allocated returns how many bytes the server has allocated on its heap since it started,
// if it tells.
func (s *session) allocated(ctx context.Context) (float64, bool) {
	if s.server.target.static {
		return 0, false
	}
	m, err := s.server.scrape(ctx)
	return m.allocated, err == nil && m.allocated > 0
}

func pathsOf(data Dataset, query string) []string {
	paths := make([]string, len(data.Resources))
	for i, resource := range data.Resources {
		paths[i] = resource + query
	}
	return paths
}

// drain has the readers go and waits until all are through.
func drain(ctx context.Context, readers *dialogue, p *Phase) error {
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
}

// stormScenario: the server comes back, and everybody wants everything at once.
type stormScenario struct {
	Dataset string `json:"dataset"`
	Format  format `json:"format"`
	Streams int    `json:"streams"`
}

func (*stormScenario) name() string          { return "storm" }
func (sc *stormScenario) label() string      { return "storm-" + sc.Dataset + "-" + string(sc.Format) }
func (sc *stormScenario) datasets() []string { return []string{sc.Dataset} }
func (*stormScenario) rounds() int           { return 1 }
func (*stormScenario) startsServer()         {}

func (sc *stormScenario) run(ctx context.Context, s *session) error {
	// The server was started a moment ago: the readers knock on its closed door, as everybody does after an outage.
	data := s.data[sc.Dataset]
	readers, err := s.startReaders(ctx, readerJob{
		Paths: pathsOf(data, watchListQuery), Format: sc.Format, Streams: sc.Streams, PerConnection: 1,
		Until: untilSynced, Expect: data.served, Insist: true,
	})
	if err != nil {
		return err
	}
	defer endReaders(readers)
	_, err = s.measure(ctx, fmt.Sprintf("storm %s %s x%d", sc.Dataset, sc.Format, sc.Streams), true,
		func(ctx context.Context, p *Phase) error { return drain(ctx, readers, p) })
	return err
}
