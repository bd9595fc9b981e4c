// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package robustness

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/weir-project/weir/internal/rig"
)

// probeKey is written to see whether etcd takes writes. It is none of kube-apiserver's.
const probeKey = "robustness-probe"

// at connects to one member only.
func (r *Run) at(ctx context.Context, m *rig.Member, ask func(*clientv3.Client) error) error {
	client, err := r.cluster.Client(ctx, m.Endpoint())
	if err != nil {
		return err
	}
	defer client.Close()
	return ask(client)
}

// statusOf asks a member what it knows.
func (r *Run) statusOf(ctx context.Context, m *rig.Member) (status *clientv3.StatusResponse, err error) {
	err = r.at(ctx, m, func(client *clientv3.Client) error {
		status, err = client.Status(ctx, m.Endpoint())
		return err
	})
	return status, err
}

// answers asks a member for a key, as it has it itself.
func (r *Run) answers(m *rig.Member) func(context.Context) error {
	return func(ctx context.Context) error {
		return r.at(ctx, m, func(client *clientv3.Client) error {
			_, err := client.Get(ctx, probeKey, clientv3.WithSerializable())
			return err
		})
	}
}

// member makes a fault of one member.
func (r *Run) member(ctx context.Context, f fault, m *rig.Member) error {
	return r.without(ctx, f, m, func() error {
		switch f.kind {
		case faultMemberPart:
			return bites(ctx, m.Name()+" knows no leader", func(ctx context.Context) error {
				status, err := r.statusOf(ctx, m)
				if err == nil && status.Leader != 0 {
					err = fmt.Errorf("%x leads", status.Leader)
				}
				return err
			})
		case faultMemberPause:
			return silent(ctx, r.answers(m))
		}
		return nil
	})
}

// leader makes a fault of the member that leads, and holds that another leads then.
func (r *Run) leader(ctx context.Context, f fault, m *rig.Member) error {
	return r.without(ctx, f, m, func() error {
		return bites(ctx, "another than "+m.Name()+" leads", func(ctx context.Context) error {
			for _, other := range r.cluster.Members {
				if other == m {
					continue
				}
				status, err := r.statusOf(ctx, other)
				if err != nil {
					return err
				}
				if status.Leader == 0 {
					return errors.New("none leads")
				}
				if status.Leader != status.Header.MemberId {
					continue
				}
				return nil
			}
			return errors.New("none of the others leads")
		})
	})
}

// without does without a member, in one of the ways, for as long as the fault lasts and until bitten has returned. Then it is
// there again and has caught up.
func (r *Run) without(ctx context.Context, f fault, m *rig.Member, bitten func() error) error {
	whole := context.WithoutCancel(ctx)
	over := time.Now().Add(f.lasts)
	var err error
	switch f.kind {
	case faultDefragment:
		return r.defragment(whole, m)
	case faultMemberKill, faultLeaderKill:
		m.Kill()
		err = bitten()
		if f.other { // otherwise at once
			wait(ctx, time.Until(over))
		}
		err = errors.Join(err, m.Restart())
	case faultMemberPause, faultLeaderPause:
		if err := m.Pause(); err != nil {
			return err
		}
		err = bitten()
		wait(ctx, time.Until(over))
		err = errors.Join(err, m.Resume())
	case faultMemberPart, faultLeaderPart:
		number := 0
		for i, other := range r.cluster.Members {
			if other == m {
				number = i
			}
		}
		r.cluster.peers.Part(number)
		err = bitten()
		wait(ctx, time.Until(over))
		err = errors.Join(err, r.cluster.peers.Join(number))
	}
	return errors.Join(err, m.WaitReady(whole), until(whole, "read by "+m.Name(), func(ctx context.Context) error {
		return r.at(ctx, m, func(client *clientv3.Client) error {
			_, err := client.Get(ctx, probeKey) // with the majority's word
			return err
		})
	}))
}

// defragment has a member write its database anew, during which it answers nothing.
func (r *Run) defragment(ctx context.Context, m *rig.Member) error {
	ctx, cancel := context.WithTimeout(ctx, healing)
	defer cancel()
	return r.at(ctx, m, func(client *clientv3.Client) error {
		if _, err := client.Defragment(ctx, m.Endpoint()); err != nil {
			return fmt.Errorf("defragment %s: %w", m.Name(), err)
		}
		return nil
	})
}

// noQuorum pauses all members but one.
func (r *Run) noQuorum(ctx context.Context, f fault) error {
	over := time.Now().Add(f.lasts)
	var err error
	for i, m := range r.cluster.Members {
		if i != f.member {
			err = errors.Join(err, m.Pause())
		}
	}
	if err == nil {
		err = silent(ctx, func(ctx context.Context) error {
			return r.at(ctx, r.cluster.Members[f.member], func(client *clientv3.Client) error {
				_, err := client.Put(ctx, probeKey, "")
				return err
			})
		})
	}
	wait(ctx, time.Until(over))
	for i, m := range r.cluster.Members {
		if i != f.member {
			err = errors.Join(err, m.Resume())
		}
	}
	if err != nil {
		return err
	}
	for _, m := range r.cluster.Members {
		err = errors.Join(err, m.WaitReady(context.WithoutCancel(ctx)))
	}
	return err
}

// compact has etcd forget what was before a moment ago, but nothing that is not known here yet.
func (r *Run) compact(ctx context.Context, f fault) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), healing)
	defer cancel()
	rev := r.truth.RevisionAt(time.Now().Add(-f.lasts))
	if _, err := r.etcd.Compact(ctx, rev); err != nil {
		return fmt.Errorf("compact etcd at revision %d: %w", rev, err)
	}
	if _, err := r.etcd.Get(ctx, probeKey, clientv3.WithRev(rev-1)); !errors.Is(err, rpctypes.ErrCompacted) {
		return errors.Join(fmt.Errorf("%w: a read of revision %d, etcd compacted at %d", errNothing, rev-1, rev), err)
	}
	return nil
}

// noSpace has etcd take no writes, as when its database has the size that it may have at most. What raises that alarm is not
// the size here: it is raised by name. All that follows from it is etcd's own.
func (r *Run) noSpace(ctx context.Context, f fault) (err error) {
	whole, cancel := context.WithTimeout(context.WithoutCancel(ctx), healing)
	defer cancel()
	status, err := r.statusOf(whole, r.cluster.Members[f.member])
	if err != nil {
		return err
	}
	alarm := &pb.AlarmRequest{Action: pb.AlarmRequest_ACTIVATE, MemberID: status.Header.MemberId, Alarm: pb.AlarmType_NOSPACE}
	defer func() {
		err = errors.Join(err, until(whole, "disarm etcd's alarm", func(ctx context.Context) error {
			_, err := r.etcd.AlarmDisarm(ctx, &clientv3.AlarmMember{MemberID: alarm.MemberID, Alarm: alarm.Alarm})
			return err
		}), until(whole, "write to etcd again", func(ctx context.Context) error {
			_, err := r.etcd.Put(ctx, probeKey, "")
			return err
		}))
	}()
	over := time.Now().Add(f.lasts)
	if _, err := pb.NewMaintenanceClient(r.etcd.ActiveConnection()).Alarm(whole, alarm); err != nil {
		return fmt.Errorf("raise etcd's alarm: %w", err)
	}
	s := r.servers[f.server]
	err = bites(ctx, "etcd and the servers take no writes, and are read", func(ctx context.Context) error {
		switch _, err := r.etcd.Put(ctx, probeKey, ""); {
		case err == nil:
			return errors.New("etcd takes a write")
		case !errors.Is(err, rpctypes.ErrNoSpace):
			return fmt.Errorf("a write to etcd: %w", err)
		}
		secret := map[string]any{"metadata": map[string]any{"generateName": "robustness-"}}
		if err := wants(http.StatusInternalServerError, "write at "+s.name)(answer(ctx, s.rig, "POST", "/api/v1/namespaces/default/secrets", secret)); err != nil {
			return err
		}
		return wants(http.StatusOK, "list at "+s.name)(answer(ctx, s.rig, "GET", "/api/v1/"+configMaps+"?limit=10", nil))
	})
	wait(ctx, time.Until(over))
	return err
}
