// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package view

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	tea "charm.land/bubbletea/v2"
	"github.com/charmbracelet/x/ansi"

	"github.com/weir-project/weir/internal/buildinfo"
	"github.com/weir-project/weir/internal/status"
)

var began = time.Unix(1_700_000_000, 0)

func report() *status.Report {
	return &status.Report{
		Build: buildinfo.Info{Version: "v0.1.0"}, Kubernetes: "v1.37.2", Started: began, Time: began.Add(90 * time.Second), EtcdRevision: 1234, Watching: 3,
		Memory: status.Memory{
			Purposes: []status.Purpose{{Name: "frames", Bytes: 225_000_000}, {Name: "history", Bytes: 1500}},
			Live:     300_000_000, Heap: 310_000_000, Total: 400_000_000,
		},
		Resources: []status.Resource{
			{Name: "configmaps", Ready: true, Objects: 3, Bytes: 3000, Watches: 1, Revision: 1234},
			{Name: "pods", Ready: true, Objects: 30000, Bytes: 225_000_000, Watches: 2, Revision: 1230, Behind: 4,
				History: status.History{Events: 100, Bytes: 1500, Seconds: 75.2, From: 1, To: 1230}},
			{Name: "jobs.batch", Ready: true},
			{Name: "crontabs.stable.example.com", Error: "no conversion\x1b[2J\nof it"},
		},
		Readers: []status.Reader{{Resource: "pods", Namespace: "default", User: "slow", UserAgent: "snail/1", Events: 7, Seconds: 12, Bytes: 64000}},
		Clients: []status.Client{
			{User: "quiet", UserAgent: "kubectl/v1.37", Lists: 1, ListsStreamed: 1, Bytes: 10, Seats: 1},
			{User: "loud", UserAgent: "operator/2", Lists: 1000, ListsDecoded: 900, Bytes: 5_000_000, Seats: 9000},
			{Others: true, Lists: 77, Bytes: 6_000_000},
		},
	}
}

func text(tb tables) string { return strings.Join(tb.lines(), "\n") }

// No purpose of memory is cut off, however many there are.
func TestAllPurposes(t *testing.T) {
	r := report()
	r.Memory.Purposes = nil
	for _, name := range []string{"frames", "history", "derived", "compressed", "streams", "readers", "compressors", "decoded", "informers"} {
		r.Memory.Purposes = append(r.Memory.Purposes, status.Purpose{Name: name, Bytes: 123_000_000})
	}
	got := text(tables{report: r, host: "https://127.0.0.1:6443"})
	for _, p := range r.Memory.Purposes {
		if !strings.Contains(got, p.Name+" 123 MB") {
			t.Errorf("%s is missing in\n%s", p.Name, got)
		}
	}
}

func TestTables(t *testing.T) {
	got := text(tables{report: report(), host: "https://127.0.0.1:6443"})
	for _, want := range []string{
		"weir v0.1.0 (Kubernetes v1.37.2) at https://127.0.0.1:6443", "up 1m30s, 3 watches open, etcd at revision 1234",
		"frames 225 MB, history 1.5 kB", "alive in the heap 300 MB", "and 1 resource without objects",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is missing", want)
		}
	}
	fields := map[string][]string{}
	for _, line := range strings.Split(got, "\n") {
		if f := strings.Fields(line); len(f) > 0 {
			fields[f[0]] = f[1:]
		}
	}
	for name, want := range map[string]string{
		"configmaps": "3 3.0 kB 1.0 kB 1 0 0 B - 0",
		"loud":       "operator/2 1000 900 0 0 0 0 5.0 MB 9000",
		"others":     "77 0 0 0 0 0 6.0 MB 0",
	} {
		if got := strings.Join(fields[name], " "); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	if !strings.Contains(got, "12s") || !strings.Contains(got, "snail/1") {
		t.Error("the slow reader is missing")
	}
	if loud, others := strings.Index(got, "loud"), strings.Index(got, "others "); loud > strings.Index(got, "quiet") || others < loud {
		t.Error("clients are not in order")
	}
	if t.Failed() {
		t.Log("\n" + got)
	}
}

// TestHostile: what clients call themselves neither moves a cursor nor makes a line longer than it may be.
func TestHostile(t *testing.T) {
	r := report()
	for _, name := range []string{
		"\x1b[2J\x1b[31mred", "\x1b]0;title\x07", "a\nb\rc\td", "\u202ereversed", "zero\u200bwidth", "\x9b31m", "\xff\xfe",
		strings.Repeat("e\u0301\u0301\u0301\u0301", 300), strings.Repeat("漢", 300), "\u2028", "\U000e0041tag", strings.Repeat("\u0301", 5000),
	} {
		r.Clients = append(r.Clients, status.Client{User: name, UserAgent: name, Bytes: 1 << 62, Lists: 1 << 62, Seats: 1 << 62, Compressed: 1 << 62})
		r.Readers = append(r.Readers, status.Reader{Resource: name, Namespace: name, User: name, UserAgent: name, Events: 1 << 40, Seconds: 1e9, Bytes: 1 << 62})
		r.Resources = append(r.Resources, status.Resource{Name: name, Error: name}, status.Resource{Name: name, Ready: true, Objects: 1 << 40, Bytes: 1 << 62})
		r.EtcdError = name
		r.Build.Version, r.Kubernetes = name, name
		for _, line := range (&tables{report: r, host: name, all: true}).lines() {
			if w := ansi.StringWidth(line); w > width {
				t.Errorf("a line of %d columns: %q", w, line)
			}
			for _, c := range line {
				if c < ' ' || c >= 0x7f && c <= 0x9f || c == '\u202e' || c == '\u200b' || c == '\u0301' || c == '\u2028' {
					t.Errorf("%q has %q", line, c)
				}
			}
		}
	}
}

func TestSizes(t *testing.T) {
	for n, want := range map[int64]string{
		0: "0 B", 999: "999 B", 1000: "1.0 kB", 9949: "9.9 kB", 9960: "10 kB", 999_499: "999 kB", 999_600: "1.0 MB", 225_000_000: "225 MB", 1 << 62: "4611686 TB",
	} {
		if got := size(n); got != want {
			t.Errorf("%d: %s, want %s", n, got, want)
		}
	}
}

func TestBadFlags(t *testing.T) {
	t.Setenv("KUBECONFIG", filepath.Join(t.TempDir(), "none"))
	t.Setenv("HOME", t.TempDir())
	for _, test := range []struct{ args, want string }{
		{"-o xml", "--output takes json or yaml"},
		{"--sort age", "--sort takes bytes, lists"},
		{"--watch -o json", "leave out --output"},
		{"--watch --interval 1ns", "--interval takes"},
		{"--watch", "needs a terminal"},
		{"", "KUBECONFIG"},
	} {
		cmd := NewCommand()
		cmd.SetArgs(strings.Fields(test.args))
		if err := cmd.ExecuteContext(t.Context()); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("status %s: %v, want %q", test.args, err, test.want)
		}
	}
}

// TestModel goes through what can happen to the live view.
func TestModel(t *testing.T) {
	m := model{ctx: t.Context(), interval: time.Second, tables: tables{report: report(), host: "h"}}
	step := func(msg tea.Msg) tea.Cmd {
		next, cmd := m.Update(msg)
		m = next.(model)
		return cmd
	}
	press := func(key string) tea.Cmd {
		next, cmd := m.key(key)
		m = next.(model)
		return cmd
	}
	step(tea.WindowSizeMsg{Width: 100, Height: 12})
	shown := func() string { return m.View().Content }
	if n := strings.Count(shown(), "\n") + 1; n != 12 {
		t.Errorf("%d lines in a terminal of 12", n)
	}
	for range 100 {
		press("down")
	}
	if !strings.Contains(shown(), "others") {
		t.Errorf("the last line cannot be reached:\n%s", shown())
	}
	press("g")
	if !strings.HasPrefix(shown(), "weir v0.1.0") {
		t.Errorf("the first line cannot be reached:\n%s", shown())
	}
	press("s")
	if m.tables.clients != 1 || !strings.Contains(shown(), "(lists)") {
		t.Errorf("s does not sort:\n%s", shown())
	}
	step(answer{err: errors.New("connection refused")})
	if !strings.Contains(shown(), "connection refused") || !strings.Contains(shown(), "as of ") {
		t.Errorf("a server that has died is not said:\n%s", shown())
	}
	later := report()
	later.Time = later.Time.Add(2 * time.Second)
	later.Clients[1].Bytes += 4_000_000
	step(answer{report: later})
	press("end")
	step(tea.WindowSizeMsg{Width: 100, Height: 60})
	if !strings.Contains(shown(), "SENT/S") || !strings.Contains(shown(), "2.0 MB") || strings.Contains(shown(), "refused") {
		t.Errorf("no rate:\n%s", shown())
	}
	press("p")
	if cmd := step(due{}); cmd == nil || !strings.Contains(shown(), "paused") {
		t.Error("p does not pause")
	}
	if cmd := press("q"); cmd == nil {
		t.Error("q does not end it")
	}
}
