// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package frame

import (
	"bytes"
	"errors"
	"io"
	"sync"

	"github.com/weir-project/weir/internal/ledger"
	"github.com/weir-project/weir/internal/wire"
)

// largeEvent is from which size of an object on its events are put together once for all who are writing them. A smaller one is
// copied for each: that is less than a connection holds.
const largeEvent = 32 << 10

// events has the events that are being written, each once however many connections it is written to. A connection that takes
// nothing holds what is being written to it, for as long as it lasts: thousands of them would hold a copy of a large
// event each. It may be used by any number of goroutines.
type events struct {
	mu sync.Mutex
	// writing has those that somebody writes.
	writing map[eventName]*event
}

// eventName is an object, in an encoding, with an event of a type round it.
type eventName struct {
	frame    *Frame
	encoding encoding
	typ      string
}

// event is one of them.
type event struct {
	made sync.Once
	data []byte
	// own is how many bytes are this event's alone, on the heap.
	own int64
	err error
	// writers is how many write it; guarded by events.mu.
	writers int
}

// errUnmade is that of an event whose maker has panicked.
var errUnmade = errors.New("the event could not be made for another watch")

// writeEvent writes an event of type typ round an object in an encoding, which get returns, with one Write.
func (f *Frame) writeEvent(name encoding, typ string, get func() (encoded, error), w io.Writer) error {
	if f.Size() < largeEvent || name.perishable || typ == added && name == (encoding{}) {
		e, err := get()
		if err != nil {
			return err
		}
		return e.writeEvent(typ, w)
	}
	data, release, err := f.codec.store.events.take(eventName{f, name, typ}, func() ([]byte, int64, error) {
		e, err := get()
		if err != nil || typ == added || e.format == wire.Other {
			return e.data, 0, err
		}
		total, _ := wire.EventSize(e.format, typ, len(e.object()))
		return wire.AppendEvent(make([]byte, 0, total), e.format, typ, e.object()), ledger.Heap(total), nil
	})
	defer release()
	if err != nil {
		return err
	}
	_, err = w.Write(data)
	return err
}

// writeKept writes an event of type typ round the object as it is kept, with one Write.
func (f *Frame) writeKept(typ string, w io.Writer) error {
	if f.base == nil || f.apiVersionAt == 0 {
		return f.writeEvent(encoding{}, typ, f.kept, w)
	}
	total, _ := wire.EventSize(wire.JSON, typ, f.keptSize())
	if total < largeEvent {
		buf := scratch.Get().(*bytes.Buffer)
		defer putScratch(buf)
		buf.Reset()
		buf.Grow(total)
		_, err := w.Write(f.appendEvent(buf.AvailableBuffer(), typ))
		return err
	}
	data, release, err := f.codec.store.events.take(eventName{f, encoding{}, typ}, func() ([]byte, int64, error) {
		return f.appendEvent(make([]byte, 0, total), typ), ledger.Heap(total), nil
	})
	defer release()
	if err != nil {
		return err
	}
	_, err = w.Write(data)
	return err
}

// take returns the event of a name, which build makes if nobody writes it. The caller releases it.
func (s *events) take(name eventName, build func() (data []byte, own int64, err error)) (data []byte, release func(), err error) {
	s.mu.Lock()
	e := s.writing[name]
	if e == nil {
		e = &event{}
		if s.writing == nil {
			s.writing = map[eventName]*event{}
		}
		s.writing[name] = e
	}
	e.writers++
	s.mu.Unlock()
	release = func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if e.writers--; e.writers == 0 {
			delete(s.writing, name)
			ledger.Process.Add(ledger.Streams, -e.own)
		}
	}
	panicked := true
	defer func() {
		if panicked {
			release() // there is nobody else to
		}
	}()
	e.made.Do(func() {
		e.err = errUnmade
		e.data, e.own, e.err = build()
		ledger.Process.Add(ledger.Streams, e.own)
	})
	panicked = false
	return e.data, release, e.err
}
