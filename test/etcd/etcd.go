// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

// Package etcd starts an etcd for a test, inside of the test's process. It imports nothing
// of weir's, so that the tests inside of any package can use it. One that can be killed, or
// has several members, is internal/rig's.
package etcd

import (
	"context"
	"errors"
	"net/url"
	"testing"

	"go.etcd.io/etcd/client/v3/kubernetes"
	"go.etcd.io/etcd/server/v3/embed"

	"k8s.io/apiserver/pkg/storage/etcd3/testserver"
)

// Config returns the configuration of an etcd of one member that listens on loopback only.
func Config(t testing.TB) *embed.Config {
	t.Helper()
	cfg := testserver.NewTestConfig(t)
	for _, urls := range [][]url.URL{cfg.ListenClientUrls, cfg.AdvertiseClientUrls, cfg.ListenPeerUrls, cfg.AdvertisePeerUrls} {
		for i := range urls {
			urls[i].Host = "127.0.0.1:" + urls[i].Port()
		}
	}
	cfg.InitialCluster = cfg.InitialClusterFromName(cfg.Name)
	// The only member need not wait long for others to stand for election.
	cfg.TickMs, cfg.ElectionMs = 10, 100
	return cfg
}

// Run starts an etcd for one test and returns a client whose reads are recorded.
func Run(t testing.TB) *kubernetes.Client {
	t.Helper()
	client := testserver.RunEtcd(t, Config(t))
	t.Cleanup(func() {
		if err := client.Close(); err != nil && !errors.Is(err, context.Canceled) {
			t.Errorf("closing the etcd client: %v", err)
		}
	})
	return client
}
