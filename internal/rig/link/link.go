// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package link

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	toxiproxy "github.com/Shopify/toxiproxy/v2"
	"github.com/rs/zerolog"

	"github.com/weir-project/weir/internal/rig"
)

// Direction is one of the two in which bytes go through a link.
type Direction string

// The directions, in the proxy's own words.
const (
	ToServer Direction = "upstream"
	ToClient Direction = "downstream"
)

// Link is an address that stands for another. Without a fault it passes on everything. It is safe for concurrent use.
type Link struct {
	proxy *toxiproxy.Proxy
	// address is where it listens, also after Cut and Heal.
	address string

	mu sync.Mutex // of what is changed in the proxy
}

// quiet keeps the proxy's own log away: it tells of every connection.
var quiet = sync.OnceFunc(func() { zerolog.SetGlobalLevel(zerolog.Disabled) })

// New makes a link to a server at host:port and begins to listen at a loopback port. The caller closes it.
func New(server string) (*Link, error) {
	quiet()
	nobody := toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.Nop())
	ports, err := rig.FreePorts(1) // not one of the system's choice: after Cut that may be somebody's
	if err != nil {
		return nil, fmt.Errorf("link to %s: %w", server, err)
	}
	p := toxiproxy.NewProxy(nobody, server, fmt.Sprintf("127.0.0.1:%d", ports[0]), server)
	if err := p.Start(); err != nil {
		return nil, fmt.Errorf("link to %s: %w", server, err)
	}
	return &Link{proxy: p, address: p.Listen}, nil
}

// Address is where it listens, as host:port.
func (l *Link) Address() string { return l.address }

// Close ends all connections and listens no more.
func (l *Link) Close() { l.Cut() }

// Cut ends all connections and refuses new ones, until Heal.
func (l *Link) Cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.proxy.Stop()
}

// Turn has the link stand for another server, at host:port. It ends all connections and listens again.
func (l *Link) Turn(server string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.proxy.Update(&toxiproxy.Proxy{Listen: l.address, Upstream: server, Enabled: true}); err != nil {
		return fmt.Errorf("turn the link at %s from %s to %s: %w", l.address, l.proxy.Upstream, server, err)
	}
	return nil
}

// Delay has every byte arrive later, by delay and up to jitter more or less, in both directions.
func (l *Link) Delay(delay, jitter time.Duration) error {
	attributes := map[string]int64{"latency": delay.Milliseconds(), "jitter": jitter.Milliseconds()}
	return errors.Join(l.add("latency", ToServer, attributes), l.add("latency", ToClient, attributes))
}

// Throttle has at most so many bytes a second through, at least 1,000, in a direction.
func (l *Link) Throttle(d Direction, bytesPerSecond int64) error {
	return l.add("bandwidth", d, map[string]int64{"rate": max(bytesPerSecond/1000, 1)})
}

// Stall has nothing more arrive in a direction. After Heal what was sent arrives.
func (l *Link) Stall(d Direction) error {
	return l.add("bandwidth", d, map[string]int64{"rate": 0})
}

// Lose loses everything that is sent in a direction, with the connections half open: neither side learns of it. Heal then
// ends them, for a gap must not be taken for a stream.
func (l *Link) Lose(d Direction) error { return l.add("timeout", d, map[string]int64{"timeout": 0}) }

// add makes a fault. A fault of the same kind in the same direction takes the place of the one before.
func (l *Link) add(kind string, d Direction, attributes map[string]int64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	name := kind + "_" + string(d)
	wanted, err := json.Marshal(map[string]any{"name": name, "type": kind, "stream": d, "attributes": attributes})
	if err != nil {
		return err
	}
	if l.proxy.Toxics.GetToxic(name) != nil {
		_, err = l.proxy.Toxics.UpdateToxicJson(name, bytes.NewReader(wanted))
	} else {
		_, err = l.proxy.Toxics.AddToxicJson(bytes.NewReader(wanted))
	}
	if err != nil {
		return fmt.Errorf("%s on the link to %s: %w", kind, l.proxy.Upstream, err)
	}
	return nil
}

// Heal takes all faults away, and listens again where Cut has ended that. It waits for what is on its way: a peer that reads
// nothing at all, because its process is paused, has to go on first.
func (l *Link) Heal() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.proxy.Toxics.ResetToxics(context.Background())
	if err := l.proxy.Start(); err != nil && !errors.Is(err, toxiproxy.ErrProxyAlreadyStarted) {
		return fmt.Errorf("link to %s: listen again at %s: %w", l.proxy.Upstream, l.address, err)
	}
	return nil
}
