// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package coalesce

import (
	"bufio"
	"net"
	"net/http"

	"k8s.io/apiserver/pkg/endpoints/responsewriter"
)

// overHTTP1 is a response whose handler may take the connection over, as for a websocket.
type overHTTP1 struct {
	http.ResponseWriter
	responsewriter.CloseNotifierFlusher
	http.Hijacker
	stream *Stream
}

var (
	_ http.Hijacker                        = overHTTP1{}
	_ responsewriter.UserProvidedDecorator = overHTTP1{}
)

// hijackable returns w such that what goes to a connection that is taken over shows in the
// stream's Progress.
func hijackable(w http.ResponseWriter, s *Stream) http.ResponseWriter {
	notifier, ok := w.(responsewriter.CloseNotifierFlusher)
	hijacker, hijacks := w.(http.Hijacker)
	if !ok || !hijacks {
		return w
	}
	return overHTTP1{w, notifier, hijacker, s}
}

// Unwrap implements responsewriter.UserProvidedDecorator.
func (o overHTTP1) Unwrap() http.ResponseWriter { return o.ResponseWriter }

// Hijack implements http.Hijacker.
func (o overHTTP1) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := o.Hijacker.Hijack()
	if err != nil {
		return conn, rw, err
	}
	counting := countingConn{conn, o.stream}
	rw.Writer.Reset(counting) // nothing has been written yet
	return counting, rw, nil
}

// countingConn shows in a stream's Progress what a connection takes.
type countingConn struct {
	net.Conn
	stream *Stream
}

// Write implements net.Conn.
func (c countingConn) Write(p []byte) (int, error) {
	done := 0
	for done < len(p) {
		n, err := c.Conn.Write(p[done:min(len(p), done+slowSize)])
		c.stream.progress.Add(int64(n))
		if done += n; err != nil {
			return done, err
		}
	}
	return done, nil
}
