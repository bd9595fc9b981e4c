// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package robustness

import (
	"context"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/weir-project/weir/test/servers"
)

func TestMain(m *testing.M) { servers.Main(m) }

// The environment says what is not to be as in the short run.
const (
	seedEnv     = "WEIR_SEED"     // a number
	durationEnv = "WEIR_DURATION" // of the load, such as 10m
	historyEnv  = "WEIR_HISTORY"  // how long events are kept, such as 75s
	membersEnv  = "WEIR_MEMBERS"  // of etcd
	herdEnv     = "WEIR_HERD"     // watches in each herd
)

func fromEnv[T any](t *testing.T, name string, otherwise T, parse func(string) (T, error)) T {
	t.Helper()
	given := os.Getenv(name)
	if given == "" {
		return otherwise
	}
	value, err := parse(given)
	if err != nil {
		t.Fatalf("%s=%s: %v", name, given, err)
	}
	return value
}

// config is that of the short run, but for what the environment says.
func config(t *testing.T) Config {
	t.Helper()
	parseSeed := func(s string) (uint64, error) { return strconv.ParseUint(s, 10, 64) }
	return Config{
		Seed:     fromEnv(t, seedEnv, rand.Uint64(), parseSeed),
		Duration: fromEnv(t, durationEnv, 45*time.Second, time.ParseDuration),
		History:  fromEnv(t, historyEnv, 18*time.Second, time.ParseDuration),
		Members:  fromEnv(t, membersEnv, 1, strconv.Atoi),
		Herd:     fromEnv(t, herdEnv, 240, strconv.Atoi),
	}
}

// runDir makes a directory for a run, which stays if the run fails, or is a soak.
func runDir(t *testing.T, c Config) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "weir-robustness-")
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%s=%d", seedEnv, c.Seed)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the history, the servers' logs and the seed are in %s; again with %s=%d", dir, seedEnv, c.Seed)
		} else if os.Getenv(soakEnv) == "" {
			if err := os.RemoveAll(dir); err != nil {
				t.Error(err)
			}
		}
	})
	if err := os.WriteFile(filepath.Join(dir, "seed"), strconv.AppendUint(nil, c.Seed, 10), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

// A seed makes the same faults, and every kind of them among the first.
func TestPlan(t *testing.T) {
	c := Config{Seed: 7, Duration: 10 * time.Minute}
	plan := c.faults()
	if !slices.Equal(plan, c.faults()) {
		t.Error("a seed makes two plans")
	}
	other := c
	other.Seed++
	if slices.Equal(plan, other.faults()) {
		t.Error("two seeds make one plan")
	}
	kinds := map[faultKind]bool{}
	for i, f := range plan {
		if kinds[f.kind] = true; i == 5 && len(kinds) != 6 {
			t.Errorf("the first six faults are %v", plan[:6])
		}
		if i > 0 && f.at < plan[i-1].at+plan[i-1].lasts {
			t.Errorf("%+v begins before %+v is over", f, plan[i-1])
		}
	}
}

// Two weirs over one etcd are written to and read from while faults happen, and nothing that they say is a lie. The short
// run has events kept for 18 s, in place of 75, so that they age in it.
func TestRobustness(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a minute")
	}
	c := config(t)
	dir := runDir(t, c)
	room := servers.RoomIn(t, dir)
	ctx, cancel := context.WithTimeout(t.Context(), c.Duration+5*time.Minute)
	defer cancel()
	run, err := Open(ctx, room, servers.ShortHistory(servers.Program(servers.Weir), c.History), c)
	if err != nil {
		t.Fatal(err)
	}
	err = run.Do(ctx)
	t.Log(run.Report())
	if err != nil {
		t.Error(err)
	}
	if err := run.Close(); err != nil {
		t.Error(err)
	}
}
