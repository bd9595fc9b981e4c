// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package link

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/weir-project/weir/internal/rig"
)

// asChild, in the environment, makes the test binary a child of a room.
const asChild = "WEIR_LINK_TEST"

func TestMain(m *testing.M) {
	if os.Getenv(asChild) != "" {
		if err := rig.Execute(os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// A leader that is kept apart from the others leads no more, and what it can still be asked is of the past. Joined again, it
// has what the others have.
func TestPeersPart(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	self, err := rig.ThisProgram()
	if err != nil {
		t.Fatal(err)
	}
	self.Env = []string{asChild + "=1"}
	room, err := rig.Open(rig.Options{Dir: t.TempDir(), Self: self})
	if err != nil {
		t.Fatal(err)
	}
	peers := NewPeers()
	t.Cleanup(func() {
		if err := room.Close(); err != nil {
			t.Error(err)
		}
		if err := peers.Close(); err != nil {
			t.Error(err)
		}
	})
	etcd, err := room.StartEtcd(ctx, rig.EtcdOptions{Members: 3, PeerProxy: peers.Proxy})
	if err != nil {
		t.Fatal(err)
	}
	leader, err := etcd.Leader(ctx)
	if err != nil {
		t.Fatal(err)
	}
	at := -1
	var others []string
	for i, m := range etcd.Members {
		if m == leader {
			at = i
		} else {
			others = append(others, m.Endpoint())
		}
	}
	client := func(endpoints ...string) *clientv3.Client {
		c, err := etcd.Client(ctx, endpoints...)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		return c
	}
	apart, rest := client(leader.Endpoint()), client(others...)
	until := func(what string, holds func(context.Context) error) {
		t.Helper()
		for {
			ask, cancel := context.WithTimeout(ctx, 2*time.Second)
			err := holds(ask)
			cancel()
			if err == nil {
				return
			}
			if ctx.Err() != nil {
				t.Fatalf("waiting until %s: %v", what, err)
			}
		}
	}
	put := func(value string) func(context.Context) error {
		return func(ctx context.Context) error {
			_, err := rest.Put(ctx, "key", value)
			return err
		}
	}
	until("all are written to", put("all"))
	peers.Part(at)
	until("the others have one that leads", put("others"))
	until("it leads no more", func(ctx context.Context) error {
		status, err := apart.Status(ctx, leader.Endpoint())
		if err == nil && status.Leader != 0 {
			err = fmt.Errorf("%x leads", status.Leader)
		}
		return err
	})
	if got, err := apart.Get(ctx, "key", clientv3.WithSerializable()); err != nil || len(got.Kvs) != 1 || string(got.Kvs[0].Value) != "all" {
		t.Errorf("it has %v, %v", got, err)
	}
	if err := peers.Join(at); err != nil {
		t.Fatal(err)
	}
	until("it has what the others have", func(ctx context.Context) error {
		got, err := apart.Get(ctx, "key")
		if err == nil && string(got.Kvs[0].Value) != "others" {
			t.Fatalf("it has %s", got.Kvs[0].Value)
		}
		return err
	})
}
