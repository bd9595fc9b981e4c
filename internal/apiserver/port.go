// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"syscall"
	"time"

	"k8s.io/klog/v2"
)

const (
	// portPatience is for how long a stand-alone server tries to get a port that is taken, but at which nobody
	// answers, and portPause how often.
	portPatience = 10 * time.Second
	portPause    = 200 * time.Millisecond
	// answerTime is what somebody who lives has to answer in.
	answerTime = time.Second
)

// listen opens the serving port first of all, so that a port that is taken is found
// before anything is written.
func (o *Options) listen(ctx context.Context, embedded bool) (err error) {
	s := o.SecureServing
	switch {
	case o.Listener != nil:
		s.Listener = o.Listener
	case s.PermitPortSharing || s.PermitAddressSharing || s.BindPort < 1 || s.BindPort > 65535:
		return nil // upstream's options of the socket, and upstream's error
	default:
		network := s.BindNetwork
		if network == "" {
			network = "tcp"
		}
		address := net.JoinHostPort(s.BindAddress.String(), strconv.Itoa(s.BindPort))
		if s.Listener, err = o.take(ctx, network, address, embedded); err != nil {
			return err
		}
	}
	if tcp, ok := s.Listener.Addr().(*net.TCPAddr); ok {
		s.BindPort = tcp.Port
	}
	return nil
}

// take opens a port. The kernel gives the port of a process that was killed back only when it has taken its memory back,
// which for a large one takes a second or more; until then it accepts connections for it, to which nobody answers. With
// patient it is tried again for that long.
func (o *Options) take(ctx context.Context, network, address string, patient bool) (net.Listener, error) {
	var config net.ListenConfig
	began := time.Now()
	for {
		l, err := config.Listen(ctx, network, address)
		switch {
		case err == nil:
			if o.waited {
				o.report(Progress{Stage: StagePort, Over: true, Detail: address + " is free again"})
			}
			return l, nil
		case !errors.Is(err, syscall.EADDRINUSE) || ctx.Err() != nil:
			return nil, fmt.Errorf("cannot serve on %s: %w (choose another port with --secure-port)", address, err)
		case answers(ctx, network, address):
			return nil, fmt.Errorf("cannot serve on %s: %w, another server answers there (stop it, or choose another port with --secure-port)", address, err)
		case !patient || time.Since(began) >= portPatience:
			return nil, fmt.Errorf("cannot serve on %s: %w, but nothing answers there: a server that has just died may still hold it "+
				"(try again, or choose another port with --secure-port)", address, err)
		}
		if !o.waited {
			o.waited = true
			klog.InfoS("The port is taken, but nothing answers there; trying again", "address", address, "for", portPatience)
			o.report(Progress{Stage: StagePort, Detail: fmt.Sprintf("%s is taken, but nothing answers there: trying again for %v", address, portPatience)})
		}
		select {
		case <-ctx.Done():
		case <-time.After(portPause):
		}
	}
}

// resets is how many connections in a row somebody has to reset to count as one who answers. The kernel resets connections as
// well when it closes the socket of a process that has died, but then there is nobody to reset the next.
const resets = 3

// answers tells whether a process at an address answers to what is sent to it, if only by closing the connection. One that
// has died does not, although the kernel may accept connections for it.
func answers(ctx context.Context, network, address string) bool {
	for range resets {
		switch err := greet(ctx, network, address); {
		case errors.Is(err, errSilent):
			return false
		case !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE):
			return true // it speaks, TLS or something else
		}
	}
	return true
}

// errSilent means that nobody answers.
var errSilent = errors.New("no answer")

// greet opens a connection and begins TLS. The error is errSilent, or what came of TLS.
func greet(ctx context.Context, network, address string) error {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, network, address)
	switch {
	case errors.Is(err, syscall.ECONNRESET):
		return err
	case err != nil:
		return errSilent
	}
	defer func() { _ = conn.Close() }()
	if conn.LocalAddr().String() == conn.RemoteAddr().String() {
		return errSilent // the connection has met itself, which it can where nobody listens
	}
	// Whose certificate it is does not matter: nothing is told, and nothing believed.
	err = tls.Client(conn, &tls.Config{InsecureSkipVerify: true}).HandshakeContext(ctx)
	if ctx.Err() != nil || errors.Is(err, os.ErrDeadlineExceeded) {
		return errSilent
	}
	return err
}
