// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package report

import (
	"bytes"
	"image/png"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// twoTargets is a run in which the second target dies in its second phase.
func twoTargets() *Results {
	run := func(target string, slope float64, until int) TargetRun {
		r := TargetRun{Target: target, Scenario: "watchlist", Label: "watchlist-a-protobuf"}
		for i := range until {
			rss := 400e6 + slope*float64(max(0, i-20))*1e6
			r.Samples = append(r.Samples, Sample{Seconds: float64(i), RSS: int64(rss), CPU: float64(i)})
		}
		return r
	}
	quick, dies := run("weir", 2, 100), run("stock", 30, 70)
	quick.Phases = []*Phase{
		{Name: "watchlist a protobuf x16", Began: 20, Wall: 20, CPU: 2, RSSBefore: 400e6, RSSPeak: 440e6, RSSAfter: 440e6, Figures: map[string]float64{"wire MB": 6400}},
		{Name: "watchlist a protobuf x64", Began: 50, Wall: 40, CPU: 8, RSSBefore: 460e6, RSSPeak: 540e6, RSSAfter: 540e6},
	}
	dies.Phases = []*Phase{
		{Name: "watchlist a protobuf x16", Began: 20, Wall: 20, CPU: 10, RSSBefore: 400e6, RSSPeak: 1000e6, RSSAfter: 1000e6, Figures: map[string]float64{"wire MB": 6400}},
		{Name: "watchlist a protobuf x64", Began: 45, Wall: 25, RSSBefore: 1150e6, Errors: []string{"target stock died"}},
	}
	dies.Failure = "target stock died: signal: killed; its log x ends: y"
	quick.Asks, dies.Asks = "readers ask for watch lists, protobuf, gzip", "readers ask for watch lists, protobuf, gzip"
	return &Results{Targets: []Target{{Name: "stock"}, {Name: "weir"}}, Runs: []TargetRun{dies, quick}}
}

func TestGraphShowsEveryTarget(t *testing.T) {
	dir := t.TempDir()
	paths, err := twoTargets().DrawGraphs(dir)
	if err != nil {
		t.Fatal(err)
	}
	if want := filepath.Join(dir, "watchlist-a-protobuf"); len(paths) != 1 || paths[0] != want {
		t.Fatalf("graphs %q, want %q", paths, want)
	}
	svg, err := os.ReadFile(paths[0] + ".svg")
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"weir", "stock died at 1.9 GB", "signal: killed", "16 readers", "64 readers", "1.5 GB"} {
		if !bytes.Contains(svg, []byte(">"+text+"<")) {
			t.Errorf("the SVG lacks the text %q", text)
		}
	}
	file, err := os.Open(paths[0] + ".png")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if _, err := png.Decode(file); err != nil {
		t.Errorf("the PNG cannot be read: %v", err)
	}
}

func TestTableComparesWithTheFirstTarget(t *testing.T) {
	var out bytes.Buffer
	if err := twoTargets().Table(&out); err != nil {
		t.Fatal(err)
	}
	var cpu [][]string
	for line := range strings.Lines(out.String()) {
		if strings.Contains(line, "server CPU s") {
			cpu = append(cpu, strings.Fields(line)[strings.Count(line, "watchlist")*4:])
		}
	}
	want := [][]string{{"server", "CPU", "s", "10.0", "2.00", "0.20"}, {"server", "CPU", "s", "failed", "8.00", "-"}}
	for i := range want {
		if i >= len(cpu) || strings.Join(cpu[i], " ") != strings.Join(want[i], " ") {
			t.Errorf("row %d: %q, want %q, in\n%s", i, cpu, want, out.String())
		}
	}
}

// What was asked for is told once for all targets.
func TestTableTellsWhatWasAskedFor(t *testing.T) {
	var out bytes.Buffer
	r := twoTargets()
	r.Targets = append(r.Targets, Target{Name: "static", Sends: "weir"})
	if err := r.Table(&out); err != nil {
		t.Fatal(err)
	}
	want := "\nwatchlist-a-protobuf: readers ask for watch lists, protobuf, gzip\nstatic: sends what weir sent\n"
	if !strings.HasSuffix(out.String(), want) {
		t.Errorf("no %q at the end of\n%s", want, out.String())
	}
}

func TestGobenchLines(t *testing.T) {
	var out bytes.Buffer
	if err := twoTargets().Gobench(&out); err != nil {
		t.Fatal(err)
	}
	want := "BenchmarkWatchlist_a_protobuf_x16/target=stock 1 20000000000 ns/op 10 server-cpu-s 1000000000 peak-rss-B 6400 wire-MB\n"
	if !strings.Contains(out.String(), want) {
		t.Errorf("no line\n%sin\n%s", want, out.String())
	}
	if strings.Count(out.String(), "Benchmark") != 3 {
		t.Errorf("a phase that failed must not count:\n%s", out.String())
	}
}
