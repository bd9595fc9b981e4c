// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package robustness

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/weir-project/weir/test/servers"
)

func TestMain(m *testing.M) {
	Child()
	servers.Main(m)
}

// The environment says what is not to be as in the short run.
const (
	seedEnv     = "WEIR_SEED"     // a number
	durationEnv = "WEIR_DURATION" // of the load, such as 10m
	historyEnv  = "WEIR_HISTORY"  // how long events are kept, such as 75s
	membersEnv  = "WEIR_MEMBERS"  // of etcd
	herdEnv     = "WEIR_HERD"     // watches in each herd
	writesEnv   = "WEIR_WRITES"   // a second
	faultsEnv   = "WEIR_FAULTS"   // the only kinds of them, such as kill,etcd-cut
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
		Duration: fromEnv(t, durationEnv, 2*time.Minute, time.ParseDuration),
		History:  fromEnv(t, historyEnv, 18*time.Second, time.ParseDuration),
		Members:  fromEnv(t, membersEnv, 1, strconv.Atoi),
		Herd:     fromEnv(t, herdEnv, 240, strconv.Atoi),
		Writes:   fromEnv(t, writesEnv, fullWrites, strconv.Atoi),
		Faults:   fromEnv(t, faultsEnv, nil, parseFaults),
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

// A seed makes the same faults. Each kind comes once before any comes again, but for those that are seldom, and those that
// need several members come only where there are.
func TestPlan(t *testing.T) {
	for members, kinds := range map[int]int{1: len(often) - 5, 3: len(often)} {
		c := Config{Seed: 7, Duration: time.Hour, Members: members}
		plan := c.faults()
		if !slices.Equal(plan, c.faults()) {
			t.Error("a seed makes two plans")
		}
		other := c
		other.Seed++
		if slices.Equal(plan, other.faults()) {
			t.Error("two seeds make one plan")
		}
		if len(plan) < 360 {
			t.Errorf("%d faults in an hour: one in ten seconds is wanted", len(plan))
		}
		round, few := map[faultKind]bool{}, map[faultKind]int{}
		last := -c.Duration
		for i, f := range plan {
			if i > 0 && f.at < plan[i-1].at+plan[i-1].lasts {
				t.Errorf("%+v begins before %+v is over", f, plan[i-1])
			}
			if f.member >= members || f.kind.needsSeveral() && members == 1 {
				t.Errorf("%+v with %d members", f, members)
			}
			if slices.Contains(seldom, f.kind) {
				if few[f.kind]++; f.at-last < 2*c.history() {
					t.Errorf("%+v is %v after another that is seldom", f, f.at-last)
				}
				last = f.at
				continue
			}
			if round[f.kind] {
				t.Errorf("%+v comes again before all others", f)
			}
			if round[f.kind] = true; len(round) == kinds {
				clear(round)
			}
		}
		for _, k := range seldom {
			if few[k] < 4 {
				t.Errorf("%d times %s in an hour", few[k], k)
			}
		}
	}
}

func parseFaults(s string) ([]string, error) {
	list := strings.Split(s, ",")
	for _, k := range list {
		if !slices.Contains(slices.Concat(often, seldom), faultKind(k)) {
			return nil, fmt.Errorf("there is no fault %q, only %v and %v", k, often, seldom)
		}
	}
	return list, nil
}

// Two weirs over one etcd are written to and read from while faults happen, and nothing that they say is a lie. The short
// run has events kept for 18 s, in place of 75, so that they age in it.
func TestRobustness(t *testing.T) {
	if testing.Short() {
		t.Skip("takes three minutes")
	}
	c := config(t)
	dir := runDir(t, c)
	room := servers.RoomIn(t, dir)
	ctx, cancel := context.WithTimeout(t.Context(), c.Duration+5*time.Minute)
	defer cancel()
	run, err := Open(ctx, room, servers.Checked(servers.ShortHistory(servers.Program(servers.Weir), c.History), checkEvery), c)
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

// A server's complaint is found in its log, with what it says about it.
func TestComplaints(t *testing.T) {
	log := filepath.Join(t.TempDir(), "log")
	said := "I1125 all is well\nE1125 checker.go:96] \"Cache consistency check failed\" resource=\"pods\"\npanic: Cache\n\ngoroutine 1\nmain\n"
	if err := os.WriteFile(log, []byte(said), 0o600); err != nil {
		t.Fatal(err)
	}
	found, err := complaints(log)
	if err != nil || len(found) != 2 || !strings.Contains(found[1], "goroutine 1") {
		t.Errorf("found %q, %v", found, err)
	}
}
