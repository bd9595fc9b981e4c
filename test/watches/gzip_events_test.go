// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package watches

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/weir-project/weir/test/servers"
)

// follower reads a watch list event by event.
type follower struct {
	// what it is, for people; form is what it is compared by.
	what, form string
	status     int
	header     http.Header
	next       func() ([]byte, error)
	// close gives it up, end reads on to its end.
	close func()
	end   func() error
	// bookmarked says that the initial events are over.
	bookmarked bool
}

// follow opens a watch. Of weir's stream one gzip member is read, and no more.
func (g *compressing) follow(t *testing.T, s *servers.Server, r servers.Request) *follower {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*servers.Patience)
	resp, err := s.Open(ctx, r)
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	t.Cleanup(cancel)
	f := &follower{
		what: s.Name + " " + resp.Proto + " " + r.Header.Get("Accept"), form: r.Header.Get("Accept"), status: resp.StatusCode, header: resp.Header,
		close: func() { cancel(); _ = resp.Body.Close() },
	}
	body := io.Reader(resp.Body)
	switch {
	case resp.Header.Get("Content-Encoding") != "gzip":
	case s.Name == servers.Weir:
		body = servers.NewMember(body)
	default:
		body = &later{from: body}
	}
	f.next = servers.Events(resp.Header.Get("Content-Type"), body)
	f.end = func() error { return nil }
	return f
}

// later is a gzip.Reader that is not there before it is read: it waits for the first bytes.
type later struct {
	from io.Reader
	z    *gzip.Reader
}

// Read implements io.Reader.
func (l *later) Read(p []byte) (int, error) {
	if l.z == nil {
		var err error
		if l.z, err = gzip.NewReader(l.from); err != nil {
			return 0, err
		}
	}
	return l.z.Read(p)
}

// event returns the next event that is no bookmark of the time.
func (f *follower) event() ([]byte, error) {
	for {
		event, err := f.next()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", f.what, err)
		}
		switch {
		case !bytes.Contains(event[:min(len(event), 60)], []byte("BOOKMARK")):
			return event, nil
		case !f.bookmarked:
			f.bookmarked = true
			return event, nil
		}
	}
}

// initial returns the initial events, of which the last is a bookmark.
func (f *follower) initial(t *testing.T) (events [][]byte) {
	t.Helper()
	for !f.bookmarked {
		event, err := f.event()
		if err != nil {
			t.Fatalf("after %d events: %v", len(events), err)
		}
		if strings.Contains(f.header.Get("Content-Type"), "cbor") && bytes.Contains(event, []byte("BOOKMARK")) { // somewhere in it
			f.bookmarked = true
		}
		events = append(events, event)
	}
	return events
}

// testEachEvent writes an object after everybody has the event of the one before, in one gzip
// member that ends when the server does. It looks with decoders of several makes.
func (g *compressing) testEachEvent(t *testing.T) {
	const namespace = "gzip-events"
	path := "/api/v1/namespaces/" + namespace + "/secrets"
	g.namespace(t, namespace)
	secret := func(name string, content []byte) map[string]any {
		return object("v1", "Secret", name, map[string]any{"type": "Opaque", "data": map[string]any{"content": base64.StdEncoding.EncodeToString(content)}})
	}
	for name, content := range map[string][]byte{"a-small": []byte("x"), "b-text": []byte(text(1, 200<<10)), "c-noise": noise(100 << 10), "d-small": []byte("y")} {
		g.weir.In(t).Must(http.MethodPost, path, secret(name, content))
	}
	g.settle(t, path)

	const initial = 4
	var all []*follower
	for _, accept := range []string{
		"application/json", "application/vnd.kubernetes.protobuf", "application/json;as=Table;v=v1;g=meta.k8s.io",
		"application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io", "application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;v=v1;g=meta.k8s.io",
	} {
		r := servers.Request{Path: path + "?" + watchList, Header: http.Header{"Accept": {accept}}}
		all = append(all, g.follow(t, g.stock, r)) // what the others are compared with comes first
		for _, http1 := range []bool{false, true} {
			f := g.follow(t, g.weir, zipped(path+"?"+watchList, accept, http1))
			if f.header.Get("Content-Encoding") != "gzip" {
				t.Errorf("%s is not compressed", f.what)
			}
			f.end = f.toEnd
			all = append(all, f)
		}
	}
	all = append(all, g.tools(t, path+"?"+watchList)...)

	told := func(what string) {
		t.Helper()
		want := map[string][]byte{}
		for _, f := range all {
			event, err := f.event()
			if err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			if want[f.form] == nil {
				want[f.form] = event
				continue
			}
			before := t.Failed()
			sameEvents(t, f.form, [][]byte{event}, [][]byte{want[f.form]})
			if t.Failed() && !before {
				t.Fatalf("%s: %s", what, f.what)
			}
		}
	}
	for i := range initial + 1 {
		told(fmt.Sprintf("initial event %d", i))
	}
	both := []*servers.Server{g.weir.In(t), g.stock.In(t)}
	for i, content := range [][]byte{
		[]byte("small"), []byte(text(2, 400<<10)), noise(64 << 10), noise(500 << 10), noise(100), []byte(text(3, 64<<10)), {},
	} {
		name := fmt.Sprintf("live-%d", i)
		both[i%2].Must(http.MethodPost, path, secret(name, content))
		told("the creation of " + name)
		both[(i+1)%2].Must(http.MethodPatch, path+"/"+name, map[string]any{"metadata": map[string]any{"labels": map[string]any{"n": "1"}}})
		told("the change of " + name)
		both[i%2].Must(http.MethodDelete, path+"/"+name, nil)
		told("the deletion of " + name)
	}

	// The end: nothing may be behind the member, nor be left out of it.
	stopped := make(chan error, 1)
	go func() { stopped <- g.weir.Rig.Stop(servers.Patience) }()
	var ended sync.WaitGroup
	for _, f := range all {
		ended.Go(func() {
			if err := f.end(); err != nil {
				t.Errorf("the end of %s: %v", f.what, err)
			}
		})
	}
	ended.Wait()
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}

// toEnd reads to the end of the stream.
func (f *follower) toEnd() error {
	event, err := f.event()
	switch {
	case err == nil:
		return fmt.Errorf("there is one more event: %.300q", event)
	case errors.Is(err, io.EOF) && len(event) == 0:
		return nil
	default:
		return err
	}
}

// programs read a watch list in JSON, unpack it, and write each event as soon as they have it.
// What %[1]s stands for is the address.
var programs = map[string][]string{
	"curl over HTTP/1.1": {"curl", "-sS", "-N", "-k", "--http1.1", "--fail", "--compressed", "-H", "Accept: application/json", "-H", "Authorization: Bearer " + servers.Token, "%[1]s"},
	"curl over HTTP/2":   {"curl", "-sS", "-N", "-k", "--http2", "--fail", "--compressed", "-H", "Accept: application/json", "-H", "Authorization: Bearer " + servers.Token, "%[1]s"},
	"node's zlib": {"node", "-e", `
		const https = require("https"), zlib = require("zlib");
		const fail = e => { console.error(e); process.exit(1); };
		https.get("%[1]s", {rejectUnauthorized: false, headers: {
			"Accept": "application/json", "Accept-Encoding": "gzip", "Authorization": "Bearer ` + servers.Token + `"}}, r => {
			if (r.headers["content-encoding"] !== "gzip") fail("it is not compressed");
			r.on("error", fail).pipe(zlib.createGunzip()).on("error", fail).pipe(process.stdout);
		}).on("error", fail);`},
	"Python's zlib": {"python3", "-c", `
import ssl, sys, urllib.request, zlib
request = urllib.request.Request("%[1]s", headers={"Accept": "application/json", "Accept-Encoding": "gzip", "Authorization": "Bearer ` + servers.Token + `"})
response = urllib.request.urlopen(request, context=ssl._create_unverified_context())
member = zlib.decompressobj(31)
while True:
    data = response.read1(65536)
    if not data:
        break
    sys.stdout.buffer.write(member.decompress(data))
    sys.stdout.buffer.flush()
    if member.unused_data:
        sys.exit("%%d bytes are behind the gzip member" %% len(member.unused_data))
if not member.eof:
    sys.exit("the gzip member has no end")
`},
}

// checks tell whether a program can do what is asked of it here.
var checks = map[string][]string{
	"curl": {"curl", "--version"}, "node": {"node", "-e", `require("zlib")`}, "python3": {"python3", "-c", "import ssl, zlib"},
}

// tools starts programs that unpack a watch list of weir's.
func (g *compressing) tools(t *testing.T, path string) (out []*follower) {
	t.Helper()
	for _, name := range slices.Sorted(maps.Keys(programs)) {
		args := slices.Clone(programs[name])
		check := checks[args[0]]
		if err := exec.CommandContext(t.Context(), check[0], check[1:]...).Run(); err != nil {
			t.Run(name, func(t *testing.T) { t.Skipf("%s cannot be used here: %v", check[0], err) })
			continue
		}
		last := len(args) - 1
		args[last] = fmt.Sprintf(args[last], g.weir.URL+path)
		ctx, cancel := context.WithTimeout(t.Context(), 3*servers.Patience)
		t.Cleanup(cancel)
		cmd := exec.CommandContext(ctx, args[0], args[1:]...)
		var said bytes.Buffer
		cmd.Stderr = &said
		stdout, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewReader(stdout)
		f := &follower{what: name, form: "application/json"}
		f.next = func() ([]byte, error) {
			event, err := lines.ReadBytes('\n')
			if err != nil && len(event) > 0 {
				err = fmt.Errorf("the end is %.200q: %w", event, err)
			}
			return event, err
		}
		f.end = func() error {
			err := f.toEnd()
			if exit := cmd.Wait(); err != nil || exit != nil {
				return errors.Join(err, exit, errors.New(said.String()))
			}
			return nil
		}
		out = append(out, f)
	}
	return out
}

// testMetrics compares what is counted of compressed watch lists.
func (g *compressing) testMetrics(t *testing.T) {
	for _, accept := range []string{"application/json", "application/vnd.kubernetes.protobuf"} {
		for _, selector := range []string{"", "&labelSelector=app%3Dweb"} {
			t.Run(accept+selector, func(t *testing.T) {
				var counted [2]map[string]float64
				for i, s := range []*servers.Server{g.stock, g.weir} {
					before := watchEvents(t, s)
					f := g.follow(t, s, zipped(mapsPath+"?"+watchList+selector, accept, false))
					n := len(f.initial(t))
					f.close()
					servers.Eventually(t, s.Name+" to have counted", func() bool {
						counted[i] = watchEvents(t, s)
						for name, value := range before {
							counted[i][name] -= value
						}
						return counted[i]["apiserver_watch_events_total"] >= float64(n)
					})
					if got := counted[i]["apiserver_watch_events_total"]; got != float64(n) || n < many/2 {
						t.Errorf("%s: of %d events %v are counted", s.Name, n, got)
					}
				}
				if diff := cmp.Diff(counted[0], counted[1]); diff != "" || counted[0]["apiserver_watch_events_sizes_sum"] == 0 {
					t.Errorf("what is counted (-stock +weir):\n%s", diff)
				}
			})
			if t.Failed() {
				return // to wait for what does not come takes its time
			}
		}
	}
}

// watchEvents is what a server has counted of events of ConfigMaps, by name and bucket.
func watchEvents(t *testing.T, s *servers.Server) map[string]float64 {
	t.Helper()
	_, metrics := s.In(t).Do(http.MethodGet, "/metrics", nil)
	out := map[string]float64{}
	for line := range strings.SplitSeq(string(metrics), "\n") {
		name, rest, _ := strings.Cut(line, "{")
		labels, number, ok := strings.Cut(rest, "} ")
		if !ok || !strings.HasPrefix(name, "apiserver_watch_events_") || !strings.Contains(labels, `resource="configmaps"`) {
			continue
		}
		value, err := strconv.ParseFloat(number, 64)
		if err != nil {
			t.Fatal(err)
		}
		if _, bucket, ok := strings.Cut(labels, `le="`); ok {
			name += " " + strings.TrimSuffix(bucket, `"`)
		}
		out[name] += value
	}
	return out
}
