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

	"github.com/weir-project/weir/internal/rig"
	"github.com/weir-project/weir/internal/rig/link"
	"github.com/weir-project/weir/test/robustness/check"
	"github.com/weir-project/weir/test/robustness/history"
)

// weirs is the number of weirs.
const weirs = 2

// server is a weir. Writers reach it directly, readers behind a link.
type server struct {
	name   string
	rig    *rig.Server
	link   *link.Link
	behind *rig.Server
	// down is set while it is killed or paused, so that writers go to the other.
	down atomic.Bool
}

// Open starts an etcd and the weirs, of a program, in a room, and waits until they are ready.
func Open(ctx context.Context, room *rig.Room, program rig.Program, c Config) (*Run, error) {
	r := &Run{
		config: c, truth: history.NewTruth(), presence: presence{there: map[history.Key]bool{}},
		acks: make(chan history.Write, 1000), reads: make(chan *history.Read, 1000),
	}
	r.objects = check.NewObjects(r.truth)
	r.objects.Pictures = room.Dir()
	etcd, err := room.StartEtcd(ctx, rig.EtcdOptions{Members: c.Members})
	if err != nil {
		return nil, err
	}
	if r.etcd, err = etcd.Client(ctx); err != nil {
		return nil, err
	}
	program.Etcd = etcd.Endpoints()
	program.Args = append(slices.Clone(program.Args), arguments...)
	for i := range weirs {
		s := &server{name: string(rune('a' + i))}
		r.servers = append(r.servers, s)
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
		if err := s.rig.WaitReady(ctx); err != nil {
			return r, err
		}
	}
	if r.record, err = newRecord(filepath.Join(room.Dir(), "history.jsonl")); err != nil {
		return r, err
	}
	return r, r.inform(room)
}

// Close lets go of what Open took, but for the room and its servers.
func (r *Run) Close() error {
	stopped := r.stopInformers()
	for _, s := range r.servers {
		if s.link != nil {
			s.link.Close()
		}
	}
	err := errors.Join(stopped, r.etcd.Close())
	if r.record != nil {
		err = errors.Join(err, r.record.close())
		if r.found.any() {
			err = errors.Join(err, r.record.draw(fmt.Sprintf("seed %d", r.config.Seed)))
		}
	}
	return err
}
