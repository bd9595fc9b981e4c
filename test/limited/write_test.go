// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package limited

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"testing"

	"github.com/weir-project/weir/internal/bench/dataset"
	"github.com/weir-project/weir/test/servers"
)

// metadata is what is looked at of an object.
type metadata struct {
	Metadata struct {
		Name            string `json:"name"`
		Namespace       string `json:"namespace"`
		ResourceVersion string `json:"resourceVersion"`
	} `json:"metadata"`
}

// truth is what has been written: of each Secret the revisions in their order.
type truth struct {
	mu        sync.Mutex
	revisions map[string][]string
}

// perhaps stands among revisions for a write that etcd did not acknowledge in time: it has a revision, or has not happened.
const perhaps = ""

// recorded is what one who reads has been sent: the dumb twin of a watch.
type recorded struct {
	accept string
	truth  *truth
	seen   map[string][]string
}

// write updates Secrets beside watches that nobody reads, and some that are read, and returns when those have seen all of it.
func (c *crowd) write(ctx context.Context, s *servers.Server, size sizes) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	answer, err := s.Answer(ctx, servers.Request{Path: "/api/v1/secrets", Header: http.Header{"Accept": {"application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"}}})
	if err != nil || answer.Status != http.StatusOK {
		return fmt.Errorf("list the Secrets: %d, %w", answer.Status, err)
	}
	var list struct {
		metadata
		Items []metadata `json:"items"`
	}
	if err := json.Unmarshal(answer.Body, &list); err != nil {
		return err
	}
	secrets := slices.DeleteFunc(list.Items, func(m metadata) bool { return m.Metadata.Namespace != dataset.Place{}.Namespace("data-a-00") })
	from := "/api/v1/secrets?watch=1&resourceVersion=" + list.Metadata.ResourceVersion

	if err := c.stall(ctx, from, size.stalled); err != nil {
		return fmt.Errorf("open a watch that nobody reads: %w", err)
	}
	want := &truth{revisions: map[string][]string{}}
	var readers []*recorded
	for _, accept := range []string{"application/json", "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"} {
		for range 2 {
			readers = append(readers, &recorded{accept: accept, truth: want, seen: map[string][]string{}})
		}
	}
	written := make(chan struct{})
	var all sync.WaitGroup
	for _, r := range readers {
		opened := make(chan struct{})
		all.Go(func() {
			if err := r.read(ctx, c, from, opened, written); err != nil {
				cancel(fmt.Errorf("a watch that is read, in %s: %w", r.accept, err))
			}
		})
		select {
		case <-opened:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	err = dataset.InParallel(ctx, size.writers, size.writers, func(ctx context.Context, _, w int) error {
		for i := w; i < size.updates; i += size.writers {
			// A Secret has one writer only, so that the order of its revisions is known.
			of := slices.DeleteFunc(slices.Clone(secrets), func(m metadata) bool { return slices.Index(secrets, m)%size.writers != w })
			if err := c.update(ctx, of[i/size.writers%len(of)].Metadata.Name, byte('a'+i%26), want); err != nil {
				return err
			}
		}
		return nil
	})
	close(written)
	if err == nil {
		// Who has seen everything by now waits for one more event, and compares only when it is known what that is: it may come
		// before the answer.
		err = func() error {
			want.mu.Lock()
			defer want.mu.Unlock()
			name := secrets[0].Metadata.Name
			revisions, err := c.replace(ctx, name, 'z')
			want.revisions[name] = append(want.revisions[name], revisions...)
			return err
		}()
	}
	if err != nil {
		cancel(err)
	}
	all.Wait()
	return context.Cause(ctx)
}

// update replaces a Secret, and says so to want.
func (c *crowd) update(ctx context.Context, name string, fill byte, want *truth) error {
	revisions, err := c.replace(ctx, name, fill)
	if err != nil {
		return err
	}
	want.mu.Lock()
	defer want.mu.Unlock()
	want.revisions[name] = append(want.revisions[name], revisions...)
	return nil
}

// replace replaces a Secret, again as long as etcd has no time for it, and returns its new revisions.
func (c *crowd) replace(ctx context.Context, name string, fill byte) (revisions []string, err error) {
	transport := servers.NewTransport()
	defer transport.CloseIdleConnections()
	for {
		answer, err := c.open(ctx, &http.Client{Transport: transport}, servers.Request{
			Method: http.MethodPut, Path: "/api/v1/namespaces/" + dataset.Place{}.Namespace("data-a-00") + "/secrets/" + name,
			Header: http.Header{"Content-Type": {"application/json"}, "Accept": {"application/json"}}, Body: []byte(secret(name, 1_000_000, fill)),
		})
		if errors.Is(err, errEtcdBusy) {
			c.busy.Add(1)
			revisions = append(revisions, perhaps)
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("update %s: %w", name, err)
		}
		var m metadata
		err = json.NewDecoder(answer.Body).Decode(&m)
		_ = answer.Body.Close()
		if err != nil {
			return nil, fmt.Errorf("update %s: %w", name, err)
		}
		return append(revisions, m.Metadata.ResourceVersion), nil
	}
}

// stall opens watches, of which nothing is read until ctx ends.
func (c *crowd) stall(ctx context.Context, path string, n int) error {
	const perConnection = 50
	var client *http.Client
	for i := range n {
		if i%perConnection == 0 {
			transport := servers.NewTransport()
			transport.HTTP2 = &http.HTTP2Config{MaxReceiveBufferPerStream: 64 << 10}
			client = &http.Client{Transport: transport}
			context.AfterFunc(ctx, transport.CloseIdleConnections)
		}
		answer, err := c.open(ctx, client, servers.Request{Path: path, Header: http.Header{"Accept": {"application/json"}}})
		if err != nil {
			return err
		}
		context.AfterFunc(ctx, func() { _ = answer.Body.Close() })
	}
	return nil
}

// read reads a watch until written is closed and it has seen everything; there is at least one event after that.
func (r *recorded) read(ctx context.Context, c *crowd, path string, opened chan struct{}, written <-chan struct{}) error {
	plain, end, err := c.ask(ctx, path, r.accept, false)
	close(opened)
	if err != nil {
		return err
	}
	defer end()
	next := servers.Events(r.accept, plain)
	for {
		line, err := next()
		if err != nil {
			return fmt.Errorf("ended: %w", err)
		}
		var event struct {
			Type   string          `json:"type"`
			Object json.RawMessage `json:"object"`
		}
		if err := json.Unmarshal(line, &event); err != nil {
			return err
		}
		var m metadata
		if err := json.Unmarshal(event.Object, &m); err != nil {
			return err
		}
		if event.Type != "MODIFIED" {
			return fmt.Errorf("an event %s: %.300s", event.Type, event.Object)
		}
		r.seen[m.Metadata.Name] = append(r.seen[m.Metadata.Name], m.Metadata.ResourceVersion)
		select {
		case <-written:
			if through, err := r.compare(); through || err != nil {
				return err
			}
		default:
		}
	}
}

// compare tells whether everything has been seen. It is an error if something else has.
func (r *recorded) compare() (through bool, err error) {
	r.truth.mu.Lock()
	defer r.truth.mu.Unlock()
	through = true
	for name, want := range r.truth.revisions {
		all, ok := follows(r.seen[name], want)
		if !ok {
			return false, fmt.Errorf("%s: was sent the revisions %q, and they are %q", name, r.seen[name], want)
		}
		through = through && all
	}
	return through, nil
}

// follows tells whether what was seen is the beginning of what is wanted, and whether it is all of it.
func follows(seen, want []string) (all, ok bool) {
	for len(want) > 0 && len(seen) > 0 {
		next := slices.IndexFunc(want, func(revision string) bool { return revision != perhaps })
		switch {
		case next >= 0 && seen[0] == want[next]:
			want, seen = want[next+1:], seen[1:]
		case want[0] == perhaps:
			want, seen = want[1:], seen[1:]
		default:
			return false, false
		}
	}
	return len(want) == 0, len(seen) == 0
}

func TestFollows(t *testing.T) {
	for _, c := range []struct {
		seen, want []string
		all, ok    bool
	}{
		{nil, nil, true, true},
		{nil, []string{"1"}, false, true},
		{[]string{"1"}, []string{"1", "2"}, false, true},
		{[]string{"1", "2"}, []string{"1", "2"}, true, true},
		{[]string{"2"}, []string{"1", "2"}, false, false},
		{[]string{"1", "2"}, []string{"1"}, false, false},
		{[]string{"1", "3"}, []string{"1", perhaps, "3"}, true, true},
		{[]string{"1", "2", "3"}, []string{"1", perhaps, "3"}, true, true},
		{[]string{"1", "2", "2", "3"}, []string{"1", perhaps, "3"}, false, false},
		{[]string{"1", "2", "3"}, []string{"1", perhaps, perhaps, "3"}, true, true},
		{[]string{"1", "2", "4"}, []string{"1", perhaps, "3"}, false, false},
	} {
		if all, ok := follows(c.seen, c.want); ok != c.ok || ok && all != c.all {
			t.Errorf("%q of %q: all %v, ok %v", c.seen, c.want, all, ok)
		}
	}
}
