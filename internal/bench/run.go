// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Options are the flags that all scenarios share.
type Options struct {
	Targets     []string // names, measured in this order; the first is what the others are compared with
	StockBinary string
	WeirBinary  string
	TargetArgs  []string // "name=--flag=value"

	WorkDir string // data, keys and logs; empty for a temporary one that is removed
	OutDir  string // for results.json

	Secrets, SecretBytes       int // dataset a
	Pods                       int // dataset b
	ConfigMaps, ConfigMapBytes int // dataset c
	CustomResources            int // dataset d
	LoadWriters                int
	ExtraData                  []string // datasets to load beside those that the scenario reads
	Rounds                     int      // 0: as the scenario says

	Gobench bool // print lines for benchstat in place of the table

	PprofDir     string
	PprofSeconds int

	program Program
}

// target finds what a name on the command line stands for.
func (o *Options) target(name string) (Target, error) {
	t := Target{Name: name, Argv0: o.program.ServerName}
	switch name {
	case "stock":
		t.Binary = o.StockBinary
		if t.Binary == "" {
			return Target{}, errors.New("target stock: say with --stock-binary where the upstream kube-apiserver is (go build k8s.io/kubernetes/cmd/kube-apiserver)")
		}
	case "static":
		t.static = true
	case "weir":
		t.Binary = o.WeirBinary
	case "weir-off":
		t.Binary = o.WeirBinary
		t.Args = slices.Clone(o.program.Off)
	default:
		return Target{}, fmt.Errorf("target %q: unknown; there are stock, weir, weir-off and static", name)
	}
	for _, arg := range o.TargetArgs {
		of, flag, ok := strings.Cut(arg, "=")
		if !ok || !strings.HasPrefix(flag, "-") {
			return Target{}, fmt.Errorf("--target-arg %q: want name=--flag=value", arg)
		}
		if of == name {
			t.Args = append(t.Args, flag)
		}
	}
	return t, nil
}

// bench is one run of the command.
type bench struct {
	opts    *Options
	self    selfExec
	targets []Target
	workDir string
	creds   *credentials
	etcd    *etcdServer
	data    map[string]Dataset
	results *Results
	out     io.Writer
	runs    int
}

// run measures the scenarios, one after the other, each on every target.
func (o *Options) run(ctx context.Context, self selfExec, stdout, stderr io.Writer, scenarios ...scenario) (err error) {
	b := &bench{opts: o, self: self, out: stderr, results: &Results{
		Began: time.Now().UTC().Truncate(time.Second), Command: os.Args, Machine: describeMachine(),
	}}
	for _, name := range o.Targets {
		t, err := o.target(name)
		if err != nil {
			return err
		}
		b.targets = append(b.targets, t)
	}
	if len(b.targets) == 0 {
		return errors.New("no target: name one with --target, or several with --compare")
	}
	b.results.Targets = b.targets
	if err := os.MkdirAll(o.OutDir, 0o755); err != nil {
		return fmt.Errorf("directory for the results: %w", err)
	}
	if o.PprofDir != "" {
		if err := os.MkdirAll(o.PprofDir, 0o755); err != nil {
			return fmt.Errorf("directory for profiles: %w", err)
		}
	}
	if err := b.setUp(ctx); err != nil {
		return err
	}
	defer b.tearDown()
	if err := b.load(ctx, scenarios); err != nil {
		return err
	}
	failures := b.measureAll(ctx, scenarios)
	if err := b.results.write(o.OutDir); err != nil {
		failures = append(failures, err)
	}
	graphs, err := b.results.drawGraphs(o.OutDir)
	if err != nil {
		failures = append(failures, err)
	}
	printed := b.results.printTable
	if o.Gobench {
		printed = b.results.printGobench
	}
	if err := printed(stdout); err != nil {
		failures = append(failures, err)
	}
	b.say("results: %s; graphs of memory (.svg, .png): %s", filepath.Join(o.OutDir, "results.json"), strings.Join(graphs, ", "))
	return errors.Join(failures...)
}

func (b *bench) say(format string, args ...any) { fmt.Fprintf(b.out, format+"\n", args...) }

func (b *bench) setUp(ctx context.Context) (err error) {
	b.workDir = b.opts.WorkDir
	if b.workDir == "" {
		if b.workDir, err = os.MkdirTemp("", "weir-bench-"); err != nil {
			return fmt.Errorf("work directory: %w", err)
		}
	}
	if b.workDir, err = filepath.Abs(b.workDir); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			b.tearDown()
		}
	}()
	if err := makeDirs(b.workDir, filepath.Join(b.workDir, "logs")); err != nil {
		return err
	}
	if b.creds, err = newCredentials(filepath.Join(b.workDir, "credentials")); err != nil {
		return err
	}
	b.etcd, err = startEtcd(ctx, b.self, b.workDir)
	return err
}

func (b *bench) tearDown() {
	if b.etcd != nil {
		b.etcd.stop()
	}
	if b.opts.WorkDir == "" {
		if err := os.RemoveAll(b.workDir); err != nil {
			b.say("work directory is left behind: %v", err)
		}
	}
}

// load puts the data that the scenarios need into etcd, through the first target, which is then stopped.
func (b *bench) load(ctx context.Context, scenarios []scenario) error {
	b.data = map[string]Dataset{
		"a": secretsData(b.opts.Secrets, b.opts.SecretBytes),
		"b": podsData(b.opts.Pods),
		"c": configMapsData(b.opts.ConfigMaps, b.opts.ConfigMapBytes),
		"d": customResourcesData(b.opts.CustomResources),
	}
	names := slices.Clone(b.opts.ExtraData)
	for _, s := range scenarios {
		names = append(names, s.datasets()...)
	}
	slices.Sort(names)
	names = slices.Compact(names)
	if len(names) == 0 {
		return nil
	}
	real := slices.IndexFunc(b.targets, func(t Target) bool { return !t.static })
	if real < 0 {
		return errors.New("target static can only be compared with another target, whose bytes it sends")
	}
	srv, err := b.startTarget(b.targets[real], "load")
	if err != nil {
		return err
	}
	defer srv.stop(serverGrace)
	loadCtx, cancel := watchDeath(ctx, srv)
	defer cancel()
	if err := srv.waitReady(loadCtx); err != nil {
		return err
	}
	wrote := false
	for _, name := range names {
		d, ok := b.data[name]
		if !ok {
			return fmt.Errorf("dataset %q: unknown; there are a, b, c and d", name)
		}
		began := time.Now()
		did, err := d.load(loadCtx, srv.client, b.opts.LoadWriters, b.say)
		if err != nil {
			return err
		}
		if did {
			b.say("loaded dataset %s in %.0f s", name, time.Since(began).Seconds())
		}
		wrote = wrote || did
		b.results.Data = append(b.results.Data, d)
	}
	if slices.ContainsFunc(b.targets, func(t Target) bool { return t.static }) {
		if err := b.record(loadCtx, srv, scenarios); err != nil {
			return err
		}
	}
	if !wrote {
		return nil
	}
	srv.stop(serverGrace)
	return b.etcd.tidy(ctx)
}

// record saves what the static target is to send.
func (b *bench) record(ctx context.Context, srv *server, scenarios []scenario) error {
	if err := makeDirs(b.recordings()); err != nil {
		return err
	}
	for _, sc := range scenarios {
		recorded, ok := sc.(recordedScenario)
		if !ok {
			continue
		}
		for _, r := range recorded.recordings(b.data) {
			if err := r.record(ctx, srv, b.recordings()); err != nil {
				return err
			}
		}
	}
	return nil
}

func (b *bench) recordings() string { return filepath.Join(b.workDir, "recordings") }

func (b *bench) startTarget(t Target, what string) (*server, error) {
	b.runs++
	log := filepath.Join(b.workDir, "logs", fmt.Sprintf("%02d-%s-%s.log", b.runs, what, t.Name))
	if t.static {
		return startStatic(t, b.self, b.recordings(), log, b.creds)
	}
	return startServer(t, b.self, b.etcd.endpoint, b.workDir, log, b.creds)
}

// watchDeath gives a context that ends, with the reason as its cause, when the server dies.
func watchDeath(ctx context.Context, srv *server) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	go func() {
		select {
		case <-srv.done:
			cancel(srv.died())
		case <-ctx.Done():
		}
	}()
	return ctx, func() { cancel(nil) }
}

// measureAll runs every scenario on every target. A failed run does not stop the others, unless the user did.
func (b *bench) measureAll(ctx context.Context, scenarios []scenario) (failures []error) {
	for _, sc := range scenarios {
		rounds := b.opts.Rounds
		if rounds == 0 {
			rounds = sc.rounds()
		}
		for round := range rounds {
			targets := slices.Clone(b.targets)
			if round%2 == 1 {
				slices.Reverse(targets)
			}
			for _, t := range targets {
				if _, ok := sc.(recordedScenario); t.static && !ok {
					continue
				}
				b.say("%s: %s (round %d of %d)", sc.label(), t.Name, round+1, rounds)
				if err := b.measureOne(ctx, sc, t, round); err != nil {
					b.say("  failed: %v", err)
					failures = append(failures, fmt.Errorf("%s on %s: %w", sc.label(), t.Name, err))
				}
				if ctx.Err() != nil {
					return append(failures, context.Cause(ctx))
				}
			}
		}
	}
	return failures
}

func (b *bench) measureOne(ctx context.Context, sc scenario, t Target, round int) error {
	began := time.Now()
	srv, err := b.startTarget(t, sc.label())
	if err != nil {
		return err
	}
	record := TargetRun{Target: t.Name, Scenario: sc.name(), Label: sc.label(), Params: sc, Round: round}
	s := &session{
		opts: b.opts, self: b.self, data: b.data, etcd: b.etcd, server: srv,
		sampler: startSampler(srv.pid(), began), record: &record, started: began, say: b.say,
	}
	runCtx, cancel := watchDeath(ctx, srv)
	err = sc.run(runCtx, s)
	cancel()
	if died := srv.died(); died != nil && err != nil {
		err = died
	}
	record.Samples = s.sampler.stop()
	if err != nil {
		record.Failure = err.Error()
	}
	b.results.Runs = append(b.results.Runs, record)
	srv.stop(serverGrace)
	return err
}
