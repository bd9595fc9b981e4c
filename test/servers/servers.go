// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package servers

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"k8s.io/client-go/util/keyutil"
	"k8s.io/kubernetes/cmd/kube-apiserver/app"

	"github.com/weir-project/weir/internal/apiserver"
	"github.com/weir-project/weir/test/wait"
)

// The programs that a server can be of.
const (
	Stock = "stock"
	Weir  = "weir"
)

// Token is an administrator's, at every server.
const Token = "sesame"

// Patience bounds every wait. It decides nothing but when a test that has failed
// already says so.
const Patience = time.Minute

// asServer, in the environment, makes the test binary the program that it names.
const asServer = "WEIR_TEST_AS_SERVER"

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
		var o *apiserver.Options
		if o, err = apiserver.Parse(os.Args[1:]...); err == nil {
			err = o.Run(ctx, nil)
		}
	default:
		os.Exit(m.Run())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// Server is a kube-apiserver in a process of its own.
type Server struct {
	// Name is the program.
	Name string
	// URL is where it serves, over TLS, with a certificate of its own making.
	URL string
	// Dir is the directory that the process runs in.
	Dir string

	t            testing.TB
	http2, http1 *http.Client
	log          *buffer
	// ended is closed when the process has ended.
	ended chan struct{}
	// ready says that Wait has returned: the process may end with an error before.
	ready *atomic.Bool
}

// Start starts a server over an etcd, and stops it with the test. It returns at once;
// the server takes some seconds, so that several can be started before any is waited
// for. See Wait.
func Start(t testing.TB, name, etcd string, args ...string) *Server {
	t.Helper()
	dir := t.TempDir()
	key, err := keyutil.MakeEllipticPrivateKeyPEM()
	if err != nil {
		t.Fatal(err)
	}
	keyFile, tokenFile := filepath.Join(dir, "sa.key"), filepath.Join(dir, "tokens")
	for file, data := range map[string]string{keyFile: string(key), tokenFile: Token + `,admin,admin,"system:masters"` + "\n"} {
		if err := os.WriteFile(file, []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := fmt.Sprint(listener.Addr().(*net.TCPAddr).Port)
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	binary, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{
		Name: name, URL: "https://127.0.0.1:" + port, Dir: dir, t: t, log: &buffer{}, ended: make(chan struct{}), ready: &atomic.Bool{},
		http2: &http.Client{Transport: NewTransport()}, http1: &http.Client{Transport: NewTransportHTTP1()},
	}
	command := exec.Command(binary, append([]string{
		"--etcd-servers=" + etcd, "--secure-port=" + port,
		"--bind-address=127.0.0.1", "--advertise-address=127.0.0.1", "--endpoint-reconciler-type=none",
		"--cert-dir=" + dir, "--token-auth-file=" + tokenFile, "--authorization-mode=RBAC",
		"--service-cluster-ip-range=10.0.0.0/24", "--service-account-issuer=https://127.0.0.1",
		"--service-account-key-file=" + keyFile, "--service-account-signing-key-file=" + keyFile,
		"--disable-admission-plugins=ServiceAccount", "--allow-privileged=true",
	}, args...)...)
	command.Env = append(os.Environ(), asServer+"="+name)
	command.Dir, command.Stdout, command.Stderr = dir, s.log, s.log
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	var exit error
	go func() {
		exit = command.Wait()
		close(s.ended)
	}()
	t.Cleanup(func() {
		s.http2.CloseIdleConnections()
		s.http1.CloseIdleConnections()
		_ = command.Process.Signal(syscall.SIGTERM) // it may have ended
		if <-s.ended; exit != nil && s.ready.Load() {
			t.Errorf("%s ended with %v", name, exit)
		}
		if t.Failed() {
			t.Logf("%s said, beside what goes well:\n%.6000s", name, s.log.wrong())
		}
	})
	return s
}

// Wait waits until the server is ready, and returns it.
func (s *Server) Wait() *Server {
	s.t.Helper()
	Eventually(s.t, s.Name+" to be ready", func() bool {
		select {
		case <-s.ended:
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
	s.log.mu.Lock()
	defer s.log.mu.Unlock()
	return string(s.log.data)
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

// buffer is what a process has said so far; it may be read while that goes on.
type buffer struct {
	mu   sync.Mutex
	data []byte
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.data = append(b.data, p...)
	return len(p), nil
}

// wrong returns it without the lines that are for information.
func (b *buffer) wrong() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return string(informative.ReplaceAll(b.data, nil))
}

// informative finds lines of klog that are no errors.
var informative = regexp.MustCompile(`(?m)^[IW]\d{4} .*\n`)
