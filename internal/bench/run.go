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

	"github.com/weir-project/weir/internal/bench/dataset"
	"github.com/weir-project/weir/internal/bench/report"
	"github.com/weir-project/weir/internal/bench/scenario"
	"github.com/weir-project/weir/internal/bench/static"
	"github.com/weir-project/weir/internal/bench/view"
	"github.com/weir-project/weir/internal/rig"
)

// Options are the flags that all scenarios share.
type Options struct {
	Targets     []string // names, measured in this order; the first is what the others are compared with
	StockBinary string
	WeirBinary  string
	StaticOf    string   // the target whose bytes static sends; empty for the first that is not static
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
	Pods, PodBytes             int // dataset b; PodBytes is 0 for Pods as they are
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
func (o *Options) target(name string) (report.Target, error) {
	t := report.Target{Name: name, Argv0: o.program.ServerName}
	switch name {
	case "stock":
		t.Binary = o.StockBinary // empty: built when it is needed
	case staticTarget:
		// Bench serves it itself.
	case "weir":
		t.Binary = o.WeirBinary
	case "weir-off":
		t.Binary = o.WeirBinary
		t.Args = slices.Clone(o.program.Off)
	default:
		return report.Target{}, fmt.Errorf("target %q: unknown; there are stock, weir, weir-off and static", name)
	}
	for _, arg := range o.TargetArgs {
		of, flag, ok := strings.Cut(arg, "=")
		if !ok || !strings.HasPrefix(flag, "-") {
			return report.Target{}, fmt.Errorf("--target-arg %q: want name=--flag=value", arg)
		}
		if of == name {
			t.Args = append(t.Args, flag)
		}
	}
	return t, nil
}

// choose finds the targets and says what is wrong with the choice.
func (o *Options) choose() ([]report.Target, error) {
	if o.Kubeconfig != "" {
		for flag, given := range map[string]bool{
			"--target or --compare": len(o.Targets) > 0, "--target-arg": len(o.TargetArgs) > 0, "--memory-limit": o.MemoryLimit > 0, "--max-ratio": len(o.MaxRatios) > 0,
			"--static-of": o.StaticOf != "",
		} {
			if given {
				return nil, fmt.Errorf("--kubeconfig is an existing cluster, which bench does not start: leave out %s", flag)
			}
		}
		return []report.Target{{Name: clusterTarget}}, nil
	}
	if o.Namespace != "" || o.Context != "" {
		return nil, errors.New("--namespace and --context belong to --kubeconfig")
	}
	var targets []report.Target
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
	if of := o.StaticOf; of != "" && (of == staticTarget || !slices.Contains(o.Targets, of) || !slices.Contains(o.Targets, staticTarget)) {
		return nil, fmt.Errorf("--static-of %s: both it and %s have to be among the targets", of, staticTarget)
	}
	if len(targets) == 0 {
		return nil, errors.New("no target: name one with --target, several with --compare, or an existing cluster with --kubeconfig")
	}
	return targets, nil
}

const (
	// clusterTarget is the name of a cluster that bench did not start, staticTarget that of the one that it serves itself.
	clusterTarget = "cluster"
	staticTarget  = "static"
)

func isStatic(t report.Target) bool { return t.Name == staticTarget }

// bench is one run of the command.
type bench struct {
	*view.View
	opts    *Options
	self    rig.Self
	targets []report.Target
	workDir string
	room    *rig.Room // nil on a cluster that bench did not start
	etcd    *rig.Etcd // likewise
	cluster *cluster  // nil otherwise
	place   dataset.Place
	data    map[string]dataset.Set
	results *report.Results
	runs    int
}

// run measures the scenarios, one after the other, each on every target.
func (o *Options) run(ctx context.Context, self rig.Self, stdout, stderr io.Writer, scenarios ...scenario.Scenario) (err error) {
	b := &bench{opts: o, self: self, View: view.New(stderr), results: &report.Results{
		Began: time.Now().UTC().Truncate(time.Second), Command: os.Args, Machine: report.ThisMachine(), MemoryLimit: int64(o.MemoryLimit),
	}}
	if b.targets, err = o.choose(); err != nil {
		return err
	}
	if o.Kubeconfig != "" {
		if scenarios, err = b.withoutStarts(scenarios); err != nil {
			return err
		}
	}
	ratios, err := report.ParseRatios(o.MaxRatios)
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
func (b *bench) withoutStarts(scenarios []scenario.Scenario) ([]scenario.Scenario, error) {
	rest := slices.DeleteFunc(slices.Clone(scenarios), func(sc scenario.Scenario) bool {
		return sc.About().StartsServer
	})
	if len(rest) == 0 {
		return nil, fmt.Errorf("scenario %s measures a server's start, which needs --target: bench does not restart an existing cluster", scenarios[0].About().Name)
	}
	if n := len(scenarios) - len(rest); n > 0 {
		b.Say("leaving out %d scenarios that measure a server's start", n)
	}
	return rest, nil
}

// report writes down what was measured, wherever that is possible, and joins what went wrong.
func (b *bench) report(stdout io.Writer, failures []error, ratios []report.MaxRatio) error {
	dir := b.opts.OutDir
	if err := b.results.Write(dir); err != nil {
		failures = append(failures, err)
	} else {
		b.Say("results: %s", filepath.Join(dir, "results.json"))
	}
	graphs, err := b.results.DrawGraphs(dir)
	if err != nil {
		failures = append(failures, err)
	}
	if len(graphs) > 0 {
		b.Say("graphs of memory (.svg, .png): %s", strings.Join(graphs, ", "))
	}
	printed := b.results.Table
	if b.opts.Gobench {
		printed = b.results.Gobench
	}
	if err := printed(stdout); err != nil {
		failures = append(failures, fmt.Errorf("print the results: %w", err))
	}
	return errors.Join(append(failures, b.results.Hold(ratios)...)...)
}

func (b *bench) setUp(ctx context.Context, scenarios []scenario.Scenario) (err error) {
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
	if err := os.MkdirAll(filepath.Join(b.workDir, "logs"), 0o700); err != nil { // for this user only, as all in a room
		return fmt.Errorf("make directory: %w", err)
	}
	if b.opts.Kubeconfig != "" {
		if b.cluster, err = connectCluster(ctx, b.opts, scenarios, b.Say); err != nil {
			return err
		}
		b.place = b.cluster.place
		return nil
	}
	if b.room, err = rig.Open(rig.Options{Dir: b.workDir, Self: b.self, Name: "weir-bench"}); err != nil {
		return err
	}
	if b.opts.MemoryLimit > 0 {
		if err := b.room.CanLimit(); err != nil {
			return fmt.Errorf("--memory-limit %w", err)
		}
	}
	for i := range b.targets {
		if t := &b.targets[i]; t.Name == "stock" && t.Binary == "" {
			if t.Binary, err = buildStock(ctx, b.Say); err != nil {
				return err
			}
		}
	}
	b.etcd, err = b.room.StartEtcd(ctx, rig.EtcdOptions{})
	return err
}

func (b *bench) tearDown(ctx context.Context) error {
	var failures []error
	if b.cluster != nil {
		failures = append(failures, b.cluster.cleanUp(ctx))
	}
	if b.room != nil {
		_ = b.room.Close() // how etcd ends after all was measured says nothing
	}
	if b.opts.WorkDir == "" {
		if err := os.RemoveAll(b.workDir); err != nil {
			failures = append(failures, fmt.Errorf("the work directory is left behind: %w", err))
		}
	}
	return errors.Join(failures...)
}

// load puts the data that the scenarios need into etcd, through the first target, which is then stopped.
func (b *bench) load(ctx context.Context, scenarios []scenario.Scenario) (err error) {
	b.data = map[string]dataset.Set{
		"a": dataset.Secrets(b.place, b.opts.Secrets, b.opts.SecretBytes),
		"b": dataset.Pods(b.place, b.opts.Pods, b.opts.PodBytes),
		"c": dataset.ConfigMaps(b.place, b.opts.ConfigMaps, b.opts.ConfigMapBytes),
		"d": dataset.CustomResources(b.place, b.opts.CustomResources),
	}
	names := slices.Clone(b.opts.ExtraData)
	for _, s := range scenarios {
		names = append(names, s.About().Datasets...)
	}
	slices.Sort(names)
	names = slices.Compact(names)
	if len(names) == 0 {
		return nil
	}
	real := slices.IndexFunc(b.targets, func(t report.Target) bool {
		return !isStatic(t) && (b.opts.StaticOf == "" || t.Name == b.opts.StaticOf)
	})
	if real < 0 {
		return errors.New("target static can only be compared with another target, whose bytes it sends")
	}
	// Without a memory limit: that is for what is measured.
	srv, err := b.startTarget(b.targets[real], "load", 0)
	if err != nil {
		return err
	}
	defer srv.Stop()
	defer func() { b.keepLog(ctx, srv, err) }()
	loadCtx, cancel := srv.Alive(ctx)
	defer cancel()
	if err := srv.WaitReady(loadCtx); err != nil {
		return err
	}
	if b.cluster == nil { // there the namespace is new
		// A run that was killed may have left them in the work directory.
		for _, sc := range scenario.Writing() {
			about := sc.About()
			if err := b.place.RemoveExtras(loadCtx, srv.Client, about.Name, about.Writes); err != nil {
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
		did, err := d.Load(loadCtx, srv.Client, b.opts.LoadWriters, b.View)
		if err != nil {
			return err
		}
		if did {
			b.Say("loaded dataset %s in %.0f s", name, time.Since(began).Seconds())
		}
		wrote = wrote || did
		if d.Served = int64(d.Objects); b.cluster != nil {
			if err := d.Count(loadCtx, srv.Client); err != nil {
				return err
			}
		}
		b.data[name] = d
		b.results.Data = append(b.results.Data, d)
	}
	if i := slices.IndexFunc(b.targets, isStatic); i >= 0 {
		b.targets[i].Sends = b.targets[real].Name
		if err := b.record(loadCtx, srv, scenarios); err != nil {
			return err
		}
	}
	if !wrote || b.cluster != nil {
		return nil
	}
	srv.Stop()
	return b.etcd.Tidy(ctx)
}

// record saves what the static target is to send.
func (b *bench) record(ctx context.Context, srv *scenario.Server, scenarios []scenario.Scenario) error {
	// An earlier run in this work directory may have left others, of other coding.
	if err := os.RemoveAll(b.recordings()); err != nil {
		return fmt.Errorf("earlier recordings: %w", err)
	}
	if err := os.MkdirAll(b.recordings(), 0o700); err != nil {
		return fmt.Errorf("make directory: %w", err)
	}
	for _, sc := range scenarios {
		recorded, ok := sc.(scenario.Recorded)
		if !ok {
			continue
		}
		for _, r := range recorded.Recordings(b.data) {
			if err := r.Save(ctx, srv.Admin, b.recordings()); err != nil {
				return err
			}
		}
	}
	return nil
}

func (b *bench) recordings() string { return filepath.Join(b.workDir, "recordings") }

// startTarget starts a target, with a limit of its memory in bytes; 0 is none.
func (b *bench) startTarget(t report.Target, what string, limit int64) (*scenario.Server, error) {
	if b.cluster != nil {
		return b.cluster.server, nil
	}
	b.runs++
	log := filepath.Join(b.workDir, "logs", fmt.Sprintf("%02d-%s-%s.log", b.runs, what, t.Name))
	name := "target " + t.Name
	var started *rig.Server
	var err error
	if isStatic(t) {
		started, err = static.Start(b.room, name, log, b.recordings())
	} else {
		if t.Binary != "" {
			if _, err := os.Stat(t.Binary); err != nil {
				return nil, fmt.Errorf("%s: %w; name its binary with a flag", name, err)
			}
		}
		started, err = b.room.StartServer(rig.Program{
			Name: name, Path: t.Binary, Argv0: t.Argv0, Args: t.Args, Etcd: b.etcd.Endpoints(), MemoryLimit: limit, Log: log,
		})
	}
	if err != nil {
		return nil, err
	}
	srv, err := scenario.NewServer(t, started, rig.Access{})
	if err != nil {
		_ = started.Stop(0)
		return nil, err
	}
	srv.Static = isStatic(t)
	return srv, nil
}

// keepLog saves the log of a server that failed beside the results: the work directory may be a temporary one.
func (b *bench) keepLog(ctx context.Context, srv *scenario.Server, failure error) {
	if failure == nil || ctx.Err() != nil || srv.Started == nil {
		return
	}
	data, err := os.ReadFile(srv.Started.Log())
	path := filepath.Join(b.opts.OutDir, filepath.Base(srv.Started.Log()))
	if err == nil {
		err = os.WriteFile(path, data, 0o644)
	}
	if err != nil {
		b.Say("  the server's log could not be kept: %v", err)
		return
	}
	b.Say("  the server's log: %s%s", path, rig.LogEnd(path))
}

// measureAll runs every scenario on every target. A failed run does not stop the others, unless the user did.
func (b *bench) measureAll(ctx context.Context, scenarios []scenario.Scenario) (failures []error) {
	for _, sc := range scenarios {
		rounds := b.opts.Rounds
		if rounds == 0 {
			rounds = sc.About().Rounds
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
				if _, ok := sc.(scenario.Recorded); isStatic(t) && !ok {
					continue
				}
				b.Say("%s: %s (round %d of %d)", sc.About().Label, t.Name, round+1, rounds)
				err := b.measureOne(ctx, sc, t, round)
				if ctx.Err() != nil {
					return append(failures, interrupted(ctx, err))
				}
				if err != nil {
					b.Say("  failed: %v", err)
					failures = append(failures, fmt.Errorf("%s on %s: %w", sc.About().Label, t.Name, err))
				}
			}
		}
	}
	return failures
}

func (b *bench) measureOne(ctx context.Context, sc scenario.Scenario, t report.Target, round int) error {
	began := time.Now()
	srv, err := b.startTarget(t, sc.About().Label, int64(b.opts.MemoryLimit))
	if err != nil {
		return err
	}
	defer srv.Stop()
	setup := scenario.Setup{
		Self: b.self, View: b.View, Data: b.data, Place: b.place, Etcd: b.etcd, Round: round,
		Logs:     filepath.Join(b.workDir, "logs", fmt.Sprintf("%02d-%s-%s", b.runs, sc.About().Label, t.Name)),
		PprofDir: b.opts.PprofDir, PprofSeconds: b.opts.PprofSeconds,
	}
	record, err := setup.Measure(ctx, sc, srv, began)
	if record == nil {
		return err
	}
	b.results.Runs = append(b.results.Runs, *record)
	b.keepLog(ctx, srv, err)
	return err
}
