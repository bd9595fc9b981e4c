// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package client

import (
	"bytes"
	"compress/flate"
	"compress/gzip"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"testing/synctest"
)

// compressed are events as servers compress them: each is given to send, and reads end before the next is sent.
func compressed(t *testing.T, members string, events [][]byte, send func([]byte)) {
	t.Helper()
	var out bytes.Buffer
	flush := func() {
		send(bytes.Clone(out.Bytes()))
		out.Reset()
	}
	check := func(err error) {
		if err != nil {
			t.Error(err)
		}
	}
	gz := gzip.NewWriter(&out)
	for _, e := range events {
		_, err := gz.Write(e)
		check(err)
		switch members {
		case "one": // as weir
			check(gz.Flush())
		case "many": // as upstream
			check(gz.Flush())
			check(gz.Close())
		case "closed": // whose last block has the event's end
			check(gz.Close())
		}
		flush()
		if members != "one" {
			gz.Reset(&out)
		}
	}
	if members == "one" {
		check(gz.Close())
		flush()
	}
}

var someEvents = [][]byte{
	[]byte("a"), bytes.Repeat([]byte("event "), 20_000), randomBytes(1, 100_000), []byte("b"), randomBytes(2, 10),
}

// An event can be read before anything is sent after it.
func TestInflaterHoldsNothingBack(t *testing.T) {
	for _, members := range []string{"one", "many", "closed"} {
		t.Run(members, func(t *testing.T) {
			// In a bubble a reader that waits for more than was sent is found out: everybody waits.
			synctest.Test(t, func(t *testing.T) { readEachBeforeTheNext(t, members) })
		})
	}
}

func readEachBeforeTheNext(t *testing.T, members string) {
	body, sent := io.Pipe()
	next := make(chan bool)
	go func() {
		defer sent.Close()
		compressed(t, members, someEvents, func(b []byte) {
			if _, err := sent.Write(b); err != nil {
				t.Error(err)
			}
			<-next
		})
	}()
	inflater := newInflater(body)
	for i, want := range someEvents {
		got := make([]byte, len(want))
		if _, err := io.ReadFull(inflater, got); err != nil || !bytes.Equal(got, want) {
			t.Fatalf("event %d: %.20q, %v", i, got, err)
		}
		next <- true
	}
	close(next)
	if n, err := inflater.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Errorf("after the end: %d bytes, %v", n, err)
	}
	want := int64(len(someEvents))
	if members == "one" {
		want = 1
	}
	if inflater.members != want {
		t.Errorf("%d members, want %d", inflater.members, want)
	}
}

func TestInflaterRefusesWhatIsCutOrFollowed(t *testing.T) {
	for _, members := range []string{"one", "many"} {
		var whole bytes.Buffer
		compressed(t, members, someEvents, func(b []byte) { whole.Write(b) })
		plain, err := io.ReadAll(newInflater(iotest.OneByteReader(bytes.NewReader(whole.Bytes()))))
		if want := bytes.Join(someEvents, nil); err != nil || !bytes.Equal(plain, want) {
			t.Errorf("%s: %d bytes of %d, %v", members, len(plain), len(want), err)
		}
		for name, body := range map[string][]byte{
			"cut in its trailer": whole.Bytes()[:whole.Len()-3],
			"cut in its data":    whole.Bytes()[:whole.Len()-20],
			"followed":           append(bytes.Clone(whole.Bytes()), `{"type":"ADDED"}`...),
			"of a wrong CRC":     append(bytes.Clone(whole.Bytes()[:whole.Len()-8]), make([]byte, 8)...),
		} {
			if _, err := io.ReadAll(newInflater(bytes.NewReader(body))); err == nil {
				t.Errorf("%s %s: no error", members, name)
			}
		}
	}
	if plain, err := io.ReadAll(newInflater(strings.NewReader(""))); err != nil || len(plain) != 0 {
		t.Errorf("no member: %q, %v", plain, err)
	}
}

func TestUnknownCodingIsRefused(t *testing.T) {
	resp := &http.Response{Header: http.Header{"Content-Encoding": {"br"}}}
	if _, err := Decode(resp, strings.NewReader("")); err == nil {
		t.Error("no error")
	}
}

// gzipped is a body in one member.
func gzipped(t *testing.T, plain string) []byte {
	t.Helper()
	var out bytes.Buffer
	gz, err := gzip.NewWriterLevel(&out, flate.BestSpeed)
	if err == nil {
		_, err = io.WriteString(gz, plain)
	}
	if err == nil {
		err = gz.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// finish runs a job to its end.
func finish(t *testing.T, job Job) (Report, error) {
	t.Helper()
	ctx := patience(t)
	c, err := parent(t).StartReaders(ctx, job)
	if err != nil {
		t.Fatal(err)
	}
	defer c.End()
	if err := c.Go(); err != nil {
		t.Fatal(err)
	}
	return c.Hear(ctx, StageDone)
}

// What comes over the wire is counted as it comes, and what is not compressed is told of.
func TestChildReadsCompressedLists(t *testing.T) {
	small := gzipped(t, twoPods)
	var whatever atomic.Bool
	access := server(t, func(w http.ResponseWriter, req *http.Request) {
		if whatever.Load() || req.URL.Path == "/compressed" && req.Header.Get("Accept-Encoding") == "gzip" {
			w.Header().Set("Content-Encoding", "gzip")
			_, _ = w.Write(small)
			return
		}
		fmt.Fprint(w, twoPods)
	})
	job := Job{
		Access: access, Paths: []string{"/compressed", "/plain"}, Format: FormatJSON, Streams: 4, PerConnection: 4, Until: UntilBody, Expect: 2, Repeat: 3, Gzip: true,
	}
	r, err := finish(t, job)
	want := Report{
		Stage: StageDone, Bytes: 6 * int64(len(small)+len(twoPods)), Plain: 12 * int64(len(twoPods)), Events: 24,
		Responses: 12, Compressed: 6, Members: 6, Seconds: r.Seconds,
	}
	if err != nil || len(r.Seconds) != 4 || fmt.Sprint(r) != fmt.Sprint(want) {
		t.Errorf("report %+v, %v; want %+v", r, err, want)
	}
	job.Gzip = false
	if r, err := finish(t, job); err != nil || r.Bytes != 12*int64(len(twoPods)) || r.Compressed != 0 {
		t.Errorf("without gzip: report %+v, %v", r, err)
	}
	whatever.Store(true)
	if _, err := finish(t, job); err == nil || !strings.Contains(err.Error(), "not asked for") {
		t.Errorf("gzip that nobody asked for: %v", err)
	}
}

func jsonEvent(kind string, version int, annotations string) string {
	return fmt.Sprintf(`{"type":%q,"object":{"metadata":{"name":"x","resourceVersion":"%d"%s}}}`+"\n", kind, version, annotations)
}

// Of a watch list that is counted live, the initial events count nowhere; it goes on as a watch from its last event.
func TestChildCountsLiveEventsOfWatchLists(t *testing.T) {
	const end = `,"annotations":{"k8s.io/initial-events-end":"true"}`
	live := make(chan bool)
	access := server(t, func(w http.ResponseWriter, req *http.Request) {
		send := func(events ...string) { // as upstream does
			gz := gzip.NewWriter(w)
			_, _ = io.WriteString(gz, strings.Join(events, ""))
			_ = gz.Flush()
			_ = gz.Close()
			w.(http.Flusher).Flush()
		}
		query := req.URL.Query()
		if query.Get("sendInitialEvents") == "" {
			if query.Get("resourceVersion") != "13" || query.Get("watch") != "1" || query.Has("resourceVersionMatch") {
				t.Errorf("goes on with %s", req.URL)
			}
			fmt.Fprint(w, jsonEvent("MODIFIED", 14, "")) // not compressed: no watch list
			w.(http.Flusher).Flush()
			<-req.Context().Done()
			return
		}
		w.Header().Set("Content-Encoding", "gzip")
		send(jsonEvent("ADDED", 9, ""), jsonEvent("ADDED", 7, ""))
		send(jsonEvent("BOOKMARK", 12, end))
		<-live
		send(jsonEvent("MODIFIED", 13, ""))
	})
	ctx := patience(t)
	c, err := parent(t).StartReaders(ctx, Job{
		Access: access, Paths: []string{"/w?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan"}, Format: FormatJSON,
		Streams: 1, PerConnection: 1, Until: UntilCount, Expect: 2, Initial: true, Gzip: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer c.End()
	if err := c.Go(); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Hear(ctx, StageOpen); err != nil { // before any live event
		t.Fatal(err)
	}
	close(live)
	r, err := c.Hear(ctx, StageDone)
	if err != nil || r.Events != 2 || r.Reconnects != 1 || r.Responses != 2 || r.Compressed != 1 || r.Members != 3 {
		t.Errorf("report %+v, %v", r, err)
	}
}
