// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package etcd

import (
	"context"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"go.etcd.io/etcd/api/v3/version"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

const (
	// quotaBytes bounds the database file. etcd's own default, 2 GiB, is small for
	// a cluster; 8 GiB is the most that etcd recommends.
	quotaBytes = 8 << 30

	// maxSocketPath is the longest path a unix socket can have on every system
	// weir runs on (Linux allows 107 bytes, macOS 103).
	maxSocketPath = 100

	// startTimeout bounds the wait for a member that replays its log; a member of
	// quotaBytes needs a fraction of it.
	startTimeout = 5 * time.Minute
)

// Embedded is a running single-member etcd inside this process. Its methods may be
// called from any goroutine.
type Embedded struct {
	etcd      *embed.Etcd
	endpoint  string
	socketDir string // removed by Close if it is not inside the data directory
	logLevel  zap.AtomicLevel
}

// Start runs etcd on the files in dir, which it makes if missing, and returns when
// the member serves. What an operator has to know it writes to log, or to stderr if that is nil. The caller holds the directory's lock (see Lock) and closes
// what it gets. On an error nothing runs.
func Start(ctx context.Context, dir string, log io.Writer) (_ *Embedded, err error) {
	if err := CheckDir(dir); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("cannot make the etcd directory: %w", err)
	}
	e := &Embedded{logLevel: zap.NewAtomicLevelAt(zapcore.ErrorLevel)}
	socketDir := dir
	if len(filepath.Join(dir, "client.sock")) > maxSocketPath {
		if socketDir, err = os.MkdirTemp("", "weir-etcd-"); err != nil {
			return nil, fmt.Errorf("cannot make a directory for etcd's socket (%s is too long a path for one): %w", dir, err)
		}
		e.socketDir = socketDir
	}
	defer func() {
		if err != nil {
			e.Close()
		}
	}()

	client := url.URL{Scheme: "unix", Path: filepath.Join(socketDir, "client.sock")}
	e.endpoint = client.String()
	// The one member has no peers: it has to have a peer address, but listens on none.
	peer := url.URL{Scheme: "http", Host: "localhost:2380"}

	cfg := embed.NewConfig()
	cfg.Name = "weir"
	cfg.Dir = dir
	cfg.ListenClientUrls, cfg.AdvertiseClientUrls = []url.URL{client}, []url.URL{client}
	cfg.ListenPeerUrls, cfg.AdvertisePeerUrls = nil, []url.URL{peer}
	cfg.InitialCluster = cfg.Name + "=" + peer.String()
	cfg.QuotaBackendBytes = quotaBytes
	cfg.EnableGRPCGateway = false
	// How often a watch cache hears that nothing has happened. By default that is every
	// 10 minutes, which is later than what it knew has been compacted.
	cfg.WatchProgressNotifyInterval = progressInterval
	cfg.ZapLoggerBuilder = embed.NewZapLoggerBuilder(newLogger(e.logLevel, log))

	if e.etcd, err = startRecovered(cfg); err != nil {
		return nil, fmt.Errorf("cannot start embedded etcd on %s: %w", dir, err)
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	select {
	case <-e.etcd.Server.ReadyNotify():
		return e, nil
	case err := <-e.etcd.Err():
		return nil, fmt.Errorf("embedded etcd on %s stopped while starting: %w", dir, err)
	case <-ctx.Done():
		return nil, fmt.Errorf("embedded etcd on %s did not become ready: %w", dir, context.Cause(ctx))
	}
}

// progressInterval is what kubeadm gives etcd too.
const progressInterval = 5 * time.Second

// startRecovered turns the panics by which etcd rejects a broken data directory
// into errors.
func startRecovered(cfg *embed.Config) (_ *embed.Etcd, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("etcd gave up: %v", r)
		}
	}()
	return embed.StartEtcd(cfg)
}

// newLogger says what an operator has to know, in etcd's own form.
// Fatal becomes a panic, which startRecovered catches: a library must not end the
// process while the API server drains.
func newLogger(level zap.AtomicLevel, log io.Writer) *zap.Logger {
	if log == nil {
		log = os.Stderr
	}
	encoder := zapcore.NewJSONEncoder(zap.NewProductionEncoderConfig())
	core := zapcore.NewCore(encoder, zapcore.Lock(zapcore.AddSync(log)), level)
	return zap.New(core, zap.WithFatalHook(zapcore.WriteThenPanic)).Named("etcd")
}

// Endpoint is the URL a client dials, "unix:///…".
func (e *Embedded) Endpoint() string { return e.endpoint }

// Version is the etcd release that is built in.
func (e *Embedded) Version() string { return version.Version }

// Err delivers what stopped the member, if anything but Close did.
func (e *Embedded) Err() <-chan error { return e.etcd.Err() }

// Close stops the member and returns when its files are closed. Clients have to be
// gone by then: it is the last thing that a server stops.
func (e *Embedded) Close() {
	if e.etcd != nil {
		// etcd reports every listener that it closes itself as an error.
		e.logLevel.SetLevel(zapcore.DPanicLevel)
		e.etcd.Close()
	}
	if e.socketDir != "" {
		_ = os.RemoveAll(e.socketDir)
	}
}
