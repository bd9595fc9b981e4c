// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"time"
)

// Stage is a part of a server's start or end.
type Stage string

// The stages in the order in which they begin.
const (
	// StagePort is there if the port is taken at first: it is tried again.
	StagePort Stage = "port"
	// StageDirectory is over when the data directory is locked: it is this process's.
	StageDirectory Stage = "data directory"
	// StageCertificates makes what certificates and keys are missing.
	StageCertificates Stage = "certificates"
	// StageEtcd starts the embedded etcd.
	StageEtcd Stage = "etcd"
	// StageAPI assembles the server.
	StageAPI Stage = "API"
	// StageCaches reads the resources from etcd.
	StageCaches Stage = "caches"
	// StageEnd is the end: requests and watches are waited for. It is never over.
	StageEnd Stage = "end"
)

// Progress is how far a stage is.
type Progress struct {
	Stage Stage
	// Over says that the stage has ended.
	Over bool
	// Detail is a word about it, for people. May be empty.
	Detail string
	// Done of Total are through: of StageCaches, the caches. Total is 0 where that is not known.
	Done, Total int
	// Watches are those of clients that StageEnd waits for; the server's own are not counted.
	Watches int
}

// report tells Options.Progress, if it is there.
func (o *Options) report(p Progress) {
	if o.Progress != nil {
		o.Progress(p)
	}
}

// reportPeriod is how often counts are told.
const reportPeriod = 100 * time.Millisecond

// reportStart tells how many caches are ready, until the function that it returns is called: with
// true if the server is. Nothing is told after that.
func (o *Options) reportStart(ctx context.Context, p *parts) (end func(ready bool)) {
	if o.Progress == nil || p.caches == nil {
		return func(bool) {}
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	tell := func(over bool) {
		ready, all := p.caches.Ready()
		o.report(Progress{Stage: StageCaches, Over: over, Done: ready, Total: all})
	}
	go func() {
		defer close(done)
		each(ctx, reportPeriod, func() { tell(false) })
	}()
	return func(ready bool) {
		cancel()
		<-done
		if ready {
			tell(true)
		}
	}
}

// reportEnd tells from the end of ctx on what is waited for, until the function that it returns is called.
func (o *Options) reportEnd(ctx context.Context, p *parts) (stop func()) {
	if o.Progress == nil {
		return func() {}
	}
	stopped, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		select {
		case <-ctx.Done():
		case <-stopped.Done():
			return
		}
		each(stopped, reportPeriod, func() {
			o.report(Progress{Stage: StageEnd, Watches: p.clientsWatching()})
		})
	}()
	return func() { cancel(); <-done }
}

// each calls f now and then every period until ctx ends.
func each(ctx context.Context, period time.Duration, f func()) {
	ticker := time.NewTicker(period)
	defer ticker.Stop()
	for {
		f()
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}
