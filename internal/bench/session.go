// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"
)

// scenario is a named measurement on one freshly started target.
type scenario interface {
	// name as on the command line.
	name() string
	// label tells it apart from the same scenario with other parameters, and is fit for a file name.
	label() string
	// datasets are the names of the data that must be loaded before.
	datasets() []string
	// rounds says how often the scenario runs on each target when the user does not say. Several targets then take
	// turns, A B B A, so that a drift of the machine or of etcd falls on all alike.
	rounds() int
	// run drives the phases. The server is started and not yet ready.
	run(ctx context.Context, s *session) error
}

// session is one scenario's hold on one started target.
type session struct {
	opts    *Options
	self    selfExec
	data    map[string]Dataset
	place   place
	etcd    *etcdServer // nil where the server uses another's
	server  *server
	sampler *sampler
	record  *TargetRun
	started time.Time
	logs    string // prefix of the paths of log files
	*view
	children int // client children started so far
}

// ready waits until the server is ready and idle.
func (s *session) ready(ctx context.Context) error {
	defer s.show("start").finish()
	if err := s.server.waitReady(ctx); err != nil {
		return err
	}
	if version, err := s.server.get(ctx, "/version"); err == nil {
		var v struct{ GitVersion string }
		_ = json.Unmarshal(version, &v)
		s.record.Version = v.GitVersion
	}
	_, err := s.sampler.waitQuiet(ctx)
	return err
}

// show has the view tell of a stretch of this server's life.
func (s *session) show(what string) *stretch {
	return s.begin(s.server.target.Name+": "+what, s.sampler.latestRSS)
}

// phase measures what do does, once the server is idle. do gives the figures that it found itself. The phase is kept
// in the record also when it fails.
func (s *session) phase(ctx context.Context, name string, do func(ctx context.Context, p *Phase) error) (*Phase, error) {
	waiting := s.show("waiting until it is idle")
	quiet, err := s.sampler.waitQuiet(ctx)
	waiting.finish()
	if err != nil {
		return nil, err
	}
	return s.measure(ctx, name, quiet, do)
}

// measure is phase without the wait.
func (s *session) measure(ctx context.Context, name string, quiet bool, do func(ctx context.Context, p *Phase) error) (_ *Phase, err error) {
	p := &Phase{Name: name, Quiet: quiet, Figures: map[string]float64{}}
	s.record.Phases = append(s.record.Phases, p)
	defer func() {
		if err != nil { // also when the server's death is why it cannot be read any more
			p.Errors = append(p.Errors, err.Error())
		}
	}()
	if !quiet {
		s.say("  the server was still busy after %v; the figures hold what it did", s.sampler.limit)
	}
	finish := func() error { return nil }
	profileName := strings.ReplaceAll(fmt.Sprintf("%s-%s-%d", s.server.target.Name, name, s.record.Round), " ", "_")
	if dir := s.opts.PprofDir; dir != "" {
		finish = s.server.profileCPU(ctx, dir, profileName, s.opts.PprofSeconds)
	}
	etcdBefore, err := s.etcd.cpuSeconds()
	if err != nil {
		return nil, err
	}
	s.sampler.resetPeak()
	before, err := s.sampler.take()
	if err != nil {
		return nil, err
	}
	shown := s.show(name)
	defer shown.finish()
	began := time.Now()
	p.Began, p.RSSBefore = began.Sub(s.started).Seconds(), before.RSS
	doErr := do(ctx, p)
	p.Wall, p.RSSPeak = time.Since(began).Seconds(), s.sampler.peakRSS()
	shown.finish()
	after, err := s.sampler.take()
	if err != nil {
		return nil, errors.Join(doErr, err)
	}
	etcdAfter, err := s.etcd.cpuSeconds()
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
	if dir := s.opts.PprofDir; dir != "" {
		if err := s.server.profileHeap(ctx, dir, profileName); err != nil {
			return nil, err
		}
	}
	s.say("  %-28s %7.2f s CPU  %7.2f s wall  RSS %6.0f -> peak %6.0f -> %6.0f MB", name, p.CPU, p.Wall,
		float64(p.RSSBefore)/1e6, float64(p.RSSPeak)/1e6, float64(p.RSSAfter)/1e6)
	return p, nil
}

// prepareExtras makes the namespace of what a scenario makes beside the datasets, with nothing of it left from before. It
// must all have scenarioLabel. remove deletes it, also when the user interrupts or the scenario fails.
func (s *session) prepareExtras(ctx context.Context, sc writingScenario) (namespace string, remove func(), err error) {
	namespace = s.place.namespace(sc.name())
	if _, err := s.place.prepare(ctx, s.server.client, namespace); err != nil {
		return "", nil, err
	}
	if err := s.place.removeExtras(ctx, s.server.client, sc); err != nil {
		return "", nil, err
	}
	return namespace, func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		if err := s.place.removeExtras(ctx, s.server.client, sc); err != nil {
			s.say("  objects in namespace %s are left behind: %v", namespace, err)
		}
	}, nil
}

// startReaders starts a reader child with a job and waits until it is ready for "go".
func (s *session) startReaders(ctx context.Context, job readerJob) (*dialogue, error) {
	job.Access = s.server.access
	return s.startClients(ctx, readersSubcommand, nil, job)
}

// startClients starts a child of a hidden subcommand, with env added to its environment, gives it its job and waits
// until it is ready for "go".
func (s *session) startClients(ctx context.Context, subcommand string, env []string, job any) (*dialogue, error) {
	s.children++
	log := fmt.Sprintf("%s-clients-%d.log", s.logs, s.children)
	cmd := s.self.command(subcommand)
	cmd.Env = append(os.Environ(), env...)
	d, err := startDialogue("client child", log, cmd, func(r readerReport) { s.update(r.Progress) })
	if err != nil {
		return nil, err
	}
	err = d.say(job)
	if err == nil {
		_, err = hearStage(ctx, d, stageReady)
	}
	if err != nil {
		d.stop(time.Second)
		return nil, err
	}
	return d, nil
}

// hearStage waits for a report of one stage. A report of stageDone with failed streams is an error, whichever was asked
// for: the phase does not count then.
func hearStage(ctx context.Context, d *dialogue, want readerStage) (readerReport, error) {
	var r readerReport
	if err := d.hear(ctx, &r); err != nil {
		return r, err
	}
	if r.Stage == stageDone && r.Failed > 0 {
		return r, fmt.Errorf("%d streams failed: %s", r.Failed, strings.Join(r.Errors, "; "))
	}
	if r.Stage != want {
		return r, fmt.Errorf("client child is %q, want %q", r.Stage, want)
	}
	return r, nil
}

// endReaders tells the child to end and waits for it.
func endReaders(d *dialogue) {
	_ = d.in.Close()
	timer := time.NewTimer(10 * time.Second)
	defer timer.Stop()
	select {
	case <-d.done:
	case <-timer.C:
		d.stop(time.Second)
	}
}
