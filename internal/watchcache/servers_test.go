// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package watchcache_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"testing"

	"k8s.io/client-go/util/keyutil"
	"k8s.io/kubernetes/cmd/kube-apiserver/app"

	"github.com/weir-project/weir/internal/apiserver"
	"github.com/weir-project/weir/internal/watchcache"
)

// asServer, in the environment, makes the test binary a server: upstream's or weir's.
const asServer = "WEIR_TEST_AS_SERVER"

func TestMain(m *testing.M) {
	var err error
	switch os.Getenv(asServer) {
	case "stock":
		command := app.NewAPIServerCommand()
		command.SetArgs(os.Args[1:])
		err = command.Execute()
	case "weir":
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
}

// server is a kube-apiserver in a process of its own.
type server struct {
	t    *testing.T
	name string
	url  string
	http *http.Client
	log  *bytes.Buffer
}

const token = "sesame"

// in is the same server for a subtest.
func (s *server) in(t *testing.T) *server {
	c := *s
	c.t = t
	return &c
}

// startServer starts one over an etcd, and stops it with the test.
func startServer(t *testing.T, name, etcd string, args ...string) *server {
	t.Helper()
	dir := t.TempDir()
	key, err := keyutil.MakeEllipticPrivateKeyPEM()
	if err != nil {
		t.Fatal(err)
	}
	keyFile, tokenFile := filepath.Join(dir, "sa.key"), filepath.Join(dir, "tokens")
	for file, data := range map[string]string{keyFile: string(key), tokenFile: token + `,admin,admin,"system:masters"` + "\n"} {
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
	s := &server{
		t: t, name: name, url: "https://127.0.0.1:" + port, log: &bytes.Buffer{},
		http: &http.Client{Transport: &http.Transport{
			TLSClientConfig:    &tls.Config{InsecureSkipVerify: true}, // its certificate is its own, on loopback
			ForceAttemptHTTP2:  true,
			DisableCompression: true,
		}},
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
	t.Cleanup(func() {
		s.http.CloseIdleConnections()
		_ = command.Process.Signal(syscall.SIGTERM) // it may have ended
		if err := command.Wait(); err != nil {
			t.Errorf("%s ended with %v", name, err)
		}
		if t.Failed() {
			t.Logf("%s said:\n%.6000s", name, s.log)
		}
	})
	watchcache.Eventually(t, name+" to be ready", func() bool {
		status, _ := s.do(http.MethodGet, "/readyz", nil)
		return status == http.StatusOK
	})
	return s
}

func (s *server) request(ctx context.Context, method, path, accept string, body io.Reader) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, s.url+path, body)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set("Accept", accept)
	req.Header.Set("Content-Type", "application/json")
	if method == http.MethodPatch {
		req.Header.Set("Content-Type", "application/merge-patch+json")
	}
	return s.http.Do(req)
}

// do makes one request in JSON; status 0 is no answer.
func (s *server) do(method, path string, object any) (status int, answer []byte) {
	s.t.Helper()
	var body io.Reader
	if object != nil {
		data, err := json.Marshal(object)
		if err != nil {
			s.t.Fatal(err)
		}
		body = bytes.NewReader(data)
	}
	ctx, cancel := context.WithTimeout(s.t.Context(), watchcache.Patience)
	defer cancel()
	resp, err := s.request(ctx, method, path, "application/json", body)
	if err != nil {
		return 0, []byte(err.Error())
	}
	defer func() { _ = resp.Body.Close() }()
	answer, err = io.ReadAll(resp.Body)
	if err != nil {
		return 0, []byte(err.Error())
	}
	return resp.StatusCode, answer
}

// must makes one request that has to succeed.
func (s *server) must(method, path string, object any) map[string]any {
	s.t.Helper()
	status, answer := s.do(method, path, object)
	if status/100 != 2 {
		s.t.Fatalf("%s: %s %s: %d %.500s", s.name, method, path, status, answer)
	}
	var out map[string]any
	if err := json.Unmarshal(answer, &out); err != nil {
		s.t.Fatalf("%s: %s %s: %v", s.name, method, path, err)
	}
	return out
}

// resourceVersion returns that of a list or object.
func resourceVersion(object map[string]any) string {
	m, _ := object["metadata"].(map[string]any)
	rv, _ := m["resourceVersion"].(string)
	return rv
}

// stream reads a response up to where it names the marker, and returns it with what
// else had come by then.
func (s *server) stream(ctx context.Context, path, accept, marker string, opened func()) (contentType string, body []byte, err error) {
	resp, err := s.request(ctx, http.MethodGet, path, accept, nil)
	if opened != nil {
		opened()
	}
	if err != nil {
		return "", nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	buf := make([]byte, 64<<10)
	for !bytes.Contains(body[max(0, len(body)-len(buf)-len(marker)):], []byte(marker)) {
		n, err := resp.Body.Read(buf)
		body = append(body, buf[:n]...)
		if err != nil {
			if resp.StatusCode != http.StatusOK && err == io.EOF {
				return fmt.Sprint(resp.StatusCode, " ", resp.Header.Get("Content-Type")), body, nil
			}
			return "", body, fmt.Errorf("%s: %s: ended after %d bytes: %w", s.name, path, len(body), err)
		}
	}
	return fmt.Sprint(resp.StatusCode, " ", resp.Header.Get("Content-Type")), body, nil
}
