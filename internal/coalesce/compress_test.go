// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package coalesce_test

import (
	"bufio"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/features"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	featuregatetesting "k8s.io/component-base/featuregate/testing"

	"github.com/weir-project/weir/internal/coalesce"
	"github.com/weir-project/weir/internal/deflate"
	"github.com/weir-project/weir/internal/ledger"
)

// member reads one gzip member, and fails if anything is behind it.
type member struct {
	in *bufio.Reader
	z  *gzip.Reader
}

func (m *member) Read(p []byte) (n int, err error) {
	if m.z == nil {
		if m.z, err = gzip.NewReader(m.in); err != nil {
			return 0, err
		}
		m.z.Multistream(false)
	}
	n, err = m.z.Read(p)
	if err == io.EOF {
		if _, more := m.in.Peek(1); more != io.EOF {
			return n, fmt.Errorf("there is something behind the member: %v", more)
		}
	}
	return n, err
}

func memberOf(r io.Reader) *member { return &member{in: bufio.NewReader(r)} }

// zipped sends the request of a client that takes gzip.
func (s *server) zipped(t *testing.T) *http.Response {
	t.Helper()
	req, err := http.NewRequestWithContext(s.ctx, http.MethodGet, s.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept-Encoding", "gzip")
	resp, err := s.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	return resp
}

// segmentOf returns a segment of plain bytes, and what writes them.
func segmentOf(plain []byte) (*deflate.Segment, func(io.Writer) error) {
	return deflate.Compress(plain, true), func(w io.Writer) error {
		_, err := w.Write(plain)
		return err
	}
}

// TestEventsOfCompressedStream has a handler write what is shared and what is not. The client has
// each event before the next is written, in one gzip member, and an idle stream holds nothing.
func TestEventsOfCompressedStream(t *testing.T) {
	noise := make([]byte, 200_000)
	for i := range noise {
		noise[i] = byte(rand.Uint32())
	}
	events := [][]byte{[]byte("one"), noise, []byte(strings.Repeat("some words ", 30_000)), noise[:10], {'x'}, noise[:100_000], []byte("last")}
	bothVersions(t, func(t *testing.T, s *server) {
		read := make(chan struct{})
		s.handler = func(w http.ResponseWriter, req *http.Request, x exchange) {
			stream := coalesce.From(req.Context())
			if !stream.Compress() {
				t.Error("the stream is not compressed")
			}
			if got := req.Header.Get("Accept-Encoding"); got != "" {
				t.Errorf("the handler still finds a client that accepts %q", got)
			}
			stream.Busy()
			begin(w)
			stream.Idle()
			for i, event := range events {
				stream.Busy()
				if i%2 == 0 {
					if _, err := w.Write(event); err != nil {
						t.Error(err)
					}
				} else {
					segment, emit := segmentOf(event)
					err := stream.Instead(segment, emit, 3, func() error {
						_, err := w.Write([]byte("abc"))
						return err
					})
					if err != nil {
						t.Error(err)
					}
				}
				w.(http.Flusher).Flush()
				stream.Idle()
				w.(http.Flusher).Flush()
				wait(t, x.ctx, "the reader", read)
				if held := ledger.Process.Bytes(ledger.Streams); held != 0 {
					t.Errorf("after event %d an idle stream holds %d bytes", i, held)
				}
			}
		}
		resp := s.zipped(t)
		if resp.Header.Get("Content-Encoding") != "gzip" || resp.Header.Get("Vary") != "Accept-Encoding" {
			t.Errorf("the header says %v", resp.Header)
		}
		body := memberOf(resp.Body)
		for i, event := range events {
			got := make([]byte, len(event))
			if _, err := io.ReadFull(body, got); err != nil || string(got) != string(event) {
				t.Fatalf("event %d: %.20q, %v", i, got, err)
			}
			read <- struct{}{}
		}
		if rest, err := io.ReadAll(body); len(rest) > 0 || err != nil {
			t.Errorf("the response ends in %q, %v", rest, err)
		}
	})
}

// TestUncompressed has Compress say no, where upstream's writer would not compress or there is no
// response to be compressed.
func TestUncompressed(t *testing.T) {
	ask := func(compressing bool, header http.Header) (compresses bool) {
		ctx := request.WithRequestInfo(t.Context(), &request.RequestInfo{IsResourceRequest: true, Verb: "watch"})
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "/", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header = header
		coalesce.Handler(http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) {
			compresses = coalesce.From(req.Context()).Compress()
		}), compressing).ServeHTTP(httptest.NewRecorder(), req)
		return compresses
	}
	gzipped := http.Header{"Accept-Encoding": {"gzip"}}
	if !ask(true, gzipped.Clone()) {
		t.Error("what would be compressed is not")
	}
	if ask(false, gzipped.Clone()) {
		t.Error("it is compressed without the gate SharedCompression")
	}
	if ask(true, http.Header{"Accept-Encoding": {"br"}}) || ask(true, http.Header{}) {
		t.Error("it is compressed for who does not accept that")
	}
	socket := gzipped.Clone()
	socket.Set("Connection", "Upgrade")
	socket.Set("Upgrade", "websocket")
	if ask(true, socket) {
		t.Error("a websocket is compressed")
	}
	if (*coalesce.Stream)(nil).Compress() {
		t.Error("nothing is compressed")
	}
	featuregatetesting.SetFeatureGateDuringTest(t, utilfeature.DefaultFeatureGate, features.WatchListCompression, false)
	if ask(true, gzipped.Clone()) {
		t.Error("it is compressed without the gate WatchListCompression")
	}
}

// TestErrorOfCompressedStream: an error before the stream begins is sent as it is.
func TestErrorOfCompressedStream(t *testing.T) {
	bothVersions(t, func(t *testing.T, s *server) {
		s.handler = func(w http.ResponseWriter, req *http.Request, _ exchange) {
			coalesce.From(req.Context()).Compress()
			w.WriteHeader(http.StatusNotAcceptable)
			io.WriteString(w, "no")
		}
		resp := s.zipped(t)
		body, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != http.StatusNotAcceptable || string(body) != "no" || resp.Header.Get("Content-Encoding") != "" {
			t.Errorf("%s %v: %q, %v", resp.Status, resp.Header, body, err)
		}
	})
}

// TestNoFalseEnd: a stream of which something was not written as it should have been, or whose
// handler ended in a panic, does not look as if it were whole.
func TestNoFalseEnd(t *testing.T) {
	broken := errors.New("broken")
	for name, spoil := range map[string]func(t *testing.T, w http.ResponseWriter, s *coalesce.Stream){
		"an event of another size": func(t *testing.T, w http.ResponseWriter, s *coalesce.Stream) {
			segment, emit := segmentOf([]byte("event"))
			if err := s.Instead(segment, emit, 5, func() error { _, err := w.Write(make([]byte, 4)); return err }); err == nil {
				t.Error("4 bytes stand for 5")
			}
			if _, err := w.Write([]byte("more")); err == nil {
				t.Error("the stream takes more")
			}
		},
		"stored bytes that are missing": func(t *testing.T, w http.ResponseWriter, s *coalesce.Stream) {
			segment, _ := segmentOf([]byte("?"))
			emit := func(io.Writer) error { return broken }
			if err := s.Instead(segment, emit, 1, func() error { _, err := w.Write([]byte{0}); return err }); !errors.Is(err, broken) {
				t.Errorf("the error is %v", err)
			}
			if _, err := w.Write([]byte("more")); err == nil {
				t.Error("the stream takes more")
			}
		},
		"a panic": func(*testing.T, http.ResponseWriter, *coalesce.Stream) { panic(http.ErrAbortHandler) },
	} {
		t.Run(name, func(t *testing.T) {
			before := ledger.Process.Bytes(ledger.Streams)
			s := newServer(t, 1)
			s.handler = func(w http.ResponseWriter, req *http.Request, _ exchange) {
				stream := coalesce.From(req.Context())
				stream.Compress()
				stream.Busy()
				begin(w)
				io.WriteString(w, "begun")
				stream.Idle()
				w.(http.Flusher).Flush()
				spoil(t, w, stream)
			}
			if got, err := io.ReadAll(memberOf(s.zipped(t).Body)); err == nil {
				t.Errorf("%q ends like a whole stream", got)
			}
			s.close()
			if after := ledger.Process.Bytes(ledger.Streams); after != before {
				t.Errorf("%d bytes are booked after everything has ended", after-before)
			}
		})
	}
}
