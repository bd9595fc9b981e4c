// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/weir-project/weir/internal/bench/client"
	"github.com/weir-project/weir/internal/bench/dataset"
	"github.com/weir-project/weir/internal/bench/report"
	"github.com/weir-project/weir/internal/bench/static"
	"github.com/weir-project/weir/internal/rig"
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
	before, err := s.sampler.take()
	if err != nil {
		return err
	}
	m, err := s.server.metrics(ctx, true)
	if err != nil {
		return err
	}
	after, err := s.sampler.take()
	if err != nil {
		return err
	}
	p.Figures["heap live MB"] = float64(m.Heap.Alloc) / 1e6
	p.Figures["collection CPU s"] = (after.CPU - before.CPU) / rig.Collections
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
	Again         int           `json:"again"`  // how often each is measured on the same server
	Repeat        int           `json:"repeat"` // how often each stream asks in one phase, one time after the other
	// Consistent lists are asked for without a resourceVersion.
	Consistent bool `json:"consistent,omitempty"`
	// Gzip asks for compressed responses.
	Gzip bool `json:"gzip,omitempty"`
	// Warm has one client ask for the same before each phase, which does not count.
	Warm bool `json:"warm,omitempty"`
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
	if sc.Warm {
		label += "-warm"
	}
	return labelled(label, sc.Gzip)
}

func (sc *Read) asks() string {
	var what []string
	for _, verb := range sc.Verbs {
		switch {
		case verb != VerbList:
			what = append(what, "watch lists")
		case sc.Consistent:
			what = append(what, "consistent lists")
		default:
			what = append(what, "lists at resourceVersion=0")
		}
	}
	return asks("readers", strings.Join(what, " and "), sc.Format, sc.Gzip)
}

// Recordings implements Recorded.
func (sc *Read) Recordings(data map[string]dataset.Set) []static.Recording {
	var list []static.Recording
	for _, verb := range sc.Verbs {
		query, until := sc.request(verb)
		for _, path := range data[sc.Dataset].Resources {
			list = append(list, static.Recording{Ask: client.Ask{Path: path + query, Format: sc.Format, Until: until, Gzip: sc.Gzip}})
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
	return About{Name: sc.Command, Label: sc.label(), Datasets: []string{sc.Dataset}, Rounds: 1, Asks: sc.asks()}
}

func (sc *Read) run(ctx context.Context, s *session) error {
	if err := s.ready(ctx); err != nil {
		return err
	}
	var last *report.Phase
	for _, verb := range sc.Verbs {
		for _, streams := range sc.Streams {
			for again := range sc.Again {
				name := fmt.Sprintf("%s x%d", sc.phase(verb), streams)
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

// phase begins the names of a verb's phases.
func (sc *Read) phase(verb string) string {
	name := verb + " " + sc.Dataset + " " + form(sc.Format, sc.Gzip)
	if sc.Warm {
		name += " warm"
	}
	if sc.Repeat > 1 {
		name += fmt.Sprintf(" %d times", sc.Repeat)
	}
	return name
}

func (sc *Read) once(ctx context.Context, s *session, verb string, streams int, name string) (*report.Phase, error) {
	if sc.Warm {
		if err := sc.warm(ctx, s, verb); err != nil {
			return nil, fmt.Errorf("ask before %s: %w", name, err)
		}
	}
	job := sc.job(s, verb)
	job.Streams, job.Repeat = streams, sc.Repeat
	readers, err := s.startReaders(ctx, job)
	if err != nil {
		return nil, err
	}
	defer readers.End()
	before, counted := s.allocated(ctx)
	p, err := s.phase(ctx, name, func(ctx context.Context, p *report.Phase) error { return s.drain(ctx, readers, p, sc.Gzip) })
	if after, ok := s.allocated(ctx); err == nil && ok && counted {
		p.Figures["allocated MB"] = (after - before) / 1e6
	}
	return p, err
}

// job is what the readers of a verb do, but for how many they are.
func (sc *Read) job(s *session, verb string) client.Job {
	data := s.Data[sc.Dataset]
	query, until := sc.request(verb)
	return client.Job{
		Paths: pathsOf(data, query), Format: sc.Format, PerConnection: sc.PerConnection,
		Until: until, Expect: data.Served, Gzip: sc.Gzip,
	}
}

// warm has one client ask for each collection, as those will that are measured.
func (sc *Read) warm(ctx context.Context, s *session, verb string) error {
	defer s.show("asking once, before it counts").Finish()
	job := sc.job(s, verb)
	job.Streams = len(job.Paths)
	readers, err := s.startReaders(ctx, job)
	if err != nil {
		return err
	}
	defer readers.End()
	if err := readers.Go(); err != nil {
		return err
	}
	_, err = readers.Hear(ctx, client.StageDone)
	return err
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
func (s *session) drain(ctx context.Context, readers *client.Child, p *report.Phase, gzip bool) error {
	if err := readers.Go(); err != nil {
		return err
	}
	done, err := readers.Hear(ctx, client.StageDone)
	if err != nil {
		return err
	}
	s.tellWire(p, done, gzip)
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
	Gzip    bool          `json:"gzip,omitempty"`
}

// About implements Scenario.
func (sc *Storm) About() About {
	return About{
		Name: "storm", Label: labelled("storm-"+sc.Dataset+"-"+string(sc.Format), sc.Gzip), Datasets: []string{sc.Dataset}, Rounds: 1,
		StartsServer: true, Asks: asks("readers", "watch lists", sc.Format, sc.Gzip),
	}
}

func (sc *Storm) run(ctx context.Context, s *session) error {
	// The server was started a moment ago: the readers knock on its closed door, as everybody does after an outage.
	data := s.Data[sc.Dataset]
	readers, err := s.startReaders(ctx, client.Job{
		Paths: pathsOf(data, watchListQuery), Format: sc.Format, Streams: sc.Streams, PerConnection: 1,
		Until: client.UntilSynced, Expect: data.Served, Insist: true, Gzip: sc.Gzip,
	})
	if err != nil {
		return err
	}
	defer readers.End()
	_, err = s.measure(ctx, fmt.Sprintf("storm %s %s x%d", sc.Dataset, form(sc.Format, sc.Gzip), sc.Streams), true,
		func(ctx context.Context, p *report.Phase) error { return s.drain(ctx, readers, p, sc.Gzip) })
	return err
}
