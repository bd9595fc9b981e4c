// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package lists

import (
	"fmt"
	"net/http"
	"testing"

	"k8s.io/apiserver/pkg/storage/etcd3"

	"github.com/weir-project/weir/test/servers"
)

// testCompacted has etcd forget the past, and compares what is said of it: the refusal
// of revisions and tokens, and how a list goes on that was begun before.
func (p *pair) testCompacted(t *testing.T) {
	const path = "/api/v1/namespaces/lists/configmaps"
	list := p.stock.In(t).Must(http.MethodGet, path+"?limit=1", nil)
	begun, ok := list["metadata"].(map[string]any)["continue"].(string)
	if !ok {
		t.Fatal("a list is not continued")
	}
	p.weir.In(t).Must(http.MethodPatch, path+"/configmap-0", map[string]any{"metadata": map[string]any{"annotations": map[string]any{"compacted": "yes"}}})
	old := p.current
	p.current = p.settle(t)
	p.compact(t, p.current)

	var all []combination
	for _, f := range forms {
		for _, q := range []string{"continue=" + begun, "limit=1&continue=" + begun,
			fmt.Sprintf("resourceVersionMatch=Exact&resourceVersion=%d", old), fmt.Sprintf("limit=1&resourceVersion=%d", old),
			fmt.Sprintf("resourceVersionMatch=NotOlderThan&resourceVersion=%d", old), fmt.Sprintf("resourceVersionMatch=Exact&resourceVersion=%d", p.current), ""} {
			all = append(all, request(path, q, f))
		}
		// The refusal has a token to go on with, of the present.
		one := request(path, "limit=1&continue="+begun, f)
		one.pages = true
		all = append(all, one)
	}
	p.compareAll(t, all, workers)
}

// compact compacts etcd up to a revision by the servers' own protocol, and waits until
// both have heard of it: upstream's cache asks for it every 15 seconds.
func (p *pair) compact(t *testing.T, rev int64) {
	t.Helper()
	// A call with the wrong number of compactions so far does nothing but tell the right one.
	version, at := int64(0), int64(0)
	for range 2 {
		var err error
		if version, _, at, err = etcd3.Compact(t.Context(), p.etcd.Client, version, rev); err != nil {
			t.Fatal(err)
		}
		if at == rev {
			break
		}
	}
	if at != rev {
		t.Fatalf("etcd is compacted to %d, not to %d", at, rev)
	}
	for _, s := range p.both() {
		servers.Eventually(t, s.Name+" to hear of the compaction", func() bool {
			status, _ := s.Do(http.MethodGet, fmt.Sprintf("/api/v1/namespaces/lists/configmaps?resourceVersionMatch=Exact&resourceVersion=%d", p.older), nil)
			return status == http.StatusGone
		})
	}
	p.current = p.settle(t)
}
