// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package convoy

import (
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"
	"time"

	clocktesting "k8s.io/utils/clock/testing"

	"github.com/weir-project/weir/test/wait"
)

const (
	window  = 6400
	step    = window / steps
	awaited = time.Minute
)

// positions is the dumb twin: where everybody is, as each says himself.
type positions struct {
	mu sync.Mutex
	at map[int]int64
}

func (p *positions) set(i int, at int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.at[i] = at
}

func (p *positions) drop(i int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.at, i)
}

// ahead is how far i is ahead of the last.
func (p *positions) ahead(i int) int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	least := p.at[i]
	for _, at := range p.at {
		least = min(least, at)
	}
	return p.at[i] - least
}

// TestTogether has many walk as they like, some of whom leave on the way: while time stands still nobody gets further ahead than the window,
// and all come to the end.
func TestTogether(t *testing.T) {
	c := New(window, clocktesting.NewFakeClock(time.Now()))
	const walkers, length = 20, 20 * window
	said := &positions{at: map[int]int64{}}
	walks := make([]*Walk, walkers)
	for i := range walks {
		walks[i] = c.Join("form", nil)
		said.set(i, 0)
	}
	var all sync.WaitGroup
	for i, w := range walks {
		all.Go(func() {
			defer w.Leave()
			defer said.drop(i)
			r := rand.New(rand.NewPCG(uint64(i), 1))
			for at := int64(0); at < length; {
				n := 1 + r.Int64N(3*step)
				at += n
				w.Pass(n)
				said.set(i, at)
				// What others have not told yet is less than a step, and what this one has.
				if ahead := said.ahead(i); ahead > window+5*step {
					t.Errorf("%d is %d ahead of the last, more than the window of %d", i, ahead, window)
				}
				if i%5 == 0 && r.IntN(400) == 0 {
					return
				}
				for range r.IntN(1 + i) {
					runtime.Gosched()
				}
			}
		})
	}
	all.Wait()
	if len(c.open) > 0 {
		t.Errorf("%d convoys are kept that nobody is in", len(c.open))
	}
}

// lead walks three windows, and closes what it returns when it has; the others of the convoy are behind then.
func lead(w *Walk) chan struct{} {
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range 3 * steps {
			w.Pass(step)
		}
	}()
	return done
}

// waiting waits until so many wait for others.
func waiting(t *testing.T, c *Convoys, n int) {
	t.Helper()
	wait.Until(t, "readers to wait", awaited, func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		waiters := 0
		for v := range convoys(c) {
			for w := range v.walks {
				if w.waits {
					waiters++
				}
			}
		}
		return waiters == n
	})
}

var seen sync.Map // *Convoys → walks of the test

// convoys has those of the walks that the test has begun.
func convoys(c *Convoys) map[*convoy]bool {
	all := map[*convoy]bool{}
	walks, _ := seen.Load(c)
	for _, w := range walks.([]*Walk) {
		if w.convoy != nil {
			all[w.convoy] = true
		}
	}
	return all
}

func join(t *testing.T, c *Convoys, n int) []*Walk {
	t.Helper()
	walks := make([]*Walk, n)
	for i := range walks {
		walks[i] = c.Join("form", nil)
		t.Cleanup(walks[i].Leave)
	}
	seen.Store(c, walks)
	return walks
}

// TestStandingStill has somebody stand still: the others wait for a second, and never again.
func TestStandingStill(t *testing.T) {
	clock := clocktesting.NewFakeClock(time.Now())
	c := New(window, clock)
	walks := join(t, c, 3)
	first, second := lead(walks[0]), lead(walks[1])
	waiting(t, c, 2)
	clock.Step(patience - 1)
	waiting(t, c, 2)
	clock.Step(1)
	<-first
	<-second
	if walks[2].convoy == walks[0].convoy {
		t.Error("who stands still is still in the convoy")
	}
}

// TestSlow has somebody go on, but slowly: the others wait no longer for him than three times as long as they have walked, and a second,
// and no longer than ten.
func TestSlow(t *testing.T) {
	for walked, longest := range map[time.Duration]time.Duration{time.Second: 4 * time.Second, time.Minute: 10 * time.Second} {
		clock := clocktesting.NewFakeClock(time.Now())
		c := New(window, clock)
		walks := join(t, c, 2)
		walks[0].Pass(window / 2)
		clock.Step(walked)
		walks[1].Pass(window)
		for waited := patience / 2; waited <= longest; waited += patience / 2 {
			done := lead(walks[0])
			waiting(t, c, 1)
			clock.Step(patience / 2)
			if waited < longest {
				walks[1].Pass(3 * window)
			}
			<-done
		}
		if got := walks[0].waited; got != longest {
			t.Errorf("after %v it waited %v, want %v", walked, got, longest)
		}
	}
}

// TestLeaving has somebody leave for whom others wait, and somebody end who waits.
func TestLeaving(t *testing.T) {
	c := New(window, clocktesting.NewFakeClock(time.Now()))
	walks := join(t, c, 2)
	done := lead(walks[0])
	waiting(t, c, 1)
	walks[1].Leave()
	<-done

	over := make(chan struct{})
	ends := c.Join("another", over)
	c.Join("another", nil)
	done = lead(ends)
	close(over)
	<-done
	ends.Leave()
	ends.Leave()
	ends.Pass(10 * window)
}

// TestLate has somebody come when the others are under way, and others read something else: nobody waits for him, nor he for them.
func TestLate(t *testing.T) {
	clock := clocktesting.NewFakeClock(time.Now())
	c := New(window, clock)
	walks := join(t, c, 2)
	for range joinable*steps + 1 {
		walks[0].Pass(step)
		walks[1].Pass(step)
	}
	clock.Step(joinableFor)
	if soon := c.Join("form", nil); soon.convoy != walks[0].convoy {
		t.Error("who comes soon is in another convoy")
	} else {
		soon.Leave()
	}
	clock.Step(1)
	late, other := c.Join("form", nil), c.Join("another", nil)
	defer other.Leave()
	defer late.Leave()
	if late.convoy == walks[0].convoy || other.convoy == late.convoy {
		t.Error("who comes late, or reads something else, is in the same convoy")
	}
	<-lead(late)
	var none *Walk
	none.Pass(10)
	none.Leave()
	if (*Convoys)(nil).Join("form", nil) != nil {
		t.Error("there is a walk in no convoy")
	}
}

// TestAtWork has one of five wait for the others, who go on: that is not held against it, however long it takes.
func TestAtWork(t *testing.T) {
	clock := clocktesting.NewFakeClock(time.Now())
	c := New(window, clock)
	walks := join(t, c, 5)
	const rounds = 20
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range (rounds + 1) * steps {
			walks[0].Pass(step)
		}
	}()
	for range rounds {
		waiting(t, c, 1)
		clock.Step(patience / 2)
		for range steps {
			for _, w := range walks[1:] {
				w.Pass(step)
			}
		}
	}
	c.mu.Lock()
	for _, w := range walks[1:] {
		if w.convoy != walks[0].convoy {
			t.Error("the first has left others behind, who were at work")
		}
	}
	c.mu.Unlock()
	for _, w := range walks[1:] {
		w.Leave()
	}
	<-done
	if walks[0].waited != 0 {
		t.Errorf("the first is said to have waited %v", walks[0].waited)
	}
}
