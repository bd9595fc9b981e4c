// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package limited

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"

	"github.com/weir-project/weir/internal/rig"
	"github.com/weir-project/weir/test/servers"
)

const (
	// fullEnv, set to anything, has the tests run with the sizes that the project is measured with.
	fullEnv = "WEIR_LIMITED"
	// limitEnv is another limit of a server's memory, in MiB.
	limitEnv = "WEIR_LIMIT"
)

// sizes are those of a run.
type sizes struct {
	limit                     int64 // of a server's memory, in bytes
	secrets, pods             int   // of 1 MB and of 7.5 KB
	watchLists, lists, tables int   // at the same time
	updates, writers          int   // of Secrets
	stalled                   int   // watches that nobody reads
	informers                 int
	patience                  time.Duration
	// requestTimeout is --request-timeout. With upstream's default, a minute, lists of everything that 144 clients read at the same
	// time are ended by it on a small machine, whatever the server's memory.
	requestTimeout time.Duration
}

func sizesOf(t *testing.T) sizes {
	t.Helper()
	size := sizes{limit: 400 << 20, secrets: 16, pods: 600, watchLists: 24, lists: 24, tables: 8, updates: 120, writers: 16, stalled: 200, informers: 64, patience: 5 * time.Minute, requestTimeout: time.Minute}
	if os.Getenv(fullEnv) != "" {
		size = sizes{limit: 1536 << 20, secrets: 400, pods: 30_000, watchLists: 64, lists: 64, tables: 16, updates: 5000, writers: 16, stalled: 2000, informers: 256, patience: time.Hour, requestTimeout: 30 * time.Minute}
	}
	if other := os.Getenv(limitEnv); other != "" {
		mebibytes, err := strconv.ParseInt(other, 10, 64)
		if err != nil {
			t.Fatalf("%s: %v", limitEnv, err)
		}
		size.limit = mebibytes << 20
	}
	return size
}

// needsLimits skips a test where no memory limits can be had.
func needsLimits(t *testing.T, room *rig.Room) {
	t.Helper()
	if err := room.CanLimit(); err != nil {
		t.Skipf("a memory limit %v", err)
	}
}

// loaded returns an etcd that has the data, written by a server without a limit.
func loaded(t *testing.T, room *rig.Room, size sizes) *rig.Etcd {
	t.Helper()
	etcd, err := room.StartEtcd(t.Context(), rig.EtcdOptions{})
	if err != nil {
		t.Fatal(err)
	}
	program := servers.Program(servers.Weir)
	program.Etcd = etcd.Endpoints()
	writer := servers.StartIn(t, room, program).Wait()
	load(t, writer, size.secrets, size.pods)
	if err := writer.Rig.Stop(servers.Patience); err != nil {
		t.Fatal(err)
	}
	return etcd
}

func startLimited(t *testing.T, room *rig.Room, etcd *rig.Etcd, name string, size sizes) *servers.Server {
	t.Helper()
	program := servers.Program(name)
	program.Etcd, program.MemoryLimit = etcd.Endpoints(), size.limit
	program.Args = append(program.Args, "--request-timeout="+size.requestTimeout.String())
	return servers.StartIn(t, room, program)
}

// TestLoad has everybody read everything at the same time, and large objects written while nobody reads most watches.
func TestLoad(t *testing.T) {
	size, room := sizesOf(t), servers.Room(t)
	needsLimits(t, room)
	etcd := loaded(t, room, size)
	run(t, startLimited(t, room, etcd, servers.Weir, size).Wait(), size)
}

// TestLoadOfStock tells how upstream's server ends under the same load. It judges nothing.
func TestLoadOfStock(t *testing.T) {
	if os.Getenv(fullEnv) == "" {
		t.Skip(fullEnv + " is not set")
	}
	size, room := sizesOf(t), servers.Room(t)
	needsLimits(t, room)
	t.Log(ofStock(t, room, loaded(t, room, size), size))
}

// ofStock tells how upstream's server has ended.
func ofStock(t *testing.T, room *rig.Room, etcd *rig.Etcd, size sizes) error {
	program := servers.Program(servers.Stock)
	program.Etcd, program.MemoryLimit = etcd.Endpoints(), size.limit
	program.Args = append(program.Args, "--request-timeout="+size.requestTimeout.String())
	started, err := room.StartServer(program)
	if err != nil {
		t.Fatal(err)
	}
	if err := started.WaitReady(t.Context()); err != nil {
		return fmt.Errorf("it was not ready: %w", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), size.patience)
	defer cancel()
	stock := &crowd{access: started.Access, died: started.Done()}
	if err := stock.readAll(ctx, size); err != nil {
		return fmt.Errorf("reading: %w", errors.Join(started.Died(), err))
	}
	return errors.New("it has answered all reads; writes were not tried")
}

func run(t *testing.T, s *servers.Server, size sizes) {
	ctx, cancel := context.WithTimeout(t.Context(), size.patience)
	defer cancel()
	c := &crowd{access: s.Rig.Access, died: s.Rig.Done()}
	stop := probe(ctx, t, s)
	defer stop()
	began := time.Now()
	say := func(what string) {
		t.Logf("%5.1f s: %s; at most %d MiB were resident; %d requests were refused so far", time.Since(began).Seconds(), what, peak(t, s)>>20, c.refused.Load())
	}
	say("started")
	if err := c.readAll(ctx, size); err != nil {
		t.Fatal(errors.Join(err, s.Rig.Died()))
	}
	say(fmt.Sprintf("%d watch lists, %d lists and %d Tables have been read", size.watchLists, size.lists, size.tables))
	if err := c.write(ctx, s, size); err != nil {
		t.Fatal(errors.Join(err, s.Rig.Died()))
	}
	say(fmt.Sprintf("%d updates of 1 MB beside %d watches that nobody reads; %d more had no answer of etcd in time", size.updates, size.stalled, c.busy.Load()))
}

// peak is the most that was ever resident, in bytes.
func peak(t *testing.T, s *servers.Server) int64 {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.Rig.Pid()))
	if err != nil {
		t.Fatal(errors.Join(err, s.Rig.Died()))
	}
	found := regexp.MustCompile(`(?m)^VmHWM:\s+(\d+) kB$`).FindSubmatch(status)
	if found == nil {
		return 0
	}
	kilobytes, _ := strconv.ParseInt(string(found[1]), 10, 64)
	return kilobytes << 10
}

// probe asks whether the server is ready, and has a leader keep its lease, until stop is called: neither may ever be refused.
func probe(ctx context.Context, t *testing.T, s *servers.Server) (stop func()) {
	const leases = "/apis/coordination.k8s.io/v1/namespaces/default/leases"
	s.Must(http.MethodPost, leases, map[string]any{"metadata": map[string]any{"name": "leader"}})
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	asked, late, said := 0, 0, []byte(nil)
	go func() {
		defer close(done)
		tick := time.NewTicker(200 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
			for _, r := range []servers.Request{
				{Path: "/readyz"},
				{Path: "/metrics"},
				{Method: http.MethodPatch, Path: leases + "/leader", Header: http.Header{"Content-Type": {"application/merge-patch+json"}},
					Body: fmt.Appendf(nil, `{"spec":{"holderIdentity":"holder-%d"}}`, asked)},
			} {
				got, err := s.Answer(ctx, r)
				if err == nil && r.Path == "/metrics" {
					said = got.Body
				}
				if ctx.Err() == nil && err == nil && got.Status == http.StatusInternalServerError && etcdsOwn.Match(got.Body) {
					late++
					continue
				}
				if ctx.Err() == nil && (err != nil || got.Status != http.StatusOK) {
					t.Errorf("%s: %d %.200s, %v", r.Path, got.Status, got.Body, err)
					return
				}
			}
			asked++
		}
	}()
	return func() {
		cancel()
		<-done
		t.Logf("asked %d times whether it is ready, and renewed a lease, for which etcd had no time %d times; what it said of its memory the last time:", asked, late)
		for _, line := range regexp.MustCompile(`(?m)^(weir_memory|go_memstats|process_resident).*$`).FindAll(said, -1) {
			t.Logf("%s", line)
		}
	}
}

// crowd is clients of one server, each with a connection of its own.
type crowd struct {
	access rig.Access
	// died is closed when the server has ended.
	died    <-chan struct{}
	refused atomic.Int64
	// busy counts the updates that etcd had no time for.
	busy atomic.Int64
}

// etcdsOwn is what a server says when etcd has not answered in time: it has no memory limit, but the same processors and disk.
var etcdsOwn = regexp.MustCompile(`etcdserver: request timed out|(?m)^\[-\]etcd`)

// errEtcdBusy is that etcd has not acknowledged a write in time.
var errEtcdBusy = errors.New("etcd had no time")

// open opens a request, and again as often as it is refused.
func (c *crowd) open(ctx context.Context, client *http.Client, r servers.Request) (*http.Response, error) {
	for {
		var body io.Reader
		if r.Body != nil {
			body = bytes.NewReader(r.Body)
		}
		method := r.Method
		if method == "" {
			method = http.MethodGet
		}
		req, err := http.NewRequestWithContext(ctx, method, c.access.URL+r.Path, body)
		if err != nil {
			return nil, err
		}
		for name, values := range r.Header {
			req.Header[name] = values
		}
		c.access.Authorize(req)
		answer, err := client.Do(req)
		if err != nil {
			return nil, err
		}
		if answer.StatusCode/100 == 2 {
			return answer, nil
		}
		said, _ := io.ReadAll(answer.Body)
		_ = answer.Body.Close()
		if answer.StatusCode == http.StatusInternalServerError && etcdsOwn.Match(said) {
			return nil, errEtcdBusy
		}
		after, bad := strconv.Atoi(answer.Header.Get("Retry-After"))
		if answer.StatusCode != http.StatusTooManyRequests || bad != nil {
			return nil, fmt.Errorf("%s: %s: %.300s", r.Path, answer.Status, said)
		}
		c.refused.Add(1)
		again := time.NewTimer(time.Duration(after) * time.Second) // what the server has asked for
		select {
		case <-again.C:
		case <-c.died:
			return nil, errors.New("the server has ended")
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

const initial = "?watch=1&sendInitialEvents=true&allowWatchBookmarks=true&resourceVersionMatch=NotOlderThan"

// readAll has everybody read at the same time. It returns what went wrong first.
func (c *crowd) readAll(ctx context.Context, size sizes) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var all sync.WaitGroup
	read := func(n int, do func(ctx context.Context, i int) error) {
		for i := range n {
			all.Go(func() {
				if err := do(ctx, i); err != nil {
					cancel(err)
				}
			})
		}
	}
	of := func(i int) (path string, objects int) {
		if i%2 == 0 {
			return "/api/v1/pods", size.pods
		}
		return "/api/v1/secrets", size.secrets
	}
	read(size.watchLists, func(ctx context.Context, i int) error {
		path, objects := of(i)
		accept := []string{"application/json", "application/vnd.kubernetes.protobuf;stream=watch"}[i/2%2]
		return c.readInitial(ctx, path, accept, i/4%2 == 1, objects)
	})
	read(size.lists, func(ctx context.Context, i int) error {
		path, objects := of(i)
		return c.readList(ctx, path, "application/json", i/2%2 == 1, `"resourceVersion":"`, objects+1)
	})
	read(size.tables, func(ctx context.Context, i int) error {
		path, objects := of(i)
		return c.readList(ctx, path, table, i/2%2 == 1, `"cells":`, objects)
	})
	all.Wait()
	return context.Cause(ctx)
}

// ask opens a read, and returns what reads the plain answer.
func (c *crowd) ask(ctx context.Context, path, accept string, compressed bool) (plain io.Reader, end func(), err error) {
	transport := servers.NewTransport()
	header := http.Header{"Accept": {accept}}
	if compressed {
		header["Accept-Encoding"] = []string{"gzip"}
	}
	answer, err := c.open(ctx, &http.Client{Transport: transport}, servers.Request{Path: path, Header: header})
	if err != nil {
		transport.CloseIdleConnections()
		return nil, nil, err
	}
	end = func() {
		_ = answer.Body.Close()
		transport.CloseIdleConnections()
	}
	plain = answer.Body
	if answer.Header.Get("Content-Encoding") == "gzip" {
		if plain, err = gzip.NewReader(answer.Body); err != nil {
			end()
			return nil, nil, fmt.Errorf("%s: %w", path, err)
		}
	}
	return plain, end, nil
}

// readInitial reads a watch list up to the bookmark, and holds that it has as many objects.
func (c *crowd) readInitial(ctx context.Context, path, accept string, compressed bool, objects int) error {
	plain, end, err := c.ask(ctx, path+initial, accept, compressed)
	if err != nil {
		return err
	}
	defer end()
	next := servers.Events(accept, plain)
	for n := 0; ; n++ {
		event, err := next()
		if err != nil {
			return fmt.Errorf("%s: a watch list in %s ended after %d events: %w", path, accept, n, err)
		}
		if bytes.Contains(event, []byte("k8s.io/initial-events-end")) {
			if n < objects {
				return fmt.Errorf("%s: a watch list in %s had %d objects, want %d", path, accept, n, objects)
			}
			return nil
		}
	}
}

// readList reads a list, and counts what is in it once for each object.
func (c *crowd) readList(ctx context.Context, path, accept string, compressed bool, mark string, want int) error {
	plain, end, err := c.ask(ctx, path, accept, compressed)
	if err != nil {
		return err
	}
	defer end()
	in := bufio.NewReaderSize(plain, 64<<10)
	found, overlap := 0, ""
	buf := make([]byte, 64<<10)
	for {
		n, err := in.Read(buf)
		text := overlap + string(buf[:n])
		found += strings.Count(text, mark)
		overlap = text[max(0, len(text)-len(mark)+1):]
		switch {
		case errors.Is(err, io.EOF) && found >= want:
			return nil
		case errors.Is(err, io.EOF):
			return fmt.Errorf("%s as %s ended with %d objects, want %d", path, accept, found, want)
		case err != nil:
			return fmt.Errorf("%s as %s ended after %d objects: %w", path, accept, found, err)
		}
	}
}
