// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/storage"
	utilflowcontrol "k8s.io/apiserver/pkg/util/flowcontrol"

	"github.com/weir-project/weir/internal/budget"
	"github.com/weir-project/weir/internal/watchcache"
)

// TestDelegatedHoldsNothing: a request that another server answers holds nothing here while it does, so that what that server
// asks this one for does not wait for it.
func TestDelegatedHoldsNothing(t *testing.T) {
	b := &budget.Budget{}
	b.Resize(64<<20, 64<<20)
	i := &inFlight{
		budget: b, timeout: time.Minute, dropped: utilflowcontrol.NewDroppedRequestsTracker(),
		costs: costs{caches: watchcache.NewCaches(watchcache.Options{}), count: func(string) (storage.Stats, error) { return storage.Stats{}, nil }},
	}
	resolver := &request.RequestInfoFactory{APIPrefixes: sets.NewString("api", "apis"), GrouplessAPIPrefixes: sets.NewString("api")}
	req := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/apis/weir.test/v1/namespaces/a/things", strings.NewReader(strings.Repeat("x", 1<<20)))
	info, err := resolver.NewRequestInfo(req)
	if err != nil {
		t.Fatal(err)
	}
	served := false
	i.handler(http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) {
		served = true
		if b.Usage().InUse == 0 {
			t.Error("it holds nothing before it is known who answers")
		}
		utilflowcontrol.RequestDelegated(req.Context())
		if n := b.Usage().InUse; n != 0 {
			t.Errorf("it holds %d bytes while another server answers", n)
		}
	})).ServeHTTP(httptest.NewRecorder(), req.WithContext(request.WithRequestInfo(req.Context(), info)))
	if !served || b.Usage().InUse != 0 {
		t.Errorf("served: %v, %+v", served, b.Usage())
	}
}
