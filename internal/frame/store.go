// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package frame

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"k8s.io/apimachinery/pkg/runtime"

	"github.com/weir-project/weir/internal/ledger"
	"github.com/weir-project/weir/internal/wire"
)

// DefaultBudget is how many bytes of derived encodings a process keeps.
const DefaultBudget = 64 << 20

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
	briefly = 4
	// unshared is the part of a budget that encodings keep, at least, which only their makers
	// have asked for: others have to have the time to ask, and who is kept together with others (see internal/convoy) has to fit in.
	unshared = 2
	// batch is how many encodings are looked at, at most, before Store.mu is given up.
	batch = 256
)

// Store keeps the derived encodings of frames: each made once for everybody who asks
// for it at the same time, and kept while it is being asked for and the budget
// allows. It may be used by any number of goroutines.
type Store struct {
	ledger *ledger.Ledger
	events events

	// mu guards both shelves, and the lists of encodings of all frames. It is held for a
	// bounded number of steps, however many encodings there are.
	mu sync.Mutex
	// kept has what stays true, brief what perishes, compressed the segments of rows.
	kept, brief, compressed shelf
	// rows finds segments. They are in no frame's list: any number of rows begin with one frame.
	rows map[encoding]*derived
}

// shelf keeps encodings within a budget of its own. It is guarded by Store.mu.
//
// A client that lists a large resource in a form of its own makes an encoding of every
// object, for which nobody else will ask. They must not push out what watches and lists
// share: they are in a queue of their own, from which is taken first.
type shelf struct {
	purpose ledger.Purpose
	budget  int64
	idle    time.Duration
	// single has the finished encodings that only their makers have asked for, as far as has
	// been seen; shared has the others. single.bytes + shared.bytes <= budget once nobody is
	// in finish: what is larger than the budget goes to those who wait for it, and is not kept.
	single, shared queue
	// sweep runs while a queue is not empty; sweeps counts how often it has begun to.
	sweep  *time.Timer
	sweeps uint32
}

// queue is a list of encodings, the one that was put in first in front.
type queue struct {
	first, last *derived
	len         int
	bytes       int64
}

// NewStore returns a Store that keeps budget bytes, beside them a quarter of it in encodings
// that are true for the moment only, and as much in compressed segments, and books them in l.
func NewStore(budget int64, l *ledger.Ledger) *Store {
	return &Store{
		ledger:     l,
		kept:       shelf{purpose: ledger.Derived, budget: budget, idle: idle},
		brief:      shelf{purpose: ledger.Derived, budget: budget / briefly, idle: fresh},
		rows:       map[encoding]*derived{},
		compressed: shelf{purpose: ledger.Compressed, budget: budget, idle: idle},
	}
}

// Keep changes the budget, and drops what it does not allow. With a budget of 0 nothing is kept that is not being made: it goes to those
// who wait for it, and the next one makes it again.
func (s *Store) Keep(budget int64) {
	for _, change := range []struct {
		*shelf
		budget int64
	}{{&s.kept, budget}, {&s.brief, budget / briefly}, {&s.compressed, budget}} {
		s.mu.Lock()
		change.shelf.budget = change.budget
		over := change.over()
		s.mu.Unlock()
		for chances := 0; over; {
			over = s.evict(change.shelf, &chances)
		}
	}
}

// shelf returns where an encoding of that name is kept.
func (s *Store) shelf(name encoding) *shelf {
	switch {
	case name.row != 0:
		return &s.compressed
	case name.perishable:
		return &s.brief
	default:
		return &s.kept
	}
}

// encoding names one encoding of a frame: that of the whole event if envelope is
// Other, else that of the object in it, which is kept with the envelope round it.
type encoding struct {
	id       runtime.Identifier
	envelope wire.Format
	// perishable encodings are true for the moment only: the rows of a Table say how
	// old an object is.
	perishable bool
	// variant tells encodings apart that are to differ: see variety.
	variant uint8
	// row is not 0 for the segment of a row that begins with the frame; see rowHash.
	row uint64
}

// What the marks of an encoding say; see derived.marks.
const (
	// used: it was made or asked for since this was last looked at.
	used = 1 << iota
	// byOthers: somebody else than the maker has asked since this was last looked at.
	byOthers
)

// derived is one encoding of one frame.
type derived struct {
	frame *Frame
	name  encoding
	// pending is there until encoded is set, and stays if it never is.
	pending atomic.Pointer[pending]
	encoded
	// view is there, alone, if it is a view of the frame that is kept; see Frame.In.
	view *Frame
	// made is when, since started, for those that perish. Set before pending is taken away.
	made time.Duration
	// marks are used and byOthers.
	marks atomic.Uint32
	// next is the frame's next encoding. Written under Store.mu.
	next atomic.Pointer[derived]

	// All below are under Store.mu. in is the queue that has it, nil before and after; before
	// and behind are its neighbours there.
	in             *queue
	before, behind *derived
	// swept is shelf.sweeps of when it was put into the queue.
	swept uint32
}

// pending is an encoding that is being made. done is closed when it has been, or err is set.
type pending struct {
	done chan struct{}
	err  error
}

// started is what derived.made counts from.
var started = time.Now()

// cost is how many bytes of the heap an encoding takes.
func (d *derived) cost() int64 {
	const itself = int(unsafe.Sizeof(derived{}))
	n := ledger.Heap(itself) + int64(cap(d.data))
	if d.segment != nil {
		n += d.segment.cost()
	}
	if d.view != nil {
		n += ledger.Heap(int(unsafe.Sizeof(Frame{})))
	}
	return n
}

func (q *queue) push(d *derived, sweeps uint32) {
	d.in, d.swept, d.before, d.behind = q, sweeps, q.last, nil
	if q.last == nil {
		q.first = d
	} else {
		q.last.behind = d
	}
	q.last = d
	q.len++
	q.bytes += d.cost()
}

// remove takes d out of the queue that has it.
func (d *derived) remove() {
	q := d.in
	if d.before == nil {
		q.first = d.behind
	} else {
		d.before.behind = d.behind
	}
	if d.behind == nil {
		q.last = d.before
	} else {
		d.behind.before = d.before
	}
	q.len--
	q.bytes -= d.cost()
	d.in, d.before, d.behind = nil, nil, nil
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
	return d.pending.Load() == nil && time.Since(started)-d.made > fresh
}

// peek returns the frame's encoding of that name if it is there.
func (f *Frame) peek(name encoding) (encoded, bool) {
	d := f.find(name)
	if d.stale() || d.pending.Load() != nil {
		return encoded{}, false
	}
	d.wanted()
	return d.encoded, true
}

// wanted notes that somebody has asked for d who has not made it.
func (d *derived) wanted() {
	// A write to a shared cache line costs more than reading it first.
	if d.marks.Load() != used|byOthers {
		d.marks.Store(used | byOthers)
	}
}

// get returns the frame's encoding of that name, made by build if there is none yet.
func (s *Store) get(f *Frame, name encoding, build func() (encoded, error)) (encoded, error) {
	var d *derived
	if name.row == 0 {
		d = f.find(name)
	}
	if d.stale() {
		var p *pending
		if d, p = s.claim(f, name); p != nil {
			s.finish(d, p, build)
			return d.encoded, p.err
		}
	}
	if p := d.pending.Load(); p != nil {
		<-p.done
		if p.err != nil {
			return encoded{}, p.err
		}
	}
	d.wanted()
	return d.encoded, nil
}

// view returns the frame's view of that name, made by build if there is none yet.
func (s *Store) view(f *Frame, name encoding, build func() *Frame) *Frame {
	d := f.find(name)
	if d == nil {
		var p *pending
		if d, p = s.claim(f, name); p != nil {
			s.finish(d, p, func() (encoded, error) {
				d.view = build()
				return encoded{}, nil
			})
			return d.view
		}
	}
	if p := d.pending.Load(); p != nil {
		<-p.done
		if p.err != nil {
			return build()
		}
	}
	d.wanted()
	return d.view
}

// claim returns the frame's encoding. If the caller has to make it, p is there.
func (s *Store) claim(f *Frame, name encoding) (d *derived, p *pending) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if d := s.find(f, name); !d.stale() {
		return d, nil
	} else if d != nil && d.in != nil {
		s.drop(d)
	} else if d != nil {
		s.unlink(d)
	}
	d, p = &derived{frame: f, name: name}, &pending{done: make(chan struct{})}
	d.pending.Store(p)
	if name.row != 0 {
		s.rows[name] = d
		return d, p
	}
	d.next.Store(f.derived.Load())
	f.derived.Store(d)
	return d, p
}

// find needs mu.
func (s *Store) find(f *Frame, name encoding) *derived {
	if name.row != 0 {
		return s.rows[name]
	}
	return f.find(name)
}

// finish makes the encoding, whatever happens: others wait for it.
func (s *Store) finish(d *derived, p *pending, build func() (encoded, error)) {
	p.err = fmt.Errorf("encoding %s did not finish", d.frame.key)
	defer func() {
		if p.err != nil {
			close(p.done)
			s.mu.Lock()
			defer s.mu.Unlock()
			s.unlink(d)
			return
		}
		d.pending.Store(nil)
		close(p.done)
		shelf := s.shelf(d.name)
		// Whoever adds much makes room for it, a batch at a time.
		chances := batch
		for over := s.put(shelf, d); over; {
			over = s.evict(shelf, &chances)
		}
	}()
	d.encoded, p.err = build()
	d.made = time.Since(started)
	d.marks.Or(used)
}

// put puts a finished encoding into its shelf, and tells whether that has more than its budget.
func (s *Store) put(shelf *shelf, d *derived) (over bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	shelf.single.push(d, shelf.sweeps)
	s.ledger.Add(shelf.purpose, d.cost())
	if shelf.sweep == nil {
		shelf.sweep = time.AfterFunc(shelf.idle, func() { s.sweepIdle(shelf) })
	}
	return shelf.over()
}

// over tells whether there is more on the shelf than its budget allows.
func (shelf *shelf) over() bool { return shelf.single.bytes+shelf.shared.bytes > shelf.budget }

// evict drops encodings until the budget holds, and tells whether there is more to drop. It
// takes those that only their makers have asked for first, down to their part of the budget,
// and the oldest first. One that was asked for since it was last looked at gets another
// chance, as long as there are any: perishable ones get none.
func (s *Store) evict(shelf *shelf, chances *int) (more bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for range batch {
		if !shelf.over() {
			return false
		}
		q := &shelf.single
		if q.len == 0 || shelf.shared.len > 0 && q.bytes <= shelf.budget/unshared {
			q = &shelf.shared
		}
		d := q.first
		if *chances > 0 && !d.name.perishable {
			marks := d.marks.Load()
			if marks&byOthers != 0 || q == &shelf.shared && marks != 0 {
				*chances--
				d.marks.Store(0)
				d.remove()
				shelf.shared.push(d, shelf.sweeps)
				continue
			}
		}
		s.drop(d)
	}
	return true
}

// sweepIdle drops what nobody asked for since it last ran, and what has perished.
func (s *Store) sweepIdle(shelf *shelf) {
	s.mu.Lock()
	shelf.sweeps++
	s.mu.Unlock()
	for s.sweepSome(shelf) {
	}
}

// sweepSome looks at a batch of what was put into the queues before the sweep began, and tells
// whether there is more of it. What stays goes to the end of a queue.
func (s *Store) sweepSome(shelf *shelf) (more bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for range batch {
		d := shelf.single.first
		if d == nil || d.swept == shelf.sweeps {
			d = shelf.shared.first
		}
		if d == nil || d.swept == shelf.sweeps {
			if shelf.single.len+shelf.shared.len == 0 {
				shelf.sweep = nil
			} else {
				shelf.sweep.Reset(shelf.idle)
			}
			return false
		}
		marks := d.marks.Swap(0)
		if marks == 0 || d.stale() {
			s.drop(d)
			continue
		}
		q := d.in
		if marks&byOthers != 0 && !d.name.perishable {
			q = &shelf.shared
		}
		d.remove()
		q.push(d, shelf.sweeps)
	}
	return true
}

// drop takes d out of its queue and out of its frame's list.
func (s *Store) drop(d *derived) {
	d.remove()
	s.ledger.Add(s.shelf(d.name).purpose, -d.cost())
	s.unlink(d)
}

// unlink takes d out of its frame's list, or out of rows. Readers that stand on it walk on.
func (s *Store) unlink(d *derived) {
	if d.name.row != 0 {
		if s.rows[d.name] == d {
			delete(s.rows, d.name)
		}
		return
	}
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
