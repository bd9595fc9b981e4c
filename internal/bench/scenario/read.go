// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"context"
	"fmt"
	"time"

	"github.com/weir-project/weir/internal/bench/client"
	"github.com/weir-project/weir/internal/bench/dataset"
	"github.com/weir-project/weir/internal/bench/report"
	"github.com/weir-project/weir/internal/bench/static"
)

// Start measures what a server holds once it has started over the data and has come to rest.
type Start struct {
	Settle time.Duration `json:"settle"` // after the server is ready and idle
}

// About implements Scenario.
func (*Start) About() About {
	return About{Name: "start", Label: "start", Datasets: []string{"a", "b"}, Rounds: 1, StartsServer: true}
}

func (sc *Start) run(ctx context.Context, s *session) error {
	// The phase begins with the process itself, so nothing waits for quiet before it.
	_, err := s.measure(ctx, "start", true, func(ctx context.Context, p *report.Phase) error {
		if err := s.server.WaitReady(ctx); err != nil {
			return err
		}
		p.Figures["ready s"] = time.Since(s.started).Seconds()
		return s.ready(ctx)
	})
	if err != nil {
		return err
	}
	p, err := s.measure(ctx, "settled", true, func(ctx context.Context, _ *report.Phase) error { return client.Pause(ctx, sc.Settle) })
	if err != nil {
		return err
	}
	m, err := s.server.metrics(ctx, true)
	if err != nil {
		return err
	}
	p.Figures["heap live MB"] = float64(m.Heap.Alloc) / 1e6
	return nil
}

// Read has many clients ask for the same collection at once, as lists, as watch lists, or as one after the other.
type Read struct {
	Command       string        `json:"-"` // its name
	Dataset       string        `json:"dataset"`
	Verbs         []string      `json:"verbs"` // VerbList, VerbWatchList
	Format        client.Format `json:"format"`
	Streams       []int         `json:"streams"` // a dataset served in several versions has its streams spread over them
	PerConnection int           `json:"perConnection"`
	Again         int           `json:"again"` // how often each is measured on the same server
	// Consistent lists are asked for without a resourceVersion; Gzip has them compressed.
	Consistent bool `json:"consistent,omitempty"`
	Gzip       bool `json:"gzip,omitempty"`
}

// The verbs of Read.
const (
	VerbList      = "list"
	VerbWatchList = "watchlist"

	watchListQuery = "?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true&timeoutSeconds=3600"
	// listQuery lets the server answer from its cache without asking etcd first.
	listQuery = "?resourceVersion=0"
)

func (sc *Read) label() string {
	label := sc.Command + "-" + sc.Dataset + "-" + string(sc.Format)
	if sc.Consistent {
		label += "-consistent"
	}
	if sc.Gzip {
		label += "-gzip"
	}
	return label
}

// Recordings implements Recorded.
func (sc *Read) Recordings(data map[string]dataset.Set) []static.Recording {
	var list []static.Recording
	for _, verb := range sc.Verbs {
		query, until := sc.request(verb)
		for _, path := range data[sc.Dataset].Resources {
			list = append(list, static.Recording{Path: path + query, Format: sc.Format, Until: until})
		}
	}
	return list
}

// request gives a verb's query and when its response is complete.
func (sc *Read) request(verb string) (query string, until client.Until) {
	switch {
	case verb != VerbList:
		return watchListQuery, client.UntilSynced
	case sc.Consistent:
		return "", client.UntilBody
	default:
		return listQuery, client.UntilBody
	}
}

// About implements Scenario.
func (sc *Read) About() About {
	return About{Name: sc.Command, Label: sc.label(), Datasets: []string{sc.Dataset}, Rounds: 1}
}

func (sc *Read) run(ctx context.Context, s *session) error {
	if err := s.ready(ctx); err != nil {
		return err
	}
	var last *report.Phase
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
	if s.server.Started == nil || s.server.Static {
		return nil
	}
	// Only now: a forced collection changes what the next phase would find.
	m, err := s.server.metrics(ctx, true)
	if err != nil {
		return err
	}
	last.Figures["heap live MB"] = float64(m.Heap.Alloc) / 1e6
	return nil
}

func (sc *Read) once(ctx context.Context, s *session, verb string, streams int, name string) (*report.Phase, error) {
	data := s.Data[sc.Dataset]
	query, until := sc.request(verb)
	readers, err := s.startReaders(ctx, client.Job{
		Paths: pathsOf(data, query), Format: sc.Format, Streams: streams,
		PerConnection: sc.PerConnection, Until: until, Expect: data.Served, Gzip: sc.Gzip && verb == VerbList,
	})
	if err != nil {
		return nil, err
	}
	defer readers.End()
	before, counted := s.allocated(ctx)
	p, err := s.phase(ctx, name, func(ctx context.Context, p *report.Phase) error { return drain(ctx, readers, p) })
	if after, ok := s.allocated(ctx); err == nil && ok && counted {
		p.Figures["allocated MB"] = (after - before) / 1e6
	}
	return p, err
}

// allocated returns how many bytes the server has allocated on its heap since it started,
// if it tells.
func (s *session) allocated(ctx context.Context) (float64, bool) {
	if s.server.Static {
		return 0, false
	}
	m, err := s.server.metrics(ctx, false)
	return m.Allocated, err == nil && m.Allocated > 0
}

func pathsOf(data dataset.Set, query string) []string {
	paths := make([]string, len(data.Resources))
	for i, resource := range data.Resources {
		paths[i] = resource + query
	}
	return paths
}

// drain has the readers go and waits until all are through.
func drain(ctx context.Context, readers *client.Child, p *report.Phase) error {
	if err := readers.Go(); err != nil {
		return err
	}
	done, err := readers.Hear(ctx, client.StageDone)
	if err != nil {
		return err
	}
	p.Figures["received MB"] = float64(done.Bytes) / 1e6
	p.Figures["retries"] = float64(done.Retries)
	p.Figures["synced median s"] = report.Median(done.Seconds)
	p.Figures["synced last s"] = report.Quantile(done.Seconds, 1)
	return nil
}

// Storm has the server come back, and everybody want everything at once.
type Storm struct {
	Dataset string        `json:"dataset"`
	Format  client.Format `json:"format"`
	Streams int           `json:"streams"`
}

// About implements Scenario.
func (sc *Storm) About() About {
	return About{Name: "storm", Label: "storm-" + sc.Dataset + "-" + string(sc.Format), Datasets: []string{sc.Dataset}, Rounds: 1, StartsServer: true}
}

func (sc *Storm) run(ctx context.Context, s *session) error {
	// The server was started a moment ago: the readers knock on its closed door, as everybody does after an outage.
	data := s.Data[sc.Dataset]
	readers, err := s.startReaders(ctx, client.Job{
		Paths: pathsOf(data, watchListQuery), Format: sc.Format, Streams: sc.Streams, PerConnection: 1,
		Until: client.UntilSynced, Expect: data.Served, Insist: true,
	})
	if err != nil {
		return err
	}
	defer readers.End()
	_, err = s.measure(ctx, fmt.Sprintf("storm %s %s x%d", sc.Dataset, sc.Format, sc.Streams), true,
		func(ctx context.Context, p *report.Phase) error { return drain(ctx, readers, p) })
	return err
}
