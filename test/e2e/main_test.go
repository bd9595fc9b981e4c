// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

// Package e2e holds the tests that put real clients before a whole server: client-go
// informers, kubectl and websockets, over TLS, with a real etcd behind it.
package e2e

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/component-base/cli"
	kubectl "k8s.io/kubectl/pkg/cmd"

	"github.com/weir-project/weir/internal/apiserver"
)

// patience bounds every wait, so that a failure ends; no test passes or fails by it.
const patience = 3 * time.Minute

// The test binary is also the programs that the tests run beside it.
const (
	asKubectl = "WEIR_E2E_KUBECTL"
	asServer  = "WEIR_E2E_SERVER"
)

// server is the one that most tests share.
var server *apiserver.Server

func TestMain(m *testing.M) {
	switch {
	case os.Getenv(asKubectl) != "":
		// The first argument says where the flags begin, as in a command line.
		os.Exit(cli.Run(kubectl.NewDefaultKubectlCommandWithArgs(kubectl.KubectlOptions{
			Arguments: os.Args,
			IOStreams: genericiooptions.IOStreams{In: os.Stdin, Out: os.Stdout, ErrOut: os.Stderr},
		})))
	case os.Getenv(asServer) != "":
		os.Exit(serveUntilStdinEnds())
	}
	os.Exit(withServer(m))
}

func withServer(m *testing.M) int {
	dir, err := os.MkdirTemp("", "weir-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	server, err = apiserver.Start(ctx, "--data-dir="+dir)
	if err != nil {
		fmt.Fprintln(os.Stderr, "starting the server:", err)
		return 1
	}
	code := m.Run()
	if err := server.Stop(); err != nil {
		fmt.Fprintln(os.Stderr, "stopping the server:", err)
		return 1
	}
	return code
}

// serveUntilStdinEnds is the server as a child process: its arguments are weir's
// flags, its first line of output is the path of the kubeconfig.
func serveUntilStdinEnds() int {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	s, err := apiserver.Start(ctx, os.Args[1:]...)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	fmt.Println(s.Kubeconfig)
	_, _ = io.Copy(io.Discard, os.Stdin) // ends with the parent
	if err := s.Stop(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// startChild runs a server with the given flags in a process of its own: gates belong
// to the process.
func startChild(t *testing.T, flags ...string) *rest.Config {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, append([]string{"--data-dir=" + t.TempDir()}, flags...)...)
	cmd.Env = append(os.Environ(), asServer+"=1")
	log, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd.Stderr = log
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		if err := cmd.Wait(); err != nil {
			text, _ := os.ReadFile(log.Name())
			t.Errorf("the server ended badly: %v\n%s", err, text)
		}
	})
	var line strings.Builder
	for b := make([]byte, 1); ; {
		if _, err := out.Read(b); err != nil {
			text, _ := os.ReadFile(log.Name())
			t.Fatalf("the server did not start: %v\n%s", err, text)
		}
		if b[0] == '\n' {
			break
		}
		line.WriteByte(b[0])
	}
	config, err := clientcmd.BuildConfigFromFlags("", line.String())
	if err != nil {
		t.Fatal(err)
	}
	return config
}

// namespace creates a namespace for one test and returns its name.
func namespace(t *testing.T, client kubernetes.Interface) string {
	t.Helper()
	ns, err := client.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "e2e-"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return ns.Name
}

// client returns a client of config in a media type, without the client's own limits.
func clientFor(t *testing.T, config *rest.Config, mediaType string, count *requests) *kubernetes.Clientset {
	t.Helper()
	config = rest.CopyConfig(config)
	config.QPS = -1
	config.AcceptContentTypes = mediaType
	config.ContentType = mediaType
	if count != nil {
		config.Wrap(func(rt http.RoundTripper) http.RoundTripper { return counting{rt, count} })
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// requests counts what a client asked for.
type requests struct {
	lists, watches, watchLists atomic.Int64
}

type counting struct {
	http.RoundTripper
	count *requests
}

func (c counting) RoundTrip(req *http.Request) (*http.Response, error) {
	q := req.URL.Query()
	switch {
	case q.Get("watch") == "" && req.Method == http.MethodGet:
		c.count.lists.Add(1)
	case q.Get("sendInitialEvents") == "true":
		c.count.watchLists.Add(1)
	default:
		c.count.watches.Add(1)
	}
	return c.RoundTripper.RoundTrip(req)
}

// eventually waits until ok says so, and fails the test with what it last said.
func eventually(t *testing.T, ok func() (done bool, state string)) {
	t.Helper()
	var state string
	err := wait.PollUntilContextTimeout(t.Context(), 20*time.Millisecond, patience, true, func(context.Context) (bool, error) {
		var done bool
		done, state = ok()
		return done, nil
	})
	if err != nil {
		t.Fatalf("%v: %s", err, state)
	}
}

func configMap(namespace, name, value string) *corev1.ConfigMap {
	return &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: map[string]string{"app": "e2e"}},
		Data:       map[string]string{"key": value},
	}
}
