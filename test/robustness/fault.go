// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package robustness

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/weir-project/weir/internal/rig"
	"github.com/weir-project/weir/test/robustness/history"
)

const (
	// leastCalm is between the end of a fault and the next, also where one has taken longer than planned.
	leastCalm = time.Second
	// healing is how long the servers may take to be as before once a fault is over.
	healing = 2 * time.Minute
	// biting is how long a fault may take until what it is to do has happened.
	biting = 30 * time.Second
	// silence is for how long nothing has to come from what is cut off or paused, for that to be told from what is not.
	silence = 500 * time.Millisecond
)

// errNothing says that a fault has not done what it is there to do: the run has then not been through it.
var errNothing = errors.New("this fault did nothing")

// outcome is what became of the faults of one kind.
type outcome struct {
	done, survived int
	took           time.Duration // until all was well again
}

// faults does what the plan says. It returns when all is healed and ready. A fault is survived when it has done what it is
// to do, and all processes are there afterwards and answer.
func (r *Run) faults(ctx context.Context, begun time.Time) {
	r.outcomes = map[faultKind]outcome{}
	for _, f := range r.config.faults() {
		if r.skipped[f.kind] != "" {
			continue
		}
		wait(ctx, max(leastCalm, time.Until(begun.Add(f.at))))
		if ctx.Err() != nil {
			return
		}
		done := history.Fault{Kind: string(f.kind), Begin: time.Now()}
		over := r.excuses.begin(f)
		at, err := "", r.revive(context.WithoutCancel(ctx))
		if err == nil {
			at, err = r.fault(ctx, f)
		}
		done.Server = at
		if err == nil {
			err = r.well(context.WithoutCancel(ctx), f)
		}
		over()
		done.End = time.Now()
		o := r.outcomes[f.kind]
		o.done++
		o.took += done.End.Sub(done.Begin)
		if err == nil {
			o.survived++
		} else {
			r.fail(fmt.Errorf("fault %s at %s, %v after the load began: %w", f.kind, at, done.Begin.Sub(begun).Round(time.Millisecond), err))
		}
		r.outcomes[f.kind] = o
		r.stats.faults.Add(1)
		r.record.write(line{Fault: &done})
	}
}

// fault makes one and heals it, also when the run is at its end meanwhile. It tells what it was done to.
func (r *Run) fault(ctx context.Context, f fault) (at string, err error) {
	s := r.servers[f.server]
	switch f.kind {
	case faultCut, faultDelay, faultThrottle, faultHalfOpen, faultStall:
		return s.name, r.readersLink(ctx, f, s)
	case faultEtcdCut, faultEtcdDelay, faultEtcdThrottle, faultEtcdHalfOpen, faultEtcdStall:
		return r.etcdLinks(ctx, f, s)
	case faultKill, faultPause, faultMemory:
		return s.name, r.weirProcess(ctx, f, s)
	case faultMemberKill, faultMemberPause, faultMemberPart, faultDefragment:
		m := r.cluster.Members[f.member]
		return m.Name(), r.member(ctx, f, m)
	case faultLeaderKill, faultLeaderPause, faultLeaderPart:
		m, err := r.cluster.Leader(ctx)
		if err != nil {
			return "the leader", err
		}
		return m.Name(), r.leader(ctx, f, m)
	case faultNoQuorum:
		return "etcd", r.noQuorum(ctx, f)
	case faultNoSpace:
		return "etcd", r.noSpace(ctx, f)
	case faultCompact:
		return "etcd", r.compact(ctx, f)
	case faultUnreadable:
		return brokenKey(f), r.unreadable(ctx, f)
	case faultWebhook:
		return "webhook", r.webhook(ctx, f)
	default:
		wait(ctx, f.lasts)
		return "", nil
	}
}

// revive starts a weir again that was not ready in time after an earlier fault, and has given up since.
func (r *Run) revive(ctx context.Context) error {
	for _, s := range r.servers {
		again, err := s.gaveUp()
		if err == nil && again {
			s.again.Add(1)
			err = s.restart(ctx)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// well waits until everybody answers as before, after a fault.
func (r *Run) well(ctx context.Context, f fault) error {
	if err := r.revive(ctx); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, healing)
	defer cancel()
	paths := []string{"/api/v1/" + pods, "/api/v1/" + configMaps}
	if f.kind == faultWebhook {
		paths = append(paths, collection(gadgets, "", ""))
	}
	for _, s := range r.servers {
		for _, path := range paths {
			err := until(ctx, "a list of "+path+" at "+s.name, func(ctx context.Context) error {
				_, err := s.rig.Get(ctx, path)
				return err
			})
			if err != nil {
				return errors.Join(err, r.died())
			}
		}
	}
	return r.died()
}

// until asks until there is no error. Each time it has a few seconds: what is asked may be paused.
func until(ctx context.Context, what string, holds func(context.Context) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	begun := time.Now()
	var last error
	for {
		ask, done := context.WithTimeout(ctx, 3*time.Second)
		err := holds(ask)
		done()
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("%s: not after %v: %w", what, time.Since(begun).Round(time.Second), errors.Join(last, err))
		}
		last = err
		wait(ctx, 50*time.Millisecond)
	}
}

// bites is until for what a fault has to do.
func bites(ctx context.Context, what string, holds func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), biting)
	defer cancel()
	if err := until(ctx, what, holds); err != nil {
		return fmt.Errorf("%w: %w", errNothing, err)
	}
	return nil
}

// silent holds that nothing is answered for a moment.
func silent(ctx context.Context, ask func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), silence)
	defer cancel()
	begun := time.Now()
	switch err := ask(ctx); {
	case err == nil:
		return fmt.Errorf("%w: there is an answer", errNothing)
	case time.Since(begun) < silence*3/4: // an etcd that is told of the deadline may speak a little before it
		return fmt.Errorf("%w: it is not silent: %w", errNothing, err)
	}
	return nil
}

// alive asks a server, over a connection of its own, for what needs nothing else.
func alive(s *rig.Server) func(context.Context) error {
	return func(ctx context.Context) error {
		_, _, err := answer(ctx, s, http.MethodGet, "/livez/ping", nil)
		return err
	}
}

// answer makes a request in JSON, over a connection of its own, and reads the whole answer. Every status is one.
func answer(ctx context.Context, s *rig.Server, method, path string, body any) (status int, data []byte, err error) {
	client, base, err := s.HTTPClient("robustness")
	if err != nil {
		return 0, nil, err
	}
	defer client.CloseIdleConnections()
	sent, err := json.Marshal(body)
	if err != nil {
		return 0, nil, err
	}
	req, err := http.NewRequestWithContext(ctx, method, base+path, bytes.NewReader(sent))
	if err != nil {
		return 0, nil, err
	}
	s.Authorize(req)
	req.Header.Set("Content-Type", "application/json")
	if method == http.MethodPatch {
		req.Header.Set("Content-Type", "application/merge-patch+json")
	}
	resp, err := client.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	data, err = io.ReadAll(resp.Body)
	return resp.StatusCode, data, err
}

// wants is an error where an answer has another status.
func wants(want int, what string) func(status int, data []byte, err error) error {
	return func(status int, data []byte, err error) error {
		if err == nil && status != want {
			err = fmt.Errorf("%s: %d in place of %d: %s", what, status, want, rig.FirstLine(data))
		}
		return err
	}
}

// faultReport says how many faults there were of each kind, how many of them were survived, and which were left out.
func (r *Run) faultReport() string {
	var b strings.Builder
	var all outcome
	for _, k := range slices.Sorted(maps.Keys(r.outcomes)) {
		o := r.outcomes[k]
		fmt.Fprintf(&b, "fault %s: %d, of which %d were survived, in %v each\n", k, o.done, o.survived, (o.took / time.Duration(o.done)).Round(100*time.Millisecond))
		all.done += o.done
		all.survived += o.survived
	}
	fmt.Fprintf(&b, "all faults: %d, of which %d were survived\n", all.done, all.survived)
	for _, s := range r.servers {
		if n := s.again.Load(); n > 0 {
			fmt.Fprintf(&b, "%s was started again %d times, because it gave up at its start: requests of its own took too long\n", s.rig.Name(), n)
		}
	}
	for _, k := range slices.Sorted(maps.Keys(r.skipped)) {
		fmt.Fprintf(&b, "fault %s: left out: it %s\n", k, r.skipped[k])
	}
	return b.String()
}
