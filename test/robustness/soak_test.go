// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package robustness

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/weir-project/weir/test/robustness/soak"
	"github.com/weir-project/weir/test/servers"
)

// soakEnv is how long the soak lasts, such as 2h. Without it there is none.
const soakEnv = "WEIR_SOAK"

// What two weirs use does not grow while the load stays the same: that of a robustness run without faults, in which objects,
// watches and lists come and go all the time. The curve is left in the run's directory, beside the numbers.
func TestSoak(t *testing.T) {
	lasts := fromEnv(t, soakEnv, 0, time.ParseDuration)
	if lasts == 0 {
		t.Skipf("takes hours; %s=2h runs it", soakEnv)
	}
	c := config(t)
	c.Duration, c.NoFaults = lasts, true
	dir := runDir(t, c)
	room := servers.RoomIn(t, dir)
	ctx, cancel := context.WithTimeout(t.Context(), c.Duration+10*time.Minute)
	defer cancel()
	run, err := Open(ctx, room, servers.ShortHistory(servers.Program(servers.Weir), c.History), c)
	if err != nil {
		t.Fatal(err)
	}
	sampler := soak.Sampler{Every: max(lasts/480, time.Second), CollectEvery: 20}
	for _, s := range run.servers {
		sampler.Servers = append(sampler.Servers, s.rig)
	}
	samples, err := sampled(ctx, &sampler, run)
	t.Log(run.Report())
	if err != nil {
		t.Error(err)
	}
	for name, write := range map[string]func(*os.File) error{
		"soak.csv": func(f *os.File) error { return soak.WriteCSV(f, samples) },
		"soak.svg": func(f *os.File) error { return soak.Draw(f, samples) },
	} {
		f, err := os.Create(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(write(f), f.Close()); err != nil {
			t.Error(err)
		}
	}
	rows, err := soak.Judge(samples)
	if err != nil {
		t.Error(err)
	}
	t.Log("medians of the second and of the last quarter:")
	for _, r := range rows {
		t.Log(r)
		if r.Grown {
			t.Errorf("%s of %s has grown", r.Measure, r.Server)
		}
	}
	t.Logf("the curve and the samples are in %s", dir)
	if err := run.Close(); err != nil {
		t.Error(err)
	}
}

// sampled does the run, and samples while its load lasts.
func sampled(ctx context.Context, sampler *soak.Sampler, run *Run) ([]soak.Sample, error) {
	type outcome struct {
		samples []soak.Sample
		err     error
	}
	lasting, stop := context.WithTimeout(ctx, run.config.Duration)
	defer stop()
	done := make(chan outcome, 1)
	go func() {
		samples, err := sampler.Run(lasting)
		done <- outcome{samples, err}
	}()
	err := run.Do(ctx)
	stop()
	o := <-done
	return o.samples, errors.Join(err, o.err)
}
