// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package rig

import (
	"bufio"
	"cmp"
	"context"
	"fmt"
	"io"
	"net/url"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"go.etcd.io/etcd/server/v3/embed"
)

// defaultQuota is a database's largest size in bytes: etcd's own default of 2 GiB is less than a loaded and rewritten
// data set.
const defaultQuota = 8 << 30

// memberConfig is what a member's process is told on its command line. Addresses are host:port.
type memberConfig struct {
	name, dir        string
	client, peer     string
	advertisePeer    string
	cluster          []string // "name=peer URL" of all
	quotaBytes       int64
	progressInterval time.Duration
}

// newEtcdCommand is the hidden subcommand that is a member of an etcd, until SIGTERM or the end of its standard input.
func newEtcdCommand() *cobra.Command {
	var c memberConfig
	cmd := &cobra.Command{
		Use:    etcdSubcommand,
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE:   func(cmd *cobra.Command, _ []string) error { return c.serve(cmd.Context(), cmd.InOrStdin()) },
	}
	fs := cmd.Flags()
	fs.StringVar(&c.name, "name", "", "the member's name")
	fs.StringVar(&c.dir, "dir", "", "data directory")
	fs.StringVar(&c.client, "client", "", "address for clients")
	fs.StringVar(&c.peer, "peer", "", "address for the other members")
	fs.StringVar(&c.advertisePeer, "advertise-peer", "", "address that the other members are told")
	fs.StringArrayVar(&c.cluster, "cluster", nil, "a member as name=URL; one for each")
	fs.Int64Var(&c.quotaBytes, "quota-bytes", 0, "largest size of the database")
	fs.DurationVar(&c.progressInterval, "progress-interval", 0, "how often an idle watch is told the revision")
	return cmd
}

func (c *memberConfig) serve(ctx context.Context, stdin io.Reader) error {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM)
	defer stop()
	urls := func(address string) []url.URL { return []url.URL{{Scheme: "http", Host: address}} }
	cfg := embed.NewConfig()
	cfg.Name, cfg.Dir = c.name, c.dir
	cfg.LogLevel, cfg.LogOutputs = "warn", []string{"stderr"}
	cfg.ListenClientUrls, cfg.AdvertiseClientUrls = urls(c.client), urls(c.client)
	cfg.ListenPeerUrls, cfg.AdvertisePeerUrls = urls(c.peer), urls(c.advertisePeer)
	cfg.InitialCluster = strings.Join(c.cluster, ",")
	cfg.QuotaBackendBytes = cmp.Or(c.quotaBytes, defaultQuota)
	if c.progressInterval > 0 {
		cfg.WatchProgressNotifyInterval = c.progressInterval
	}
	e, err := embed.StartEtcd(cfg)
	if err != nil {
		return fmt.Errorf("start etcd in %s: %w", c.dir, err)
	}
	defer e.Close()
	end := make(chan struct{})
	go func() {
		defer close(end)
		_, _ = io.Copy(io.Discard, bufio.NewReader(stdin))
	}()
	select {
	case <-end:
		return nil
	case <-ctx.Done():
		return nil
	case err := <-e.Err():
		return fmt.Errorf("etcd in %s stopped: %w", c.dir, err)
	}
}
