// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/weir-project/weir/internal/rig"
)

// stream is one light reader: a watch or a list read to its end. What may go wrong without harm to a client-go
// informer is borne here as well, and counted.
type stream struct {
	*readerRun
	client   *http.Client
	path     string
	answered func() // to be called when the stream view.Counts as open; it does so once

	count int64  // events so far, over reconnects, without bookmarks; of UntilCount live ones only
	last  uint64 // resourceVersion of the latest event, or of the end of the initial ones; of UntilCount only
	live  bool   // the initial events have ended, of UntilCount with Initial only

	// invariant of UntilCount: every live event's resourceVersion is higher than last.
}

var (
	// errTryAgain is the server's word that it cannot give initial events yet, for want of news from etcd.
	errTryAgain = errors.New("the server's cache is not new enough")
	errClosed   = errors.New("the server closed the watch")
)

// read reads all that the job wants of one stream.
func (s *stream) read(ctx context.Context) error {
	for range max(1, s.job.Repeat) {
		s.count = 0
		if err := s.through(ctx); err != nil {
			return err
		}
	}
	return nil
}

// through reads one watch or list until it is through, however many requests that takes.
func (s *stream) through(ctx context.Context) error {
	for {
		err := s.once(ctx)
		switch {
		case errors.Is(err, errTryAgain):
			s.retries.Add(1)
			if err := Pause(ctx, time.Second); err != nil {
				return err
			}
		case errors.Is(err, errClosed) && s.job.Until == UntilCount && s.last > 0 && ctx.Err() == nil:
			// A server may close a watch that cannot keep up; the client goes on from the last event that it has.
			s.reconnects.Add(1)
			if s.path, err = resumed(s.path, s.last); err != nil {
				return err
			}
		default:
			return err
		}
	}
}

// resumed is the path of a watch that goes on after a resourceVersion, whatever it began with.
func resumed(path string, after uint64) (string, error) {
	u, err := url.Parse(path)
	if err != nil {
		return "", err
	}
	query := u.Query()
	query.Del("sendInitialEvents")
	query.Del("resourceVersionMatch")
	query.Set("resourceVersion", strconv.FormatUint(after, 10))
	u.RawQuery = query.Encode()
	return u.String(), nil
}

func (s *stream) once(ctx context.Context) error {
	resp, err := s.open(ctx, s.client, s.path)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if !s.job.Initial {
		s.answered()
	}
	body, err := Decode(resp, &totalledReader{r: resp.Body, total: &s.bytes})
	if err != nil {
		return err
	}
	s.responses.Add(1)
	if inflater, ok := body.(*inflater); ok {
		if !s.job.Gzip {
			return errors.New("the server compresses, which it was not asked for")
		}
		s.compressed.Add(1)
		defer func() { s.members.Add(inflater.members) }()
	}
	body = &totalledReader{r: body, total: &s.plain}
	if s.job.Until == UntilBody {
		return s.list(body)
	}
	frames := NewFrameReader(s.job.Format, body, s.job.Until == UntilCount)
	for {
		e, err := frames.Next()
		if err != nil {
			if s.job.Until == UntilEnd && ctx.Err() != nil {
				return nil
			}
			if errors.Is(err, io.EOF) {
				err = errClosed
			}
			return fmt.Errorf("after %d events: %w", s.count, err)
		}
		end, err := s.event(e)
		if end || err != nil {
			return err
		}
	}
}

func (s *stream) list(body io.Reader) error {
	items, _, err := countList(s.job.Format, body)
	s.events.Add(items)
	if err == nil && items != s.job.Expect {
		err = fmt.Errorf("%d items, want %d", items, s.job.Expect)
	}
	return err
}

// totalledReader adds what is read to a total that others share, as it comes.
type totalledReader struct {
	r     io.Reader
	total *atomic.Int64
}

func (t *totalledReader) Read(p []byte) (int, error) {
	n, err := t.r.Read(p)
	t.total.Add(int64(n))
	return n, err
}

// event takes one event of a watch. It reports true when the stream is through.
func (s *stream) event(e Event) (bool, error) {
	switch e.kind {
	case kindError:
		if s.count == 0 && bytes.Contains(e.detail, []byte("ResourceVersionTooLarge")) {
			return false, errTryAgain
		}
		return false, fmt.Errorf("after %d events: the server sent an error: %s", s.count, readable(e.detail))
	case kindBookmark:
		if !e.InitialEnd {
			return false, nil
		}
		s.answered()
		if s.job.Until == UntilCount {
			meta, err := metaOf(s.job.Format, e.detail)
			s.last, s.live = meta.resourceVersion, true
			return false, err
		}
		if s.job.Until != UntilSynced {
			return false, nil
		}
		if s.count != s.job.Expect {
			return false, fmt.Errorf("%d initial objects, want %d", s.count, s.job.Expect)
		}
		return true, nil
	}
	if s.job.Until == UntilCount && s.job.Initial && !s.live {
		return false, nil
	}
	s.count++
	s.events.Add(1)
	if s.job.Until != UntilCount {
		return false, nil
	}
	meta, err := metaOf(s.job.Format, e.detail)
	if err != nil {
		return false, err
	}
	if meta.resourceVersion <= s.last {
		return false, fmt.Errorf("event %d has resourceVersion %d, after %d", s.count, meta.resourceVersion, s.last)
	}
	s.last = meta.resourceVersion
	return s.count == s.job.Expect, nil
}

// Pause waits for d, or returns the reason why ctx ended.
func Pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Ask is what a reader asks for in one request.
type Ask struct {
	Path   string // with its query
	Format Format
	Until  Until // UntilSynced for a watch list, UntilBody for a list
	Gzip   bool
}

// Open makes one request of a reader with an administrator's connection. Decode gives what its body holds.
func Open(ctx context.Context, admin *rig.Admin, ask Ask) (*http.Response, error) {
	run := &readerRun{base: admin.Base, job: Job{Access: admin.Access, Format: ask.Format, Until: ask.Until, Gzip: ask.Gzip}}
	return run.open(ctx, admin.HTTP, ask.Path)
}

const readerAgent = "weir-bench-reader"

// open sends one request, and again when the server is too busy, as client-go would.
func (r *readerRun) open(ctx context.Context, client *http.Client, path string) (*http.Response, error) {
	const attempts = 60
	accept := r.job.Format.Accept()
	if r.job.Until == UntilBody {
		accept = r.job.Format.MediaType()
	}
	for attempt := 1; ; attempt++ {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.base+path, nil)
		if err != nil {
			return nil, err
		}
		req.Header.Set("Accept", accept)
		if r.job.Gzip {
			req.Header.Set("Accept-Encoding", gzipCoding)
		}
		r.job.Access.Authorize(req)
		req.Header.Set("User-Agent", readerAgent)
		resp, err := client.Do(req)
		if err == nil && resp.StatusCode == http.StatusOK {
			return resp, nil
		}
		wait, again := time.Second, r.job.Insist
		if err == nil {
			body, _ := io.ReadAll(io.LimitReader(resp.Body, 4096))
			_ = resp.Body.Close()
			err = fmt.Errorf("GET %s: %s: %s", path, resp.Status, rig.FirstLine(body))
			if after, bad := strconv.Atoi(resp.Header.Get("Retry-After")); bad == nil && resp.StatusCode == http.StatusTooManyRequests {
				wait, again = time.Duration(after)*time.Second, again || attempt < attempts
			}
		}
		if !again || ctx.Err() != nil {
			return nil, err
		}
		r.retries.Add(1)
		if err := Pause(ctx, wait); err != nil {
			return nil, err
		}
	}
}

// readable gives the text in an encoded event.
func readable(detail []byte) string {
	words := bytes.FieldsFunc(detail, func(r rune) bool { return r < ' ' || r > '~' })
	words = slices.DeleteFunc(words, func(w []byte) bool { return len(w) < 4 })
	return rig.FirstLine(bytes.Join(words, []byte(" ")))
}
