// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"
	"go.uber.org/zap"

	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/weir-project/weir/internal/bench/report"
	testetcd "github.com/weir-project/weir/test/etcd"
	testwait "github.com/weir-project/weir/test/wait"
)

// small makes every dataset small.
var small = []string{
	"--secrets=4", "--secret-bytes=20000", "--pods=60", "--configmaps=8", "--configmap-bytes=2000", "--custom-resources=20",
}

// benchMarker, in the environment, marks a run and all of its children.
const benchMarker = "WEIR_TEST_BENCH_RUN"

// benchRun is "weir bench" as a child process.
type benchRun struct {
	t        *testing.T
	cmd      *exec.Cmd
	stdout   bytes.Buffer // to be read after wait
	progress *logBuffer   // standard error
	marker   string
	tmp      string // where it makes its temporary files
	out      string // directory of its results
	exited   chan struct{}
}

// startBench starts "weir bench" with small datasets. Flags given come last, and so win.
func startBench(t *testing.T, scenario string, args ...string) *benchRun {
	t.Helper()
	r := newBench(t, scenario, args...)
	r.start()
	return r
}

func newBench(t *testing.T, scenario string, args ...string) *benchRun {
	t.Helper()
	r := &benchRun{t: t, progress: &logBuffer{}, tmp: t.TempDir(), out: filepath.Join(t.TempDir(), "results"), exited: make(chan struct{})}
	all := append([]string{"bench", scenario, "--out=" + r.out}, small...)
	r.cmd = command(t, "weir", append(all, args...)...)
	r.marker = fmt.Sprintf("%s=%s-%d", benchMarker, strings.ReplaceAll(t.Name(), "/", "-"), time.Now().UnixNano())
	r.cmd.Env = append(r.cmd.Env, r.marker, "TMPDIR="+r.tmp)
	r.cmd.Stdout, r.cmd.Stderr = &r.stdout, r.progress
	return r
}

func (r *benchRun) start() {
	r.t.Helper()
	if err := r.cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	go func() {
		_ = r.cmd.Wait()
		close(r.exited)
	}()
	r.t.Cleanup(func() {
		_ = r.cmd.Process.Kill() // its children end with it
		<-r.exited
	})
}

// wait returns the exit status, and looks whether everything that the run must not leave behind is gone.
func (r *benchRun) wait() int {
	r.t.Helper()
	select {
	case <-r.exited:
	case <-time.After(2 * patience):
		r.t.Fatalf("bench does not end:\n%s", r.progress)
	}
	if left, err := os.ReadDir(r.tmp); err != nil || len(left) > 0 {
		r.t.Errorf("temporary files are left behind: %v %v", left, err)
	}
	if left := r.processes(""); len(left) > 0 {
		r.t.Errorf("processes are left behind: %v", left)
	}
	return r.cmd.ProcessState.ExitCode()
}

// processes finds what runs of this run, by argv[0]; empty for all.
func (r *benchRun) processes(name string) (pids []int) {
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		environment, err := os.ReadFile(filepath.Join(dir, "environ"))
		if err != nil || !slices.Contains(strings.Split(string(environment), "\x00"), r.marker) {
			continue
		}
		line, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
		argv0, _, _ := strings.Cut(string(line), "\x00")
		if argv0 == "" || name != "" && argv0 != name { // no command line: it has ended and nobody has asked how
			continue
		}
		pid, _ := strconv.Atoi(filepath.Base(dir))
		pids = append(pids, pid)
	}
	return pids
}

// until waits for something to come true while the run goes on.
func (r *benchRun) until(what string, holds func() bool) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), patience)
	defer cancel()
	err := wait.PollUntilContextCancel(ctx, 50*time.Millisecond, true, func(context.Context) (bool, error) {
		select {
		case <-r.exited:
			return false, errors.New("bench ended")
		default:
			return holds(), nil
		}
	})
	if err != nil {
		r.t.Fatalf("wait until %s: %v\n%s", what, err, r.progress)
	}
}

func (r *benchRun) untilSays(text string) {
	r.t.Helper()
	r.until("it says "+text, func() bool { return strings.Contains(r.progress.String(), text) })
}

// results reads results.json.
func (r *benchRun) results() report.Results {
	r.t.Helper()
	var results report.Results
	data, err := os.ReadFile(filepath.Join(r.out, "results.json"))
	if err == nil {
		err = json.Unmarshal(data, &results)
	}
	if err != nil {
		r.t.Fatalf("results: %v\n%s", err, r.progress)
	}
	return results
}

// lastLine is the error that a run ends with.
func (r *benchRun) lastLine() string {
	lines := strings.Split(strings.TrimSpace(r.progress.String()), "\n")
	return lines[len(lines)-1]
}

// Every scenario runs from its start to its end, against this program with its own work on or off, against upstream's
// command, and where that makes sense against the static floor.
func TestBenchScenarios(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		scenario string
		args     []string
		targets  []string
		phases   int  // on each target
		quick    bool // also with -short
	}{
		{scenario: "watchlist", args: []string{"--streams=2,3", "--max-ratio=wire MB=1.1"}, targets: []string{"weir", "static"}, phases: 2, quick: true},
		{scenario: "list", args: []string{"--streams=2", "--format=json", "--gobench"}, targets: []string{"weir"}, phases: 1},
		{scenario: "list", args: []string{"--streams=2", "--gzip", "--warm", "--repeat=2", "--max-ratio=wire MB=1.001"}, targets: []string{"weir", "static"}, phases: 1, quick: true},
		{scenario: "configmaps", args: []string{"--streams=1,2"}, targets: []string{"weir-off"}, phases: 2},
		{scenario: "crs", args: []string{"--streams=2"}, targets: []string{"weir"}, phases: 2},
		{scenario: "synthetic", args: []string{"--informers=1,2"}, targets: []string{"stock"}, phases: 2},
		{scenario: "pods", args: []string{"--informers=2", "--format=json", "--watch-list=false", "--gzip=false"}, targets: []string{"weir"}, phases: 1},
		{scenario: "fanout", args: []string{"--watchers=5", "--updates=20", "--objects=2", "--rate=0"}, targets: []string{"weir"}, phases: 1},
		{scenario: "fanout", args: []string{"--watchers=5", "--updates=20", "--objects=2", "--rate=0", "--gzip"}, targets: []string{"weir-off"}, phases: 1},
		{scenario: "watchers", args: []string{"--count=20", "--scope=all"}, targets: []string{"weir"}, phases: 1},
		{scenario: "writes", args: []string{"--operations=40", "--warm-up=4", "--rounds=1"}, targets: []string{"weir"}, phases: 1},
		{scenario: "start", args: []string{"--settle=1s"}, targets: []string{"weir"}, phases: 2},
		{scenario: "memory", args: []string{"--settle=1s", "--streams=2"}, targets: []string{"weir"}, phases: 23},
		{scenario: "storm", args: []string{"--streams=4"}, targets: []string{"weir"}, phases: 1},
	} {
		t.Run(test.scenario, func(t *testing.T) {
			t.Parallel()
			if testing.Short() && !test.quick {
				t.Skip("takes ten seconds and more")
			}
			args := append(test.args, "--compare="+strings.Join(test.targets, ","))
			if slices.Contains(test.targets, "stock") {
				args = append(args, "--stock-binary="+stockBinary(t))
			}
			r := startBench(t, test.scenario, args...)
			if code := r.wait(); code != 0 {
				t.Fatalf("exit status %d\n%s", code, r.progress)
			}
			results := r.results()
			if len(results.Runs) != len(test.targets) {
				t.Fatalf("%d runs, want one for each of %v", len(results.Runs), test.targets)
			}
			for i, run := range results.Runs {
				if run.Target != test.targets[i] || run.Failure != "" || len(run.Phases) != test.phases || len(run.Samples) < 2 {
					t.Errorf("run of %s has %d phases and %d samples, failure %q; want %d phases of %s", run.Target, len(run.Phases), len(run.Samples), run.Failure, test.phases, test.targets[i])
				}
				for _, p := range run.Phases {
					if slices.Contains(test.args, "--gzip") && (p.Figures["responses gzip"] == 0 || p.Figures["responses plain"] > 0) {
						t.Errorf("asked for gzip, and %s sent %v", run.Target, p.Figures)
					}
					if len(p.Errors) > 0 || p.RSSPeak < 1<<20 || p.RSSPeak < p.RSSAfter {
						t.Errorf("phase %+v of %s", p, run.Target)
					}
				}
				for _, suffix := range []string{".svg", ".png"} {
					if info, err := os.Stat(filepath.Join(r.out, run.Label+suffix)); err != nil || info.Size() < 1000 {
						t.Errorf("graph: %v", err)
					}
				}
			}
			if out := r.stdout.String(); slices.Contains(test.args, "--gobench") != strings.Contains(out, "\nBenchmark") || !strings.Contains(out, test.targets[0]) {
				t.Errorf("standard output:\n%s", out)
			}
		})
	}
}

// stockBinary is a program that is upstream's command, whatever name it is started under.
func stockBinary(t *testing.T) string {
	t.Helper()
	bash, err := exec.LookPath("bash")
	if err != nil {
		t.Skip("needs bash, for a program that starts another under a name of its own")
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	script := filepath.Join(t.TempDir(), "kube-apiserver")
	if err := os.WriteFile(script, fmt.Appendf(nil, "#!%s\nexec -a %s %q \"$@\"\n", bash, stock, self), 0o755); err != nil {
		t.Fatal(err)
	}
	return script
}

// A limit on a ratio that does not hold fails the run, with the figures there all the same.
func TestBenchGateFails(t *testing.T) {
	t.Parallel()
	r := startBench(t, "watchlist", "--compare=weir,static", "--streams=2", "--max-ratio=wire MB=0.5")
	if code := r.wait(); code != 1 || !strings.Contains(r.lastLine(), "wire MB of static is 1.00 times that of weir; at most 0.50 is allowed") {
		t.Errorf("exit status %d\n%s", code, r.progress)
	}
	if !strings.Contains(r.stdout.String(), "static/weir") || len(r.results().Runs) != 2 {
		t.Errorf("standard output:\n%s", &r.stdout)
	}
}

// A target that dies is said to have died, with what was sampled until then.
func TestBenchTargetDies(t *testing.T) {
	t.Parallel()
	r := startBench(t, "start", "--target=weir", "--settle=10m")
	r.untilSays("s CPU") // the first phase is over, the second has begun
	servers := r.processes(dropIn)
	if len(servers) != 1 {
		t.Fatalf("%d servers run", len(servers))
	}
	if err := syscall.Kill(servers[0], syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if code := r.wait(); code != 1 || !strings.Contains(r.lastLine(), "target weir died: signal: killed") {
		t.Errorf("exit status %d\n%s", code, r.progress)
	}
	runs := r.results().Runs
	if len(runs) != 1 || !strings.Contains(runs[0].Failure, "died") || len(runs[0].Samples) < 10 {
		t.Fatalf("runs %+v", runs)
	}
	phases := runs[0].Phases
	if len(phases) != 2 || len(phases[0].Errors) > 0 || len(phases[1].Errors) == 0 || phases[1].RSSBefore < 1<<20 || phases[1].RSSPeak < 1<<20 {
		t.Errorf("the second phase must be the one that failed: %+v", phases)
	}
	if logs, _ := filepath.Glob(filepath.Join(r.out, "*.log")); len(logs) != 1 {
		t.Errorf("logs kept: %v", logs)
	}
}

// A memory limit kills the target that passes it, or cannot be had, which is said before anything is done.
func TestBenchMemoryLimit(t *testing.T) {
	t.Parallel()
	r := startBench(t, "writes", "--target=weir", "--rounds=1", "--memory-limit=50Mi")
	code := r.wait()
	if code != 1 {
		t.Errorf("exit status %d\n%s", code, r.progress)
	}
	if strings.Contains(r.lastLine(), "--memory-limit needs a control group, and none can be made here") {
		if _, err := os.Stat(r.out); err == nil {
			t.Error("it was not found out first")
		}
		t.Skip(r.lastLine())
	}
	if !strings.Contains(r.lastLine(), "died: signal: killed: out of memory, at its limit of 50Mi") {
		t.Errorf("last line: %s", r.lastLine())
	}
	if left, _ := filepath.Glob(fmt.Sprintf("/sys/fs/cgroup/memory/weir-bench-%d-*", r.cmd.Process.Pid)); len(left) > 0 {
		t.Errorf("control groups are left behind: %v", left)
	}
}

// Ctrl-C, whatever it interrupts, leaves nothing behind: wait looks.
func TestBenchInterrupted(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ name, says string }{
		{name: "loading", says: "loading dataset"},
		{name: "measuring", says: "s CPU"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			r := startBench(t, "start", "--target=weir", "--pods=20000", "--settle=10m")
			if test.name == "measuring" {
				r = startBench(t, "start", "--target=weir", "--settle=10m")
			}
			r.untilSays(test.says)
			if err := r.cmd.Process.Signal(os.Interrupt); err != nil {
				t.Fatal(err)
			}
			if code := r.wait(); code != 1 || !strings.Contains(r.lastLine(), "interrupt") {
				t.Errorf("exit status %d\n%s", code, r.progress)
			}
			_, err := os.Stat(r.out)
			if measured := test.name == "measuring"; measured != (err == nil) {
				t.Errorf("directory of the results, with anything measured %t: %v", measured, err)
			}
		})
	}
}

// What scenarios make beside the datasets does not stay in a work directory that is kept: lists of all Pods would have it.
func TestBenchKeptWorkDir(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("takes a minute")
	}
	dir := t.TempDir()
	flags := []string{"--target=weir", "--work-dir=" + dir}
	watchers := append([]string{"--count=3", "--scope=all"}, flags...)
	for scenario, args := range map[string][]string{
		"watchers": watchers,
		"fanout":   append([]string{"--watchers=2", "--updates=4", "--objects=2", "--rate=0"}, flags...),
		"writes":   append([]string{"--operations=20", "--warm-up=2", "--rounds=1"}, flags...),
	} {
		r := startBench(t, scenario, args...)
		if code := r.wait(); code != 0 {
			t.Errorf("%s: exit status %d\n%s", scenario, code, r.progress)
		}
		if left := besideData(t, dir); len(left) > 0 {
			t.Errorf("%s leaves behind %q", scenario, left)
		}
	}

	r := startBench(t, "watchers", watchers...)
	r.untilSays("s CPU") // there are the Pods, and the watches
	if err := r.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if code := r.wait(); code != 1 || !strings.Contains(r.lastLine(), "interrupt") {
		t.Errorf("exit status %d\n%s", code, r.progress)
	}
	if left := besideData(t, dir); len(left) > 0 {
		t.Errorf("an interrupted run leaves behind %q", left)
	}

	// Killed, it cannot help leaving them; the next run removes them.
	r = startBench(t, "watchers", watchers...)
	r.untilSays("s CPU")
	if err := r.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-r.exited
	testwait.Until(t, "the killed run's children to end", patience, func() bool { return len(r.processes("")) == 0 })
	if left := besideData(t, dir); len(left) != 3 {
		t.Errorf("a killed run leaves behind %q, want three Pods: what follows says nothing", left)
	}
	r = startBench(t, "list", append([]string{"--streams=2"}, flags...)...)
	if code := r.wait(); code != 0 { // readers count the Pods
		t.Errorf("exit status %d\n%s", code, r.progress)
	}
	if left := besideData(t, dir); len(left) > 0 {
		t.Errorf("left behind for good: %q", left)
	}
}

// besideData returns the keys of the Pods and ConfigMaps in a work directory that belong to no dataset.
func besideData(t *testing.T, workDir string) (keys []string) {
	t.Helper()
	cfg := testetcd.Config(t)
	cfg.Dir = filepath.Join(workDir, "etcd")
	cfg.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.NewNop())
	etcd, err := embed.StartEtcd(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer etcd.Close()
	<-etcd.Server.ReadyNotify()
	for _, prefix := range []string{"/registry/pods/weir-bench-", "/registry/configmaps/weir-bench-"} {
		found, err := v3client.New(etcd.Server).Get(t.Context(), prefix, clientv3.WithPrefix(), clientv3.WithKeysOnly())
		if err != nil {
			t.Fatal(err)
		}
		for _, kv := range found.Kvs {
			if key := string(kv.Key); !strings.HasPrefix(key, prefix+"data-") {
				keys = append(keys, key)
			}
		}
	}
	return keys
}

// Where results cannot be written it is said before hours are spent on them; where that fails only in the end, the table
// is there, and where the table cannot be printed, the file.
func TestBenchNoSpace(t *testing.T) {
	t.Parallel()
	const full = "/dev/full"
	if _, err := os.Stat(full); err != nil {
		t.Skip(err)
	}
	quick := []string{"--target=weir", "--rounds=1", "--operations=20", "--warm-up=2"}
	t.Run("from the beginning", func(t *testing.T) {
		t.Parallel()
		r := startBench(t, "writes", append(quick, "--out="+full)...)
		if code := r.wait(); code != 1 || !strings.Contains(r.progress.String(), "directory for the results: mkdir "+full) || strings.Contains(r.progress.String(), "(round ") {
			t.Errorf("exit status %d\n%s", code, r.progress)
		}
	})
	t.Run("in the end", func(t *testing.T) {
		t.Parallel()
		r := newBench(t, "writes", quick...)
		if err := os.MkdirAll(r.out, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(full, filepath.Join(r.out, "results.json.tmp")); err != nil {
			t.Fatal(err)
		}
		r.start()
		if code := r.wait(); code != 1 || !strings.Contains(r.lastLine(), "no space left on device") {
			t.Errorf("exit status %d\n%s", code, r.progress)
		}
		if !strings.Contains(r.stdout.String(), "writes/s") {
			t.Errorf("no table:\n%s", &r.stdout)
		}
		if _, err := os.Stat(filepath.Join(r.out, "results.json")); err == nil {
			t.Error("there is a results.json, which must be half of one")
		}
	})
	t.Run("standard output", func(t *testing.T) {
		t.Parallel()
		r := newBench(t, "writes", quick...)
		stdout, err := os.OpenFile(full, os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = stdout.Close() }()
		r.cmd.Stdout = stdout
		r.start()
		if code := r.wait(); code != 1 || !strings.Contains(r.lastLine(), "no space left on device") {
			t.Errorf("exit status %d\n%s", code, r.progress)
		}
		if len(r.results().Runs) != 1 {
			t.Error("results.json lacks the run")
		}
	})
}

// Nobody reads what it writes any more, as with "| head": it goes on, and leaves nothing behind.
func TestBenchNobodyReads(t *testing.T) {
	t.Parallel()
	r := newBench(t, "writes", "--target=weir", "--rounds=1", "--operations=20", "--warm-up=2")
	in, out, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	_ = in.Close()
	r.cmd.Stdout, r.cmd.Stderr = out, out
	r.start()
	_ = out.Close()
	// Not 0, for the table was not printed; telling of that may end it by the signal after all, which is in order then.
	if code := r.wait(); code == 0 {
		t.Error("exit status 0")
	}
	if len(r.results().Runs) != 1 {
		t.Error("results.json lacks the run")
	}
}

// What cannot be measured as asked is said in one line, before anything is started.
func TestBenchBadInput(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		want string
		args []string
	}{
		{"no target: name one", []string{"watchlist"}},
		{`target "wier": unknown; there are stock, weir, weir-off and static`, []string{"watchlist", "--target=wier"}},
		{"target weir is named twice", []string{"watchlist", "--compare=weir,static,weir"}},
		{`--dataset "z": there are a, b, c and d`, []string{"list", "--target=weir", "--dataset=z"}},
		{"--streams, --again and --repeat must be at least 1", []string{"list", "--target=weir", "--streams=0"}},
		{"want a number of bytes such as 2Gi", []string{"list", "--target=weir", "--memory-limit=much"}},
		{`--max-ratio "server CPU s": want figure=ratio`, []string{"list", "--target=weir", "--max-ratio=server CPU s"}},
		{"leave out --target or --compare", []string{"list", "--target=weir", "--kubeconfig=x"}},
		{"--namespace and --context belong to --kubeconfig", []string{"list", "--target=weir", "--namespace=x"}},
		{"not-there: no such file or directory", []string{"list", "--kubeconfig=not-there"}},
		{"not-there: no such file or directory", []string{"list", "--target=stock", "--stock-binary=not-there"}},
	} {
		r := startBench(t, test.args[0], test.args[1:]...)
		if code := r.wait(); code != 1 || !strings.Contains(r.lastLine(), test.want) || strings.Contains(r.progress.String(), "(round ") {
			t.Errorf("%v: exit status %d, want 1 and %q\n%s", test.args, code, test.want, r.progress)
		}
		if _, err := os.Stat(r.out); err == nil {
			t.Errorf("%v: an empty directory for results is left behind", test.args)
		}
	}
}
