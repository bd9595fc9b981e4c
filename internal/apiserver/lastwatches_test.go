// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
)

type shutdown chan struct{}

func (s shutdown) ShuttingDown() <-chan struct{} { return s }

// A watch that comes when watches are being ended is asked to come again, and is not begun.
func TestLastWatches(t *testing.T) {
	begun := 0
	handler := lastWatches(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { begun++ }), legacyscheme.Codecs)
	signal := make(shutdown)
	serve := func(watch bool) *httptest.ResponseRecorder {
		req := httptest.NewRequest(http.MethodGet, "/api/v1/pods?watch=true", nil)
		if watch {
			req = req.WithContext(request.WithServerShutdownSignal(req.Context(), signal))
		}
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, req)
		return w
	}
	if w := serve(true); begun != 1 || w.Code != http.StatusOK {
		t.Errorf("before: %d begun, %d", begun, w.Code)
	}
	close(signal)
	if w := serve(true); begun != 1 || w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") != "1" {
		t.Errorf("after: %d begun, want 1; %d, Retry-After %q: %s", begun, w.Code, w.Header().Get("Retry-After"), w.Body)
	}
	if serve(false); begun != 2 {
		t.Error("what is no watch is not served")
	}
}
