// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package robustness

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/weir-project/weir/internal/rig"
	"github.com/weir-project/weir/internal/rig/link"
	"github.com/weir-project/weir/test/robustness/check"
	"github.com/weir-project/weir/test/robustness/history"
)

// weirs is the number of weirs.
const weirs = 2

// memoryLimit is that of a weir, in bytes, where one can be had: far more than it takes, until a fault lowers it.
const memoryLimit = 8 << 30

// server is a weir. Writers reach it directly, readers behind a link.
type server struct {
	name   string
	rig    *rig.Server
	link   *link.Link
	behind *rig.Server
	// etcd are the links by which it reaches the members.
	etcd []*link.Link
	// down is set while it is killed or paused, so that writers go to the other.
	down atomic.Bool
	// said is the size of its log, in bytes, at its latest start.
	said int64
	// again is how often it was started again because it gave up.
	again atomic.Int64
}

// cluster is the etcd, and what is between its members. It is reached directly from here.
type cluster struct {
	*rig.Etcd
	peers *link.Peers // nil with one member
}

// Open starts an etcd and the weirs, of a program, in a room, and waits until they are ready.
func Open(ctx context.Context, room *rig.Room, program rig.Program, c Config) (*Run, error) {
	r := &Run{
		config: c, truth: history.NewTruth(), presence: presence{there: map[history.Key]bool{}},
		acks: make(chan history.Write, 1000), reads: make(chan *history.Read, 1000),
	}
	r.objects = check.NewObjects(r.truth)
	r.objects.Pictures = room.Dir()
	options := rig.EtcdOptions{Members: c.members()}
	if options.Members > 1 {
		r.cluster.peers = link.NewPeers()
		options.PeerProxy = r.cluster.peers.Proxy
	}
	var err error
	if r.cluster.Etcd, err = room.StartEtcd(ctx, options); err != nil {
		return nil, err
	}
	if r.etcd, err = r.cluster.Client(ctx); err != nil {
		return nil, err
	}
	program.Args = append(slices.Clone(program.Args), arguments...)
	if err := room.CanLimit(); err != nil {
		r.skipped = map[faultKind]string{faultMemory: err.Error()}
	} else {
		program.MemoryLimit = memoryLimit
	}
	for i := range weirs {
		s := &server{name: string(rune('a' + i))}
		r.servers = append(r.servers, s)
		program.Etcd = nil
		for _, m := range r.cluster.Members {
			l, err := link.New(m.Address)
			if err != nil {
				return r, err
			}
			s.etcd = append(s.etcd, l)
			program.Etcd = append(program.Etcd, "http://"+l.Address())
		}
		program.Name = "weir-" + s.name
		if s.rig, err = room.StartServer(program); err != nil {
			return r, err
		}
		if s.link, err = link.New(strings.TrimPrefix(s.rig.URL, "https://")); err != nil {
			return r, err
		}
		if s.behind, err = s.rig.Behind(s.link.Address()); err != nil {
			return r, err
		}
	}
	for _, s := range r.servers {
		err := s.rig.WaitReady(ctx)
		if again, logErr := s.gaveUp(); again && logErr == nil {
			s.again.Add(1)
			err = s.restart(ctx)
		}
		if err != nil {
			return r, err
		}
	}
	if r.converter, err = newConverter(room); err != nil {
		return r, err
	}
	if r.record, err = newRecord(filepath.Join(room.Dir(), "history.jsonl")); err != nil {
		return r, err
	}
	return r, r.inform(room)
}

// died tells which of the processes has ended by itself. Those that faults have ended run again.
func (r *Run) died() error {
	var failures []error
	for _, s := range r.servers {
		if err := s.rig.Died(); err != nil {
			failures = append(failures, fmt.Errorf("%w%s", err, s.rig.LogEnd()))
		}
	}
	for _, m := range r.cluster.Members {
		if err := m.Died(); err != nil {
			failures = append(failures, fmt.Errorf("%w%s", err, m.LogEnd()))
		}
	}
	return errors.Join(failures...)
}

// grace is how long each process may take to end.
const grace = 30 * time.Second

// Close ends the servers, then etcd, which they need to end, and then lets go of what Open took, but for the room.
func (r *Run) Close() error {
	failures := []error{r.stopInformers()}
	for _, s := range r.servers {
		if s.rig != nil {
			failures = append(failures, s.rig.Stop(grace))
		}
	}
	failures = append(failures, r.cluster.Stop())
	for _, s := range r.servers {
		if s.link != nil {
			s.link.Close()
		}
		for _, l := range s.etcd {
			l.Close()
		}
	}
	failures = append(failures, r.etcd.Close())
	if r.cluster.peers != nil {
		failures = append(failures, r.cluster.peers.Close())
	}
	if r.converter != nil {
		failures = append(failures, r.converter.Close())
	}
	if r.record != nil {
		failures = append(failures, r.record.close())
		if r.found.any() {
			failures = append(failures, r.record.draw(fmt.Sprintf("seed %d", r.config.Seed)))
		}
	}
	return errors.Join(failures...)
}
