// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package robustness

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/weir-project/weir/internal/rig"
	"github.com/weir-project/weir/test/robustness/check"
	"github.com/weir-project/weir/test/robustness/history"
)

// asInformers, in the environment, makes the test binary a process with informers: see Child.
const asInformers = "WEIR_ROBUSTNESS_INFORMERS"

// informerEnv is what client-go reads at its start. Its connections are given up early when nothing comes: servers are paused.
func informerEnv(watchList bool) []string {
	return []string{
		asInformers + "=1", "KUBE_WATCHLIST_INCONSISTENCY_DETECTOR=true", "KUBE_CACHE_MUTATION_DETECTOR=false",
		fmt.Sprintf("KUBE_FEATURE_WatchListClient=%t", watchList),
		"HTTP2_READ_IDLE_TIMEOUT_SECONDS=4", "HTTP2_PING_TIMEOUT_SECONDS=3",
	}
}

// informerSpecs are those of each child: each in either format, at each server and at both, and some that begin again and again.
func informerSpecs() []informerSpec {
	all := func(resource string) history.Scope { return history.Scope{Resource: resource} }
	return []informerSpec{
		{Scope: all(pods), Format: string(inProtobuf), Server: -1},
		{Scope: all(configMaps), Format: string(inJSON), Server: -1, Brief: 4 * time.Second},
		{Scope: all(configMaps), Format: string(inProtobuf), Server: 0, Brief: 2 * time.Second},
		{Scope: all(pods), Format: string(inJSON), Server: 1, Brief: 3 * time.Second},
		{Scope: history.Scope{Resource: pods, Node: node(0)}, Format: string(inJSON), Server: -1},
		{Scope: history.Scope{Resource: configMaps, Namespace: namespace(0), LabelKey: side, LabelValue: sides[0]}, Format: string(inProtobuf), Server: 1},
	}
}

// informing is a child with informers.
type informing struct {
	*rig.Process
	specs []informerSpec
	in    io.WriteCloser
	out   *json.Decoder
	last  []informerReport
}

// inform starts the children with informers: one that uses watch lists and one that lists and watches.
func (r *Run) inform(room *rig.Room) error {
	for _, watchList := range []bool{true, false} {
		c := &informing{specs: informerSpecs()}
		job := informerJob{Informers: c.specs}
		for _, s := range r.servers {
			job.Servers = append(job.Servers, s.behind.Access)
		}
		name := fmt.Sprintf("informers-watchlist-%t", watchList)
		self := room.Self()
		self.Env = informerEnv(watchList)
		var out io.Reader
		var err error
		c.Process, err = rig.Start(name, filepath.Join(room.Dir(), "logs", name+".log"), func() (*exec.Cmd, error) {
			cmd := self.Command()
			stdin, inErr := cmd.StdinPipe()
			stdout, outErr := cmd.StdoutPipe()
			c.in, out = stdin, stdout
			return cmd, errors.Join(inErr, outErr)
		})
		if err != nil {
			return err
		}
		r.informers = append(r.informers, c)
		c.out = json.NewDecoder(out)
		if err := json.NewEncoder(c.in).Encode(job); err != nil {
			return fmt.Errorf("tell %s what to do: %w%s", name, err, c.LogEnd())
		}
	}
	return nil
}

// ask has the child tell what its informers hold.
func (c *informing) ask() error {
	var reports []informerReport
	_, err := io.WriteString(c.in, "report\n")
	if err == nil {
		err = c.out.Decode(&reports)
	}
	if err != nil {
		return fmt.Errorf("ask %s what they hold: %w%s", c.Name(), err, c.LogEnd())
	}
	c.last = reports
	return nil
}

// informersAgree checks, when all is at rest, that informers hold the truth, or come to it, and that no child has died: it
// does where client-go finds a watch list and a list to differ.
func (r *Run) informersAgree(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, duePatience)
	defer cancel()
	var failures []error
	for _, c := range r.informers {
		var lines []line
		for again := true; again; {
			if err := c.ask(); err != nil {
				if died := c.Died(); died != nil {
					l := line{Violations: []check.Violation{{Rule: check.Died, What: c.Name(), Text: died.Error() + panicked(c.Log())}}}
					r.found.add(l.Violations)
					r.record.write(l)
				}
				failures = append(failures, err)
				break
			}
			lines, again = nil, false
			for i, report := range c.last {
				l := line{List: report.list(c.Name(), i, c.specs[i], r.truth.Head())}
				if !report.Synced {
					l.Violations = []check.Violation{{Rule: check.Missing, What: l.List.Server, Text: "it has not synced"}}
				} else {
					l.Violations = check.List(r.truth, l.List)
				}
				again = again || len(l.Violations) > 0
				for _, back := range report.Back {
					l.Violations = append(l.Violations, check.Violation{Rule: check.Order, What: l.List.Server, Text: back})
				}
				lines = append(lines, l)
			}
			again = again && ctx.Err() == nil
			if again {
				wait(ctx, 100*time.Millisecond)
			}
		}
		for i, l := range lines {
			r.stats.informers.Add(c.last[i].Begun)
			r.stats.informed.Add(c.last[i].Events)
			r.stats.detected.Add(c.last[i].Compared)
			r.found.add(l.Violations)
			r.record.write(l)
		}
	}
	return errors.Join(failures...)
}

// panicked is what a log says about the first panic, with what comes before it: client-go's comparison tells the difference.
func panicked(log string) string {
	found, err := complaints(log)
	if err != nil || len(found) == 0 {
		return rig.LogEnd(log)
	}
	return "; its log: " + found[0]
}

// list is what an informer holds, as a list of the state that there is in the end.
func (r *informerReport) list(child string, i int, spec informerSpec, head int64) *history.List {
	return &history.List{
		Server: fmt.Sprintf("%s, informer %d (%s, server %d)", child, i, spec.Format, spec.Server), Scope: spec.Scope, Format: spec.Format,
		Mode: history.Any, Revisions: []int64{head}, Items: r.Items, Opened: time.Now(),
	}
}

// stopInformers ends the children. A child that died before was found.
func (r *Run) stopInformers() error {
	var failures []error
	for _, c := range r.informers {
		_ = c.in.Close() // an error says that it has ended
		timer := time.NewTimer(duePatience)
		select {
		case <-c.Done():
		case <-timer.C:
			failures = append(failures, c.Stop(0))
		}
		timer.Stop()
	}
	return errors.Join(failures...)
}
