// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package frame

import (
	"container/list"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/apimachinery/pkg/runtime"

	"github.com/weir-project/weir/internal/ledger"
	"github.com/weir-project/weir/internal/wire"
)

// DefaultBudget is how many bytes of derived encodings a process keeps.
const DefaultBudget = 256 << 20

// idle is how long a derived encoding that nobody asks for is kept, at least, and
// two of it at most.
const idle = 15 * time.Second

// fresh is how long a perishable encoding is handed out: what it says is given in
// seconds.
const fresh = time.Second

// Store keeps the derived encodings of frames: each made once for everybody who asks
// for it at the same time, and kept while it is being asked for and the budget
// allows. It may be used by any number of goroutines.
type Store struct {
	budget int64
	ledger *ledger.Ledger

	mu sync.Mutex
	// queue holds every finished *derived, the oldest in front. bytes is their sum, and
	// bytes <= budget: what is larger than that goes to those who wait for it, and is
	// not kept.
	queue list.List
	bytes int64
	// sweep runs while the queue is not empty.
	sweep *time.Timer
}

// NewStore returns a Store that keeps budget bytes and books them in l.
func NewStore(budget int64, l *ledger.Ledger) *Store {
	return &Store{budget: budget, ledger: l}
}

// encoding names one encoding of a frame: that of the whole event if envelope is
// Other, else that of the object in it, which is kept with the envelope round it.
type encoding struct {
	id       runtime.Identifier
	envelope wire.Format
	// perishable encodings are true for the moment only: the rows of a Table say how
	// old an object is.
	perishable bool
}

// derived is one encoding of one frame.
type derived struct {
	frame *Frame
	name  encoding
	// done is closed when encoded and err are set.
	done chan struct{}
	encoded
	err error
	// made is when, for those that perish. Set before done is closed.
	made time.Time
	// used says that somebody asked since the last sweep.
	used atomic.Bool
	// next is the frame's next encoding. Written under Store.mu.
	next atomic.Pointer[derived]
	// element is the place in Store.queue, nil before and after. Under Store.mu.
	element *list.Element
}

func (f *Frame) find(name encoding) *derived {
	for d := f.derived.Load(); d != nil; d = d.next.Load() {
		if d.name == name {
			return d
		}
	}
	return nil
}

// stale tells whether d must not be handed out any more.
func (d *derived) stale() bool {
	if d == nil || !d.name.perishable {
		return d == nil
	}
	select {
	case <-d.done:
		return time.Since(d.made) > fresh
	default:
		return false
	}
}

// get returns the frame's encoding of that name, made by build if there is none yet.
func (s *Store) get(f *Frame, name encoding, build func() (encoded, error)) (encoded, error) {
	d := f.find(name)
	if d.stale() {
		var mine bool
		if d, mine = s.claim(f, name); mine {
			s.finish(d, build)
		}
	}
	<-d.done
	// A write to a shared cache line costs more than reading it first.
	if !d.used.Load() {
		d.used.Store(true)
	}
	return d.encoded, d.err
}

// claim returns the frame's encoding, and whether the caller has to make it.
func (s *Store) claim(f *Frame, name encoding) (d *derived, mine bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if d := f.find(name); !d.stale() {
		return d, false
	} else if d != nil && d.element != nil {
		s.drop(d)
	} else if d != nil {
		s.unlink(d)
	}
	d = &derived{frame: f, name: name, done: make(chan struct{})}
	d.next.Store(f.derived.Load())
	f.derived.Store(d)
	return d, true
}

// finish makes the encoding, whatever happens: others wait for it.
func (s *Store) finish(d *derived, build func() (encoded, error)) {
	d.err = fmt.Errorf("encoding %s did not finish", d.frame.key)
	defer func() {
		close(d.done)
		s.mu.Lock()
		defer s.mu.Unlock()
		if d.err != nil {
			s.unlink(d)
			return
		}
		d.element = s.queue.PushBack(d)
		s.book(int64(len(d.event)))
		s.evict()
		if s.sweep == nil && s.queue.Len() > 0 {
			s.sweep = time.AfterFunc(idle, s.sweepIdle)
		}
	}()
	d.encoded, d.err = build()
	d.made = time.Now()
}

// evict drops the oldest encodings that nobody used of late until the budget holds.
func (s *Store) evict() {
	for turns := s.queue.Len(); s.bytes > s.budget && s.queue.Len() > 0; turns-- {
		front := s.queue.Front()
		d := front.Value.(*derived)
		if turns > 0 && d.used.Swap(false) {
			s.queue.MoveToBack(front)
			continue
		}
		s.drop(d)
	}
}

// sweepIdle drops what nobody asked for since it last ran.
func (s *Store) sweepIdle() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for e := s.queue.Front(); e != nil; {
		d := e.Value.(*derived)
		e = e.Next()
		if !d.used.Swap(false) {
			s.drop(d)
		}
	}
	if s.queue.Len() == 0 {
		s.sweep = nil
		return
	}
	s.sweep.Reset(idle)
}

func (s *Store) drop(d *derived) {
	s.queue.Remove(d.element)
	d.element = nil
	s.book(-int64(len(d.event)))
	s.unlink(d)
}

func (s *Store) book(n int64) {
	s.bytes += n
	s.ledger.Add(ledger.Derived, n)
}

// unlink takes d out of its frame's list. Readers that stand on it walk on.
func (s *Store) unlink(d *derived) {
	if first := d.frame.derived.Load(); first == d {
		d.frame.derived.Store(d.next.Load())
		return
	}
	for p := d.frame.derived.Load(); p != nil; p = p.next.Load() {
		if p.next.Load() == d {
			p.next.Store(d.next.Load())
			return
		}
	}
}
