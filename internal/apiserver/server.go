// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"errors"
	"fmt"
	"net"
)

// Server is a running server inside the caller's process: what a test or a tool
// needs. The embedded Ready says where it is and how to talk to it.
type Server struct {
	Ready
	cancel context.CancelFunc
	done   chan error // gets Run's error, once
}

// Start parses args, the flags of `weir serve`, and runs a server until Stop. It
// listens on a free loopback port unless args name one, and returns when /readyz says
// ok, or why it never will.
//
//	server, err := apiserver.Start(ctx, "--data-dir="+t.TempDir())
//	defer server.Stop()
//	client := kubernetes.NewForConfigOrDie(server.Client)
//
// Feature gates, --v and the metrics registry belong to the process: servers with
// different gates need a process each. ctx bounds the start only.
func Start(ctx context.Context, args ...string) (*Server, error) {
	o, err := Parse(args...)
	if err != nil {
		return nil, err
	}
	if !o.changed("secure-port", "bind-address") {
		if o.Listener, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
			return nil, fmt.Errorf("cannot listen on loopback: %w", err)
		}
	}
	run, cancel := context.WithCancel(context.WithoutCancel(ctx))
	s := &Server{cancel: cancel, done: make(chan error, 1)}
	ready := make(chan Ready, 1)
	go func() {
		s.done <- o.Run(run, func(r Ready) { ready <- r })
	}()
	select {
	case s.Ready = <-ready:
		return s, nil
	case err := <-s.done:
		cancel()
		if err == nil {
			err = errors.New("the server ended before it was ready")
		}
		return nil, err
	case <-ctx.Done():
		return nil, errors.Join(fmt.Errorf("the server is not ready: %w", context.Cause(ctx)), s.Stop())
	}
}

// Stop drains the server, waits until everything is stopped and returns Run's error.
// It is to be called once.
func (s *Server) Stop() error {
	s.cancel()
	return <-s.done
}
