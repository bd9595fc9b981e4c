// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package servers

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"regexp"
	"slices"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"k8s.io/apiserver/pkg/storage/cacher/consistency"
	"k8s.io/kubernetes/cmd/kube-apiserver/app"

	"github.com/weir-project/weir/internal/apiserver"
	"github.com/weir-project/weir/internal/rig"
	"github.com/weir-project/weir/test/wait"
)

// The programs that a server can be of.
const (
	Stock = "stock"
	Weir  = "weir"
	// WeirOff is weir with its gates off: its binary with upstream's watch cache.
	WeirOff = "weir-off"
)

// Token is an administrator's, at every server.
const Token = "sesame"

// Patience bounds every wait. It decides nothing but when a test that has failed
// already says so.
const Patience = time.Minute

// asServer, in the environment, makes the test binary the program that it names.
const asServer = "WEIR_TEST_AS_SERVER"

// asChild is the program that is one of a room's own children.
const asChild = "child"

// history, in the environment, is how long a weir keeps events, in place of upstream's 75 s.
const history = "WEIR_TEST_HISTORY"

// ShortHistory has a weir keep events for a shorter time than 75 s, so that a short test sees them age. Upstream keeps them
// 15 s longer than a request may take, whatever it is told, so that requests get less time too. The least is 16 s.
func ShortHistory(p rig.Program, window time.Duration) rig.Program {
	p.Env = append(slices.Clone(p.Env), fmt.Sprintf("%s=%v", history, window))
	p.Args = append(slices.Clone(p.Args), fmt.Sprintf("--request-timeout=%v", window-15*time.Second))
	return p
}

// gates, in the environment, are gates to set for every weir, in the form of --feature-gates: the suites can be run with those that are
// not on by default.
const gates = "WEIR_TEST_FEATURE_GATES"

// checkPeriod, in the environment, is how often a weir compares its cache with etcd, in place of upstream's 5 minutes.
const checkPeriod = "WEIR_TEST_CHECK_PERIOD"

// Checked has a weir compare each resource's cache with etcd, by upstream's own check, once in a period to one and a half,
// and die where they differ.
func Checked(p rig.Program, period time.Duration) rig.Program {
	p.Env = append(slices.Clone(p.Env), "KUBE_WATCHCACHE_CONSISTENCY_CHECKER=true", fmt.Sprintf("%s=%v", checkPeriod, period))
	return p
}

// Main is what TestMain has to be in a package that starts servers. It does not return.
func Main(m *testing.M) {
	var err error
	switch os.Getenv(asServer) {
	case Stock:
		command := app.NewAPIServerCommand()
		command.SetArgs(os.Args[1:])
		err = command.Execute()
	case Weir:
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
		defer stop()
		args := os.Args[1:]
		if more := os.Getenv(gates); more != "" {
			args = append(args, "--feature-gates="+more)
		}
		var o *apiserver.Options
		if o, err = apiserver.Parse(args...); err == nil {
			if shorter, given := os.LookupEnv(history); given {
				o.Etcd.StorageConfig.EventsHistoryWindow, err = time.ParseDuration(shorter)
			}
			if shorter, given := os.LookupEnv(checkPeriod); given {
				var bad error
				consistency.CheckPeriod, bad = time.ParseDuration(shorter)
				err = errors.Join(err, bad)
			}
			err = errors.Join(err, o.Run(ctx, nil))
		}
	case asChild:
		err = rig.Execute(os.Args[1:])
	default:
		os.Exit(m.Run())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// Room opens a room for a test, in which this binary is every server. It is closed with
// the test.
func Room(t testing.TB) *rig.Room {
	t.Helper()
	return RoomIn(t, t.TempDir())
}

// RoomIn does so in a directory, which stays.
func RoomIn(t testing.TB, dir string) *rig.Room {
	t.Helper()
	self, err := rig.ThisProgram()
	if err != nil {
		t.Fatal(err)
	}
	self.Env = []string{asServer + "=" + asChild}
	room, err := rig.Open(rig.Options{Dir: dir, Self: self, Name: "weir-test", Token: Token})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := room.Close(); err != nil {
			t.Error(err)
		}
	})
	return room
}

// Program is one to start in a Room. What it needs beside the name is the caller's to set,
// etcd before all.
func Program(name string, args ...string) rig.Program {
	as := name
	if name == WeirOff {
		as = Weir
		args = append([]string{"--feature-gates=" + string(apiserver.EncodedWatchCache) + "=false"}, args...)
	}
	return rig.Program{
		Name: name, Env: []string{asServer + "=" + as},
		Args: append([]string{"--allow-privileged=true"}, args...),
	}
}

// Server is a kube-apiserver in a process of its own.
type Server struct {
	// Name is the program.
	Name string
	// URL is where it serves, over TLS, with its room's certificate.
	URL string
	// Dir is the directory that the process runs in.
	Dir string
	// Rig is the server as a process: to kill it, to read what it uses.
	Rig *rig.Server

	t            testing.TB
	http2, http1 *http.Client
	// ready says that Wait has returned: the process may end with an error before.
	ready *atomic.Bool
}

// Start starts a server over an etcd, and stops it with the test. It returns at once;
// the server takes some seconds, so that several can be started before any is waited
// for. See Wait.
func Start(t testing.TB, name, etcd string, args ...string) *Server {
	t.Helper()
	program := Program(name, args...)
	program.Etcd = []string{etcd}
	return StartIn(t, Room(t), program)
}

// StartIn starts a server in a room.
func StartIn(t testing.TB, room *rig.Room, program rig.Program) *Server {
	t.Helper()
	started, err := room.StartServer(program)
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{
		Name: program.Name, URL: started.URL, Dir: room.Dir(), Rig: started, t: t, ready: &atomic.Bool{},
		http2: &http.Client{Transport: NewTransport()}, http1: &http.Client{Transport: NewTransportHTTP1()},
	}
	t.Cleanup(func() {
		s.http2.CloseIdleConnections()
		s.http1.CloseIdleConnections()
		if err := errors.Join(started.Died(), started.Stop(Patience)); err != nil && s.ready.Load() {
			t.Error(err)
		}
		if t.Failed() {
			said, err := os.ReadFile(started.Log())
			t.Logf("%s said, beside what goes well:\n%.6000s", s.Name, informative.ReplaceAll(said, nil))
			if err != nil {
				t.Log(err)
			}
		}
	})
	return s
}

// Wait waits until the server is ready, and returns it.
func (s *Server) Wait() *Server {
	s.t.Helper()
	Eventually(s.t, s.Name+" to be ready", func() bool {
		select {
		case <-s.Rig.Done():
			s.t.Fatalf("%s ended before it was ready", s.Name)
		default:
		}
		status, _ := s.Do(http.MethodGet, "/readyz", nil)
		return status == http.StatusOK
	})
	s.ready.Store(true)
	return s
}

// In is the same server for a subtest.
func (s *Server) In(t testing.TB) *Server {
	c := *s
	c.t = t
	return &c
}

// Said returns what the process has written to its log so far.
func (s *Server) Said() string {
	s.t.Helper()
	said, err := os.ReadFile(s.Rig.Log())
	if err != nil {
		s.t.Fatal(err)
	}
	return string(said)
}

// NewTransport returns a client's side of a connection over HTTP/2. It compresses
// nothing by itself.
func NewTransport() *http.Transport {
	return &http.Transport{
		TLSClientConfig:    &tls.Config{InsecureSkipVerify: true}, // the certificate is the server's own, on loopback
		ForceAttemptHTTP2:  true,
		DisableCompression: true,
	}
}

// NewTransportHTTP1 returns the same over HTTP/1.1.
func NewTransportHTTP1() *http.Transport {
	t := NewTransport()
	t.ForceAttemptHTTP2 = false
	t.TLSClientConfig.NextProtos = []string{"http/1.1"}
	return t
}

// Eventually waits until done returns true.
func Eventually(t testing.TB, what string, done func() bool) {
	t.Helper()
	wait.Until(t, what, Patience, done)
}

// informative finds lines of klog that are no errors.
var informative = regexp.MustCompile(`(?m)^[IW]\d{4} .*\n`)
