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

	// An existing cluster in place of targets that bench starts.
	Kubeconfig string
	Context    string // in the kubeconfig; empty for its current one
	Namespace  string // to make, use and remove; empty for a name of bench's choice

	MemoryLimit quantity // bytes for each target that bench starts; 0 for none
	MaxRatios   []string // "figure=ratio": fail when a target's figure is more than ratio times the first target's

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
		t.Binary = o.StockBinary // empty: built when it is needed
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

// choose finds the targets and says what is wrong with the choice.
func (o *Options) choose() ([]Target, error) {
	if o.Kubeconfig != "" {
		for flag, given := range map[string]bool{
			"--target or --compare": len(o.Targets) > 0, "--target-arg": len(o.TargetArgs) > 0, "--memory-limit": o.MemoryLimit > 0, "--max-ratio": len(o.MaxRatios) > 0,
		} {
			if given {
				return nil, fmt.Errorf("--kubeconfig is an existing cluster, which bench does not start: leave out %s", flag)
			}
		}
		return []Target{{Name: clusterTarget}}, nil
	}
	if o.Namespace != "" || o.Context != "" {
		return nil, errors.New("--namespace and --context belong to --kubeconfig")
	}
	var targets []Target
	for i, name := range o.Targets {
		if slices.Contains(o.Targets[:i], name) {
			return nil, fmt.Errorf("target %s is named twice; to measure it several times, say --rounds", name)
		}
		t, err := o.target(name)
		if err != nil {
			return nil, err
		}
		targets = append(targets, t)
	}
	if len(targets) == 0 {
		return nil, errors.New("no target: name one with --target, several with --compare, or an existing cluster with --kubeconfig")
	}
	return targets, nil
}

// bench is one run of the command.
type bench struct {
	*view
	opts    *Options
	self    selfExec
	targets []Target
	workDir string
	creds   *credentials
	etcd    *etcdServer // nil on a cluster that bench did not start
	cluster *cluster    // nil otherwise
	place   place
	limiter *limiter // nil without a memory limit
	data    map[string]Dataset
	results *Results
	runs    int
}

// serverStarter is a scenario that measures a server's start, and so needs one that bench starts.
type serverStarter interface{ startsServer() }

// run measures the scenarios, one after the other, each on every target.
func (o *Options) run(ctx context.Context, self selfExec, stdout, stderr io.Writer, scenarios ...scenario) (err error) {
	b := &bench{opts: o, self: self, view: newView(stderr), results: &Results{
		Began: time.Now().UTC().Truncate(time.Second), Command: os.Args, Machine: describeMachine(),
	}}
	if b.targets, err = o.choose(); err != nil {
		return err
	}
	if o.Kubeconfig != "" {
		if scenarios, err = b.withoutStarts(scenarios); err != nil {
			return err
		}
	}
	ratios, err := parseRatios(o.MaxRatios)
	if err != nil {
		return err
	}
	removeOut, err := o.prepareOut()
	if err != nil {
		return err
	}
	defer removeOut()
	if err := b.setUp(ctx, scenarios); err != nil {
		return interrupted(ctx, err)
	}
	defer func() { err = errors.Join(err, b.tearDown(ctx)) }()
	b.results.Targets = b.targets
	if err := b.load(ctx, scenarios); err != nil {
		return interrupted(ctx, err)
	}
	return b.report(stdout, b.measureAll(ctx, scenarios), ratios)
}

// interrupted gives what the user did as the reason for whatever failed because of it.
func interrupted(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("interrupted: %w", context.Cause(ctx))
	}
	return err
}

// prepareOut makes the directories for results and finds out whether they can be written before hours are spent on what to
// write. The returned function removes the one for results should nothing have come into it.
func (o *Options) prepareOut() (remove func(), err error) {
	_, statErr := os.Stat(o.OutDir)
	if err := os.MkdirAll(o.OutDir, 0o755); err != nil {
		return nil, fmt.Errorf("directory for the results: %w", err)
	}
	remove = func() {
		if statErr != nil {
			_ = os.Remove(o.OutDir) // fails, as it should, when there is something in it
		}
	}
	trial, err := os.CreateTemp(o.OutDir, ".trial-")
	if err == nil {
		_ = trial.Close()
		err = os.Remove(trial.Name())
	}
	if err != nil {
		remove()
		return nil, fmt.Errorf("directory for the results: %w", err)
	}
	if o.PprofDir != "" {
		if err := os.MkdirAll(o.PprofDir, 0o755); err != nil {
			remove()
			return nil, fmt.Errorf("directory for profiles: %w", err)
		}
	}
	return remove, nil
}

// withoutStarts leaves out what cannot be measured on a server that runs already.
func (b *bench) withoutStarts(scenarios []scenario) ([]scenario, error) {
	rest := slices.DeleteFunc(slices.Clone(scenarios), func(sc scenario) bool {
		_, starts := sc.(serverStarter)
		return starts
	})
	if len(rest) == 0 {
		return nil, fmt.Errorf("scenario %s measures a server's start, which needs --target: bench does not restart an existing cluster", scenarios[0].name())
	}
	if n := len(scenarios) - len(rest); n > 0 {
		b.say("leaving out %d scenarios that measure a server's start", n)
	}
	return rest, nil
}

// report writes down what was measured, wherever that is possible, and joins what went wrong.
func (b *bench) report(stdout io.Writer, failures []error, ratios []maxRatio) error {
	dir := b.opts.OutDir
	if err := b.results.write(dir); err != nil {
		failures = append(failures, err)
	} else {
		b.say("results: %s", filepath.Join(dir, "results.json"))
	}
	graphs, err := b.results.drawGraphs(dir)
	if err != nil {
		failures = append(failures, err)
	}
	if len(graphs) > 0 {
		b.say("graphs of memory (.svg, .png): %s", strings.Join(graphs, ", "))
	}
	printed := b.results.printTable
	if b.opts.Gobench {
		printed = b.results.printGobench
	}
	if err := printed(stdout); err != nil {
		failures = append(failures, fmt.Errorf("print the results: %w", err))
	}
	return errors.Join(append(failures, b.results.hold(ratios)...)...)
}

func (b *bench) setUp(ctx context.Context, scenarios []scenario) (err error) {
	defer func() {
		if err != nil {
			err = errors.Join(err, b.tearDown(ctx))
		}
	}()
	b.workDir = b.opts.WorkDir
	if b.workDir == "" {
		if b.workDir, err = os.MkdirTemp("", "weir-bench-"); err != nil {
			return fmt.Errorf("work directory: %w", err)
		}
	}
	if b.workDir, err = filepath.Abs(b.workDir); err != nil {
		return err
	}
	if err := makeDirs(b.workDir, filepath.Join(b.workDir, "logs")); err != nil {
		return err
	}
	if b.opts.Kubeconfig != "" {
		if b.cluster, err = connectCluster(ctx, b.opts, scenarios, b.say); err != nil {
			return err
		}
		b.place = b.cluster.place
		return nil
	}
	if b.opts.MemoryLimit > 0 {
		if b.limiter, err = newLimiter(int64(b.opts.MemoryLimit)); err != nil {
			return err
		}
	}
	for i := range b.targets {
		if t := &b.targets[i]; t.Name == "stock" && t.Binary == "" {
			if t.Binary, err = buildStock(ctx, b.say); err != nil {
				return err
			}
		}
	}
	if b.creds, err = newCredentials(filepath.Join(b.workDir, "credentials")); err != nil {
		return err
	}
	b.etcd, err = startEtcd(ctx, b.self, b.workDir)
	return err
}

func (b *bench) tearDown(ctx context.Context) error {
	var failures []error
	if b.cluster != nil {
		failures = append(failures, b.cluster.cleanUp(ctx))
	}
	if b.etcd != nil {
		b.etcd.stop()
	}
	if b.opts.WorkDir == "" {
		if err := os.RemoveAll(b.workDir); err != nil {
			failures = append(failures, fmt.Errorf("the work directory is left behind: %w", err))
		}
	}
	return errors.Join(failures...)
}

// load puts the data that the scenarios need into etcd, through the first target, which is then stopped.
func (b *bench) load(ctx context.Context, scenarios []scenario) (err error) {
	b.data = map[string]Dataset{
		"a": secretsData(b.place, b.opts.Secrets, b.opts.SecretBytes),
		"b": podsData(b.place, b.opts.Pods),
		"c": configMapsData(b.place, b.opts.ConfigMaps, b.opts.ConfigMapBytes),
		"d": customResourcesData(b.place, b.opts.CustomResources),
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
	// Without a memory limit: that is for what is measured.
	srv, err := b.startTarget(b.targets[real], "load", nil)
	if err != nil {
		return err
	}
	defer srv.stop(serverGrace)
	defer func() { b.keepLog(ctx, srv, err) }()
	loadCtx, cancel := watchDeath(ctx, srv)
	defer cancel()
	if err := srv.waitReady(loadCtx); err != nil {
		return err
	}
	if b.cluster == nil { // there the namespace is new
		// A run that was killed may have left them in the work directory.
		for _, sc := range writingScenarios {
			if err := b.place.removeExtras(loadCtx, srv.client, sc); err != nil {
				return err
			}
		}
	}
	wrote := false
	for _, name := range names {
		d, ok := b.data[name]
		if !ok {
			return fmt.Errorf("dataset %q: unknown; there are a, b, c and d", name)
		}
		began := time.Now()
		did, err := d.load(loadCtx, srv.client, b.opts.LoadWriters, b.view)
		if err != nil {
			return err
		}
		if did {
			b.say("loaded dataset %s in %.0f s", name, time.Since(began).Seconds())
		}
		wrote = wrote || did
		if d.served = int64(d.Objects); b.cluster != nil {
			if err := d.count(loadCtx, srv.client); err != nil {
				return err
			}
		}
		b.data[name] = d
		b.results.Data = append(b.results.Data, d)
	}
	if slices.ContainsFunc(b.targets, func(t Target) bool { return t.static }) {
		if err := b.record(loadCtx, srv, scenarios); err != nil {
			return err
		}
	}
	if !wrote || b.cluster != nil {
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

func (b *bench) startTarget(t Target, what string, limits *limiter) (*server, error) {
	if b.cluster != nil {
		return b.cluster.server, nil
	}
	b.runs++
	log := filepath.Join(b.workDir, "logs", fmt.Sprintf("%02d-%s-%s.log", b.runs, what, t.Name))
	if t.static {
		return startStatic(t, b.self, b.recordings(), log, b.creds)
	}
	return startServer(t, b.self, limits, b.etcd.endpoint, b.workDir, log, b.creds)
}

// keepLog saves the log of a server that failed beside the results: the work directory may be a temporary one.
func (b *bench) keepLog(ctx context.Context, srv *server, failure error) {
	if failure == nil || ctx.Err() != nil || srv.process == nil {
		return
	}
	data, err := os.ReadFile(srv.log)
	path := filepath.Join(b.opts.OutDir, filepath.Base(srv.log))
	if err == nil {
		err = os.WriteFile(path, data, 0o644)
	}
	if err != nil {
		b.say("  the server's log could not be kept: %v", err)
		return
	}
	b.say("  the server's log: %s%s", path, lastLines(path))
}

// watchDeath gives a context that ends, with the reason as its cause, when the server dies.
func watchDeath(ctx context.Context, srv *server) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	go func() {
		select {
		case <-srv.gone():
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
		if b.cluster != nil && b.opts.Rounds == 0 {
			rounds = 1 // nobody to take turns with
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
				err := b.measureOne(ctx, sc, t, round)
				if ctx.Err() != nil {
					return append(failures, interrupted(ctx, err))
				}
				if err != nil {
					b.say("  failed: %v", err)
					failures = append(failures, fmt.Errorf("%s on %s: %w", sc.label(), t.Name, err))
				}
			}
		}
	}
	return failures
}

func (b *bench) measureOne(ctx context.Context, sc scenario, t Target, round int) error {
	began := time.Now()
	srv, err := b.startTarget(t, sc.label(), b.limiter)
	if err != nil {
		return err
	}
	// The samples go on while the user's interruption is dealt with.
	of, err := b.usageOf(context.WithoutCancel(ctx), srv)
	if err != nil {
		srv.stop(serverGrace)
		return err
	}
	record := TargetRun{Target: t.Name, Scenario: sc.name(), Label: sc.label(), Params: sc, Round: round}
	s := &session{
		opts: b.opts, self: b.self, data: b.data, place: b.place, etcd: b.etcd, server: srv, view: b.view,
		sampler: startSampler(of, began), record: &record, started: began,
		logs: filepath.Join(b.workDir, "logs", fmt.Sprintf("%02d-%s-%s", b.runs, sc.label(), t.Name)),
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
	b.keepLog(ctx, srv, err)
	srv.stop(serverGrace)
	return err
}

func (b *bench) usageOf(ctx context.Context, srv *server) (usage, error) {
	if b.cluster != nil {
		return clusterUsage(ctx, srv)
	}
	return processUsage(srv.pid()), nil
}
