// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package report

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/weir-project/weir/internal/bench/dataset"
)

// Results is everything that a run measured, as written to results.json.
type Results struct {
	Began   time.Time `json:"began"`
	Command []string  `json:"command"`
	Machine Machine   `json:"machine"`
	Targets []Target  `json:"targets"`
	// MemoryLimit is what each server that was started here might take, in bytes; 0 for no limit.
	MemoryLimit int64 `json:"memoryLimit,omitempty"`

	Data []dataset.Set `json:"data"`
	Runs []TargetRun   `json:"runs"`
}

// Target is one kind of server that bench starts: a binary and what sets it apart from the others.
type Target struct {
	Name   string   `json:"name"`
	Binary string   `json:"binary,omitempty"` // path of a kube-apiserver; empty for this program
	Argv0  string   `json:"argv0,omitempty"`  // name that it is started under
	Args   []string `json:"args,omitempty"`   // beside the flags that every target gets
	Sends  string   `json:"sends,omitempty"`  // the target whose bytes this one sends, of the static one
}

// Machine is where it was measured. Figures compare within one machine only.
type Machine struct {
	CPU    string `json:"cpu"`
	Cores  int    `json:"cores"`
	Memory int64  `json:"memory"` // bytes
	Kernel string `json:"kernel"`
	Go     string `json:"go"` // of bench itself
}

// Sample is the state of a server at one time.
type Sample struct {
	Seconds float64 `json:"t"`   // since the run began
	RSS     int64   `json:"rss"` // bytes
	CPU     float64 `json:"cpu"` // seconds used since the server started
}

// TargetRun is one scenario on one freshly started target.
type TargetRun struct {
	Target   string   `json:"target"`
	Version  string   `json:"version"` // as the server tells it
	Scenario string   `json:"scenario"`
	Label    string   `json:"label"` // tells apart runs of one scenario with several parameters; fit for a file name
	Params   any      `json:"params"`
	Asks     string   `json:"asks,omitempty"` // what the clients ask for, in words: verb, format, compression
	Round    int      `json:"round"`
	Phases   []*Phase `json:"phases"`
	Failure  string   `json:"failure,omitempty"` // why the run is not complete, such as the server's death
	Samples  []Sample `json:"samples"`
}

// Phase is one measured stretch of a server's life.
type Phase struct {
	Name  string  `json:"name"`
	Began float64 `json:"began"` // seconds since the server was started
	Wall  float64 `json:"wall"`  // seconds
	Quiet bool    `json:"quiet"` // the server was idle when it began

	CPU       float64 `json:"cpu"`       // seconds of the server's processor time
	EtcdCPU   float64 `json:"etcdCPU"`   // seconds of etcd's
	RSSBefore int64   `json:"rssBefore"` // bytes of the server's resident memory
	RSSPeak   int64   `json:"rssPeak"`
	RSSAfter  int64   `json:"rssAfter"`

	Figures map[string]float64 `json:"figures,omitempty"` // what else the scenario found, by name with unit
	Errors  []string           `json:"errors,omitempty"`  // of streams that failed; the phase then does not count
}

// ThisMachine describes the one that this process runs on, as far as it can be told.
func ThisMachine() Machine {
	m := Machine{Cores: runtime.NumCPU(), Go: runtime.Version()}
	value := func(path, key string) string {
		data, _ := os.ReadFile(path) // an unknown machine is no reason not to measure
		for line := range strings.Lines(string(data)) {
			if k, v, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(k) == key {
				return strings.TrimSpace(v)
			}
		}
		return ""
	}
	m.CPU = value("/proc/cpuinfo", "model name")
	kb, _ := strconv.ParseInt(strings.TrimSuffix(value("/proc/meminfo", "MemTotal"), " kB"), 10, 64)
	m.Memory = kb << 10
	release, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	m.Kernel = strings.TrimSpace(string(release))
	return m
}

// Write saves the results to dir/results.json, in one piece or not at all.
func (r *Results) Write(dir string) error {
	data, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return err
	}
	path := filepath.Join(dir, "results.json")
	if err := os.WriteFile(path+".tmp", data, 0o644); err != nil {
		_ = os.Remove(path + ".tmp")
		return fmt.Errorf("save the results: %w", err)
	}
	return os.Rename(path+".tmp", path)
}

// series are the values of one figure of one phase, by target, one per round.
type series struct {
	scenario, phase, figure string
	values                  map[string][]float64
}

// tabulate gathers the figures of all runs in the order in which they first came up.
func (r *Results) tabulate() []*series {
	var order []*series
	index := map[[3]string]*series{}
	add := func(run *TargetRun, p *Phase, figure string, v float64) {
		key := [3]string{run.Scenario, p.Name, figure}
		s := index[key]
		if s == nil {
			s = &series{scenario: run.Scenario, phase: p.Name, figure: figure, values: map[string][]float64{}}
			index[key] = s
			order = append(order, s)
		}
		s.values[run.Target] = append(s.values[run.Target], v)
	}
	const mega = 1e6
	for i := range r.Runs {
		run := &r.Runs[i]
		for _, p := range run.Phases {
			if len(p.Errors) > 0 {
				continue
			}
			add(run, p, "server CPU s", p.CPU)
			add(run, p, "wall s", p.Wall)
			add(run, p, "RSS before MB", float64(p.RSSBefore)/mega)
			add(run, p, "RSS peak MB", float64(p.RSSPeak)/mega)
			add(run, p, "RSS after MB", float64(p.RSSAfter)/mega)
			for _, name := range sortedKeys(p.Figures) {
				add(run, p, name, p.Figures[name])
			}
		}
	}
	return order
}

func sortedKeys(m map[string]float64) []string { return slices.Sorted(maps.Keys(m)) }

// Median of at least one value.
func Median(values []float64) float64 {
	v := slices.Sorted(slices.Values(values))
	if n := len(v); n%2 == 0 {
		return (v[n/2-1] + v[n/2]) / 2
	}
	return v[len(v)/2]
}

// Quantile of at least one value, nearest rank.
func Quantile(values []float64, q float64) float64 {
	v := slices.Sorted(slices.Values(values))
	return v[min(len(v)-1, int(q*float64(len(v))))]
}
