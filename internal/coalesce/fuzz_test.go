// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package coalesce_test

import (
	"bufio"
	"bytes"
	"errors"
	"net"
	"net/http"
	"testing"

	"k8s.io/apiserver/pkg/endpoints/request"

	"github.com/weir-project/weir/internal/coalesce"
	"github.com/weir-project/weir/internal/ledger"
)

// wireTap is a connection that keeps what it takes, and takes no more than it has room for.
type wireTap struct {
	net.Conn
	taken   bytes.Buffer
	flushed int
	room    int
}

var errNoRoom = errors.New("the connection has no room")

func (c *wireTap) Header() http.Header { return http.Header{} }
func (c *wireTap) WriteHeader(int)     {}
func (c *wireTap) Flush()              { c.flushed = c.taken.Len() }

func (c *wireTap) Write(p []byte) (int, error) {
	if room := c.room - c.taken.Len(); len(p) > room {
		n, _ := c.taken.Write(p[:room])
		return n, errNoRoom
	}
	return c.taken.Write(p)
}

func (c *wireTap) CloseNotify() <-chan bool { return nil }

func (c *wireTap) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return c, bufio.NewReadWriter(bufio.NewReader(bytes.NewReader(nil)), bufio.NewWriter(c)), nil
}

// FuzzStream goes through a script of what a handler and its producer do. What the connection
// takes is what was written, one after the other, up to where it has no more room; when the
// producer is quiet and the handler has flushed, nothing is held back; a connection that
// failed shows in the next write at the latest; and no buffer stays behind.
//
//	go test -fuzz=FuzzStream ./internal/coalesce
func FuzzStream(f *testing.F) {
	f.Add([]byte("bw\x05w\x60fif"), 1<<20, false)
	f.Add([]byte("bw\x01w\x02w\x03w\x04w\x05w\x06w\x07w\x08fifbw\x03w\x04iw\x05f"), 1<<20, false)
	f.Add([]byte("bw\xffw\xffw\xffw\xffw\xffw\xffw\xfffiw\x01f"), 1<<20, false)
	f.Add([]byte("w\x00w\x01fbw\x02iw\x03"), 1<<20, false)
	f.Add([]byte("bw\xffw\xffw\xffiw\x01bw\xff"), 70_000, false)
	f.Add([]byte("w\x05w\xffw\xff"), 70_000, true)
	f.Fuzz(func(t *testing.T, script []byte, room int, hijacked bool) {
		script = script[:min(len(script), 200)]
		before := ledger.Process.Bytes(ledger.Streams)
		conn := &wireTap{room: min(max(room, 0), 4<<20)}
		var want bytes.Buffer
		req, err := http.NewRequestWithContext(request.WithRequestInfo(t.Context(), &request.RequestInfo{IsResourceRequest: true, Verb: "watch"}), http.MethodGet, "/", nil)
		if err != nil {
			t.Fatal(err)
		}
		failed := false
		coalesce.Handler(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			s := coalesce.From(req.Context())
			write := w.Write
			if hijacked {
				c, _, err := w.(http.Hijacker).Hijack()
				if err != nil {
					t.Fatal(err)
				}
				write = c.Write
			}
			busy, produced := false, false
			for i := 0; i < len(script); i++ {
				switch script[i] {
				case 'b':
					busy, produced = true, true
					s.Busy()
				case 'i':
					busy = false
					s.Idle()
				case 'f':
					if hijacked {
						continue
					}
					w.(http.Flusher).Flush()
					if produced && !busy && want.Len() <= conn.room && conn.flushed != want.Len() {
						t.Fatalf("%q: after %d, %d bytes are flushed of %d while all is quiet", script, i, conn.flushed, want.Len())
					}
				case 'w':
					if i++; i == len(script) {
						continue
					}
					// Each write has other bytes, and sizes go up to more than a buffer.
					size := int(script[i]) * int(script[i]) * 5 / 4
					p := bytes.Repeat([]byte{byte('A' + i%53)}, size)
					n, err := write(p)
					want.Write(p)
					switch {
					case failed && err == nil && size > 0:
						t.Fatalf("%q: after %d, a write to a connection that has failed is no error", script, i)
					case err == nil && n != size:
						t.Fatalf("%q: after %d, %d bytes are said to be written of %d", script, i, n, size)
					case err != nil && want.Len() <= conn.room:
						t.Fatalf("%q: after %d: %v, and there is room", script, i, err)
					}
					failed = failed || err != nil
				}
			}
		}), true).ServeHTTP(conn, req)
		if took := want.Bytes()[:min(want.Len(), conn.room)]; !bytes.Equal(conn.taken.Bytes(), took) {
			t.Errorf("%q: the connection has taken %d bytes, want %d of %d", script, conn.taken.Len(), len(took), want.Len())
		}
		if after := ledger.Process.Bytes(ledger.Streams); after != before {
			t.Errorf("%q: %d bytes of buffers are left", script, after-before)
		}
	})
}
