// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/component-base/cli"
	"k8s.io/kubernetes/cmd/kube-apiserver/app"
)

// asMain, in the environment, makes the test binary be weir. Children are needed
// wherever a test kills a server, looks at an exit status, or sets feature gates, which
// belong to a process.
const asMain = "WEIR_TEST_AS_MAIN"

// stock is the name under which a child is upstream's own command instead.
const stock = "stock"

// patience bounds every wait; nothing is decided by how much of it is used.
const patience = 2 * time.Minute

func TestMain(m *testing.M) {
	if os.Getenv(asKubectl) != "" {
		os.Exit(runKubectl())
	}
	if os.Getenv(asMain) != "" {
		if os.Args[0] == stock {
			os.Exit(cli.Run(app.NewAPIServerCommand()))
		}
		main()
		return
	}
	os.Exit(m.Run())
}

// command returns weir as a child process under the given name (argv[0]).
func command(t *testing.T, name string, args ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Args = append([]string{name}, args...)
	cmd.Env = append(os.Environ(), asMain+"=1")
	cmd.Dir = t.TempDir()
	return cmd
}

// run is cmd.Run with an end.
func run(t *testing.T, cmd *exec.Cmd) error {
	t.Helper()
	if err := cmd.Start(); err != nil {
		return err
	}
	timer := time.AfterFunc(patience, func() { _ = cmd.Process.Kill() })
	defer timer.Stop()
	return cmd.Wait()
}

// child is a server in a process of its own.
type child struct {
	t      *testing.T
	cmd    *exec.Cmd
	log    *logBuffer
	exited chan struct{}
	err    error // Wait's, valid once exited is closed
	client *kubernetes.Clientset
	config *rest.Config
}

// logBuffer is a bytes.Buffer that may be read while it is written.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// start runs a server and returns when /readyz says ok to config's client.
// config is called until it succeeds: a kubeconfig appears when the server writes it.
func start(t *testing.T, config func() (*rest.Config, error), name string, args ...string) *child {
	t.Helper()
	c := &child{t: t, cmd: command(t, name, args...), log: &logBuffer{}, exited: make(chan struct{})}
	c.cmd.Stdout, c.cmd.Stderr = c.log, c.log
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		c.err = c.cmd.Wait()
		close(c.exited)
	}()
	t.Cleanup(func() {
		_ = c.cmd.Process.Kill()
		<-c.exited
	})

	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var last error
	err := wait.PollUntilContextCancel(ctx, 100*time.Millisecond, true, func(ctx context.Context) (bool, error) {
		select {
		case <-c.exited:
			return false, fmt.Errorf("the server ended: %w", c.err)
		default:
		}
		if c.config, last = config(); last != nil {
			return false, nil
		}
		if c.client, last = kubernetes.NewForConfig(c.config); last != nil {
			return false, nil
		}
		last = c.client.RESTClient().Get().AbsPath("/readyz").Do(ctx).Error()
		return last == nil, nil
	})
	if err != nil {
		t.Fatalf("%s %v is not ready: %v (last: %v)\n%s", name, args, err, last, c.log)
	}
	return c
}

// standalone runs `weir serve` on a directory and talks to it by the kubeconfig there.
func standalone(t *testing.T, dir string, args ...string) *child {
	t.Helper()
	kubeconfig := filepath.Join(dir, "admin.kubeconfig")
	port := freePort(t)
	return start(t, func() (*rest.Config, error) {
		config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
		if err == nil && !strings.HasSuffix(config.Host, ":"+port) {
			return nil, errors.New("a kubeconfig of an earlier run")
		}
		return config, err
	}, "weir", append([]string{"serve", "--data-dir=" + dir, "--secure-port=" + port}, args...)...)
}

// stop sends a signal and returns the exit status, -1 for a death by signal.
func (c *child) stop(signal syscall.Signal) int {
	c.t.Helper()
	if err := c.cmd.Process.Signal(signal); err != nil {
		c.t.Fatal(err)
	}
	select {
	case <-c.exited:
	case <-time.After(patience):
		c.t.Fatalf("the server does not end after %v:\n%s", signal, c.log)
	}
	return c.cmd.ProcessState.ExitCode()
}

// get returns the body of a path of the server.
func (c *child) get(path string) string {
	c.t.Helper()
	body, err := c.client.RESTClient().Get().AbsPath(path).Do(c.t.Context()).Raw()
	if err != nil {
		c.t.Fatalf("GET %s: %v", path, err)
	}
	return string(body)
}

// freePort returns a loopback port that nobody listens on.
func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return port
}
