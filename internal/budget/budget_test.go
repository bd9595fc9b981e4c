// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package budget_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/weir-project/weir/internal/budget"
)

const mib = 1 << 20

// asked is a request of a test.
type asked struct {
	budget.Request
	name  string
	leave context.CancelFunc
	done  chan struct{}
	grant *budget.Grant
	err   error
}

// ask asks in a goroutine of its own, and returns when it has been granted, refused, or waits. It has to be in a bubble of synctest.
func ask(t *testing.T, b *budget.Budget, name string, r budget.Request) *asked {
	ctx, leave := context.WithCancel(t.Context())
	a := &asked{Request: r, name: name, leave: leave, done: make(chan struct{})}
	go func() {
		defer close(a.done)
		a.grant, a.err = b.Acquire(ctx, r)
	}()
	synctest.Wait()
	return a
}

// goes tells whether a has been granted.
func (a *asked) goes() bool {
	select {
	case <-a.done:
		return a.err == nil
	default:
		return false
	}
}

// waits tells whether a waits.
func (a *asked) waits() bool {
	select {
	case <-a.done:
		return false
	default:
		return true
	}
}

func (a *asked) release() {
	a.grant.Release()
	synctest.Wait()
}

// twin says who goes on, by going through all there are.
type twin struct {
	size, alone    int64
	going, waiting []*asked // in the order in which they came
}

func (m *twin) sum(of func(*asked) bool) (sum int64) {
	for _, a := range m.going {
		if of(a) {
			sum += a.Bytes
		}
	}
	return sum
}

func every(*asked) bool   { return true }
func large(a *asked) bool { return a.Bytes > budget.Small }

// beside is all but the large ones that have waited.
func beside(a *asked) bool { return !large(a) || a.Kind == budget.Essential }

// fits tells whether a may go on if it is next.
func (m *twin) fits(a *asked) bool {
	least := max(m.size, 16*mib)
	used := m.sum(every) + a.Bytes
	switch {
	case large(a) && a.Kind == budget.Lasting:
		return used <= m.size/4*3
	case large(a):
		return m.sum(large) == 0 || used <= least/4*3
	case a.Kind == budget.Lasting:
		return used <= m.size || m.sum(beside)+a.Bytes <= m.size/4
	default:
		return used <= least || m.sum(beside)+a.Bytes <= least/4
	}
}

// next returns the one that goes on next, nil if nobody can.
func (m *twin) next() *asked {
	for _, kind := range []budget.Kind{budget.Brief, budget.Lasting} {
		for _, a := range m.waiting {
			if a.Kind == kind && !large(a) {
				if m.fits(a) {
					return a
				}
				break
			}
		}
	}
	// Of each class those that may be next, in the order in which they came: up to the first that ends by itself, and
	// of those before it, which do not, the first.
	type head struct {
		class string
		next  []*asked
	}
	var heads []*head
	for _, a := range m.waiting {
		if !large(a) {
			continue
		}
		i := slices.IndexFunc(heads, func(h *head) bool { return h.class == a.Class })
		if i < 0 {
			heads, i = append(heads, &head{class: a.Class}), len(heads)
		}
		h := heads[i]
		if n := len(h.next); n == 0 || n == 1 && h.next[0].Kind == budget.Lasting && a.Kind != budget.Lasting {
			h.next = append(h.next, a)
		}
	}
	holds := func(class string) int64 {
		return m.sum(func(a *asked) bool { return large(a) && a.Class == class })
	}
	slices.SortStableFunc(heads, func(x, y *head) int { return cmp.Compare(holds(x.class), holds(y.class)) })
	for _, h := range heads {
		for _, a := range h.next {
			if m.fits(a) {
				return a
			}
			if a.Kind != budget.Lasting {
				return nil
			}
		}
	}
	return nil
}

func (m *twin) settle() {
	for a := m.next(); a != nil; a = m.next() {
		m.waiting = slices.DeleteFunc(m.waiting, func(o *asked) bool { return o == a })
		m.going = append(m.going, a)
	}
}

func (m *twin) ask(a *asked) (refused bool) {
	switch {
	case a.Kind == budget.Essential:
		m.going = append(m.going, a)
	case large(a) && a.Bytes/2 > max(m.alone, 16*mib):
		return true
	default:
		m.waiting = append(m.waiting, a)
		m.settle()
	}
	return false
}

// TestTwin puts random requests, their ends and those who leave to a budget and to its twin.
func TestTwin(t *testing.T) {
	for seed := range uint64(60) {
		synctest.Test(t, func(t *testing.T) { compare(t, seed) })
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

func compare(t *testing.T, seed uint64) {
	random := rand.New(rand.NewPCG(seed, 0))
	b, m := &budget.Budget{}, &twin{}
	resize := func() {
		m.size = int64(random.IntN(120)-20) * mib
		m.alone = m.size + 10*mib
		b.Resize(m.size, m.alone)
		m.settle()
		synctest.Wait()
	}
	resize()
	for i := range 150 {
		switch {
		case random.IntN(20) == 0:
			resize()
		case len(m.going) > 0 && random.IntN(5) < 2:
			a := m.going[random.IntN(len(m.going))]
			m.going = slices.DeleteFunc(m.going, func(o *asked) bool { return o == a })
			m.settle()
			a.release()
		case len(m.waiting) > 0 && random.IntN(4) == 0:
			a := m.waiting[random.IntN(len(m.waiting))]
			m.waiting = slices.DeleteFunc(m.waiting, func(o *asked) bool { return o == a })
			m.settle()
			a.leave()
			synctest.Wait()
			if a.waits() || !errors.Is(a.err, context.Canceled) {
				t.Errorf("%s has left: %v", a.name, a.err)
			}
		default:
			r := budget.Request{Bytes: 1 + random.Int64N(budget.Small), Kind: budget.Kind(random.IntN(3)), Class: fmt.Sprint(random.IntN(3))}
			if random.IntN(2) == 0 {
				r.Bytes = budget.Small + 1 + random.Int64N(60*mib)
			}
			a := ask(t, b, fmt.Sprintf("request %d, %+v", i, r), r)
			if refused := m.ask(a); refused != errors.Is(a.err, budget.ErrTooLarge) {
				t.Errorf("%s: %v, refused by the twin: %v", a.name, a.err, refused)
			}
		}
		for _, a := range m.going {
			if !a.goes() {
				t.Errorf("step %d: %s waits, with %+v", i, a.name, b.Usage())
			}
		}
		for _, a := range m.waiting {
			if !a.waits() {
				t.Errorf("step %d: %s does not wait, with %+v", i, a.name, b.Usage())
			}
		}
		if got, want := b.Usage(), (budget.Usage{Size: max(m.size, 16*mib), InUse: m.sum(every), Waiting: len(m.waiting)}); got != want {
			t.Errorf("step %d: %+v, the twin has %+v", i, got, want)
		}
		if t.Failed() {
			break
		}
	}
	for _, a := range m.waiting {
		a.leave()
	}
	synctest.Wait()
	for _, a := range m.going {
		if a.goes() {
			a.grant.Release()
		}
	}
	if u := b.Usage(); !t.Failed() && (u.InUse != 0 || u.Waiting != 0) {
		t.Errorf("all have ended: %+v", u)
	}
}

// TestCrowd has many ask at the same time, and leave at random moments: the bound holds, and nothing is left.
func TestCrowd(t *testing.T) {
	const size = 64 * mib
	b := &budget.Budget{}
	b.Resize(size, size)
	var held, most, refused atomic.Int64
	var all sync.WaitGroup
	for i := range 64 {
		all.Go(func() {
			random := rand.New(rand.NewPCG(uint64(i), 1))
			for range 100 {
				r := budget.Request{Bytes: 1 + random.Int64N(16*mib), Class: fmt.Sprint(i % 4)}
				ctx, leave := context.WithCancel(t.Context())
				if random.IntN(3) == 0 {
					go leave()
				}
				g, err := b.Acquire(ctx, r)
				if err != nil {
					refused.Add(1)
				} else {
					now := held.Add(r.Bytes)
					for was := most.Load(); now > was && !most.CompareAndSwap(was, now); was = most.Load() {
						continue
					}
					held.Add(-r.Bytes)
					g.Release()
					g.Release() // again
				}
				leave()
			}
		})
	}
	all.Wait()
	if u := b.Usage(); u.InUse != 0 || u.Waiting != 0 {
		t.Errorf("all have ended: %+v", u)
	}
	if most.Load() > size {
		t.Errorf("%d bytes were granted at once, of %d", most.Load(), int64(size))
	}
	t.Logf("%d bytes at once, %d left", most.Load(), refused.Load())
}

// TestOneIsAlwaysLetIn is for the large one that is alone, whatever there is, unless it can never be.
func TestOneIsAlwaysLetIn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &budget.Budget{}
		b.Resize(-5, 100*mib)
		first := ask(t, b, "first", budget.Request{Bytes: 150 * mib})
		second := ask(t, b, "second", budget.Request{Bytes: 1 * mib})
		if !first.goes() || !second.waits() {
			t.Errorf("first goes: %v; second waits: %v", first.goes(), second.waits())
		}
		if never := ask(t, b, "never", budget.Request{Bytes: 201 * mib}); !errors.Is(never.err, budget.ErrTooLarge) {
			t.Errorf("twice as much as there ever is: %v", never.err)
		}
		essential := ask(t, b, "essential", budget.Request{Bytes: 201 * mib, Kind: budget.Essential})
		if !essential.goes() {
			t.Error("what is essential waits")
		}
		essential.release()
		if first.release(); !second.goes() {
			t.Error("the second waits for nobody")
		}
		second.release()
	})
}

// TestQueueIsBounded refuses who comes when too many of the class wait, and others not.
func TestQueueIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &budget.Budget{}
		b.Resize(0, 100*mib)
		ctx, leave := context.WithCancel(t.Context())
		first := ask(t, b, "first", budget.Request{Bytes: 20 * mib, Class: "a"})
		var all sync.WaitGroup
		var tooMany atomic.Int64
		for range 600 {
			all.Go(func() {
				if _, err := b.Acquire(ctx, budget.Request{Bytes: 20 * mib, Class: "a"}); errors.Is(err, budget.ErrTooMany) {
					tooMany.Add(1)
				}
			})
		}
		synctest.Wait()
		if n := tooMany.Load(); n != 600-512 {
			t.Errorf("%d of 600 were refused", n)
		}
		if other := ask(t, b, "other", budget.Request{Bytes: 20 * mib, Class: "b"}); !other.waits() {
			t.Error("another class does not wait")
		} else {
			other.leave()
		}
		leave()
		all.Wait()
		first.release()
		if u := b.Usage(); u.InUse != 0 || u.Waiting != 0 {
			t.Errorf("all have ended: %+v", u)
		}
	})
}
