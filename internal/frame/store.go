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

const (
	// idle is how long a derived encoding that nobody asks for is kept, at least, and
	// two of it at most.
	idle = 15 * time.Second
	// fresh is how long a perishable encoding is handed out: what it says is given in
	// seconds.
	fresh = 2 * time.Second
	// briefly is the part of the budget for perishable encodings. Nobody comes back for
	// them: they are for those who read the same objects at the same time, and who are no
	// further apart than this.
	briefly = 8
)

// Store keeps the derived encodings of frames: each made once for everybody who asks
// for it at the same time, and kept while it is being asked for and the budget
// allows. It may be used by any number of goroutines.
type Store struct {
	ledger *ledger.Ledger

	// mu guards both shelves, and the lists of encodings of all frames.
	mu sync.Mutex
	// kept has what stays true, brief what perishes.
	kept, brief shelf
}

// shelf is a queue of encodings with a budget of its own. It is guarded by Store.mu.
type shelf struct {
	budget int64
	idle   time.Duration
	// queue holds every finished *derived, the oldest in front. bytes is their sum, and
	// bytes <= budget: what is larger than that goes to those who wait for it, and is
	// not kept.
	queue list.List
	bytes int64
	// sweep runs while the queue is not empty.
	sweep *time.Timer
}

// NewStore returns a Store that keeps budget bytes, and an eighth of it in encodings
// that are true for the moment only, and books them in l.
func NewStore(budget int64, l *ledger.Ledger) *Store {
	return &Store{
		ledger: l,
		kept:   shelf{budget: budget, idle: idle},
		brief:  shelf{budget: budget / briefly, idle: fresh},
	}
}

// shelf returns where an encoding of that name is kept.
func (s *Store) shelf(name encoding) *shelf {
	if name.perishable {
		return &s.brief
	}
	return &s.kept
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
		shelf := s.shelf(d.name)
		d.element = shelf.queue.PushBack(d)
		s.book(shelf, int64(len(d.event)))
		s.evict(shelf)
		if shelf.sweep == nil && shelf.queue.Len() > 0 {
			shelf.sweep = time.AfterFunc(shelf.idle, func() { s.sweepIdle(shelf) })
		}
	}()
	d.encoded, d.err = build()
	d.made = time.Now()
}

// evict drops the oldest encodings that nobody used of late until the budget holds.
func (s *Store) evict(shelf *shelf) {
	for turns := shelf.queue.Len(); shelf.bytes > shelf.budget && shelf.queue.Len() > 0; turns-- {
		front := shelf.queue.Front()
		d := front.Value.(*derived)
		if turns > 0 && d.used.Swap(false) && !d.name.perishable {
			shelf.queue.MoveToBack(front)
			continue
		}
		s.drop(d)
	}
}

// sweepIdle drops what nobody asked for since it last ran, and what has perished.
func (s *Store) sweepIdle(shelf *shelf) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for e := shelf.queue.Front(); e != nil; {
		d := e.Value.(*derived)
		e = e.Next()
		if d.stale() || !d.used.Swap(false) {
			s.drop(d)
		}
	}
	if shelf.queue.Len() == 0 {
		shelf.sweep = nil
		return
	}
	shelf.sweep.Reset(shelf.idle)
}

func (s *Store) drop(d *derived) {
	shelf := s.shelf(d.name)
	shelf.queue.Remove(d.element)
	d.element = nil
	s.book(shelf, -int64(len(d.event)))
	s.unlink(d)
}

func (s *Store) book(shelf *shelf, n int64) {
	shelf.bytes += n
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
