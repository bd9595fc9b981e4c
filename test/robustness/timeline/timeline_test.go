// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package timeline

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weir-project/weir/test/robustness/check"
	"github.com/weir-project/weir/test/robustness/history"
)

// drawEnv, in the environment, is the path of a history whose page is to be drawn beside it.
const drawEnv = "WEIR_DRAW"

func TestDrawGiven(t *testing.T) {
	path := os.Getenv(drawEnv)
	if path == "" {
		t.Skipf("draws the history that %s names", drawEnv)
	}
	out := filepath.Join(filepath.Dir(path), "timeline.html")
	f, err := os.Create(out)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(Draw(f, path, path), f.Close()); err != nil {
		t.Fatal(err)
	}
	t.Log(out)
}

var (
	start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	all   = history.Scope{Resource: "pods"}
)

func at(seconds float64) time.Time { return start.Add(time.Duration(seconds * float64(time.Second))) }

func pod(i int) history.Key {
	return history.Key{Resource: "pods", Namespace: "n", Name: fmt.Sprintf("pod-%d", i)}
}

// lied is the history of a run of 40 s with a change in each, in which servers have lied in several ways.
func lied(t *testing.T) []Line {
	truth := history.NewTruth()
	var changes []Line
	for i := range 40 {
		rev := int64(100 + 2*i)
		s := &history.State{Revision: rev, UID: fmt.Sprint("uid-", i%5), Op: fmt.Sprintf("1-%d", i), Labels: map[string]string{"side": []string{"left", "right"}[i%2]}, Digests: history.Digests{Meta: uint64(rev)}}
		if err := truth.Add(rev, at(float64(i)), pod(i%5), s); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range truth.Changes(0, 1000) {
		changes = append(changes, Line{Change: &c})
	}
	truth.Reach(178)
	watch := func(id int64, server string, from int64, start history.Start) *history.Watch {
		w := &history.Watch{ID: id, Role: "session", Server: server, Format: "json", Scope: all, Start: start, From: from, Opened: at(5), Closed: at(35), Status: 200, End: "EOF"}
		w.Events = append(w.Events, truth.Events(all, from, 178)...)
		return w
	}
	gap := watch(1, "a", 110, history.AtRevision)
	gap.Events = slices.Delete(gap.Events, 9, 10) // revision 130
	l := &history.List{ID: 2, Server: "b", Scope: all, Mode: history.Any, Opened: at(20), Revisions: []int64{140}}
	for k, s := range truth.States(all, 140) {
		if k != pod(1) {
			l.Items = append(l.Items, history.Item{Key: k, Revision: s.Revision, Digests: s.Digests})
		}
	}
	twins := &history.Twins{List: l, Watches: []*history.Watch{watch(3, "a", 140, history.AtRevision), watch(4, "b", 140, history.AtRevision)}}
	twins.Watches[1].Events[4].Kind = history.Added // revision 150
	write := &history.Write{Begun: at(29.9), At: at(30.1), Server: "a", Verb: http.MethodPut, Key: pod(0), Outcome: history.Acknowledged, Status: 200, Sent: "1-30", Op: "1-30", UID: "uid-0", Revision: 160}
	stale := &history.Read{ID: 5, Server: "b", Key: pod(0), Mode: history.Consistent, Opened: at(30.2), Closed: at(30.3), Found: true, Revision: 150, UID: "uid-0", Op: "1-25"}
	lines := []Line{
		{Fault: &history.Fault{Kind: "kill", Server: "a", Begin: at(8), End: at(12)}},
		{Fault: &history.Fault{Kind: "pause", Server: "b", Begin: at(14), End: at(16)}},
		{Fault: &history.Fault{Kind: "compact", Begin: at(25), End: at(25)}},
		{Watch: watch(6, "b", 100, history.AtRevision), Events: 39},
		{Write: write}, {Read: stale},
	}
	bad := func(l Line, list []check.Violation) {
		if len(list) == 0 {
			t.Fatalf("nothing is found in %+v", l)
		}
		l.Violations = list
		lines = append(lines, l)
	}
	bad(Line{Watch: gap}, check.Watch(truth, gap))
	bad(Line{List: l}, check.List(truth, l))
	found, _ := check.Twins(twins)
	bad(Line{Twins: twins}, found)
	bad(Line{}, []check.Violation{{Rule: check.Linearizable, What: "reads and writes of pod-0", Text: "no order", Key: pod(0), At: at(30.2)}})
	bad(Line{}, []check.Violation{{Rule: check.Died, What: "weir-a", Text: "panic: <&>"}})
	return append(lines, changes...)
}

func write(t *testing.T, lines []Line) string {
	path := filepath.Join(t.TempDir(), "history.jsonl")
	var b bytes.Buffer
	for _, l := range lines {
		data, err := json.Marshal(l)
		if err != nil {
			t.Fatal(err)
		}
		b.Write(append(data, '\n'))
	}
	b.WriteString(`{"watch":{"id":7`) // the run ended in the middle of a line
	if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// The page has all that a person has to see of each violation, and is well formed.
func TestDraw(t *testing.T) {
	var page bytes.Buffer
	if err := Draw(&page, write(t, lied(t)), "a run"); err != nil {
		t.Fatal(err)
	}
	text := page.String()
	for n, want := range []string{
		">kill<", ">pause<", ">compact<", // the faults, in words
		`class="down"`, `class="paused"`, // and as bars
		"5 records with violations",
		`<tr class="wrong"><td>130</td><td>03:04:20.000</td><td>n/pod-0, mark 1-15, side=right</td><td>MODIFIED</td><td>MISSING</td></tr>`,
		`<tr><td>128</td><td>03:04:19.000</td><td>n/pod-4, mark 1-14, side=left</td><td>MODIFIED</td><td>#9 MODIFIED</td></tr>`,
		`<tr class="wrong"><td>pods/n/pod-1</td><td>revision 132, mark 1-16</td><td>-</td></tr>`,
		"<td>4 others</td>",
		`<td>MODIFIED</td><td>#5 MODIFIED</td><td>#5 ADDED</td></tr>`,
		"PUT at a: 160", "GET at b: 150", // the reads and writes around the one that has no order
		"6 at b", // another watch of the scope
		"panic: &lt;&amp;&gt;",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%d: the page has no %s", n, want)
		}
	}
	d := xml.NewDecoder(&page)
	d.Strict, d.Entity = true, xml.HTMLEntity
	for {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatalf("the page is not well formed: %v", err)
		}
	}
}

// A long history is in several files, and what was found is in one of its own.
func TestDrawLong(t *testing.T) {
	lines := lied(t)
	var found []Line
	for _, l := range lines {
		if len(l.Violations) > 0 {
			found = append(found, l)
		}
	}
	path := write(t, lines[8:])
	for what, part := range map[string][]Line{Older: lines[:8], Found: found} {
		if err := os.Rename(write(t, part), Beside(path, what)); err != nil {
			t.Fatal(err)
		}
	}
	var short, long bytes.Buffer
	if err := errors.Join(Draw(&short, write(t, lines), "a run"), Draw(&long, path, "a run")); err != nil {
		t.Fatal(err)
	}
	if short.String() != long.String() {
		t.Error("it is drawn in another way than when it is in one file")
	}
}

// A history in which nothing happened has a page, too, and one that is none is refused.
func TestDrawLittle(t *testing.T) {
	var page bytes.Buffer
	if err := Draw(&page, write(t, nil), "nothing"); err != nil || !strings.Contains(page.String(), "0 records") {
		t.Errorf("%v: %s", err, page.String())
	}
	path := filepath.Join(t.TempDir(), "x")
	if err := os.WriteFile(path, []byte("{}\nno json\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Draw(io.Discard, path, "x"); err == nil || !strings.Contains(err.Error(), "line 2") {
		t.Errorf("a history that is none: %v", err)
	}
}
