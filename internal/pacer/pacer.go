// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package pacer

import (
	"context"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"sync"
	"time"

	"github.com/weir-project/weir/internal/ledger"
)

const (
	// period is how often the percentage is looked at.
	period = time.Second
	// goDefault is the percentage that Go starts with.
	goDefault = 100
	// step is the smallest change of the percentage that is worth a stop of the world.
	step = 3
	// share is the part of the processors that collections may take.
	share = 0.015
	// least is how many bytes the heap may always grow by, as far as Go's default goes: a
	// collection has costs of its own, and the rate of allocation can change before it is
	// looked at again.
	least = 256 << 20
	// confinedShare and confinedLeast are what the heap may grow by while it is confined: a share
	// of what is alive, which is what a collection costs, and no less than some bytes.
	confinedShare = 40
	confinedLeast = 32 << 20
)

// state is what the percentage is made from.
type state struct {
	// live is what was alive at the end of the last collection, in bytes; free is how
	// much of it does not have to be marked.
	live, free int64
	// rate is how fast memory is allocated, in bytes per second.
	rate float64
	// cost is what a collection takes, in seconds of a processor.
	cost float64
	// processors is how many there are.
	processors int
	// ceiling is how large the heap may become while it is confined, else 0.
	ceiling int64
}

// percent returns the percentage of live by which the heap may grow.
func percent(s state) int {
	if s.live <= 0 {
		return goDefault
	}
	if s.ceiling > 0 {
		return int(max(1, min(goDefault, 100*max(s.ceiling-s.live, allowance(s.live))/s.live)))
	}
	// At this slack a collection, every slack/rate seconds, takes its share.
	slack := int64(s.cost * s.rate / (share * float64(s.processors)))
	slack = max(least, min(slack, s.live-s.free))
	return int(max(1, min(goDefault, 100*slack/s.live)))
}

// allowance is what the heap may grow by while it is confined, and between two collections
// also when more is alive by then.
func allowance(live int64) int64 { return max(confinedLeast, live/confinedShare) }

// Pacer paces the collector of a process. There should be one. Its methods may be called
// by any number of goroutines.
type Pacer struct {
	ledger *ledger.Ledger
	limit  Limit

	mu sync.Mutex
	// running says that Run is. set is the percentage that has been set last.
	running bool
	set     int
	// confiners is how many have the heap confined now, and confined says that somebody had
	// since the last look at it. ceiling is how large it may become, 0 if it is not confined.
	confiners int
	confined  bool
	ceiling   int64
	meter     meter
}

// New returns a Pacer that goes by the books of l, in a process that has a limit.
func New(l *ledger.Ledger, limit Limit) *Pacer { return &Pacer{ledger: l, limit: limit} }

// Limit returns the limit of the process.
func (p *Pacer) Limit() Limit { return p.limit }

// Run paces the collector until ctx ends, and then sets Go's default again. It does
// nothing if GOGC or GOMEMLIMIT is set.
func (p *Pacer) Run(ctx context.Context) {
	if os.Getenv("GOGC") != "" || os.Getenv("GOMEMLIMIT") != "" {
		return
	}
	p.start()
	defer p.stop()
	ticker := time.NewTicker(period)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			p.pace()
		}
	}
}

func (p *Pacer) start() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.running, p.set = true, goDefault
	p.meter.read()
}

func (p *Pacer) stop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.running = false
	debug.SetGCPercent(goDefault)
}

func (p *Pacer) pace() {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.meter.read()
	// Derived encodings come and go, and making them makes garbage: they earn slack.
	s.free = p.ledger.Bytes(ledger.Frames) + p.ledger.Bytes(ledger.History)
	if !p.confined {
		p.ceiling = 0
	}
	p.confined = p.confiners > 0
	s.ceiling = p.ceiling
	if next := percent(s); next >= p.set+step || next <= p.set-step || p.ceiling > 0 && next != p.set {
		p.apply(next)
	}
}

func (p *Pacer) apply(percent int) {
	debug.SetGCPercent(percent)
	p.set = percent
}

// Confine keeps the heap from growing by more than a small part until lift is called,
// whatever collections cost then: for a request that makes much garbage and keeps none of
// it, so that memory does not follow the clients. Such a request lifts it while it waits. The
// heap stays confined until the next look at it, in a period at most, so that to lift and
// to confine many times neither costs much nor lets the heap grow a part each time.
func (p *Pacer) Confine() (lift func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.confiners++
	p.confined = true
	if p.ceiling == 0 && p.running {
		live, heap := heapNow()
		p.ceiling = heap + allowance(live)
		p.apply(percent(state{live: live, ceiling: p.ceiling}))
	}
	return sync.OnceFunc(func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.confiners--
	})
}

// heapNow returns what was alive at the end of the last collection, and what the heap takes
// now.
func heapNow() (live, heap int64) {
	samples := []metrics.Sample{{Name: "/gc/heap/live:bytes"}, {Name: "/memory/classes/heap/objects:bytes"}}
	metrics.Read(samples)
	return int64(samples[0].Value.Uint64()), int64(samples[1].Value.Uint64())
}

// meter reads the runtime's counters.
type meter struct {
	at                 time.Time
	allocated          uint64
	cycles             uint64
	seconds, cost, was float64
}

// read returns the state since the last read, without what the ledger knows.
func (m *meter) read() state {
	samples := []metrics.Sample{
		{Name: "/gc/heap/live:bytes"},
		{Name: "/gc/heap/allocs:bytes"},
		{Name: "/gc/cycles/total:gc-cycles"},
		{Name: "/cpu/classes/gc/total:cpu-seconds"},
	}
	metrics.Read(samples)
	now := time.Now()
	allocated, cycles, seconds := samples[1].Value.Uint64(), samples[2].Value.Uint64(), samples[3].Value.Float64()
	// The runtime updates the seconds at the end of a cycle only.
	if n := cycles - m.cycles; n > 0 {
		m.cost = (seconds - m.seconds) / float64(n)
		m.cycles, m.seconds = cycles, seconds
	}
	s := state{live: int64(samples[0].Value.Uint64()), cost: m.cost, processors: runtime.GOMAXPROCS(0)}
	if passed := now.Sub(m.at).Seconds(); !m.at.IsZero() && passed > 0 {
		rate := float64(allocated-m.allocated) / passed
		// Of two seconds the busier one counts, so that a pause between bursts does not.
		s.rate, m.was = max(rate, m.was), rate
	}
	m.at, m.allocated = now, allocated
	return s
}
