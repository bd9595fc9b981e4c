// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package rig

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// grace is how long a process may take to end before it is killed when a room is closed.
const grace = 30 * time.Second

// Options are what a room is opened with.
type Options struct {
	// Dir is the directory of data, keys and logs. It is made where there is none, and stays when the room is closed. The
	// data of an etcd that ran in it before are used again.
	Dir string
	// Self starts the room's own children; its program has Commands.
	Self Self
	// Name is the administrator's, and begins those of control groups. Empty is "rig".
	Name string
	// Token is the administrator's at every server; empty for one that is made up.
	Token string
}

// Room is where servers run: all with one administrator and one authority, and stopped together. It is safe for
// concurrent use.
type Room struct {
	dir   string
	self  Self
	name  string
	creds *credentials

	started atomic.Int64 // servers so far

	limiterOnce sync.Once
	limiter     *limiter
	limiterErr  error

	mu sync.Mutex
	// all are in the order in which they were started; whoever needs another comes behind it.
	all []*Process
}

// Open makes a room. Nothing runs in it yet.
func Open(o Options) (*Room, error) {
	dir, err := filepath.Abs(o.Dir)
	if err != nil {
		return nil, err
	}
	if err := makeDirs(dir, filepath.Join(dir, "logs")); err != nil {
		return nil, err
	}
	r := &Room{dir: dir, self: o.Self, name: cmp.Or(o.Name, "rig")}
	r.creds, err = newCredentials(filepath.Join(dir, "credentials"), r.name, o.Token)
	return r, err
}

// Close stops everything that was started in the room and still runs, the latest first. It returns when all is gone; the
// error joins what did not end as it should.
func (r *Room) Close() error {
	r.mu.Lock()
	all := slices.Clone(r.all)
	r.mu.Unlock()
	var failures []error
	for _, p := range slices.Backward(all) {
		failures = append(failures, p.Stop(grace))
	}
	return errors.Join(failures...)
}

func (r *Room) keep(p *Process) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all = append(r.all, p)
}

// CanLimit finds out whether memory limits can be had here. The error begins with "needs": what needs it stands before.
func (r *Room) CanLimit() error {
	r.limiterOnce.Do(func() { r.limiter, r.limiterErr = newLimiter(r.name) })
	return r.limiterErr
}

// Self starts the program again that this one is.
func (r *Room) Self() Self { return r.self }

// Dir returns the room's directory, in which its servers run.
func (r *Room) Dir() string { return r.dir }

// Certificate returns the paths of the certificate that the room's servers show, and of its key.
func (r *Room) Certificate() (cert, key string) { return r.creds.certFile, r.creds.keyFile }

// logFile is the path of a new log.
func (r *Room) logFile(name string) string {
	return filepath.Join(r.dir, "logs", fmt.Sprintf("%02d-%s.log", r.started.Add(1), fileName(name)))
}

func fileName(name string) string {
	return strings.Map(func(c rune) rune {
		if c == '/' || c == ' ' {
			return '-'
		}
		return c
	}, name)
}

const (
	// Ports are taken from below those that the systems give to outgoing connections (from 32768 on Linux, 49152
	// elsewhere): otherwise somebody's connection could take a server's port while that is being started again.
	firstPort = 20000
	ports     = 12000
	// stride keeps processes apart whose identifiers follow each other.
	stride = 16
)

var (
	portsTaken atomic.Int64
	// claims keep other processes that find ports here away from those of this one, for as long as it lives: each is a socket of
	// UDP, which nothing here uses otherwise, at the port's number.
	claims   []net.PacketConn
	claimsMu sync.Mutex
)

// claim keeps a port for this process. It is an error if another one has it.
func claim(port int) error {
	c, err := net.ListenPacket("udp", loopback(port))
	if err != nil {
		return err
	}
	claimsMu.Lock()
	defer claimsMu.Unlock()
	claims = append(claims, c)
	return nil
}

// FreePorts finds n loopback ports that nobody listens on now, never the same twice in one process, nor in two at a time. A
// process that does not find its ports here may take one before it is used; the child that then fails to listen says so.
func FreePorts(n int) ([]int, error) {
	found := make([]int, 0, n)
	var last error
	for range ports {
		if len(found) == n {
			return found, nil
		}
		port := firstPort + (os.Getpid()*stride+int(portsTaken.Add(1)))%ports
		if err := claim(port); err != nil {
			last = err
			continue
		}
		l, err := net.Listen("tcp", loopback(port))
		if err != nil {
			last = err
			continue
		}
		found = append(found, port)
		if err := l.Close(); err != nil {
			return nil, fmt.Errorf("find a free port: %w", err)
		}
	}
	return nil, fmt.Errorf("find a free port: %w", last)
}

func loopback(port int) string { return fmt.Sprintf("127.0.0.1:%d", port) }
