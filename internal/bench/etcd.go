// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
)

// etcdQuota is the space quota of bench's etcd in bytes: the default of 2 GiB is less than a loaded and rewritten data set.
const etcdQuota = 8 << 30

// etcdReady is what the etcd child says once it serves.
type etcdReady struct {
	Endpoint string `json:"endpoint"` // client URL
}

// newEtcdCommand is the hidden subcommand that the etcd child runs: an embedded single-node etcd with real fsync, until
// its standard input ends.
func newEtcdCommand() *cobra.Command {
	var dir string
	var clientPort, peerPort int
	cmd := &cobra.Command{
		Use:    etcdSubcommand,
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return serveEtcd(dir, clientPort, peerPort, cmd.InOrStdin(), cmd.OutOrStdout())
		},
	}
	cmd.Flags().StringVar(&dir, "dir", "", "data directory")
	cmd.Flags().IntVar(&clientPort, "client-port", 0, "client port on loopback")
	cmd.Flags().IntVar(&peerPort, "peer-port", 0, "peer port on loopback")
	return cmd
}

func serveEtcd(dir string, clientPort, peerPort int, stdin io.Reader, stdout io.Writer) error {
	loopback := func(port int) url.URL {
		return url.URL{Scheme: "http", Host: fmt.Sprintf("127.0.0.1:%d", port)}
	}
	client, peer := loopback(clientPort), loopback(peerPort)
	cfg := embed.NewConfig()
	cfg.Name, cfg.Dir = "bench", dir
	cfg.LogLevel, cfg.LogOutputs = "warn", []string{"stderr"}
	cfg.ListenClientUrls, cfg.AdvertiseClientUrls = []url.URL{client}, []url.URL{client}
	cfg.ListenPeerUrls, cfg.AdvertisePeerUrls = []url.URL{peer}, []url.URL{peer}
	cfg.InitialCluster = cfg.InitialClusterFromName(cfg.Name)
	cfg.QuotaBackendBytes = etcdQuota
	e, err := embed.StartEtcd(cfg)
	if err != nil {
		return fmt.Errorf("start etcd in %s: %w", dir, err)
	}
	defer e.Close()
	select {
	case <-e.Server.ReadyNotify():
	case err := <-e.Err():
		return fmt.Errorf("start etcd in %s: %w", dir, err)
	}
	if err := json.NewEncoder(stdout).Encode(etcdReady{Endpoint: client.String()}); err != nil {
		return err
	}
	end := make(chan struct{})
	go func() {
		defer close(end)
		_, _ = io.Copy(io.Discard, bufio.NewReader(stdin))
	}()
	select {
	case <-end:
		return nil
	case err := <-e.Err():
		return fmt.Errorf("etcd in %s stopped: %w", dir, err)
	}
}

// etcdServer is the running etcd child.
type etcdServer struct {
	*dialogue
	endpoint string
}

func startEtcd(ctx context.Context, self selfExec, workDir string) (*etcdServer, error) {
	ports, err := freePorts(2)
	if err != nil {
		return nil, err
	}
	cmd := self.command(etcdSubcommand, "--dir", filepath.Join(workDir, "etcd"),
		fmt.Sprintf("--client-port=%d", ports[0]), fmt.Sprintf("--peer-port=%d", ports[1]))
	d, err := startDialogue("etcd", filepath.Join(workDir, "etcd.log"), cmd, nil)
	if err != nil {
		return nil, err
	}
	var ready etcdReady
	ctx, cancel := context.WithTimeoutCause(ctx, time.Minute, fmt.Errorf("etcd did not serve within a minute%s", lastLines(d.log)))
	defer cancel()
	if err := d.hear(ctx, &ready); err != nil {
		return nil, err
	}
	return &etcdServer{dialogue: d, endpoint: ready.Endpoint}, nil
}

// cpuSeconds is the processor time that etcd has used; none where there is no etcd of bench's own.
func (e *etcdServer) cpuSeconds() (float64, error) {
	if e == nil {
		return 0, nil
	}
	return cpuSeconds(e.pid())
}

// stop ends etcd in order.
func (e *etcdServer) stop() {
	_ = e.in.Close()
	e.process.stop(20 * time.Second)
}

// tidy drops the history that loading left behind and gives its space back, so that every target finds the same etcd.
func (e *etcdServer) tidy(ctx context.Context) error {
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{e.endpoint}, DialTimeout: 10 * time.Second, Context: ctx})
	if err != nil {
		return fmt.Errorf("connect to etcd %s: %w", e.endpoint, err)
	}
	defer client.Close()
	head, err := client.Get(ctx, "weir-bench-head", clientv3.WithCountOnly())
	if err != nil {
		return fmt.Errorf("read etcd's revision: %w", err)
	}
	if _, err := client.Compact(ctx, head.Header.Revision, clientv3.WithCompactPhysical()); err != nil {
		return fmt.Errorf("compact etcd at revision %d: %w", head.Header.Revision, err)
	}
	if _, err := client.Defragment(ctx, e.endpoint); err != nil {
		return fmt.Errorf("defragment etcd: %w", err)
	}
	return nil
}

// freePorts finds n loopback ports that nobody listens on now. Another process may take one before it is used; the
// child that then fails to listen says so.
func freePorts(n int) ([]int, error) {
	ports := make([]int, 0, n)
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, fmt.Errorf("find a free port: %w", err)
		}
		defer l.Close()
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
	}
	return ports, nil
}

// makeDirs creates directories that only this user may enter: they hold keys.
func makeDirs(dirs ...string) error {
	for _, dir := range dirs {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("make directory: %w", err)
		}
	}
	return nil
}
