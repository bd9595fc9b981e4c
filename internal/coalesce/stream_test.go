// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package coalesce_test

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/net/websocket"

	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/server/routine"

	"github.com/weir-project/weir/internal/coalesce"
	"github.com/weir-project/weir/internal/ledger"
)

// buffer is the size of a Stream's buffer, in bytes.
const buffer = 64 << 10

// first is how much is written at once to a connection that is not known yet.
const first = 16 << 10

// begin does what upstream's watch handler begins with.
func begin(w http.ResponseWriter) {
	w.WriteHeader(http.StatusOK)
	w.(http.Flusher).Flush()
}

// TestHeldWhileBusy has a producer that is busy while the handler writes and flushes:
// the headers come at once, the rest in one piece when the producer is idle.
func TestHeldWhileBusy(t *testing.T) {
	bothVersions(t, func(t *testing.T, s *server) {
		headers, written, read := make(chan struct{}), make(chan struct{}), make(chan struct{})
		want := strings.Repeat("event\n", 100)
		var x exchange
		var stream *coalesce.Stream
		s.handler = func(w http.ResponseWriter, req *http.Request, ex exchange) {
			x, stream = ex, coalesce.From(req.Context())
			stream.Busy()
			begin(w)
			wait(t, x.ctx, "the headers", headers)
			for range 100 {
				if n, err := io.WriteString(w, "event\n"); n != 6 || err != nil {
					t.Errorf("Write: %d, %v", n, err)
				}
				w.(http.Flusher).Flush()
			}
			close(written)
			// The handler goes on, and writes nothing more.
			wait(t, x.ctx, "the data", read)
		}
		resp := s.get(t)
		close(headers)
		wait(t, s.ctx, "the handler's writes", written)
		if calls := x.tap.seen(); !slices.Equal(calls, []int{-1}) {
			t.Errorf("while busy, what came through is %v, want the flush of the headers", calls)
		}
		if held := ledger.Process.Bytes(ledger.Streams); held != buffer {
			t.Errorf("%d bytes are booked for one stream that holds data, want %d", held, buffer)
		}
		stream.Idle()
		if calls := x.tap.seen(); !slices.Equal(calls, []int{-1, len(want), -1}) {
			t.Errorf("what came through is %v", calls)
		}
		if held := ledger.Process.Bytes(ledger.Streams); held != 0 {
			t.Errorf("%d bytes are booked for one stream that is idle", held)
		}
		got := make([]byte, len(want))
		if _, err := io.ReadFull(resp.Body, got); err != nil || string(got) != want {
			t.Errorf("the client read %q, %v", got, err)
		}
		stream.Idle() // nothing to send: nothing is done
		if calls := x.tap.seen(); len(calls) != 3 {
			t.Errorf("an idle stream sent %v", calls[3:])
		}
		close(read)
		if rest, err := io.ReadAll(resp.Body); len(rest) != 0 || err != nil {
			t.Errorf("the response ends in %q, %v", rest, err)
		}
	})
}

// TestArrivesAfterIdle has the producer idle before the handler has written what it
// was given: the handler's own flush sends it.
func TestArrivesAfterIdle(t *testing.T) {
	bothVersions(t, func(t *testing.T, s *server) {
		read := make(chan struct{})
		s.handler = func(w http.ResponseWriter, req *http.Request, x exchange) {
			stream := coalesce.From(req.Context())
			stream.Busy()
			begin(w)
			stream.Idle()
			io.WriteString(w, "late")
			w.(http.Flusher).Flush()
			wait(t, x.ctx, "the data", read)
		}
		got := make([]byte, 4)
		if _, err := io.ReadFull(s.get(t).Body, got); err != nil || string(got) != "late" {
			t.Errorf("the client read %q, %v", got, err)
		}
		close(read)
	})
}

// TestGathers shows what reaches the connection of writes around the buffer's size.
func TestGathers(t *testing.T) {
	for name, test := range map[string]struct{ writes, calls []int }{
		"nothing":         {},
		"empty":           {[]int{0}, []int{0}},
		"small":           {[]int{1, 2, 3}, []int{6}},
		"full":            {[]int{1, buffer - 1}, slices.Repeat([]int{first}, 4)},
		"overfull":        {[]int{2, buffer - 1}, []int{2, first, first, first, first - 1}},
		"as large":        {[]int{buffer}, slices.Repeat([]int{first}, 4)},
		"large in middle": {[]int{10, 2 * first, 20, 30}, []int{first, first, 60}},
		"larger":          {[]int{10, buffer + 1, 20}, append(append([]int{10}, slices.Repeat([]int{first}, 4)...), 1, 20)},
		"many":            {slices.Repeat([]int{first}, 9), slices.Repeat([]int{first}, 9)},
		// A connection that is quick is given as much as there is.
		"known": {append(slices.Repeat([]int{buffer}, 18), 3*buffer), append(slices.Repeat([]int{first}, 65), buffer-first, buffer, buffer, buffer, buffer)},
	} {
		t.Run(name, func(t *testing.T) {
			bothVersions(t, func(t *testing.T, s *server) {
				var x exchange
				s.handler = func(w http.ResponseWriter, req *http.Request, ex exchange) {
					x = ex
					coalesce.From(req.Context()).Busy()
					for _, n := range test.writes {
						if got, err := w.Write(make([]byte, n)); got != n || err != nil {
							t.Errorf("Write of %d: %d, %v", n, got, err)
						}
					}
				}
				if _, err := io.Copy(io.Discard, s.get(t).Body); err != nil {
					t.Error(err)
				}
				wait(t, s.ctx, "the handler's return", s.returned)
				if calls := x.tap.seen(); !slices.Equal(calls, test.calls) {
					t.Errorf("writes of %v come through as %v, want %v", test.writes, calls, test.calls)
				}
			})
		})
	}
}

// blocked is a connection whose writes wait to be let through.
type blocked struct {
	*httptest.ResponseRecorder
	began, let chan struct{}
}

// Write implements http.ResponseWriter.
func (b *blocked) Write(p []byte) (int, error) {
	b.began <- struct{}{}
	<-b.let
	return b.ResponseRecorder.Write(p)
}

// TestProducerDoesNotWait has a connection that does not take what the handler writes: what
// the producer says returns all the same, and what it has left to be sent is sent when the
// connection goes on.
func TestProducerDoesNotWait(t *testing.T) {
	w := &blocked{httptest.NewRecorder(), make(chan struct{}), make(chan struct{})}
	streams, finish, done := make(chan *coalesce.Stream), make(chan struct{}), make(chan struct{})
	handler := coalesce.Handler(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		stream := coalesce.From(req.Context())
		stream.Busy()
		streams <- stream
		for _, n := range []int{10, buffer, 20} {
			if _, err := w.Write(make([]byte, n)); err != nil {
				t.Error(err)
			}
		}
		w.(http.Flusher).Flush()
		<-finish
	}), true)
	info := &request.RequestInfo{IsResourceRequest: true, Verb: "watch", Resource: "pods"}
	req := httptest.NewRequestWithContext(request.WithRequestInfo(t.Context(), info), http.MethodGet, "/", nil)
	go func() {
		defer close(done)
		handler.ServeHTTP(w, req)
	}()
	stream := <-streams
	for n, want := range []int64{0, 10, 10 + first, 10 + 2*first, 10 + 3*first} { // before the write of 10 bytes, and of each piece
		wait(t, t.Context(), "a write to the connection", w.began)
		for range 100 {
			stream.Busy()
			stream.Idle()
		}
		if got := stream.Progress(); got != want {
			t.Errorf("before write %d the connection has taken %d bytes, want %d", n, got, want)
		}
		w.let <- struct{}{}
	}
	// The producer is idle: what was held back is sent, by whoever had the stream then.
	wait(t, t.Context(), "the last write", w.began)
	w.let <- struct{}{}
	close(finish)
	<-done
	if got, want := w.Body.Len(), 30+buffer; got != want || !w.Flushed {
		t.Errorf("the connection has %d bytes, want %d; flushed: %v", got, want, w.Flushed)
	}
}

// TestOrder has a producer that turns busy and idle at any time while the handler
// writes pieces of all sizes: the client gets them all in order.
func TestOrder(t *testing.T) {
	bothVersions(t, func(t *testing.T, s *server) {
		sizes := []int{1, 100, buffer - 1, buffer, buffer + 1, 7, 200_000, 3000}
		var want []byte
		for i := range 300 {
			want = append(want, bytes.Repeat([]byte{byte(i)}, sizes[i*5%len(sizes)])...)
		}
		s.handler = func(w http.ResponseWriter, req *http.Request, x exchange) {
			stream := coalesce.From(req.Context())
			stream.Busy()
			begin(w)
			done := make(chan struct{})
			var producers sync.WaitGroup
			for range 2 {
				producers.Go(func() {
					for {
						select {
						case <-done:
							return
						default:
							stream.Busy()
							stream.Idle()
						}
					}
				})
			}
			left := want
			for i := range 300 {
				n := sizes[i*5%len(sizes)]
				if _, err := w.Write(left[:n]); err != nil {
					t.Errorf("Write: %v", err)
				}
				left = left[n:]
				if i%3 == 0 {
					w.(http.Flusher).Flush()
				}
			}
			close(done)
			producers.Wait()
		}
		got, err := io.ReadAll(s.get(t).Body)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("the client read %d bytes, %v, want %d, or in another order", len(got), err, len(want))
		}
	})
}

// TestNothingAfterReturn has a producer, and a writer, that outlive the handler.
func TestNothingAfterReturn(t *testing.T) {
	bothVersions(t, func(t *testing.T, s *server) {
		var x exchange
		var stream *coalesce.Stream
		var kept http.ResponseWriter
		s.handler = func(w http.ResponseWriter, req *http.Request, ex exchange) {
			x, stream, kept = ex, coalesce.From(req.Context()), w
			stream.Busy()
			io.WriteString(w, "before")
		}
		got, err := io.ReadAll(s.get(t).Body)
		if err != nil || string(got) != "before" {
			t.Errorf("the client read %q, %v", got, err)
		}
		wait(t, s.ctx, "the handler's return", s.returned)
		calls := x.tap.seen()
		stream.Busy()
		if n, err := kept.Write([]byte("after")); n != 0 || err == nil {
			t.Errorf("a write after the handler has returned: %d, %v", n, err)
		}
		stream.Idle()
		if n, err := kept.Write(make([]byte, 2*buffer)); n != 0 || err == nil {
			t.Errorf("a large write after the handler has returned: %d, %v", n, err)
		}
		kept.(http.Flusher).Flush()
		if more := x.tap.seen()[len(calls):]; len(more) != 0 {
			t.Errorf("after the handler has returned, %v came through", more)
		}
	})
}

// TestRoutine serves as with the gate APIServingWithRoutine: after the handler has
// returned. Only what comes after that is refused.
func TestRoutine(t *testing.T) {
	bothVersions(t, func(t *testing.T, s *server) {
		s.routine = true
		var kept http.ResponseWriter
		s.handler = func(w http.ResponseWriter, req *http.Request, x exchange) {
			kept = w
			stream := coalesce.From(req.Context())
			stream.Busy()
			routine.TaskFrom(req.Context()).Func = func() {
				begin(w)
				for _, data := range []string{"first", "second"} {
					stream.Busy()
					if _, err := io.WriteString(w, data); err != nil {
						t.Errorf("Write: %v", err)
					}
					w.(http.Flusher).Flush()
					stream.Idle()
				}
				stream.Busy()
				io.WriteString(w, "end")
			}
		}
		got, err := io.ReadAll(s.get(t).Body)
		if err != nil || string(got) != "firstsecondend" {
			t.Errorf("the client read %q, %v", got, err)
		}
		wait(t, s.ctx, "the handler's return", s.returned)
		if n, err := kept.Write([]byte("after")); n != 0 || err == nil {
			t.Errorf("a write after the request has been served: %d, %v", n, err)
		}
	})
}

// TestPanic has the handler panic, which upstream's handlers do to cut a connection.
func TestPanic(t *testing.T) {
	bothVersions(t, func(t *testing.T, s *server) {
		s.handler = func(w http.ResponseWriter, req *http.Request, x exchange) {
			coalesce.From(req.Context()).Busy()
			begin(w)
			io.WriteString(w, "data")
			panic(http.ErrAbortHandler)
		}
		if _, err := io.ReadAll(s.get(t).Body); err == nil {
			t.Error("the client saw an ordinary end")
		}
	})
}

// TestClientGoes has the client leave: the handler's writes end in an error.
func TestClientGoes(t *testing.T) {
	bothVersions(t, func(t *testing.T, s *server) {
		gone := make(chan struct{})
		s.handler = func(w http.ResponseWriter, req *http.Request, x exchange) {
			stream := coalesce.From(req.Context())
			stream.Busy()
			begin(w)
			wait(t, x.ctx, "the client's leave", gone)
			for x.ctx.Err() == nil {
				if _, err := w.Write(make([]byte, 1000)); err != nil {
					stream.Idle()
					w.(http.Flusher).Flush()
					return
				}
			}
			t.Error("writing to nobody goes on")
		}
		s.get(t).Body.Close()
		close(gone)
		wait(t, s.ctx, "the handler's return", s.returned)
	})
}

// TestUntouched sends requests that are none of coalesce's business.
func TestUntouched(t *testing.T) {
	for name, info := range map[string]request.RequestInfo{
		"list":         {IsResourceRequest: true, Verb: "list"},
		"no resource":  {IsResourceRequest: false, Verb: "watch"},
		"get of a log": {IsResourceRequest: true, Verb: "get", Subresource: "log"},
	} {
		t.Run(name, func(t *testing.T) {
			bothVersions(t, func(t *testing.T, s *server) {
				s.info = info
				s.handler = func(w http.ResponseWriter, req *http.Request, x exchange) {
					if w != x.outer {
						t.Errorf("the handler got %T, not what the server gave", w)
					}
					stream := coalesce.From(req.Context())
					if stream != nil {
						t.Error("there is a Stream")
					}
					stream.Busy()
					stream.Idle()
				}
				s.get(t)
			})
		})
	}
	t.Run("no information", func(t *testing.T) {
		w := httptest.NewRecorder()
		called := false
		coalesce.Handler(http.HandlerFunc(func(got http.ResponseWriter, req *http.Request) {
			called = got == http.ResponseWriter(w) && coalesce.From(req.Context()) == nil
		}), true).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil))
		if !called {
			t.Error("a request of which nothing is known was not passed on as it is")
		}
	})
	t.Run("no producer", func(t *testing.T) {
		bothVersions(t, func(t *testing.T, s *server) {
			var x exchange
			s.handler = func(w http.ResponseWriter, _ *http.Request, ex exchange) {
				x = ex
				begin(w)
				for _, n := range []int{1, 0, buffer, 2} {
					w.Write(make([]byte, n))
					w.(http.Flusher).Flush()
				}
			}
			io.Copy(io.Discard, s.get(t).Body)
			wait(t, s.ctx, "the handler's return", s.returned)
			if calls := x.tap.seen(); !slices.Equal(calls, []int{-1, 1, -1, 0, -1, buffer, -1, 2, -1}) {
				t.Errorf("what came through is %v", calls)
			}
		})
	})
}

// TestError has the handler answer with an error after the producer has begun.
func TestError(t *testing.T) {
	bothVersions(t, func(t *testing.T, s *server) {
		s.handler = func(w http.ResponseWriter, req *http.Request, _ exchange) {
			coalesce.From(req.Context()).Busy()
			http.Error(w, "not acceptable", http.StatusNotAcceptable)
		}
		resp := s.get(t)
		body, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != http.StatusNotAcceptable || string(body) != "not acceptable\n" {
			t.Errorf("the client got %d, %q, %v", resp.StatusCode, body, err)
		}
	})
}

// TestInterfaces holds what a handler may ask of its response writer.
func TestInterfaces(t *testing.T) {
	bothVersions(t, func(t *testing.T, s *server) {
		s.handler = func(w http.ResponseWriter, _ *http.Request, _ exchange) {
			if _, ok := w.(http.Flusher); !ok {
				t.Error("no Flusher")
			}
			if _, ok := w.(http.CloseNotifier); !ok { //nolint:staticcheck // SA1019: upstream's wrappers look for it
				t.Error("no CloseNotifier")
			}
			if _, ok := w.(http.Hijacker); ok != (s.version == 1) {
				t.Errorf("Hijacker over HTTP/%d: %v", s.version, ok)
			}
		}
		s.get(t)
	})
}

// TestWebsocket talks over a connection that the handler takes over, as upstream does
// for a watch over websocket.
func TestWebsocket(t *testing.T) {
	s := newServer(t, 1)
	s.handler = func(w http.ResponseWriter, req *http.Request, _ exchange) {
		stream := coalesce.From(req.Context())
		stream.Busy()
		websocket.Handler(func(ws *websocket.Conn) {
			var message string
			for websocket.Message.Receive(ws, &message) == nil {
				stream.Busy()
				if err := websocket.Message.Send(ws, "echo "+message); err != nil {
					t.Error(err)
				}
				stream.Idle()
			}
		}).ServeHTTP(w, req)
	}
	config, err := websocket.NewConfig(strings.Replace(s.URL, "https", "wss", 1), s.URL)
	if err != nil {
		t.Fatal(err)
	}
	config.TlsConfig = s.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
	config.TlsConfig.NextProtos = nil
	ws, err := config.DialContext(s.ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer ws.Close()
	for _, message := range []string{"a", "b"} {
		var answer string
		if err := websocket.Message.Send(ws, message); err != nil {
			t.Fatal(err)
		}
		if err := websocket.Message.Receive(ws, &answer); err != nil || answer != "echo "+message {
			t.Fatalf("received %q, %v", answer, err)
		}
	}
}

func TestNilStream(t *testing.T) {
	stream := coalesce.From(context.Background())
	stream.Busy()
	stream.Idle()
}

// BenchmarkWrite is an event of 1 KB that is gathered with others.
func BenchmarkWrite(b *testing.B) {
	event := make([]byte, 1000)
	info := &request.RequestInfo{IsResourceRequest: true, Verb: "watch"}
	req := httptest.NewRequest(http.MethodGet, "/", nil)
	coalesce.Handler(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		coalesce.From(req.Context()).Busy()
		b.ReportAllocs()
		for b.Loop() {
			w.Write(event)
		}
	}), true).ServeHTTP(discard{}, req.WithContext(request.WithRequestInfo(req.Context(), info)))
}

// discard is a response that nobody reads.
type discard struct{}

func (discard) Header() http.Header         { return http.Header{} }
func (discard) WriteHeader(int)             {}
func (discard) Write(p []byte) (int, error) { return len(p), nil }
