// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/endpoints/handlers/responsewriters"
	epmetrics "k8s.io/apiserver/pkg/endpoints/metrics"
	"k8s.io/apiserver/pkg/endpoints/request"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/apiserver/pkg/server/httplog"
	utilflowcontrol "k8s.io/apiserver/pkg/util/flowcontrol"

	"github.com/weir-project/weir/internal/budget"
	"github.com/weir-project/weir/internal/liststream"
)

// waitShare is the part of a request's time that it may wait for memory, as it may in a queue of flow
// control; see getRequestWaitContext of k8s.io/apiserver/pkg/server/filters. waitMost bounds it.
const (
	waitShare = 4
	waitMost  = time.Minute
)

// seatTime is for how long a watch that waits for memory keeps its seat of flow control.
const seatTime = 10 * time.Millisecond

// inFlight has requests wait, or refuses them, that would hold more memory than there is.
//
// It stands behind flow control and authorization. What waits there holds its seats, so that flow control has what comes after it
// wait in its own order, and each priority level is a class of the budget: what a level is kept from by the others' seats, it is not
// kept from by what they hold. Requests of the exempt level wait, too, if they are large: they are exempt from being queued, and
// not from what there is.
type inFlight struct {
	budget     *budget.Budget
	costs      costs
	serializer runtime.NegotiatedSerializer
	longRuns   request.LongRunningRequestCheck
	// timeout is how long a request may take that has no deadline before it begins.
	timeout time.Duration
	dropped utilflowcontrol.DroppedRequestsTracker
}

func newInFlight(b *budget.Budget, c costs, config *genericapiserver.Config) *inFlight {
	return &inFlight{
		budget: b, costs: c, serializer: config.Serializer, longRuns: config.LongRunningFunc, timeout: config.RequestTimeout,
		dropped: utilflowcontrol.NewDroppedRequestsTracker(),
	}
}

// handler has requests to next wait until there is room for them.
func (i *inFlight) handler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		info, ok := request.RequestInfoFrom(req.Context())
		if !ok || info.Verb != "watch" && i.longRuns != nil && i.longRuns(req, info) {
			next.ServeHTTP(w, req)
			return
		}
		grant := i.acquire(w, req, info, false)
		if grant == nil {
			return
		}
		defer grant.Release()
		// From when it has begun, a watch holds what is counted elsewhere, for as long as it likes. What another server answers
		// (utilflowcontrol.RequestDelegated) holds nothing here, and that server may ask this one before it does.
		ctx := context.WithValue(req.Context(), grantKey{}, grant)
		ctx = utilflowcontrol.WithInitializationSignal(ctx, begun{grant: grant, outer: req.Context()})
		next.ServeHTTP(w, req.WithContext(ctx))
	})
}

// whole has a list wait that next is asked for a second time, because it could not be answered in place: nothing
// has been sent then, and it holds more than was thought.
func (i *inFlight) whole(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		grant, ok := req.Context().Value(grantKey{}).(*budget.Grant)
		info, known := request.RequestInfoFrom(req.Context())
		if !ok || !known || !liststream.Again(req.Context()) {
			next.ServeHTTP(w, req)
			return
		}
		grant.Release() // who waits holds nothing
		if grant = i.acquire(w, req, info, true); grant != nil {
			defer grant.Release()
			next.ServeHTTP(w, req)
		}
	})
}

type grantKey struct{}

// begun is what a watch tells that it has begun. It tells flow control, too.
type begun struct {
	grant *budget.Grant
	outer context.Context
}

var _ utilflowcontrol.InitializationSignal = begun{}

// Signal implements utilflowcontrol.InitializationSignal.
func (b begun) Signal() {
	b.grant.Release()
	utilflowcontrol.WatchInitialized(b.outer)
}

// Wait implements utilflowcontrol.InitializationSignal. Flow control waits for its own.
func (begun) Wait() {}

// acquire returns nil if the request has been refused.
func (i *inFlight) acquire(w http.ResponseWriter, req *http.Request, info *request.RequestInfo, whole bool) *budget.Grant {
	r := i.costs.of(req, info, whole)
	r.Class = w.Header().Get(flowcontrolv1.ResponseHeaderMatchedPriorityLevelConfigurationUID)
	ctx, cancel := context.WithTimeout(req.Context(), i.patience(req.Context()))
	defer cancel()
	if info.Verb == "watch" {
		// Many watches may wait, for as long as nothing is left. Those who end by themselves are not to wait for their seats.
		seat := time.AfterFunc(seatTime, func() { utilflowcontrol.WatchInitialized(req.Context()) })
		defer seat.Stop()
	}
	began := time.Now()
	grant, err := i.budget.Acquire(ctx, r)
	if waited := time.Since(began); err != nil || waited > time.Millisecond {
		httplog.AddKeyValue(req.Context(), "memory_estimated", r.Bytes)
		httplog.AddKeyValue(req.Context(), "memory_wait", waited)
	}
	if err != nil {
		i.refuse(w, req, info, r, err)
		return nil
	}
	return grant
}

// patience is how long a request may wait.
func (i *inFlight) patience(ctx context.Context) time.Duration {
	left := i.timeout
	if deadline, ok := ctx.Deadline(); ok {
		left = time.Until(deadline)
	}
	return min(left/waitShare, waitMost)
}

// refuse answers as flow control does, with a Status that says why; see tooManyRequests of k8s.io/apiserver/pkg/server/filters.
func (i *inFlight) refuse(w http.ResponseWriter, req *http.Request, info *request.RequestInfo, r budget.Request, cause error) {
	reason, why := "time-out", "there was no memory for it"
	switch {
	case errors.Is(cause, budget.ErrTooLarge):
		reason, why = "too-large", "there is never that much, ask for fewer objects at a time, with limit"
	case errors.Is(cause, budget.ErrTooMany):
		reason, why = "queue-full", "too many others wait for memory"
	case req.Context().Err() != nil:
		reason = "cancelled"
	}
	rejected.WithLabelValues(reason).Inc()
	if info.Verb == "deletecollection" && errors.Is(cause, budget.ErrTooLarge) {
		// Pages are no way out: upstream gathers what it has deleted. Whoever has to delete all (the namespace controller) then lists
		// metadata and deletes the objects one by one; see deleteAllContentForGroupVersionResource of
		// k8s.io/kubernetes/pkg/controller/namespace/deletion.
		err := apierrors.NewMethodNotSupported(schema.GroupResource{Group: info.APIGroup, Resource: info.Resource}, info.Verb)
		err.ErrStatus.Message = fmt.Sprintf("deleting all of these at once may take %v of the server's memory, and there is never that much: delete them one by one",
			resource.NewQuantity(r.Bytes>>10<<10, resource.BinarySI))
		epmetrics.RecordRequestTermination(req, info, epmetrics.APIServerComponent, http.StatusMethodNotAllowed)
		responsewriters.ErrorNegotiated(err, i.serializer, metav1.Unversioned, w, req)
		return
	}
	mutating := info.Verb != "get" && info.Verb != "list" && info.Verb != "watch"
	epmetrics.RecordDroppedRequest(req, info, epmetrics.APIServerComponent, mutating)
	epmetrics.RecordRequestTermination(req, info, epmetrics.APIServerComponent, http.StatusTooManyRequests)
	i.dropped.RecordDroppedRequest(r.Class)
	err := apierrors.NewTooManyRequests(
		fmt.Sprintf("the request may take %v of the server's memory: %s; please try again later", resource.NewQuantity(r.Bytes>>10<<10, resource.BinarySI), why),
		int(i.dropped.GetRetryAfter(r.Class)))
	responsewriters.ErrorNegotiated(err, i.serializer, metav1.Unversioned, w, req)
}
