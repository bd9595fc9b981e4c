// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package rig

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"slices"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// EtcdOptions are those of one etcd.
type EtcdOptions struct {
	// Members is their number; 0 is 1.
	Members int
	// QuotaBytes is the size of the database at which it takes no more writes; 0 is 8 GiB.
	QuotaBytes int64
	// ProgressInterval is how often a watch hears that nothing has happened; 0 is etcd's own default.
	ProgressInterval time.Duration
	// PeerProxy, when not nil, is asked for the HTTP proxy, as host:port, by which a member reaches the others: so what is
	// between two of them is told from what is between two others. It is told of all members, in their order.
	PeerProxy func(member int, all []Peer) (proxy string, err error)
}

// Peer is a member as the others know it.
type Peer struct {
	// Name is what they ask their proxies for, as host:port.
	Name string
	// Address is where it listens for them, as host:port on loopback.
	Address string
}

// Etcd is an etcd of one or several members, each a process of its own, with its real fsync.
type Etcd struct {
	// Members stay the same when one is started again.
	Members []*Member
}

// Member is one of an etcd's.
type Member struct {
	*Process
	// Address is where clients reach it, as host:port on loopback.
	Address string
}

// Endpoint is the URL for clients.
func (m *Member) Endpoint() string { return "http://" + m.Address }

// Endpoints are the members' URLs for clients.
func (e *Etcd) Endpoints() []string {
	var list []string
	for _, m := range e.Members {
		list = append(list, m.Endpoint())
	}
	return list
}

// StartEtcd starts an etcd and waits until all its members serve. There is one to a room.
func (r *Room) StartEtcd(ctx context.Context, o EtcdOptions) (*Etcd, error) {
	n := max(o.Members, 1)
	found, err := FreePorts(2 * n)
	if err != nil {
		return nil, err
	}
	e := &Etcd{}
	cluster := make([]string, n) // "name=peer URL"
	args := make([][]string, n)
	var peers []Peer
	for i := range n {
		name := "etcd"
		if n > 1 {
			name = fmt.Sprintf("etcd-%d", i+1)
		}
		client, peer := loopback(found[2*i]), loopback(found[2*i+1])
		advertised := peer
		if o.PeerProxy != nil {
			advertised = fmt.Sprintf("%s:%d", name, found[2*i+1]) // nothing on loopback goes by a proxy
			peers = append(peers, Peer{Name: advertised, Address: peer})
		}
		cluster[i] = name + "=http://" + advertised
		args[i] = []string{"--name", name, "--dir", filepath.Join(r.dir, name), "--client", client, "--peer", peer,
			"--advertise-peer", advertised, fmt.Sprintf("--quota-bytes=%d", o.QuotaBytes), fmt.Sprintf("--progress-interval=%v", o.ProgressInterval)}
		e.Members = append(e.Members, &Member{Address: client})
	}
	for i, m := range e.Members {
		for _, one := range cluster {
			args[i] = append(args[i], "--cluster", one)
		}
		name := args[i][1]
		var env []string
		if o.PeerProxy != nil {
			proxy, err := o.PeerProxy(i, peers)
			if err != nil {
				return nil, fmt.Errorf("proxy between %s and the other members: %w", name, err)
			}
			env = []string{"HTTP_PROXY=http://" + proxy, "NO_PROXY=", "no_proxy="}
		}
		m.Process, err = start(name, filepath.Join(r.dir, name+".log"), func() (launch, error) { return r.etcdMember(args[i], env) })
		if err != nil {
			return nil, err
		}
		r.keep(m.Process)
	}
	for _, m := range e.Members {
		if err := m.WaitReady(ctx); err != nil {
			return nil, err
		}
	}
	return e, nil
}

func (r *Room) etcdMember(args, env []string) (launch, error) {
	cmd := r.self.Command(append([]string{etcdSubcommand}, args...)...)
	cmd.Env = append(cmd.Env, env...)
	// The end of its input tells it to end, so that it does not outlive this process where the kernel does not see to
	// that. Wait closes the pipe.
	if _, err := cmd.StdinPipe(); err != nil {
		return launch{}, err
	}
	return launch{cmd: cmd}, nil
}

// WaitReady waits until the member serves, which takes a majority. It gives up after a minute, or when the member dies.
func (m *Member) WaitReady(ctx context.Context) error {
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	return waitReady(ctx, m.name, m.Process, time.Minute, 50*time.Millisecond, func(ctx context.Context) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, m.Endpoint()+"/health", nil)
		if err != nil {
			return err
		}
		resp, err := client.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err == nil && resp.StatusCode != http.StatusOK {
			err = fmt.Errorf("%s: %s", resp.Status, FirstLine(body))
		}
		return err
	})
}

// Client connects to all members, or to those at endpoints. The caller closes it.
func (e *Etcd) Client(ctx context.Context, endpoints ...string) (*clientv3.Client, error) {
	if len(endpoints) == 0 {
		endpoints = e.Endpoints()
	}
	client, err := clientv3.New(clientv3.Config{Endpoints: endpoints, DialTimeout: 10 * time.Second, Context: ctx, Logger: zap.NewNop()})
	if err != nil {
		return nil, fmt.Errorf("connect to etcd %v: %w", endpoints, err)
	}
	return client, nil
}

// Leader returns the member that leads, by the word of the first that knows one.
func (e *Etcd) Leader(ctx context.Context) (*Member, error) {
	client, err := e.Client(ctx)
	if err != nil {
		return nil, err
	}
	defer client.Close()
	leads := map[uint64]*Member{}
	var failures []error
	var leader uint64
	for _, m := range e.Members {
		// A member that is paused answers nothing.
		ask, cancel := context.WithTimeout(ctx, 2*time.Second)
		status, err := client.Status(ask, m.Endpoint())
		cancel()
		if err != nil {
			failures = append(failures, fmt.Errorf("ask %s who leads: %w", m.name, err))
			continue
		}
		leads[status.Header.MemberId] = m
		if leader == 0 {
			leader = status.Leader
		}
	}
	if m := leads[leader]; m != nil {
		return m, nil
	}
	return nil, errors.Join(append(failures, errors.New("etcd: no member leads that answers"))...)
}

// CPU is the processor time that all members have used since they were started, in seconds.
func (e *Etcd) CPU() (float64, error) {
	total := 0.0
	for _, m := range e.Members {
		seconds, err := cpuSeconds(m.Pid())
		if err != nil {
			return 0, err
		}
		total += seconds
	}
	return total, nil
}

// Stop ends all members, the last first. The error joins what did not end as it should.
func (e *Etcd) Stop() error {
	var failures []error
	for _, m := range slices.Backward(e.Members) {
		failures = append(failures, m.Stop(20*time.Second))
	}
	return errors.Join(failures...)
}

// Tidy drops all history and gives its space back.
func (e *Etcd) Tidy(ctx context.Context) error {
	client, err := e.Client(ctx)
	if err != nil {
		return err
	}
	defer client.Close()
	head, err := client.Get(ctx, "rig-head", clientv3.WithCountOnly())
	if err != nil {
		return fmt.Errorf("read etcd's revision: %w", err)
	}
	if _, err := client.Compact(ctx, head.Header.Revision, clientv3.WithCompactPhysical()); err != nil {
		return fmt.Errorf("compact etcd at revision %d: %w", head.Header.Revision, err)
	}
	for _, m := range e.Members {
		if _, err := client.Defragment(ctx, m.Endpoint()); err != nil {
			return fmt.Errorf("defragment %s: %w", m.name, err)
		}
	}
	return nil
}
