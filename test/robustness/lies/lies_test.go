// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package lies

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weir-project/weir/test/robustness"
	"github.com/weir-project/weir/test/robustness/check"
	"github.com/weir-project/weir/test/servers"
)

func TestMain(m *testing.M) {
	robustness.Child()
	servers.Main(m)
}

const internal = "../../../internal"

// liesEnv says which lies TestLies tells: all, or names with commas between.
const liesEnv = "WEIR_LIES"

// The texts that lies are planted at are in weir's sources, once each, and every lie can be told and found.
func TestTable(t *testing.T) {
	all := All()
	if _, err := Plant(internal, t.TempDir(), all); err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for _, l := range all {
		if names[l.Name] {
			t.Errorf("two lies are called %s", l.Name)
		}
		names[l.Name] = true
		told := false
		for _, e := range l.Edits {
			told = told || chance.MatchString(e.Put)
		}
		if l.What == "" || len(l.Rules) == 0 || l.Within == 0 || !told {
			t.Errorf("lie %s is never told, or nothing says what it is and what has to find it", l.Name)
		}
	}
}

// A text that is not there, or twice, or that two lies want, is refused.
func TestPlantRefuses(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "a.go"), []byte("package a\n\nvar one, two, two2 = 1, 2, 2\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	lie := func(edits ...Edit) []Lie { return []Lie{{Name: "lie", Edits: edits}} }
	for want, all := range map[string][]Lie{
		"0 times": lie(Edit{"a.go", "three", "3"}),
		"2 times": lie(Edit{"a.go", "two", "three"}),
		"overlap": lie(Edit{"a.go", "one, ", "one, "}, Edit{"a.go", ", two,", ", two,"}),
		"a.go":    lie(Edit{"a.go", "var ", "var var "}),
		"no such": lie(Edit{"b.go", "one", "1"}),
	} {
		if _, err := Plant(dir, t.TempDir(), all); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, not %s", all, err, want)
		}
	}
	if _, err := Plant(dir, t.TempDir(), lie(Edit{"a.go", "one", "first"})); err != nil {
		t.Error(err)
	}
}

// program builds one that has all lies in it.
func program(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	overlay, err := Plant(internal, dir, All())
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "weir-that-lies")
	cmd := exec.CommandContext(t.Context(), "go", "test", "-c", "-ldflags=-s -w", "-overlay="+overlay, "-o", path, ".")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build weir with lies: %v\n%s", err, out)
	}
	return path
}

// result is what came of a lie.
type result struct {
	lie   Lie
	found []check.Violation // of the first record that had any
	after time.Duration
	err   error
}

func (r result) String() string {
	rules := []string{}
	for _, v := range r.found {
		if !slices.Contains(rules, string(v.Rule)) {
			rules = append(rules, string(v.Rule))
		}
	}
	after := "not found"
	if len(rules) > 0 {
		after = fmt.Sprintf("%.1f s", r.after.Seconds())
	}
	return fmt.Sprintf("| %s | %s | %s | %s |", r.lie.Name, r.lie.What, strings.Join(rules, ", "), after)
}

// tell runs a weir that tells the lie, until it is found or Within is over.
func tell(t *testing.T, path string, l Lie, seed uint64) result {
	t.Helper()
	const history = 18 * time.Second
	c := robustness.Config{
		Seed: seed, Duration: l.Within, History: history, Herd: cmp.Or(l.Herd, usualHerd), NoFaults: !l.Faults, StopAtFirst: true,
	}
	dir, err := os.MkdirTemp("", "weir-lie-")
	if err != nil {
		t.Fatal(err)
	}
	room := servers.RoomIn(t, dir)
	ctx, cancel := context.WithTimeout(t.Context(), c.Duration+3*time.Minute)
	defer cancel()
	weir := servers.ShortHistory(servers.Program(servers.Weir), history)
	if len(l.Edits) == 0 {
		weir = servers.Checked(weir, 10*time.Second) // a run that is to be honest has to have it; others are not to be found by it
	}
	weir.Path = path
	weir.Env = append(weir.Env, Env+"="+l.Name)
	run, err := robustness.Open(ctx, room, weir, c)
	if err != nil {
		t.Fatalf("%s: %v", l.Name, err)
	}
	r := result{lie: l, err: run.Do(ctx)}
	r.found, r.after = run.First()
	if err := run.Close(); err != nil {
		t.Error(err)
	}
	if err := room.Close(); err != nil {
		t.Logf("%s: %v", l.Name, err) // a lie may have ended it
	}
	if len(l.Edits) == 0 { // it is honest
		if r.err != nil {
			t.Errorf("nothing is told, and this was found; the history is in %s\n%s\n%v", dir, run.Report(), r.err)
		}
		return r
	}
	rule := slices.ContainsFunc(r.found, func(v check.Violation) bool { return slices.Contains(l.Rules, v.Rule) })
	if rule {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
		return r
	}
	t.Errorf("%s: not found by any of %v within %v; the history is in %s\n%s\n%v", l.Name, l.Rules, l.Within, dir, run.Report(), r.err)
	return r
}

// Some lies that are found quickly, so that every run of the tests shows that something is found at all.
func TestQuickLies(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a minute")
	}
	path := program(t)
	for _, l := range All() {
		if slices.Contains([]string{"event-skipped", "DELETED-with-new-content"}, l.Name) {
			t.Log(tell(t, path, l, rand.Uint64()))
		}
	}
}

// All lies, or those that are named, one after the other.
func TestLies(t *testing.T) {
	asked := os.Getenv(liesEnv)
	if asked == "" {
		t.Skipf("takes a minute for each; set %s to all, or to names with commas between", liesEnv)
	}
	path := program(t)
	var all []result
	// Without a lie the same program, with the same load, has nothing that could be found.
	honest := Lie{Name: "none", What: "tells no lie", Within: later}
	for _, l := range append(All(), honest) {
		if asked != "all" && !slices.Contains(strings.Split(asked, ","), l.Name) {
			continue
		}
		t.Run(l.Name, func(t *testing.T) {
			r := tell(t, path, l, rand.Uint64())
			all = append(all, r)
			t.Logf("%v\n%v", r, r.found)
		})
	}
	var b strings.Builder
	for _, r := range all {
		fmt.Fprintln(&b, r)
	}
	t.Logf("\n| lie | what it does | found by | after |\n|---|---|---|---|\n%s", b.String())
}
