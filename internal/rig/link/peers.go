// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package link

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"sync"

	"github.com/weir-project/weir/internal/rig"
)

// Peers are links between the members of an etcd, one for each that asks and each that is asked, so that a member can be
// kept apart from the others. Proxy is for rig.EtcdOptions. Members are known by their number, from 0. It is safe for
// concurrent use.
//
//	member 0 ---HTTP proxy 0---+--- link 0 to 1 ---> member 1
//	                           +--- link 0 to 2 ---> member 2
type Peers struct {
	mu      sync.Mutex
	links   map[pair]*Link
	proxies []*http.Server
	all     sync.WaitGroup // those that serve
}

// pair is who asks and who is asked.
type pair struct{ from, to int }

// NewPeers makes one, without links before Proxy is called. The caller closes it.
func NewPeers() *Peers { return &Peers{links: map[pair]*Link{}} }

// Proxy makes a member's links to the others, and the HTTP proxy that it is to reach them by.
func (p *Peers) Proxy(member int, all []rig.Peer) (string, error) {
	links := map[string]*Link{} // by the name of who is asked
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, peer := range all {
		if i == member {
			continue
		}
		l, err := New(peer.Address)
		if err != nil {
			return "", err
		}
		p.links[pair{member, i}], links[peer.Name] = l, l
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("proxy of member %d: %w", member, err)
	}
	dialer := &net.Dialer{}
	quiet := log.New(io.Discard, "", 0) // it tells of every connection that a fault ends
	server := &http.Server{
		Handler: &httputil.ReverseProxy{
			Rewrite: func(r *httputil.ProxyRequest) { r.Out.URL.Scheme, r.Out.URL.Host = "http", r.In.Host },
			Transport: &http.Transport{DialContext: func(ctx context.Context, network, name string) (net.Conn, error) {
				l := links[name]
				if l == nil {
					return nil, fmt.Errorf("member %d asks for %s, which is no other member", member, name)
				}
				return dialer.DialContext(ctx, network, l.Address())
			}},
			FlushInterval: -1, // messages of raft come one by one
			ErrorLog:      quiet,
		},
		ErrorLog: quiet,
	}
	p.proxies = append(p.proxies, server)
	p.all.Go(func() { _ = server.Serve(listener) }) // ends with Close
	return listener.Addr().String(), nil
}

// of are the links of a member to the others and of the others to it.
func (p *Peers) of(member int) []*Link {
	p.mu.Lock()
	defer p.mu.Unlock()
	var list []*Link
	for k, l := range p.links {
		if k.from == member || k.to == member {
			list = append(list, l)
		}
	}
	return list
}

// Part keeps a member apart from the others, until Join.
func (p *Peers) Part(member int) {
	for _, l := range p.of(member) {
		l.Cut()
	}
}

// Join ends Part.
func (p *Peers) Join(member int) error {
	var failures []error
	for _, l := range p.of(member) {
		failures = append(failures, l.Heal())
	}
	return errors.Join(failures...)
}

// Close ends all connections and listens no more.
func (p *Peers) Close() error {
	p.mu.Lock()
	proxies, links := p.proxies, p.links
	p.mu.Unlock()
	var failures []error
	for _, l := range links {
		l.Close()
	}
	for _, s := range proxies {
		failures = append(failures, s.Close())
	}
	p.all.Wait()
	return errors.Join(failures...)
}
