// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/endpoints/request"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/kubernetes/pkg/api/legacyscheme"

	"github.com/weir-project/weir/internal/budget"
)

// A deletion of a collection that there is never memory for is answered such that the namespace controller deletes the objects one by
// one: 429 it would try for ever. All else is asked to come again.
func TestRefusedForEver(t *testing.T) {
	i := newInFlight(&budget.Budget{}, costs{}, &genericapiserver.Config{Serializer: legacyscheme.Codecs})
	for _, test := range []struct {
		verb  string
		cause error
		is    func(error) bool
		after bool
	}{
		{"deletecollection", budget.ErrTooLarge, apierrors.IsMethodNotSupported, false},
		{"deletecollection", budget.ErrTooMany, apierrors.IsTooManyRequests, true},
		{"list", budget.ErrTooLarge, apierrors.IsTooManyRequests, true},
	} {
		w := httptest.NewRecorder()
		req := httptest.NewRequestWithContext(t.Context(), http.MethodDelete, "/api/v1/namespaces/n/configmaps", nil)
		info := &request.RequestInfo{IsResourceRequest: true, Verb: test.verb, APIVersion: "v1", Resource: "configmaps", Namespace: "n"}
		i.refuse(w, req.WithContext(request.WithRequestInfo(req.Context(), info)), info, budget.Request{Bytes: 1 << 30}, test.cause)
		var status metav1.Status
		if err := json.Unmarshal(w.Body.Bytes(), &status); err != nil {
			t.Fatalf("%s: %v in %q", test.verb, err, w.Body)
		}
		if !test.is(&apierrors.StatusError{ErrStatus: status}) || int(status.Code) != w.Code || (w.Header().Get("Retry-After") != "") != test.after {
			t.Errorf("%s, %v: %d, Retry-After %q, %+v", test.verb, test.cause, w.Code, w.Header().Get("Retry-After"), status)
		}
	}
}
