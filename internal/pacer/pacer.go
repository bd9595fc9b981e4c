// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package pacer

import (
	"context"
	"os"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weir-project/weir/internal/ledger"
)

const (
	// period is how often the percentage is looked at, beside after every collection, and limitedPeriod
	// the same where there is a limit, of which something may have to be let go of.
	period        = time.Second
	limitedPeriod = period / 4
	// goDefault is the percentage that Go starts with.
	goDefault = 100
	// step is the smallest change of the percentage that is worth a stop of the world.
	step = 2
	// share is the part of the processors that collections may take, startShare the same while the process
	// starts, and confinedShare while somebody has the heap confined: what a collection costs more often is then paid.
	share         = 0.015
	startShare    = 0.08
	confinedShare = 0.25
	// startLimit is how long a process may be said to start.
	startLimit = 2 * time.Minute
	// least is how many bytes the heap may always grow by, as far as Go's default goes: a
	// collection has costs of its own, and the rate of allocation changes before it is looked at again.
	least = 16 << 20
	// most is how many bytes the heap may grow by, however little there is to mark, if the rate of allocation wants
	// it: a collection costs something for what it does not mark, too.
	most = 64 << 20
)

// state is what the percentage is made from.
type state struct {
	// live is what was alive at the end of the last collection, in bytes; free is how
	// much of it does not have to be marked.
	live, free int64
	// rate is how fast memory is allocated, in bytes per second.
	rate float64
	// cost is what a collection takes, in seconds of a processor, as far as can be measured; see price.
	cost float64
	// processors is how many there are.
	processors int
	// starting says that the process is, and confined that somebody has the heap confined.
	starting, confined bool
}

// price returns what a collection takes, in seconds of a processor. What is measured has in it what its workers have waited
// for processors that other processes had: by that alone a server would take more memory on a busy machine. So there is
// a bound, four times of what marking takes: 0.5 ns for each byte.
func (s state) price() float64 { return min(s.cost, 0.02+2e-9*float64(max(0, s.live-s.free))) }

// percent returns the percentage of live by which the heap may grow.
func percent(s state) int {
	if s.live <= 0 {
		return goDefault
	}
	part := share
	switch {
	case s.confined:
		part = confinedShare
	case s.starting:
		part = startShare
	}
	// At this slack a collection, every slack/rate seconds, takes its part.
	slack := int64(s.price() * s.rate / (part * float64(s.processors)))
	slack = max(least, min(slack, max(most, s.live-s.free)))
	return int(max(1, min(goDefault, 100*slack/s.live)))
}

// Pacer paces the collector of a process. There should be one. Its methods may be called
// by any number of goroutines.
type Pacer struct {
	ledger *ledger.Ledger
	limit  Limit
	// collected, with room for one, is rung after each collection.
	collected chan struct{}
	// others is what the process holds beside what the ledger has, in bytes: as of the last collection.
	others atomic.Int64

	mu sync.Mutex
	// running says that Run is, and pacing that it sets the percentage. set is the one that has been set last.
	running, pacing bool
	set             int
	// confiners is how many have the heap confined now, and confined says that somebody had
	// since the last look at it.
	confiners int
	confined  bool
	// starting says that the process has not come to rest yet: most of what it allocates is garbage until
	// then, and what stays lies the closer together the less there is of it.
	starting bool
	started  time.Time
	meter    meter
	giver    giver
}

// New returns a Pacer that goes by the books of l, in a process that has a limit.
func New(l *ledger.Ledger, limit Limit) *Pacer {
	return &Pacer{ledger: l, limit: limit, collected: make(chan struct{}, 1)}
}

// Limit returns the limit of the process.
func (p *Pacer) Limit() Limit { return p.limit }

// Run paces the collector until ctx ends, and then sets Go's default again. With GOGC set
// it leaves the collector alone. If there is a limit, relieve is called every time that the heap has been
// looked at: whoever keeps what can be done without has to ask History and Derived then.
func (p *Pacer) Run(ctx context.Context, relieve func()) {
	every := period
	if p.limit.Go > 0 {
		every = limitedPeriod
	} else if os.Getenv("GOGC") != "" {
		return
	}
	p.start(os.Getenv("GOGC") == "")
	defer p.stop()
	var giving sync.WaitGroup
	defer giving.Wait()
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.collected:
		case <-ticker.C:
		}
		if p.look() {
			giving.Go(p.giveBack)
		}
		if p.limit.Go > 0 {
			relieve()
		}
	}
}

func (p *Pacer) start(pacing bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.running, p.pacing, p.starting, p.set = true, pacing, true, goDefault
	p.started = time.Now()
	p.meter.read(p.started)
	p.others.Store(p.meter.held() - p.ledger.Total())
	p.await()
}

func (p *Pacer) stop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.running = false
	if p.pacing {
		debug.SetGCPercent(goDefault)
	}
}

// sentinel is collected by every collection. It holds a pointer so that it is an object by itself.
type sentinel struct{ _ *sentinel }

// await has collected rung after the next collection, and then after the one that follows.
func (p *Pacer) await() {
	runtime.AddCleanup(&sentinel{}, func(p *Pacer) {
		select {
		case p.collected <- struct{}{}:
		default:
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.running {
			p.await()
		}
	}, p)
}

// look measures, and sets the percentage. It returns true if what is free should be given back to the system
// now.
func (p *Pacer) look() (giveBack bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	s := p.meter.read(now)
	if p.meter.collected {
		p.others.Store(p.meter.held() - p.ledger.Total())
	}
	s.free = unmarked(p.ledger)
	s.confined, s.starting = p.confined, p.starting
	p.confined = p.confiners > 0
	if next := percent(s); next >= p.set+step || next <= p.set-step || next < p.set && s.confined {
		p.apply(next)
	}
	due := p.giver.due(now, s, p.meter.idle, p.meter.total)
	p.starting = p.starting && !due && now.Before(p.started.Add(startLimit))
	return p.pacing && due
}

// unmarked returns how many of the bytes in the books hold no pointers, so that they cost a collection nothing.
func unmarked(l *ledger.Ledger) int64 {
	n := int64(0)
	for _, p := range [...]ledger.Purpose{ledger.Frames, ledger.History, ledger.Derived, ledger.Compressed, ledger.Streams, ledger.Readers} {
		n += l.Bytes(p)
	}
	return n
}

// apply sets the percentage.
func (p *Pacer) apply(percent int) {
	if p.pacing {
		debug.SetGCPercent(percent)
	}
	p.set = percent
}

// Confine keeps the heap small until lift is called: collections may then take a quarter of the processors
// instead of a small share. It is for a request that makes much garbage and keeps none of it,
// so that memory does not follow the clients. Such a request lifts it while it waits. The
// heap stays confined until the next look at it, in a period at most, so that to lift and
// to confine many times does not cost much.
func (p *Pacer) Confine() (lift func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.confiners++
	p.confined = true
	return sync.OnceFunc(func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.confiners--
	})
}
