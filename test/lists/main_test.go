// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

// Package lists puts lists to upstream's server and to weir's, over one etcd, and holds
// the answers against each other. It knows weir by its flags, its metrics and what it
// sends, and nothing of its inside.
package lists

import (
	"context"
	"testing"

	"go.etcd.io/etcd/client/v3/kubernetes"

	"github.com/weir-project/weir/test/etcd"
	"github.com/weir-project/weir/test/servers"
)

func TestMain(m *testing.M) { servers.Main(m) }

// Leases of the servers' identities are off: they would be renewed while answers are
// compared.
const gates = "CBORServingAndStorage=true,ShardedListAndWatch=true,APIServerIdentity=false,UnknownVersionInteroperabilityProxy=false"

// pair is upstream's server and weir's over one etcd, with something to list.
type pair struct {
	etcd        *kubernetes.Client
	stock, weir *servers.Server
	// resources are those that both serve lists of.
	resources []resource
	// older and current are revisions: one at which there was less, and that of all data.
	older, current int64
}

func (p *pair) both() []*servers.Server { return []*servers.Server{p.stock, p.weir} }

// start starts a pair with flags, and nothing to list but what the servers make themselves.
func start(t testing.TB, flags ...string) *pair {
	t.Helper()
	return startOver(t, etcd.Run(t), flags...)
}

// startOver starts a pair over what another one may have left in etcd.
func startOver(t testing.TB, etcd *kubernetes.Client, flags ...string) *pair {
	t.Helper()
	p := &pair{etcd: etcd}
	flags = append(flags, "--feature-gates="+gates)
	p.stock = servers.Start(t, servers.Stock, p.etcd.Endpoints()[0], flags...)
	p.weir = servers.Start(t, servers.Weir, p.etcd.Endpoints()[0], flags...)
	p.stock.Wait()
	p.weir.Wait()
	return p
}

// TestLists has all tests share one pair of servers, and goes from those that leave the
// data alone to those that write.
func TestLists(t *testing.T) {
	p := start(t, append(audited(t), "--runtime-config=api/all=true", "--request-timeout=10m")...)
	p.fill(t)

	t.Run("Metrics", p.testMetrics) // first, while there are few of them
	t.Run("Same", p.testSame)
	t.Run("Gzip", p.testGzip)
	t.Run("Slow", p.testSlow)
	t.Run("Left", p.testLeft)
	t.Run("Accounts", p.testAccounts)
	t.Run("Unwritable", p.testUnwritable)
	t.Run("Compacted", p.testCompacted)
	t.Run("Old", p.testOld)
	t.Run("Defaulted", p.testDefaulted)
}

// revision returns the revision that etcd is at.
func (p *pair) revision(t testing.TB) int64 {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), servers.Patience)
	defer cancel()
	resp, err := p.etcd.KV.Get(ctx, "nothing")
	if err != nil {
		t.Fatal(err)
	}
	return resp.Header.Revision
}
