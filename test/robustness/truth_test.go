// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package robustness

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"

	"github.com/weir-project/weir/internal/rig"
	"github.com/weir-project/weir/internal/rig/link"
	"github.com/weir-project/weir/test/robustness/history"
	"github.com/weir-project/weir/test/servers"
)

// The truth has every change of etcd's, in its order and once, although the member that leads, and to which its watch may be,
// is killed, paused and kept apart from the others.
func TestTruthSurvivesLeaders(t *testing.T) {
	if testing.Short() {
		t.Skip("starts three processes and kills them")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	room := servers.Room(t)
	r := &Run{cluster: cluster{peers: link.NewPeers()}, truth: history.NewTruth(), config: Config{Members: 3}, servers: []*server{{}}}
	var err error
	if r.cluster.Etcd, err = room.StartEtcd(ctx, rig.EtcdOptions{Members: 3, PeerProxy: r.cluster.peers.Proxy}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.cluster.Stop(); err != nil {
			t.Error(err)
		}
		if err := r.cluster.peers.Close(); err != nil {
			t.Error(err)
		}
	})
	if r.etcd, err = r.cluster.Client(ctx); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.etcd.Close() })
	base, err := r.etcd.Get(ctx, probeKey)
	if err != nil {
		t.Fatal(err)
	}

	following, stop := context.WithCancel(ctx)
	began, followed := make(chan struct{}), make(chan error, 1)
	go func() { followed <- follow(following, r.etcd, r.truth, began) }()
	defer func() {
		stop()
		if err := <-followed; err != nil {
			t.Error(err)
		}
	}()
	<-began

	writing, enough := context.WithCancel(ctx)
	var writers sync.WaitGroup
	writers.Go(func() { putConfigMaps(writing, t, r.etcd) })
	faults := []fault{{kind: faultLeaderKill}, {kind: faultLeaderPause, lasts: time.Second}, {kind: faultNoQuorum, lasts: time.Second}}
	for i := range r.cluster.Members { // at one of them the watch is
		faults = append(faults, fault{kind: faultMemberPart, member: i, lasts: leaderless})
	}
	for _, f := range faults {
		if at, err := r.fault(ctx, f); err != nil {
			t.Errorf("%s at %s: %v", f.kind, at, err)
		}
	}
	enough()
	writers.Wait()

	last, err := r.etcd.Get(ctx, probeKey)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.truth.Wait(ctx, last.Header.Revision); err != nil {
		t.Fatal(err)
	}
	have := slices.Clone(r.truth.Changes(0, last.Header.Revision))
	want := history.NewTruth()
	again, stopAgain := context.WithCancel(ctx)
	defer stopAgain()
	go func() { _, _ = followFrom(again, r.etcd, want, base.Header.Revision+1) }() // in one go, now that all is well
	if err := want.Wait(ctx, last.Header.Revision); err != nil {
		t.Fatal(err)
	}
	same := slices.EqualFunc(have, want.Changes(0, last.Header.Revision), func(a, b history.Change) bool {
		return a.Revision == b.Revision && a.Key == b.Key && a.Next.Digests == b.Next.Digests
	})
	if len(have) < 10 || !same {
		t.Errorf("the truth has %d changes, etcd %d, or they are not the same", len(have), len(want.Changes(0, last.Header.Revision)))
	}
}

// putConfigMaps writes one ConfigMap after the other, as fast as etcd takes them.
func putConfigMaps(ctx context.Context, t *testing.T, etcd *clientv3.Client) {
	scheme := runtime.NewScheme()
	if err := corev1.AddToScheme(scheme); err != nil {
		t.Error(err)
		return
	}
	encoder := protobuf.NewSerializer(scheme, scheme)
	for n := 0; ctx.Err() == nil; n++ {
		m := &corev1.ConfigMap{
			TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"},
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace(0), Name: name(n % 8)},
			Data:       map[string]string{"n": fmt.Sprint(n)},
		}
		value, err := runtime.Encode(encoder, m)
		if err != nil {
			t.Error(err)
			return
		}
		ask, cancel := context.WithTimeout(ctx, writePatience)
		// One that fails may have happened or not: etcd knows.
		_, _ = etcd.Put(ask, registry+configMaps+"/"+m.Namespace+"/"+m.Name, string(value))
		cancel()
	}
}
