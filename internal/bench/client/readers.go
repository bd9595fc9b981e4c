// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package client

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"github.com/weir-project/weir/internal/bench/view"
	"github.com/weir-project/weir/internal/rig"
)

// Job tells the reader child what to open. It is the first line of the child's input; "go" follows as a second
// line (any JSON value) when the phase begins; the end of the input ends the child.
type Job struct {
	Access rig.Access `json:"access"`

	Paths         []string `json:"paths"` // stream i asks for Paths[i % len(Paths)], query included
	Format        Format   `json:"format"`
	Streams       int      `json:"streams"`
	PerConnection int      `json:"perConnection"` // streams that share one HTTP/2 connection

	// Gzip asks for compressed responses; those that are not are read all the same, and told of.
	Gzip bool `json:"gzip,omitempty"`

	// Until says when a stream is through.
	Until Until `json:"until"`
	// Expect is the number of initial objects (UntilSynced), of live events (UntilCount) or of list items (UntilBody) that
	// every stream must see.
	Expect int64 `json:"expect"`
	// Repeat is how often each stream asks and reads to the end, one time after the other (UntilSynced, UntilBody); 0 for once.
	Repeat int `json:"repeat,omitempty"`
	// AtOnce is how many streams may be on their way to being open at the same time; 0 for all.
	AtOnce int `json:"atOnce,omitempty"`
	// Initial says that the streams are watch lists, which count as open when their initial events have ended; those count
	// nowhere else (UntilCount).
	Initial bool `json:"initial,omitempty"`
	// Insist has a stream try again, each second, when nobody listens or the server answers with an error: the server is
	// about to start.
	Insist bool `json:"insist,omitempty"`
}

// Until says when a stream is through.
type Until string

const (
	// UntilSynced is until the bookmark that ends the initial events.
	UntilSynced Until = "synced"
	// UntilCount is until Expect live events, each with a higher resourceVersion than the one before. The child says "open"
	// when all streams are answered.
	UntilCount Until = "count"
	// UntilBody is until the end of the response, which is a list, not a watch.
	UntilBody Until = "body"
	// UntilEnd is until the end of the child's input. The child says "open" when all streams are answered.
	UntilEnd Until = "end"
)

// Report is what a child says.
type Report struct {
	Stage Stage `json:"stage"`

	// Of stage progress:
	Progress view.Counts `json:"progress"`

	// Of stage done:
	Bytes      int64 `json:"bytes"`      // of response bodies as they came, compressed or not, all streams; of informers, all on the wire
	Plain      int64 `json:"plain"`      // of response bodies once they are inflated; 0 for informers
	Responses  int64 `json:"responses"`  // of status 200
	Compressed int64 `json:"compressed"` // of those, with Content-Encoding gzip
	Members    int64 `json:"members"`    // gzip members in the latter; 0 for informers
	Events     int64 `json:"events"`     // without bookmarks, all streams
	Retries    int64 `json:"retries"`    // requests and watches that the server refused for the time being
	// Reconnects view.Counts watches that the server closed before their end, and that went on from where they were.
	Reconnects int64     `json:"reconnects"`
	Failed     int       `json:"failed"`           // streams that did not end as they should
	Errors     []string  `json:"errors,omitempty"` // of some of them
	Seconds    []float64 `json:"seconds"`          // per stream that did: from "go" to its end
}

// Stage is how far a child is.
type Stage string

// The stages.
const (
	StageReady Stage = "ready" // the job is understood
	StageOpen  Stage = "open"  // all streams are answered (UntilCount, UntilEnd)
	StageDone  Stage = "done"
	// StageProgress comes unasked, again and again, between "go" and "done".
	StageProgress Stage = "progress"
)

// progressEvery is the distance of two reports of progress.
const progressEvery = 500 * time.Millisecond

// reporter writes reports, one at a time. It is safe for concurrent use.
type reporter struct {
	mu  sync.Mutex
	out *json.Encoder
}

func (r *reporter) report(report Report) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.out.Encode(report)
}

// progress reports what now gives, until the returned function is called.
func (r *reporter) progress(now func() view.Counts) (end func()) {
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		tick := time.NewTicker(progressEvery)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				_ = r.report(Report{Stage: StageProgress, Progress: now()}) // whoever has stopped reading will be noticed later
			case <-stop:
				return
			}
		}
	}()
	return func() {
		close(stop)
		<-stopped
	}
}

// newReadersCommand is the hidden subcommand that the reader child runs.
func newReadersCommand() *cobra.Command {
	return newClientCommand(readersSubcommand, serveReaders)
}

// newClientCommand is a hidden subcommand that takes a job from its standard input and
// reports on its standard output.
func newClientCommand(name string, serve func(context.Context, io.Reader, io.Writer) error) *cobra.Command {
	return &cobra.Command{
		Use:    name,
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return serve(cmd.Context(), cmd.InOrStdin(), cmd.OutOrStdout())
		},
	}
}

func serveReaders(ctx context.Context, stdin io.Reader, stdout io.Writer) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	in, out := json.NewDecoder(bufio.NewReader(stdin)), &reporter{out: json.NewEncoder(stdout)}
	var job Job
	if err := in.Decode(&job); err != nil {
		return fmt.Errorf("read the job: %w", err)
	}
	if job.Streams < 1 || job.PerConnection < 1 || len(job.Paths) == 0 {
		return fmt.Errorf("job of %d streams, %d per connection, %d paths: each must be at least 1", job.Streams, job.PerConnection, len(job.Paths))
	}
	run := &readerRun{job: job}
	if err := run.prepare(); err != nil {
		return err
	}
	if err := out.report(Report{Stage: StageReady}); err != nil {
		return err
	}
	var start json.RawMessage
	if err := in.Decode(&start); err != nil {
		return fmt.Errorf("wait for the start: %w", err)
	}
	ended := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, stdin)
		close(ended)
		cancel()
	}()
	endProgress := out.progress(run.progress)
	opened := func() { _ = out.report(Report{Stage: StageOpen}) }
	if job.Until == UntilSynced || job.Until == UntilBody {
		opened = nil
	}
	report := run.drain(ctx, opened)
	endProgress()
	return out.report(report)
}

// readerRun is a job under way.
type readerRun struct {
	job     Job
	clients []*http.Client // one per connection
	base    string         // what paths are relative to

	bytes, plain                   atomic.Int64 // of bodies: as they came, and inflated
	responses, compressed, members atomic.Int64 // members are gzip's
	events, retries, reconnects    atomic.Int64
	opened, ended                  atomic.Int64 // streams

	mu     sync.Mutex
	report Report
}

// progress is how far the streams are towards what the job says is through.
func (r *readerRun) progress() view.Counts {
	c := view.Counts{Bytes: r.bytes.Load(), Events: r.events.Load(), Total: int64(r.job.Streams)}
	switch r.job.Until {
	case UntilEnd:
		c.Done, c.Unit = r.opened.Load(), "open"
	case UntilCount:
		c.Done, c.Total, c.Unit = c.Events, c.Total*r.job.Expect, "events"
	default:
		c.Done, c.Unit = r.ended.Load(), "synced"
	}
	return c
}

func (r *readerRun) prepare() error {
	for n := 0; n < r.job.Streams; n += r.job.PerConnection {
		client, base, err := r.job.Access.HTTPClient(readerAgent)
		if err != nil {
			return err
		}
		r.base = base
		r.clients = append(r.clients, client)
	}
	return nil
}

// drain runs all streams to their end. opened, when not nil, is called once, as soon as every stream is answered.
func (r *readerRun) drain(ctx context.Context, opened func()) Report {
	began := time.Now()
	var open, all sync.WaitGroup
	open.Add(r.job.Streams)
	opening := make(chan struct{}, cmp.Or(r.job.AtOnce, r.job.Streams))
	// The first stream of a connection goes ahead: otherwise every stream would dial, and all but one connection be
	// thrown away.
	for c, client := range r.clients {
		first := make(chan struct{})
		firstOnce := sync.OnceFunc(func() { close(first) })
		for i := c * r.job.PerConnection; i < min((c+1)*r.job.PerConnection, r.job.Streams); i++ {
			leads := i == c*r.job.PerConnection
			all.Go(func() {
				if !leads {
					<-first
				}
				opening <- struct{}{}
				answered := sync.OnceFunc(func() {
					if leads {
						firstOnce()
					}
					<-opening
					r.opened.Add(1)
					open.Done()
				})
				one := &stream{readerRun: r, client: client, path: r.job.Paths[i%len(r.job.Paths)], answered: answered}
				err := one.read(ctx)
				answered()
				r.note(i, time.Since(began), err)
			})
		}
	}
	if opened != nil {
		open.Wait()
		opened()
	}
	all.Wait()
	r.report.Stage = StageDone
	r.report.Bytes, r.report.Events, r.report.Retries = r.bytes.Load(), r.events.Load(), r.retries.Load()
	r.report.Plain, r.report.Responses = r.plain.Load(), r.responses.Load()
	r.report.Compressed, r.report.Members = r.compressed.Load(), r.members.Load()
	r.report.Reconnects = r.reconnects.Load()
	return r.report
}

func (r *readerRun) note(stream int, took time.Duration, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ended.Add(1)
	if err == nil {
		r.report.Seconds = append(r.report.Seconds, took.Seconds())
		return
	}
	r.report.Failed++
	if len(r.report.Errors) < 5 {
		r.report.Errors = append(r.report.Errors, fmt.Sprintf("stream %d, after %.1f s: %v", stream, took.Seconds(), err))
	}
}
