// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package watchcache

import (
	"context"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/kubernetes"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"

	"github.com/weir-project/weir/test/etcd"
)

// faultyEtcd is an etcd that can be restarted, behind proxies that can be broken.
type faultyEtcd struct {
	t      testing.TB
	cfg    *embed.Config
	server *embed.Etcd
	// direct is a client that no proxy is in the way of.
	direct  *kubernetes.Client
	proxies []*proxy
	behind  []*kubernetes.Client // the clients of the proxies
}

// newFaultyEtcd starts an etcd that lasts as long as the test.
func newFaultyEtcd(t testing.TB) *faultyEtcd {
	t.Helper()
	cfg := etcd.Config(t)
	cfg.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.NewNop())
	e := &faultyEtcd{t: t, cfg: cfg}
	e.start()
	t.Cleanup(func() { e.server.Close() })
	e.direct = e.dial(cfg.ListenClientUrls[0].Host)
	return e
}

func (e *faultyEtcd) start() {
	e.t.Helper()
	server, err := embed.StartEtcd(e.cfg)
	if err != nil {
		e.t.Fatalf("starting etcd in %s: %v", e.cfg.Dir, err)
	}
	e.server = server
	select {
	case <-server.Server.ReadyNotify():
	case <-time.After(patience):
		e.t.Fatal("etcd is not ready")
	}
}

// restart stops etcd and starts it again with its data.
func (e *faultyEtcd) restart() {
	e.t.Helper()
	e.server.Close()
	e.start()
	e.reconnected()
}

// reconnected waits until etcd answers every client.
func (e *faultyEtcd) reconnected() {
	e.t.Helper()
	for _, client := range append([]*kubernetes.Client{e.direct}, e.behind...) {
		eventually(e.t, "etcd to answer", func() bool {
			ctx, cancel := context.WithTimeout(e.t.Context(), time.Second)
			defer cancel()
			_, err := client.Client.Get(ctx, "health")
			return err == nil
		})
	}
}

func (e *faultyEtcd) dial(address string) *kubernetes.Client {
	e.t.Helper()
	client, err := kubernetes.New(clientv3.Config{
		Endpoints:   []string{"http://" + address},
		DialTimeout: patience,
		Logger:      zap.NewNop(),
	})
	if err != nil {
		e.t.Fatalf("connecting to etcd: %v", err)
	}
	e.t.Cleanup(func() { _ = client.Close() }) // says only that it was closed
	return client
}

// proxied returns a client behind a proxy of its own.
func (e *faultyEtcd) proxied() *kubernetes.Client {
	e.t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		e.t.Fatal(err)
	}
	p := &proxy{listener: listener, backend: e.cfg.ListenClientUrls[0].Host, conns: map[net.Conn]struct{}{}}
	p.running.Go(p.accept)
	e.t.Cleanup(p.close)
	e.proxies = append(e.proxies, p)
	client := e.dial(listener.Addr().String())
	e.behind = append(e.behind, client)
	return client
}

// breakConnections breaks what the proxies carry, and waits until the clients have
// connected again.
func (e *faultyEtcd) breakConnections() {
	e.t.Helper()
	for _, p := range e.proxies {
		p.breakAll()
	}
	e.reconnected()
}

// outage runs during while nobody gets through the proxies.
func (e *faultyEtcd) outage(during func()) {
	e.t.Helper()
	for _, p := range e.proxies {
		p.refuse(true)
	}
	during()
	for _, p := range e.proxies {
		p.refuse(false)
	}
	e.reconnected()
}

// proxy passes TCP connections on to a backend.
type proxy struct {
	listener net.Listener
	backend  string
	running  sync.WaitGroup

	mu       sync.Mutex
	conns    map[net.Conn]struct{}
	refusing bool
	closed   bool
}

func (p *proxy) accept() {
	for {
		front, err := p.listener.Accept()
		if err != nil {
			return
		}
		if !p.keep(front) {
			_ = front.Close()
			continue
		}
		back, err := net.Dial("tcp", p.backend)
		if err != nil || !p.keep(back) {
			p.drop(front)
			continue
		}
		for _, pair := range [][2]net.Conn{{front, back}, {back, front}} {
			p.running.Go(func() {
				_, _ = io.Copy(pair[0], pair[1]) // ends when either side is closed
				p.drop(pair[0])
				p.drop(pair[1])
			})
		}
	}
}

func (p *proxy) keep(c net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.refusing || p.closed {
		return false
	}
	p.conns[c] = struct{}{}
	return true
}

func (p *proxy) drop(c net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, c)
	_ = c.Close()
}

func (p *proxy) breakAll() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		_ = c.Close()
	}
}

func (p *proxy) refuse(on bool) {
	p.mu.Lock()
	p.refusing = on
	p.mu.Unlock()
	if on {
		p.breakAll()
	}
}

func (p *proxy) close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	_ = p.listener.Close()
	p.breakAll()
	p.running.Wait()
}
