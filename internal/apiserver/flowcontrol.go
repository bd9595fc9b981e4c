// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"net/http"
	"net/url"
	"sync/atomic"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/server/httplog"
	utilflowcontrol "k8s.io/apiserver/pkg/util/flowcontrol"
	fq "k8s.io/apiserver/pkg/util/flowcontrol/fairqueuing"
	fcmetrics "k8s.io/apiserver/pkg/util/flowcontrol/metrics"
	fcrequest "k8s.io/apiserver/pkg/util/flowcontrol/request"

	"github.com/weir-project/weir/internal/liststream"
	"github.com/weir-project/weir/internal/watchcache"
)

// bytesPerSeat is what one seat stands for; upstream's, in
// k8s.io/apiserver/pkg/util/flowcontrol/request/list_work_estimator.go.
const bytesPerSeat = 100_000

// charged is upstream's priority and fairness with what weir knows of the cost of reads.
// Upstream charges a list, and the initial events of a watch, by the memory that encoding
// them takes it: up to 10 seats. What weir streams takes a seat, whatever its size, and
// what it has to decode from its cache takes what it is large, without that bound. A list that
// streams decodes a few objects all the same (frame.Frame.DefaultedOnRead), and holds them until
// it ends. All else is charged as upstream does.
type charged struct {
	utilflowcontrol.Interface
	caches *watchcache.Caches
	// streaming says that lists are answered in place.
	streaming bool
}

var _ utilflowcontrol.Interface = charged{}

type queryKey struct{}

// priced is what flow control is shown of a request, and has to say of it.
type priced struct {
	url *url.URL
	// seats are those that it was estimated to take; 0 if it was not.
	seats atomic.Uint64
}

// withQuery shows flow control the query of a request, of which it is told no more than
// the RequestInfo.
func withQuery(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		next.ServeHTTP(w, req.WithContext(context.WithValue(req.Context(), queryKey{}, &priced{url: req.URL})))
	})
}

// seatsOf returns how many seats the request that ctx belongs to was estimated to take, 0 if that is not known.
func seatsOf(ctx context.Context) uint64 {
	if p, ok := ctx.Value(queryKey{}).(*priced); ok {
		return p.seats.Load()
	}
	return 0
}

// noted is an estimate that seatsOf knows.
func noted(ctx context.Context, estimate func() fcrequest.WorkEstimate) func() fcrequest.WorkEstimate {
	p, ok := ctx.Value(queryKey{}).(*priced)
	if !ok {
		return estimate
	}
	return func() fcrequest.WorkEstimate {
		e := estimate()
		p.seats.Store(e.InitialSeats)
		return e
	}
}

// Handle implements utilflowcontrol.Interface.
func (c charged) Handle(
	ctx context.Context,
	digest utilflowcontrol.RequestDigest,
	note func(*flowcontrolv1.FlowSchema, *flowcontrolv1.PriorityLevelConfiguration, string),
	estimate func() fcrequest.WorkEstimate,
	queueNote fq.QueueNoteFn,
	execute func(),
) {
	size, known := c.size(ctx, digest)
	if !known {
		c.Interface.Handle(ctx, digest, note, noted(ctx, estimate), queueNote, execute)
		return
	}
	var flowSchema, level string
	c.Interface.Handle(ctx, digest, func(fs *flowcontrolv1.FlowSchema, pl *flowcontrolv1.PriorityLevelConfiguration, flow string) {
		flowSchema, level = fs.Name, pl.Name
		note(fs, pl, flow)
	}, noted(ctx, func() fcrequest.WorkEstimate {
		config := fcrequest.DefaultWorkEstimatorConfig()
		most := config.MaximumListSeatsLimit
		if m := c.GetMaxSeats(level); m > 0 {
			most = min(most, m)
		}
		seats := min(max(config.MinimumSeats, uint64((size+bytesPerSeat-1)/bytesPerSeat)), most)
		fcmetrics.ObserveWorkEstimatedSeats(level, flowSchema, int(seats))
		httplog.AddKeyValue(ctx, "apf_iseats", seats)
		return fcrequest.WorkEstimate{InitialSeats: seats}
	}), queueNote, execute)
}

// size returns how many bytes a request makes the server hold at once, 0 if it streams; it
// is false for what upstream estimates.
func (c charged) size(ctx context.Context, digest utilflowcontrol.RequestDigest) (int64, bool) {
	info := digest.RequestInfo
	if info == nil || !info.IsResourceRequest || info.Subresource != "" || info.Verb != "list" && info.Verb != "watch" {
		return 0, false
	}
	cache := c.caches.Of(schema.GroupResource{Group: info.APIGroup, Resource: info.Resource})
	asked, _ := ctx.Value(queryKey{}).(*priced)
	// A cache that is not ready has etcd answer some lists, and knows the size of none.
	if cache == nil || asked == nil || !cache.Ready() {
		return 0, false
	}
	if info.Verb == "watch" {
		return 0, true // what it decodes, it decodes one by one
	}
	query := asked.url.Query()
	var opts metav1.ListOptions
	if err := metav1.Convert_url_Values_To_v1_ListOptions(&query, &opts, nil); err != nil || !cache.Answers(opts) {
		return 0, false
	}
	objects, bytes := cache.Size()
	if c.streaming && liststream.Eligible(ctx, info) {
		objects, bytes = cache.DefaultedOnRead()
	}
	switch {
	case objects == 0:
		return 0, true
	case info.Name != "":
		return bytes / int64(objects), true
	case opts.Limit > 0 && opts.ResourceVersion != "0":
		return bytes / int64(objects) * min(opts.Limit, int64(objects)), true
	default:
		return bytes, true
	}
}
