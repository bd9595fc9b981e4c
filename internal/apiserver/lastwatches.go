// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"net/http"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/endpoints/handlers/responsewriters"
	"k8s.io/apiserver/pkg/endpoints/request"
)

// lastWatches refuses the watches that come when the server has begun to end those that it has. Upstream ends watches and refuses
// new ones by two goroutines that wait for one signal. So a client whose watch has ended may come back, on the same connection, before
// new ones are refused; its watch is then begun and ended at once, and client-go lists everything anew after a watch that ends
// within a second with nothing in it. The answer is upstream's for those that come a little later: client-go asks again.
func lastWatches(next http.Handler, serializer runtime.NegotiatedSerializer) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		signal := request.ServerShutdownSignalFrom(req.Context()) // only watches have it
		if signal == nil {
			next.ServeHTTP(w, req)
			return
		}
		select {
		case <-signal.ShuttingDown():
			refused := apierrors.NewServiceUnavailable("apiserver is shutting down")
			refused.ErrStatus.Details = &metav1.StatusDetails{RetryAfterSeconds: 1}
			responsewriters.ErrorNegotiated(refused, serializer, metav1.Unversioned, w, req)
		default:
			next.ServeHTTP(w, req)
		}
	})
}
