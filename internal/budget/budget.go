// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package budget

import (
	"cmp"
	"context"
	"errors"
	"math"
	"slices"
	"sync"

	"github.com/weir-project/weir/internal/ledger"
)

// Small is how many bytes a request may hold that does not have to wait for large ones.
const Small = 512 << 10

const (
	// least is what there always is for requests that end by themselves: a server without memory that answers
	// nothing at all could not be asked for the reason.
	least = 16 << 20
	// largeShare is what the large ones may have together, of four.
	largeShare = 3
	// longest is how many of one class may wait.
	longest = 512
)

var (
	// ErrTooLarge is for a request that there would be no room for even if it were alone.
	ErrTooLarge = errors.New("it takes more memory than there is for requests")
	// ErrTooMany is for a request before which too many wait.
	ErrTooMany = errors.New("too many requests wait for memory")
)

// Kind is how a request behaves.
type Kind int

const (
	// Brief is a request that ends by itself.
	Brief Kind = iota
	// Lasting is one that goes on for as long as its client wishes, and holds then what its Request does not say. It
	// waits when there is no room left, also for the least that others always have.
	Lasting
	// Essential is one that never waits.
	Essential
)

// Request is what is asked of a Budget.
type Request struct {
	// Bytes is what it may hold at once, estimated.
	Bytes int64
	Kind  Kind
	// Class names those with whom it waits in one queue.
	Class string
}

func (r Request) large() bool { return r.Bytes > Small }

// Budget is a number of bytes that requests share. The zero Budget has no bound. It is safe for concurrent use.
type Budget struct {
	// book, if there is one, is told of every change of what is in use.
	book func(n int64)

	mu sync.Mutex
	// bounded says that Resize has been called. size is what there is for requests, and may be negative. alone is what one
	// may have if there is no other.
	bounded     bool
	size, alone int64
	// inUse is the sum of the grants that have not been released, large that of the large ones among them, and waited that of
	// the large ones that are not Essential.
	inUse, large, waited int64
	// classes has what each class holds of large, and who waits in it; none that has neither.
	classes map[string]*class
	// small and lasting are those that wait and are not large, in the order in which they came.
	small, lasting []*waiter
	// waiting is how many wait, came how many have come.
	waiting int
	came    uint64
}

// Process is the budget of this process. There is one, as there is one heap. Half of what it has granted is in the ledger, so that
// what can be done without makes room for it: an estimate is of the most that a request may hold, and all history would go for one.
var Process = &Budget{book: func(n int64) { ledger.Process.Add(ledger.Decoded, n/2) }}

type class struct {
	inUse   int64
	waiters []*waiter
}

type waiter struct {
	request Request
	// came is how many had come before.
	came uint64
	// granted is closed when it may go on. The budget counts it from then on.
	granted chan struct{}
}

// Grant is a request that may go on.
type Grant struct {
	budget  *Budget
	request Request
	release sync.Once
}

// Resize says how many bytes there are for requests, and how many one may have if there is no other. Both may be less than
// what is in use, or than nothing: those who have it keep it.
func (b *Budget) Resize(size, alone int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.bounded, b.size, b.alone = true, size, alone
	b.admit()
}

// Acquire waits until there is room for r. The error is ErrTooLarge or ErrTooMany, at once, or ctx's; nothing is left of the
// request then.
func (b *Budget) Acquire(ctx context.Context, r Request) (*Grant, error) {
	w := &waiter{request: r, granted: make(chan struct{})}
	if err := b.enqueue(w); err != nil {
		return nil, err
	}
	g := &Grant{budget: b, request: r}
	select {
	case <-w.granted:
		return g, nil
	default:
	}
	select {
	case <-w.granted:
		return g, nil
	case <-ctx.Done():
		if !b.cancel(w) {
			g.Release()
		}
		return nil, context.Cause(ctx)
	}
}

// Release gives back what has been granted. Only the first call has an effect.
func (g *Grant) Release() {
	g.release.Do(func() {
		g.budget.mu.Lock()
		defer g.budget.mu.Unlock()
		g.budget.add(g.request, -1)
		g.budget.admit()
	})
}

// Usage is what a Budget has and what is had of it.
type Usage struct {
	// Size is what there is for requests, in bytes, math.MaxInt64 if there is no bound; InUse is the sum of what was
	// granted.
	Size, InUse int64
	// Waiting is how many requests wait.
	Waiting int
}

// Usage returns what is in use now.
func (b *Budget) Usage() Usage {
	b.mu.Lock()
	defer b.mu.Unlock()
	return Usage{Size: b.room(), InUse: b.inUse, Waiting: b.waiting}
}

// room is what there is for requests that are Brief.
func (b *Budget) room() int64 {
	if !b.bounded {
		return math.MaxInt64
	}
	return max(b.size, least)
}

func (b *Budget) enqueue(w *waiter) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	r := w.request
	w.came, b.came = b.came, b.came+1
	switch {
	case r.Kind == Essential || !b.bounded:
		b.grant(w)
		return nil
	case !r.large():
		queue := b.queue(r)
		if len(*queue) >= longest {
			return ErrTooMany
		}
		*queue = append(*queue, w)
	// The estimate is of what a request may hold at most: half of it is nearer to what it does.
	case r.Bytes/2 > max(b.alone, least):
		return ErrTooLarge
	default:
		c := b.class(r.Class)
		if len(c.waiters) >= longest {
			return ErrTooMany
		}
		c.waiters = append(c.waiters, w)
	}
	b.waiting++
	b.admit()
	return nil
}

// queue is where a request waits that is not large.
func (b *Budget) queue(r Request) *[]*waiter {
	if r.Kind == Lasting {
		return &b.lasting
	}
	return &b.small
}

func (b *Budget) class(name string) *class {
	c := b.classes[name]
	if c == nil {
		if b.classes == nil {
			b.classes = map[string]*class{}
		}
		c = &class{}
		b.classes[name] = c
	}
	return c
}

// cancel removes a waiter. It is false if that has been granted what it waits for.
func (b *Budget) cancel(w *waiter) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	select {
	case <-w.granted:
		return false
	default:
	}
	r := w.request
	queue := b.queue(r)
	if r.large() {
		queue = &b.classes[r.Class].waiters
	}
	*queue = slices.DeleteFunc(*queue, func(o *waiter) bool { return o == w })
	b.waiting--
	b.forget(r.Class)
	b.admit() // those behind it may have room
	return true
}

// forget drops a class that holds nothing and in which nobody waits.
func (b *Budget) forget(name string) {
	if c := b.classes[name]; c != nil && c.inUse == 0 && len(c.waiters) == 0 {
		delete(b.classes, name)
	}
}

// grant lets w go on, which is in no queue.
func (b *Budget) grant(w *waiter) {
	b.add(w.request, 1)
	close(w.granted)
}

// add counts a request, or with sign -1 no more.
func (b *Budget) add(r Request, sign int64) {
	n := sign * r.Bytes
	b.inUse += n
	if b.book != nil {
		b.book(n)
	}
	if r.large() {
		b.large += n
		if r.Kind != Essential {
			b.waited += n
		}
		b.class(r.Class).inUse += n
		b.forget(r.Class)
	}
}

// admit lets go on who can.
func (b *Budget) admit() {
	b.admitFrom(&b.small, b.room())
	b.admitFrom(&b.lasting, b.left())
	for b.admitLarge() {
		continue
	}
}

// left is what there is for requests that are Lasting.
func (b *Budget) left() int64 {
	if !b.bounded {
		return math.MaxInt64
	}
	return b.size
}

// admitFrom lets those of a queue go on that fit into size, up to the first that does not.
func (b *Budget) admitFrom(queue *[]*waiter, size int64) {
	n := 0
	for _, w := range *queue {
		// A large one that was let in because it was alone may hold more than there is. The last quarter is not its.
		beside := b.inUse - b.waited + w.request.Bytes
		if b.inUse+w.request.Bytes > size && beside > size/4*(4-largeShare) {
			break
		}
		b.waiting--
		b.grant(w)
		n++
	}
	*queue = slices.Delete(*queue, 0, n)
}

// admitLarge lets one go on that is large, and is false if none can.
func (b *Budget) admitLarge() bool {
	for _, c := range b.order() {
		full := false // for those that are Lasting
		for i, w := range c.waiters {
			lasting := w.request.Kind == Lasting
			switch {
			case lasting && full:
			case b.fits(w.request):
				c.waiters = slices.Delete(c.waiters, i, i+1)
				b.waiting--
				b.grant(w)
				return true
			case !lasting:
				return false // it is next, and the others wait for it
			default:
				full = true
			}
		}
	}
	return false
}

// fits tells whether there is room for a request that is large.
func (b *Budget) fits(r Request) bool {
	if r.Kind == Lasting {
		return b.inUse+r.Bytes <= b.left()/4*largeShare
	}
	return b.large == 0 || b.inUse+r.Bytes <= b.room()/4*largeShare
}

// order returns the classes in which somebody waits, the one that is next first: that which holds the least, and of equal
// ones that in which somebody waits for longest.
func (b *Budget) order() []*class {
	var all []*class
	for _, c := range b.classes {
		if len(c.waiters) > 0 {
			all = append(all, c)
		}
	}
	slices.SortFunc(all, func(x, y *class) int {
		return cmp.Or(cmp.Compare(x.inUse, y.inUse), cmp.Compare(x.waiters[0].came, y.waiters[0].came))
	})
	return all
}
