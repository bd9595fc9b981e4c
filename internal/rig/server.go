// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package rig

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"
)

// Program is a kube-apiserver to start: which one, and what sets it apart from the others in the room.
type Program struct {
	// Name is for errors and for names of files.
	Name string
	// Path is the executable; empty for the room's Self, without Prefix and Env.
	Path string
	// Argv0 is the name that it is started under; empty for Path.
	Argv0 string
	// Env is added to this process's environment.
	Env []string
	// Args are flags behind those that every server gets. The last of two wins; --feature-gates is merged.
	Args []string

	// Etcd are the URLs that it reaches etcd at. Without any it is told of none.
	Etcd []string
	// MemoryLimit is in bytes; 0 for none. Who passes it is killed. It needs a control group, see Room.CanLimit.
	MemoryLimit int64
	// Log is the path of its log; empty for one in the room's directory.
	Log string
}

// Server is a server that was started here.
type Server struct {
	*Process
	*Admin

	limited *atomic.Pointer[memoryGroup] // that of the latest run; without a limit there is none in it
}

// StartServer starts a server and returns before it is ready: it takes some seconds, so that several can be started
// before one is waited for.
func (r *Room) StartServer(p Program) (*Server, error) {
	found, err := FreePorts(1)
	if err != nil {
		return nil, err
	}
	if p.Path != "" {
		if p.Path, err = filepath.Abs(p.Path); err != nil {
			return nil, err
		}
	}
	if p.MemoryLimit > 0 {
		if err := r.CanLimit(); err != nil {
			return nil, fmt.Errorf("%s: its memory limit %w", p.Name, err)
		}
	}
	p.Log = cmp.Or(p.Log, r.logFile(p.Name))
	args := slices.Concat(r.commonArgs(found[0]), p.Args)
	if len(p.Etcd) > 0 {
		args = append([]string{"--etcd-servers=" + strings.Join(p.Etcd, ",")}, args...)
	}
	limited := &atomic.Pointer[memoryGroup]{}
	return r.serve(p.Name, p.Log, found[0], limited, func() (launch, error) {
		cmd := exec.Command(cmp.Or(p.Path, r.self.Path), args...)
		cmd.Args[0] = cmp.Or(p.Argv0, cmd.Path)
		cmd.Dir = r.dir
		cmd.Env = append(os.Environ(), p.Env...)
		if p.MemoryLimit == 0 {
			return launch{cmd: cmd}, nil
		}
		group, err := r.limiter.group(p.Name, p.MemoryLimit)
		if err != nil {
			return launch{}, err
		}
		limited.Store(group)
		return launch{cmd: group.enter(r.self, cmd, p.Env), ended: func() string {
			defer group.remove()
			if group.killed() {
				return "out of memory, at its limit of " + resource.NewQuantity(p.MemoryLimit, resource.BinarySI).String()
			}
			return ""
		}}, nil
	})
}

// Serve starts what command makes for a loopback port: something other than a kube-apiserver that answers in its place,
// with Certificate.
func (r *Room) Serve(name, log string, command func(port int) *exec.Cmd) (*Server, error) {
	found, err := FreePorts(1)
	if err != nil {
		return nil, err
	}
	return r.serve(name, cmp.Or(log, r.logFile(name)), found[0], &atomic.Pointer[memoryGroup]{}, func() (launch, error) { return launch{cmd: command(found[0])}, nil })
}

func (r *Room) serve(name, log string, port int, limited *atomic.Pointer[memoryGroup], next func() (launch, error)) (*Server, error) {
	admin, err := NewAdmin(Access{URL: "https://" + loopback(port), CA: r.creds.caPEM, Token: r.creds.token}, r.name)
	if err != nil {
		return nil, err
	}
	p, err := start(name, log, next)
	if err != nil {
		return nil, err
	}
	r.keep(p)
	return &Server{Process: p, Admin: admin, limited: limited}, nil
}

// Limit changes the memory limit of the latest run, to so many bytes or as many more as it cannot give back. The next run
// has that of its Program again. It is an error for a program that was started without one.
func (s *Server) Limit(bytes int64) error {
	group := s.limited.Load()
	if group == nil {
		return fmt.Errorf("%s was started without a memory limit, so it cannot be changed", s.Name())
	}
	if err := group.setLimit(bytes); err != nil {
		return fmt.Errorf("%s: %w", s.Name(), err)
	}
	return nil
}

// commonArgs are the flags of every server: a kube-apiserver as kubeadm would start it, apart from the two noted.
func (r *Room) commonArgs(port int) []string {
	c := r.creds
	return []string{
		"--bind-address=127.0.0.1",
		"--advertise-address=127.0.0.1",
		fmt.Sprintf("--secure-port=%d", port),
		"--cert-dir=" + filepath.Join(r.dir, "credentials"), // nothing is made in it: what there could be is given
		"--tls-cert-file=" + c.certFile,
		"--tls-private-key-file=" + c.keyFile,
		"--token-auth-file=" + c.tokenFile,
		"--authorization-mode=Node,RBAC",
		"--enable-admission-plugins=NodeRestriction",
		// No controller manager runs here, so nobody makes the service accounts that this plugin would demand of Pods.
		"--disable-admission-plugins=ServiceAccount",
		// The "kubernetes" service must not get a loopback endpoint.
		"--endpoint-reconciler-type=none",
		"--service-cluster-ip-range=10.0.0.0/24",
		"--service-account-issuer=https://kubernetes.default.svc.cluster.local",
		"--service-account-key-file=" + c.serviceAccountKey,
		"--service-account-signing-key-file=" + c.serviceAccountKey,
	}
}

// WaitReady polls /readyz until it answers 200. It gives up after five minutes, or when the server ends.
func (s *Server) WaitReady(ctx context.Context) error {
	return s.Admin.waitReady(ctx, s.Name(), s.Process)
}

// Stop is Process.Stop, with this process's own connection closed before.
func (s *Server) Stop(grace time.Duration) error {
	s.HTTP.CloseIdleConnections()
	return s.Process.Stop(grace)
}

// Behind is the same server reached at another address, host:port on loopback, such as a proxy's.
func (s *Server) Behind(address string) (*Server, error) {
	a := s.Access
	a.URL = "https://" + address
	admin, err := NewAdmin(a, "rig")
	if err != nil {
		return nil, err
	}
	return &Server{Process: s.Process, Admin: admin, limited: s.limited}, nil
}
