// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package coalesce_test

import (
	"bytes"
	"crypto/tls"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"golang.org/x/net/websocket"

	"github.com/weir-project/weir/internal/coalesce"
)

// TestProgressOfSlowClient has a client that takes a kilobyte at a time: for each there may be
// up to 75 s, and it still counts as one that takes something. It has to show in Progress.
func TestProgressOfSlowClient(t *testing.T) {
	s := newServer(t, 2)
	streams := make(chan *coalesce.Stream, 1)
	over := make(chan struct{})
	s.handler = func(w http.ResponseWriter, req *http.Request, x exchange) {
		stream := coalesce.From(req.Context())
		stream.Busy()
		begin(w)
		streams <- stream
		event := make([]byte, 1000)
		for range 65 {
			if _, err := w.Write(event); err != nil {
				return
			}
		}
		stream.Idle()
		w.(http.Flusher).Flush()
		<-over
	}
	defer close(over)
	u, err := url.Parse(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	config := s.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
	config.NextProtos = []string{"h2"}
	conn, err := tls.Dial("tcp", u.Host, config)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	framer := http2.NewFramer(conn, conn)
	const window = 1000
	if err := framer.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: window}); err != nil {
		t.Fatal(err)
	}
	var headers bytes.Buffer
	enc := hpack.NewEncoder(&headers)
	for _, f := range []hpack.HeaderField{{Name: ":method", Value: "GET"}, {Name: ":scheme", Value: "https"}, {Name: ":authority", Value: u.Host}, {Name: ":path", Value: "/"}} {
		if err := enc.WriteField(f); err != nil {
			t.Fatal(err)
		}
	}
	if err := framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: headers.Bytes(), EndStream: true, EndHeaders: true}); err != nil {
		t.Fatal(err)
	}
	taken, steps := 0, 0
	for taken < 60*window {
		frame, err := framer.ReadFrame()
		if err != nil {
			t.Fatal(err)
		}
		switch f := frame.(type) {
		case *http2.DataFrame:
			taken += len(f.Data())
			steps++
			if err := framer.WriteWindowUpdate(1, uint32(len(f.Data()))); err != nil {
				t.Fatal(err)
			}
		case *http2.SettingsFrame:
			if !f.IsAck() {
				if err := framer.WriteSettingsAck(); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	if p := (<-streams).Progress(); p == 0 {
		t.Errorf("the client has taken %d bytes in %d steps, and the progress is %d", taken, steps, p)
	}
}

// TestProgressOfWebsocket has a client that is sent something over a connection that the
// handler has taken over.
func TestProgressOfWebsocket(t *testing.T) {
	s := newServer(t, 1)
	progress := make(chan int64, 1)
	s.handler = func(w http.ResponseWriter, req *http.Request, _ exchange) {
		stream := coalesce.From(req.Context())
		websocket.Handler(func(ws *websocket.Conn) {
			if err := websocket.Message.Send(ws, strings.Repeat("x", 1<<20)); err != nil {
				t.Error(err)
			}
			progress <- stream.Progress()
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
	var got string
	if err := websocket.Message.Receive(ws, &got); err != nil {
		t.Fatal(err)
	}
	if p := <-progress; p == 0 {
		t.Errorf("the client has taken %d bytes, and the progress is %d", len(got), p)
	}
}
