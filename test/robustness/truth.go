// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package robustness

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/weir-project/weir/test/robustness/history"
)

// registry is where kube-apiserver keeps objects.
const registry = "/registry/"

// progressPeriod is how often etcd is asked how far its watch is. Nothing is decided by it: revisions that are no
// object's are waited for so long.
const progressPeriod = 200 * time.Millisecond

// follow fills the truth from a watch of etcd, until ctx is done. began is closed when it has all that was there before.
func follow(ctx context.Context, client *clientv3.Client, truth *history.Truth, began chan<- struct{}) error {
	base, err := client.Get(ctx, registry, clientv3.WithPrefix(), clientv3.WithSort(clientv3.SortByModRevision, clientv3.SortAscend))
	if err != nil {
		return fmt.Errorf("read etcd: %w", err)
	}
	for _, kv := range base.Kvs {
		if err := learn(truth, kv.Key, kv.Value, kv.ModRevision); err != nil {
			return err
		}
	}
	truth.Reach(base.Header.Revision)
	close(began)
	for next := base.Header.Revision + 1; ; {
		reached, err := followFrom(ctx, client, truth, next)
		switch {
		case ctx.Err() != nil:
			return nil
		case !etcdFailed(err):
			return err
		}
		// The member that it was at has gone, or knows no leader: it goes on from there, at this or another.
		next = reached
		wait(ctx, retry)
	}
}

// etcdFailed tells whether a watch has ended for a reason that another one may do without.
func etcdFailed(err error) bool {
	var failed *watchError
	return errors.As(err, &failed) && !errors.Is(err, rpctypes.ErrCompacted)
}

// watchError is etcd's or its client's.
type watchError struct{ error }

func (e *watchError) Unwrap() error { return e.error }

// followFrom does so from a revision on. It returns the revision to go on from.
func followFrom(ctx context.Context, client *clientv3.Client, truth *history.Truth, next int64) (int64, error) {
	ctx, cancel := context.WithCancel(clientv3.WithRequireLeader(ctx))
	defer cancel()
	watch := client.Watch(ctx, registry, clientv3.WithPrefix(), clientv3.WithRev(next), clientv3.WithProgressNotify())
	tick := time.NewTicker(progressPeriod)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			if err := client.RequestProgress(ctx); err != nil {
				return next, &watchError{fmt.Errorf("ask etcd how far it is: %w", err)}
			}
		case resp, open := <-watch:
			switch err := resp.Err(); {
			case err != nil:
				return next, &watchError{fmt.Errorf("watch of etcd: %w", err)}
			case !open:
				return next, &watchError{errors.New("watch of etcd ended")}
			}
			for _, e := range resp.Events {
				value := e.Kv.Value
				if e.Type == mvccpb.DELETE {
					value = nil
				}
				if err := learn(truth, e.Kv.Key, value, e.Kv.ModRevision); err != nil {
					return next, err
				}
				next = e.Kv.ModRevision + 1
			}
			if n := len(resp.Events); n > 0 { // all of a revision comes in one answer
				truth.Reach(resp.Events[n-1].Kv.ModRevision)
			}
			if resp.IsProgressNotify() { // other answers name a revision up to which they need not have all
				truth.Reach(resp.Header.Revision)
			}
		}
	}
}

// prefix is where etcd has the objects of a resource.
func prefix(resource string) string {
	if resource == widgets {
		return registry + group + "/" + widgets + "/"
	}
	return registry + resource + "/"
}

// keyOf is the object of a key in etcd, false if it is none of the resources that are judged.
func keyOf(key string) (history.Key, bool) {
	for _, resource := range resources {
		if rest, ok := strings.CutPrefix(key, prefix(resource)); ok {
			namespace, name, ok := strings.Cut(rest, "/")
			return history.Key{Resource: resource, Namespace: namespace, Name: name}, ok
		}
	}
	return history.Key{}, false
}

// learn adds a change, if it is one of the resources that are judged. Without a value it is a deletion.
func learn(truth *history.Truth, key, value []byte, rev int64) error {
	parts := strings.Split(strings.TrimPrefix(string(key), registry), "/")
	if len(parts) == 4 && parts[0] == gadgetsGroup {
		return learnGadget(truth, parts, value, rev)
	}
	k, judged := keyOf(string(key))
	if !judged || k.Namespace == brokenNamespace {
		return nil
	}
	var state *history.State
	if value != nil {
		o, err := decode(value)
		if err != nil {
			return fmt.Errorf("%s in etcd: %w", key, err)
		}
		state = &history.State{
			Revision: rev, UID: o.Metadata.UID, Labels: o.Metadata.Labels, Fields: o.fields(k.Resource),
			Op: o.Metadata.Annotations[opMark], Digests: o.digests(k.Resource, inProtobuf),
		}
		if o.Spec != nil {
			state.Node = o.Spec.NodeName
		}
	}
	return truth.Add(rev, time.Now(), k, state)
}
