// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"
)

// readerJob tells the reader child what to open. It is the first line of the child's input; "go" follows as a second
// line (any JSON value) when the phase begins; the end of the input ends the child.
type readerJob struct {
	URL   string `json:"url"` // scheme and host of the server
	CA    []byte `json:"ca"`  // PEM
	Token string `json:"token"`

	Paths         []string `json:"paths"` // stream i asks for Paths[i % len(Paths)], query included
	Format        format   `json:"format"`
	Streams       int      `json:"streams"`
	PerConnection int      `json:"perConnection"` // streams that share one HTTP/2 connection

	// Until says when a stream is through.
	Until readUntil `json:"until"`
	// Expect is the number of initial objects (untilSynced), of live events (untilCount) or of list items (untilBody) that
	// every stream must see.
	Expect int64 `json:"expect"`
	// AtOnce is how many streams may be on their way to being open at the same time; 0 for all.
	AtOnce int `json:"atOnce,omitempty"`
	// Initial says that the streams are watch lists, which count as open when their initial events have ended.
	Initial bool `json:"initial,omitempty"`
	// Insist has a stream try again, each second, when nobody listens or the server answers with an error: the server is
	// about to start.
	Insist bool `json:"insist,omitempty"`
}

type readUntil string

const (
	// untilSynced: the bookmark that ends the initial events.
	untilSynced readUntil = "synced"
	// untilCount: Expect live events, each with a higher resourceVersion than the one before. The child says "open"
	// when all streams are answered.
	untilCount readUntil = "count"
	// untilBody: the end of the response, which is a list, not a watch.
	untilBody readUntil = "body"
	// untilEnd: the end of the child's input. The child says "open" when all streams are answered.
	untilEnd readUntil = "end"
)

// readerReport is what the reader child says.
type readerReport struct {
	Stage readerStage `json:"stage"`

	// Of stage done:
	Bytes   int64     `json:"bytes"`  // of response bodies, all streams
	Events  int64     `json:"events"` // without bookmarks, all streams
	Retries int64     `json:"retries"`
	Failed  int       `json:"failed"`           // streams that did not end as they should
	Errors  []string  `json:"errors,omitempty"` // of some of them
	Seconds []float64 `json:"seconds"`          // per stream that did: from "go" to its end
}

type readerStage string

const (
	stageReady readerStage = "ready" // the job is understood
	stageOpen  readerStage = "open"  // all streams are answered (untilCount, untilEnd)
	stageDone  readerStage = "done"
)

// newReadersCommand is the hidden subcommand that the reader child runs.
func newReadersCommand() *cobra.Command {
	return &cobra.Command{
		Use:    readersSubcommand,
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return serveReaders(cmd.Context(), cmd.InOrStdin(), cmd.OutOrStdout())
		},
	}
}

func serveReaders(ctx context.Context, stdin io.Reader, stdout io.Writer) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	in, out := json.NewDecoder(bufio.NewReader(stdin)), json.NewEncoder(stdout)
	var job readerJob
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
	if err := out.Encode(readerReport{Stage: stageReady}); err != nil {
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
	if job.Until == untilSynced || job.Until == untilBody {
		return out.Encode(run.drain(ctx, nil))
	}
	return out.Encode(run.drain(ctx, func() { _ = out.Encode(readerReport{Stage: stageOpen}) }))
}

// readerRun is a job under way.
type readerRun struct {
	job     readerJob
	clients []*http.Client // one per connection

	bytes, events, retries atomic.Int64

	mu     sync.Mutex
	report readerReport
}

func (r *readerRun) prepare() error {
	for n := 0; n < r.job.Streams; n += r.job.PerConnection {
		client, err := newHTTPClient(r.job.CA)
		if err != nil {
			return err
		}
		r.clients = append(r.clients, client)
	}
	return nil
}

// drain runs all streams to their end. opened, when not nil, is called once, as soon as every stream is answered.
func (r *readerRun) drain(ctx context.Context, opened func()) readerReport {
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
					open.Done()
				})
				err := r.stream(ctx, client, r.job.Paths[i%len(r.job.Paths)], answered)
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
	r.report.Stage = stageDone
	r.report.Bytes, r.report.Events, r.report.Retries = r.bytes.Load(), r.events.Load(), r.retries.Load()
	return r.report
}

func (r *readerRun) note(stream int, took time.Duration, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err == nil {
		r.report.Seconds = append(r.report.Seconds, took.Seconds())
		return
	}
	r.report.Failed++
	if len(r.report.Errors) < 5 {
		r.report.Errors = append(r.report.Errors, fmt.Sprintf("stream %d, after %.1f s: %v", stream, took.Seconds(), err))
	}
}

// errTryAgain is the server's word that it cannot give initial events yet, for want of news from etcd.
var errTryAgain = errors.New("the server's cache is not new enough")

// stream reads one watch or list to its end. answered is called when it counts as open.
func (r *readerRun) stream(ctx context.Context, client *http.Client, path string, answered func()) error {
	for {
		err := r.streamOnce(ctx, client, path, answered)
		if !errors.Is(err, errTryAgain) {
			return err
		}
		r.retries.Add(1) // as client-go does
		if err := pause(ctx, time.Second); err != nil {
			return err
		}
	}
}

func (r *readerRun) streamOnce(ctx context.Context, client *http.Client, path string, answered func()) error {
	resp, err := r.open(ctx, client, path)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if !r.job.Initial {
		answered()
	}
	if r.job.Until == untilBody {
		items, size, err := countList(r.job.Format, resp.Body)
		r.bytes.Add(size)
		r.events.Add(items)
		if err == nil && items != r.job.Expect {
			err = fmt.Errorf("%d items, want %d", items, r.job.Expect)
		}
		return err
	}
	frames := newFrameReader(r.job.Format, resp.Body, r.job.Until == untilCount)
	var count int64
	var last uint64
	for {
		e, err := frames.next()
		if err != nil {
			if r.job.Until == untilEnd && ctx.Err() != nil {
				return nil
			}
			if errors.Is(err, io.EOF) {
				err = errors.New("the server closed the watch")
			}
			return fmt.Errorf("after %d events: %w", count, err)
		}
		r.bytes.Add(e.bytes)
		switch e.kind {
		case kindError:
			if count == 0 && bytes.Contains(e.detail, []byte("ResourceVersionTooLarge")) {
				return errTryAgain
			}
			return fmt.Errorf("after %d events: the server sent an error: %s", count, readable(e.detail))
		case kindBookmark:
			if e.initialEnd {
				answered()
			}
			if r.job.Until == untilSynced && e.initialEnd {
				if count != r.job.Expect {
					return fmt.Errorf("%d initial objects, want %d", count, r.job.Expect)
				}
				return nil
			}
			continue
		}
		count++
		r.events.Add(1)
		if r.job.Until == untilCount {
			meta, err := metaOf(r.job.Format, e.detail)
			if err != nil {
				return err
			}
			if meta.resourceVersion <= last {
				return fmt.Errorf("event %d has resourceVersion %d, after %d", count, meta.resourceVersion, last)
			}
			last = meta.resourceVersion
			if count == r.job.Expect {
				return nil
			}
		}
	}
}

// open sends the request, and again when the server is too busy, as client-go would.
func (r *readerRun) open(ctx context.Context, client *http.Client, path string) (*http.Response, error) {
	const attempts = 60
	accept := r.job.Format.accept()
	if r.job.Until == untilBody {
		accept = r.job.Format.mediaType()
	}
	for attempt := 1; ; attempt++ {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.job.URL+path, nil)
		if err != nil {
			return nil, err
		}
		req.Header.Set("Accept", accept)
		req.Header.Set("Authorization", "Bearer "+r.job.Token)
		req.Header.Set("User-Agent", "weir-bench-reader")
		resp, err := client.Do(req)
		if err == nil && resp.StatusCode == http.StatusOK {
			return resp, nil
		}
		wait, again := time.Second, r.job.Insist
		if err == nil {
			body, _ := io.ReadAll(io.LimitReader(resp.Body, 4096))
			_ = resp.Body.Close()
			err = fmt.Errorf("GET %s: %s: %s", path, resp.Status, firstLine(body))
			if after, bad := strconv.Atoi(resp.Header.Get("Retry-After")); bad == nil && resp.StatusCode == http.StatusTooManyRequests {
				wait, again = time.Duration(after)*time.Second, again || attempt < attempts
			}
		}
		if !again || ctx.Err() != nil {
			return nil, err
		}
		r.retries.Add(1)
		if err := pause(ctx, wait); err != nil {
			return nil, err
		}
	}
}

// readable gives the text in an encoded event.
func readable(detail []byte) string {
	words := bytes.FieldsFunc(detail, func(r rune) bool { return r < ' ' || r > '~' })
	words = slices.DeleteFunc(words, func(w []byte) bool { return len(w) < 4 })
	return firstLine(bytes.Join(words, []byte(" ")))
}
