// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"k8s.io/client-go/kubernetes"
)

// Target is one kind of server that bench starts: a binary and what sets it apart from the others.
type Target struct {
	Name   string   `json:"name"`
	Binary string   `json:"binary,omitempty"` // path of a kube-apiserver; empty for this program
	Argv0  string   `json:"argv0,omitempty"`  // name that it is started under
	Args   []string `json:"args,omitempty"`   // beside the flags that every target gets
	static bool     // the static target, which bench serves itself
}

// clusterTarget is the name of a cluster that bench did not start.
const clusterTarget = "cluster"

// server is a target that runs.
type server struct {
	*process // nil for a cluster that bench did not start
	target   Target
	access   access
	url      string
	http     *http.Client // administrator's client for raw paths; its own connection
	client   kubernetes.Interface
	group    *memoryGroup // what limits its memory, or nil
}

func newServer(t Target, a access) (*server, error) {
	s := &server{target: t, access: a}
	var err error
	if s.http, s.url, err = a.httpClient("weir-bench"); err != nil {
		return nil, err
	}
	config, err := a.restConfig(formatProtobuf, "weir-bench")
	if err != nil {
		return nil, err
	}
	s.client, err = kubernetes.NewForConfig(config)
	return s, err
}

// died returns how the server died, if it was started by bench and did.
func (s *server) died() error {
	if s.process == nil {
		return nil
	}
	err := s.ended()
	if err != nil && s.group.killed() {
		err = fmt.Errorf("%w: out of memory, at its limit of %v", err, quantity(s.group.limit))
	}
	return err
}

// gone is closed when a server that bench started has ended.
func (s *server) gone() <-chan struct{} {
	if s.process == nil {
		return nil
	}
	return s.done
}

// logEnd is the end of the server's log, for an error message, where bench has it.
func (s *server) logEnd() string {
	if s.process == nil {
		return ""
	}
	return lastLines(s.log)
}

// stop ends a server that bench started.
func (s *server) stop(grace time.Duration) {
	s.http.CloseIdleConnections()
	if s.process != nil {
		s.process.stop(grace)
	}
	s.group.remove()
}

// commonArgs are the flags of every target: a kube-apiserver as kubeadm would start it, apart from the two noted.
func commonArgs(port int, etcdURL, certDir string, c *credentials) []string {
	return []string{
		"--etcd-servers=" + etcdURL,
		"--bind-address=127.0.0.1",
		"--advertise-address=127.0.0.1",
		fmt.Sprintf("--secure-port=%d", port),
		"--cert-dir=" + certDir,
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

// startServer starts a target over etcd and returns before it is ready. The log goes to logFile.
func startServer(t Target, self selfExec, limits *limiter, etcdURL, workDir, logFile string, creds *credentials) (*server, error) {
	certDir := filepath.Join(workDir, "certs", t.Name)
	if err := makeDirs(certDir, filepath.Dir(logFile)); err != nil {
		return nil, err
	}
	binary := self.path // of this very program, also when a new build has replaced its file
	if t.Binary != "" {
		var err error
		if binary, err = filepath.Abs(t.Binary); err != nil {
			return nil, err
		}
		if _, err := os.Stat(binary); err != nil {
			return nil, fmt.Errorf("target %s: %w; name its binary with a flag", t.Name, err)
		}
	}
	ports, err := freePorts(1)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(binary, append(commonArgs(ports[0], etcdURL, certDir, creds), t.Args...)...)
	cmd.Args[0] = t.Argv0
	cmd.Dir = workDir
	if limits == nil {
		return launch(t, cmd, ports[0], logFile, creds)
	}
	group, err := limits.group(t.Name)
	if err != nil {
		return nil, err
	}
	s, err := launch(t, group.enter(self, cmd), ports[0], logFile, creds)
	if err != nil {
		group.remove()
		return nil, err
	}
	s.group = group
	return s, nil
}

// startStatic starts the static target with the recordings in dir.
func startStatic(t Target, self selfExec, dir, logFile string, creds *credentials) (*server, error) {
	ports, err := freePorts(1)
	if err != nil {
		return nil, err
	}
	cmd := self.command(staticSubcommand, "--dir", dir, fmt.Sprintf("--port=%d", ports[0]),
		"--tls-cert-file="+creds.certFile, "--tls-private-key-file="+creds.keyFile)
	return launch(t, cmd, ports[0], logFile, creds)
}

// launch starts a target's command, whose output goes to logFile, as a server on a port.
func launch(t Target, cmd *exec.Cmd, port int, logFile string, creds *credentials) (*server, error) {
	log, err := os.Create(logFile)
	if err != nil {
		return nil, fmt.Errorf("target %s: %w", t.Name, err)
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	p, err := startProcess("target "+t.Name, logFile, cmd)
	if err != nil {
		return nil, err
	}
	s, err := newServer(t, access{URL: fmt.Sprintf("https://127.0.0.1:%d", port), CA: creds.caPEM, Token: creds.token})
	if err != nil {
		p.stop(serverGrace)
		return nil, err
	}
	s.process = p
	return s, nil
}

// serverGrace is how long a server may take to drain before it is killed.
const serverGrace = 30 * time.Second

// waitReady polls /readyz until it answers 200. It gives up after five minutes, or when the server dies.
func (s *server) waitReady(ctx context.Context) error {
	const limit = 5 * time.Minute
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	var last error
	for {
		_, err := s.get(ctx, "/readyz")
		if err == nil {
			return nil
		}
		if ctx.Err() == nil {
			last = err
		}
		select {
		case <-tick.C:
		case <-s.gone():
			return s.died()
		case <-ctx.Done():
			if context.Cause(ctx) != context.DeadlineExceeded {
				return context.Cause(ctx)
			}
			return fmt.Errorf("target %s was not ready after %v: %w%s", s.target.Name, limit, last, s.logEnd())
		}
	}
}

// get reads one path as administrator; any status but 200 is an error.
func (s *server) get(ctx context.Context, path string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url+path, nil)
	if err != nil {
		return nil, err
	}
	s.access.authorize(req)
	resp, err := s.http.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, fmt.Errorf("GET %s: %w", path, err)
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("GET %s: %s: %s", path, resp.Status, firstLine(body))
	}
	return body, nil
}

// newHTTPClient makes a client with a connection of its own that trusts caPEM, speaks HTTP/2 and asks for no gzip.
func newHTTPClient(caPEM []byte) (*http.Client, error) {
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(caPEM) {
		return nil, errors.New("no certificate in the authority's PEM data")
	}
	return &http.Client{Transport: &http.Transport{
		TLSClientConfig:    &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12},
		ForceAttemptHTTP2:  true,
		DisableCompression: true,
	}}, nil
}

func firstLine(b []byte) string {
	line, _, _ := strings.Cut(strings.TrimSpace(string(b)), "\n")
	if len(line) > 300 {
		line = line[:300] + "…"
	}
	return line
}
