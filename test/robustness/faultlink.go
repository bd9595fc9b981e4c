// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package robustness

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/weir-project/weir/internal/rig/link"
)

const (
	linkDelay  = 60 * time.Millisecond
	linkJitter = 50 * time.Millisecond
	// The throttled rates, in bytes a second: less than a reader of everything is sent, and less than a weir is.
	readersRate = 20_000
	etcdRate    = 50_000
	// sample is for how long it is looked how much comes through a link that is throttled.
	sample = 1500 * time.Millisecond
)

// probe asks what is at the other end of a link, over a connection of its own, and tells how many bytes came at least.
type probe func(ctx context.Context) (size int, err error)

// readersLink makes a fault of the link between readers and a weir.
func (r *Run) readersLink(ctx context.Context, f fault, s *server) error {
	return onLink(ctx, f, s.link, readersRate, func(ctx context.Context) (int, error) {
		if f.kind != faultThrottle {
			return 0, alive(s.behind)(ctx)
		}
		_, data, err := answer(ctx, s.behind, "GET", "/api/v1/"+configMaps+"?resourceVersion=0", nil)
		return len(data), err
	})
}

// etcdLinks makes a fault of a weir's link to one member of etcd, or of all its links to etcd.
func (r *Run) etcdLinks(ctx context.Context, f fault, s *server) (at string, err error) {
	at = fmt.Sprintf("%s to %s", s.name, r.cluster.Members[f.member].Name())
	links := s.etcd[f.member : f.member+1]
	if f.all {
		at, links = s.name+" to etcd", s.etcd
	}
	results := make(chan error, len(links))
	for _, l := range links {
		go func() {
			results <- onLink(ctx, f, l, etcdRate, func(ctx context.Context) (int, error) { return r.readBehind(ctx, l) })
		}()
	}
	for range links {
		err = errors.Join(err, <-results)
	}
	return at, err
}

// readBehind reads the ConfigMaps in etcd by a link, from the member at its other end.
func (r *Run) readBehind(ctx context.Context, l *link.Link) (int, error) {
	client, err := r.cluster.Client(ctx, "http://"+l.Address())
	if err != nil {
		return 0, err
	}
	defer client.Close()
	resp, err := client.Get(ctx, registry+configMaps+"/", clientv3.WithPrefix(), clientv3.WithSerializable())
	if err != nil {
		return 0, err
	}
	size := 0
	for _, kv := range resp.Kvs {
		size += len(kv.Value)
	}
	return size, nil
}

// onLink makes a fault on a link, sees that it does what it is there for, and heals it after its time.
func onLink(ctx context.Context, f fault, l *link.Link, rate int64, ask probe) (err error) {
	to := link.ToClient
	if f.other {
		to = link.ToServer
	}
	defer func() { err = errors.Join(err, heal(l)) }()
	over := time.Now().Add(f.lasts)
	switch f.kind {
	case faultCut, faultEtcdCut:
		l.Cut()
		err = refuses(l)
	case faultDelay, faultEtcdDelay:
		if err = l.Delay(linkDelay, linkJitter); err == nil {
			err = takes(ctx, ask, 2*(linkDelay-linkJitter)) // there and back
		}
	case faultThrottle, faultEtcdThrottle:
		// Towards the client, for there is most.
		if err = l.Throttle(link.ToClient, rate); err == nil {
			err = trickles(ctx, ask, rate)
		}
	case faultHalfOpen, faultEtcdHalfOpen:
		if err = l.Lose(to); err == nil {
			err = quiet(ctx, ask)
		}
	case faultStall, faultEtcdStall:
		if err = l.Stall(to); err == nil {
			err = quiet(ctx, ask)
		}
	default:
		err = fmt.Errorf("%s is no fault of a link", f.kind)
	}
	wait(ctx, time.Until(over))
	return err
}

// heal heals a link. The proxy sends on what it holds, but drops what nobody takes for five seconds, and then goes on with
// what comes after that. Between a weir and etcd there is no TLS, which would notice: those connections are ended.
func heal(l *link.Link) error {
	begun := time.Now()
	err := l.Heal()
	if time.Since(begun) > 4*time.Second {
		l.Cut()
		err = errors.Join(err, l.Heal())
	}
	return err
}

func refuses(l *link.Link) error {
	c, err := net.Dial("tcp", l.Address())
	if err != nil {
		return nil
	}
	return errors.Join(fmt.Errorf("%w: a connection is taken", errNothing), c.Close())
}

// takes holds that an answer takes so long at least.
func takes(ctx context.Context, ask probe, least time.Duration) error {
	begun := time.Now()
	err := bites(ctx, "an answer by a slow link", func(ctx context.Context) error {
		begun = time.Now()
		_, err := ask(ctx)
		return err
	})
	if took := time.Since(begun); err == nil && took < least {
		err = fmt.Errorf("%w: an answer took %v, not %v", errNothing, took, least)
	}
	return err
}

// trickles holds that an answer takes as long as it has to at a rate, where it comes at all while it is looked.
func trickles(ctx context.Context, ask probe, rate int64) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), sample)
	defer cancel()
	begun := time.Now()
	size, err := ask(ctx)
	took := time.Since(begun)
	switch {
	case err != nil && ctx.Err() == nil:
		return err
	case err == nil && took < time.Duration(size)*time.Second/time.Duration(rate)/2:
		return fmt.Errorf("%w: %d bytes came in %v", errNothing, size, took)
	}
	return nil
}

func quiet(ctx context.Context, ask probe) error {
	return silent(ctx, func(ctx context.Context) error {
		_, err := ask(ctx)
		return err
	})
}
