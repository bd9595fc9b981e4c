// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/weir-project/weir/internal/bench/client"
	"github.com/weir-project/weir/internal/bench/dataset"
	"github.com/weir-project/weir/internal/bench/report"
	"github.com/weir-project/weir/internal/bench/static"
	"github.com/weir-project/weir/internal/bench/view"
	"github.com/weir-project/weir/internal/rig"
)

// Scenario is a named measurement on one freshly started target. The exported fields of one are its parameters, as results
// have them.
type Scenario interface {
	About() About
	// run drives the phases. The server is started and not yet ready.
	run(ctx context.Context, s *session) error
}

// About is what has to be known of a scenario before it runs.
type About struct {
	// Name as on the command line.
	Name string
	// Label tells it apart from the same scenario with other parameters, and is fit for a file name.
	Label string
	// Datasets are the names of the data that must be loaded before.
	Datasets []string
	// Rounds says how often the scenario runs on each target when the user does not say. Several targets then take
	// turns, A B B A, so that a drift of the machine or of etcd falls on all alike.
	Rounds int
	// Writes are the resources that it writes beside the datasets, into a namespace that is called after it.
	Writes []string
	// Asks is what the clients ask for, in words; empty where there is nothing to tell.
	Asks string
	// StartsServer says that it measures a server's start, and so needs one that bench starts.
	StartsServer bool
}

// Writing are all scenarios that write beside the datasets, whatever their parameters.
func Writing() []Scenario { return []Scenario{&Watchers{}, &Fanout{}, &Writes{}, &Stalled{}} }

// Recorded is a scenario that can also be measured on the static target, with these recordings.
type Recorded interface {
	Scenario
	Recordings(data map[string]dataset.Set) []static.Recording
}

// Setup is what a run has for its scenarios.
type Setup struct {
	Self  rig.Self
	View  *view.View
	Data  map[string]dataset.Set // by name
	Place dataset.Place
	Etcd  *rig.Etcd // nil where the server uses another's
	Logs  string    // begins the paths of the clients' logs
	Round int

	PprofDir     string // for profiles of every phase; empty for none
	PprofSeconds int    // length of one processor profile
}

// Measure runs a scenario on a server that was started at began. The record is also there when it fails, with what was
// measured until then, but for a server that does not tell what it uses.
func (u Setup) Measure(ctx context.Context, sc Scenario, srv *Server, began time.Time) (*report.TargetRun, error) {
	// The samples go on while the user's interruption is dealt with.
	of, err := srv.usage(context.WithoutCancel(ctx))
	if err != nil {
		return nil, err
	}
	about := sc.About()
	record := &report.TargetRun{Target: srv.Target.Name, Scenario: about.Name, Label: about.Label, Params: sc, Asks: about.Asks, Round: u.Round}
	s := &session{Setup: u, server: srv, sampler: startSampler(of, began), record: record, started: began}
	alive, cancel := srv.Alive(ctx)
	err = sc.run(alive, s)
	cancel()
	if died := srv.Died(); died != nil && err != nil {
		err = died
	}
	record.Samples = s.sampler.stop()
	if err != nil {
		record.Failure = err.Error()
	}
	return record, err
}

// session is one scenario's hold on one started target.
type session struct {
	Setup
	server  *Server
	sampler *sampler
	record  *report.TargetRun
	started time.Time
	clients int // children started so far
}

// ready waits until the server is ready and idle.
func (s *session) ready(ctx context.Context) error {
	defer s.show("start").Finish()
	if err := s.server.WaitReady(ctx); err != nil {
		return err
	}
	if version, err := s.server.Get(ctx, "/version"); err == nil {
		var v struct{ GitVersion string }
		_ = json.Unmarshal(version, &v)
		s.record.Version = v.GitVersion
	}
	_, err := s.sampler.waitQuiet(ctx)
	return err
}

// show has the view tell of a stretch of this server's life.
func (s *session) show(what string) *view.Stretch {
	return s.View.Begin(s.server.Target.Name+": "+what, s.sampler.latestRSS)
}

// phase measures what do does, once the server is idle. do gives the figures that it found itself. The phase is kept
// in the record also when it fails.
func (s *session) phase(ctx context.Context, name string, do func(ctx context.Context, p *report.Phase) error) (*report.Phase, error) {
	waiting := s.show("waiting until it is idle")
	quiet, err := s.sampler.waitQuiet(ctx)
	waiting.Finish()
	if err != nil {
		return nil, err
	}
	return s.measure(ctx, name, quiet, do)
}

// measure is phase without the wait.
func (s *session) measure(ctx context.Context, name string, quiet bool, do func(ctx context.Context, p *report.Phase) error) (_ *report.Phase, err error) {
	p := &report.Phase{Name: name, Quiet: quiet, Figures: map[string]float64{}}
	s.record.Phases = append(s.record.Phases, p)
	defer func() {
		if err != nil { // also when the server's death is why it cannot be read any more
			p.Errors = append(p.Errors, err.Error())
		}
	}()
	if !quiet {
		s.View.Say("  the server was still busy after %v; the figures hold what it did", s.sampler.limit)
	}
	finish := func() error { return nil }
	profileName := strings.ReplaceAll(fmt.Sprintf("%s-%s-%d", s.server.Target.Name, name, s.record.Round), " ", "_")
	if dir := s.PprofDir; dir != "" {
		finish = s.server.profileCPU(ctx, dir, profileName, s.PprofSeconds)
	}
	etcdBefore, err := s.etcdCPU()
	if err != nil {
		return nil, err
	}
	s.sampler.resetPeak()
	before, err := s.sampler.take()
	if err != nil {
		return nil, err
	}
	shown := s.show(name)
	defer shown.Finish()
	began := time.Now()
	p.Began, p.RSSBefore = began.Sub(s.started).Seconds(), before.RSS
	doErr := do(ctx, p)
	p.Wall, p.RSSPeak = time.Since(began).Seconds(), s.sampler.peakRSS()
	shown.Finish()
	after, err := s.sampler.take()
	if err != nil {
		return nil, errors.Join(doErr, err)
	}
	etcdAfter, err := s.etcdCPU()
	if err != nil {
		return nil, err
	}
	p.CPU, p.EtcdCPU = after.CPU-before.CPU, etcdAfter-etcdBefore
	p.RSSAfter, p.RSSPeak = after.RSS, s.sampler.peakRSS()
	if doErr != nil {
		return nil, fmt.Errorf("%s: %w", name, doErr)
	}
	if err := finish(); err != nil {
		return nil, err
	}
	if dir := s.PprofDir; dir != "" {
		if err := s.server.profileHeap(ctx, dir, profileName); err != nil {
			return nil, err
		}
	}
	s.View.Say("  %-28s %7.2f s CPU  %7.2f s wall  RSS %6.0f -> peak %6.0f -> %6.0f MB", name, p.CPU, p.Wall,
		float64(p.RSSBefore)/1e6, float64(p.RSSPeak)/1e6, float64(p.RSSAfter)/1e6)
	return p, nil
}

// prepareExtras makes the namespace of what a scenario makes beside the datasets, with nothing of it left from before. It
// must all have dataset.ScenarioLabel. remove deletes it, also when the user interrupts or the scenario fails.
func (s *session) prepareExtras(ctx context.Context, sc Scenario) (namespace string, remove func(), err error) {
	about := sc.About()
	namespace = s.Place.Namespace(about.Name)
	if _, err := s.Place.Prepare(ctx, s.server.Client, namespace); err != nil {
		return "", nil, err
	}
	if err := s.Place.RemoveExtras(ctx, s.server.Client, about.Name, about.Writes); err != nil {
		return "", nil, err
	}
	return namespace, func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		if err := s.Place.RemoveExtras(ctx, s.server.Client, about.Name, about.Writes); err != nil {
			s.View.Say("  objects in namespace %s are left behind: %v", namespace, err)
		}
	}, nil
}

// etcdCPU is the processor time that etcd has used; none where there is no etcd of bench's own.
func (s *session) etcdCPU() (float64, error) {
	if s.Etcd == nil {
		return 0, nil
	}
	return s.Etcd.CPU()
}

// children starts the next child of clients.
func (s *session) children() client.Parent {
	s.clients++
	return client.Parent{Self: s.Self, Log: fmt.Sprintf("%s-clients-%d.log", s.Logs, s.clients), Progress: s.View.Update}
}

// startReaders starts a child of readers with a job and waits until it is ready for "go".
func (s *session) startReaders(ctx context.Context, job client.Job) (*client.Child, error) {
	job.Access = s.server.Access
	return s.children().StartReaders(ctx, job)
}
