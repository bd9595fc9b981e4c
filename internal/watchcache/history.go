// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package watchcache

import (
	"container/list"
	"sync"
	"sync/atomic"

	"github.com/weir-project/weir/internal/ledger"
)

// history books what the log of a resource keeps alive.
type history struct {
	// bytes is what is booked, late the part of it that was made when first asked for: the log does not know of that.
	bytes, late atomic.Int64
	readers     *oldReads
}

// add books n bytes.
func (h *history) add(n int64) {
	h.bytes.Add(n)
	ledger.Process.Add(ledger.History, n)
}

// leftLog is what change.late is once the change has left the log.
const leftLog = -1

// addLate books n bytes that a change keeps alive from now on, unless it has left the log.
func (h *history) addLate(ch *change, n int64) {
	h.late.Add(n)
	h.add(n)
	if !ch.late.CompareAndSwap(0, n) {
		h.late.Add(-n)
		h.add(-n)
	}
}

// trimmed books that a change of size bytes has left the log: those who read an earlier state may still need it.
func (h *history) trimmed(ch *change, size int64) {
	if late := ch.late.Swap(leftLog); late > 0 {
		h.late.Add(-late)
		size += late
	}
	h.add(-size)
	h.readers.lose(size)
}

// oldReads books what is alive only because somebody reads an earlier state: what has left the state and then the log since the one
// who has been reading for the longest began. The others' are part of that. It is no more than the state
// of then, which is what that reader holds. The zero oldReads has none.
type oldReads struct {
	mu sync.Mutex
	// reading has a *oldRead for each, in the order in which they began.
	reading list.List
	// lost is how many bytes have left the log, ever; booked is what is booked.
	lost, booked int64
}

// oldRead is of one who reads a state of size bytes, which began when lost was that.
type oldRead struct{ lost, size int64 }

// enter says that somebody reads a state of size bytes, until leave is called, any number of times.
func (r *oldReads) enter(size int64) (leave func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e := r.reading.PushBack(&oldRead{lost: r.lost, size: size})
	return sync.OnceFunc(func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.reading.Remove(e)
		r.book()
	})
}

// lose says that n bytes have left the log.
func (r *oldReads) lose(n int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lost += n
	r.book()
}

// book needs mu.
func (r *oldReads) book() {
	held := int64(0)
	if e := r.reading.Front(); e != nil {
		oldest := e.Value.(*oldRead)
		held = min(r.lost-oldest.lost, oldest.size)
	}
	ledger.Process.Add(ledger.Readers, held-r.booked)
	r.booked = held
}

// bytes returns what is booked.
func (r *oldReads) bytes() int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.booked
}
