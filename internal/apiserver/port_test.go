// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"net"
	"strings"
	"testing"
)

// dead is a listener that nobody accepts from, as that of a process that is about to go: the kernel accepts for it.
func dead(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// TestPortOfTheDead: a port at which nobody answers is waited for, if that is asked for.
func TestPortOfTheDead(t *testing.T) {
	t.Parallel()
	before := dead(t)
	address := before.Addr().String()
	o := &Options{}
	if _, err := o.take(t.Context(), "tcp", address, false); err == nil || !strings.Contains(err.Error(), "has just died") {
		t.Errorf("not patient: %v", err)
	}
	var said []Progress
	o.Progress = func(p Progress) {
		said = append(said, p)
		if !p.Over {
			_ = before.Close() // it has died now
		}
	}
	l, err := o.take(t.Context(), "tcp", address, true)
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close()
	if len(said) != 2 || said[0].Stage != StagePort || said[0].Over || !strings.Contains(said[0].Detail, address+" is taken") || !said[1].Over {
		t.Errorf("it says %+v", said)
	}
}

// TestPortOfTheLiving: a port at which somebody answers is not waited for, whatever the answer is.
func TestPortOfTheLiving(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string]func(net.Conn){
		"closes": func(c net.Conn) { _, _ = c.Read(make([]byte, 1<<16)) },
		"resets": func(c net.Conn) { _ = c.(*net.TCPConn).SetLinger(0) },
		"speaks": func(c net.Conn) { _, _ = c.Write([]byte("HTTP/1.0 400 Bad Request\r\n\r\n")) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := dead(t)
			go func() {
				for {
					conn, err := l.Accept()
					if err != nil {
						return
					}
					answer(conn)
					_ = conn.Close()
				}
			}()
			o := &Options{Progress: func(p Progress) { t.Errorf("it waits: %+v", p) }}
			if _, err := o.take(t.Context(), "tcp", l.Addr().String(), true); err == nil || !strings.Contains(err.Error(), "another server answers there") {
				t.Errorf("%v", err)
			}
		})
	}
}

// TestPortIsGivenUp: what has to end does not wait.
func TestPortIsGivenUp(t *testing.T) {
	t.Parallel()
	before := dead(t)
	ctx, cancel := context.WithCancel(t.Context())
	o := &Options{Progress: func(Progress) { cancel() }}
	if _, err := o.take(ctx, "tcp", before.Addr().String(), true); err == nil {
		t.Error("a taken port is opened")
	}
}
