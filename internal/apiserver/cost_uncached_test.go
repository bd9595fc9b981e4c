// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/storage"

	"github.com/weir-project/weir/internal/budget"
	"github.com/weir-project/weir/internal/watchcache"
)

// TestEventsOfANamespace: how many events the cluster has says nothing of one namespace. The namespace controller lists them
// and deletes them as a collection for each namespace that goes, however empty; what is refused for its size is refused for ever.
func TestEventsOfANamespace(t *testing.T) {
	const alone = 150 << 20
	known := costs{caches: watchcache.NewCaches(watchcache.Options{}), streaming: true, count: func(string) (storage.Stats, error) {
		return storage.Stats{ObjectCount: 20_000}, nil
	}}
	resolver := &request.RequestInfoFactory{APIPrefixes: sets.NewString("api", "apis"), GrouplessAPIPrefixes: sets.NewString("api")}
	for _, method := range []string{http.MethodGet, http.MethodDelete} {
		req := httptest.NewRequestWithContext(t.Context(), method, "/api/v1/namespaces/empty/events", nil)
		info, err := resolver.NewRequestInfo(req)
		if err != nil {
			t.Fatal(err)
		}
		b := &budget.Budget{}
		b.Resize(alone, alone)
		r := known.of(req, info, false)
		if g, err := b.Acquire(t.Context(), r); err != nil {
			t.Errorf("%s: %+v: %v", info.Verb, r, err)
		} else {
			g.Release()
		}
	}
}
