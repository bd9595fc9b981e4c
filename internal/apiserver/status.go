// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"encoding/json"
	"math"
	"net/http"
	"runtime/debug"
	"runtime/metrics"
	"time"

	utilversion "k8s.io/component-base/version"
	"k8s.io/klog/v2"
	"k8s.io/kube-aggregator/pkg/apiserver"

	"github.com/weir-project/weir/internal/buildinfo"
	"github.com/weir-project/weir/internal/ledger"
	"github.com/weir-project/weir/internal/status"
	"github.com/weir-project/weir/internal/usage"
)

const (
	// slowReaders is how many readers a status names.
	slowReaders = 20
	// askTime is how long etcd may take to tell its revision to a status.
	askTime = 2 * time.Second
	// catchUpTime is how long caches may take to reach that: of one that does not change etcd has to be asked. An answer
	// takes 0.1 s.
	catchUpTime = 500 * time.Millisecond
)

// serveStatus has the server answer status.Path, behind all that other non-resource URLs are behind: authentication,
// authorization, flow control, audit.
func (p *parts) serveStatus(server *apiserver.APIAggregator) error {
	if p.caches == nil {
		return nil
	}
	started := time.Now()
	server.GenericAPIServer.Handler.NonGoRestfulMux.HandleFunc(status.Path, func(w http.ResponseWriter, req *http.Request) {
		if req.Method != http.MethodGet && req.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, "the status can be read only", http.StatusMethodNotAllowed)
			return
		}
		report := p.status(req.Context())
		report.Started = started
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Cache-Control", "no-store")
		if err := json.NewEncoder(w).Encode(report); err != nil {
			klog.V(2).InfoS("The status was not sent", "err", err) // the client has left
		}
	})
	return nil
}

// status returns what the server holds and does, but not since when.
func (p *parts) status(ctx context.Context) *status.Report {
	now := time.Now()
	r := &status.Report{
		Build: buildinfo.Get(), Kubernetes: utilversion.Get().GitVersion, Time: now,
		Memory: memory(), Watching: p.watching(),
		Resources: []status.Resource{}, Readers: []status.Reader{}, Clients: []status.Client{},
	}
	p.measure(ctx, r)
	resources, readers := p.caches.Status(slowReaders)
	for _, s := range resources {
		one := status.Resource{
			Name: s.Resource.String(), Ready: s.Ready, Error: s.Cause, Objects: s.Objects, Bytes: s.Bytes, Watches: s.Watches,
			History:  status.History{Events: s.Events, Bytes: s.EventBytes, Seconds: age(now, s.Oldest), From: s.Floor, To: s.Head},
			Revision: s.Revision,
		}
		if s.Ready && r.EtcdRevision > s.Revision {
			one.Behind = r.EtcdRevision - s.Revision
		}
		r.Resources = append(r.Resources, one)
	}
	for _, s := range readers {
		user, agent := usage.From(s.Ctx).Client()
		r.Readers = append(r.Readers, status.Reader{
			Resource: s.Resource.String(), Namespace: s.Namespace, Name: s.Name, User: user, UserAgent: agent,
			Events: s.Events, Seconds: age(now, s.Since), Bytes: s.Bytes,
		})
	}
	for _, a := range p.usage.Snapshot() {
		r.Clients = append(r.Clients, status.Client(a))
	}
	return r
}

// measure fills in what etcd says, and gives the caches time to reach that.
func (p *parts) measure(ctx context.Context, r *status.Report) {
	asking, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	var err error
	if r.EtcdRevision, err = p.caches.StorageRevision(asking); err != nil {
		r.EtcdError = err.Error()
		return
	}
	waiting, cancel := context.WithTimeout(ctx, catchUpTime)
	defer cancel()
	p.caches.CatchUp(waiting, r.EtcdRevision)
}

// age returns how many seconds at is ago, 0 for the zero time.
func age(now, at time.Time) float64 {
	if at.IsZero() {
		return 0
	}
	return math.Round(max(0, now.Sub(at).Seconds())*1000) / 1000
}

func memory() status.Memory {
	var m status.Memory
	for _, purpose := range ledger.Purposes() {
		m.Purposes = append(m.Purposes, status.Purpose{Name: purpose.String(), Bytes: ledger.Process.Bytes(purpose)})
	}
	samples := []metrics.Sample{{Name: "/gc/heap/live:bytes"}, {Name: "/memory/classes/heap/objects:bytes"}, {Name: "/memory/classes/total:bytes"},
		{Name: "/memory/classes/heap/released:bytes"}}
	metrics.Read(samples)
	for i, to := range []*int64{&m.Live, &m.Heap, &m.Total, &m.Released} {
		if samples[i].Value.Kind() == metrics.KindUint64 {
			*to = int64(samples[i].Value.Uint64())
		}
	}
	if limit := debug.SetMemoryLimit(-1); limit < math.MaxInt64 { // a negative one only asks
		m.Limit = limit
	}
	return m
}
