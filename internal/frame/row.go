// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package frame

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"hash/maphash"
	"io"
	"slices"
	"unsafe"

	"k8s.io/apimachinery/pkg/runtime"

	"github.com/weir-project/weir/internal/deflate"
	"github.com/weir-project/weir/internal/ledger"
	"github.com/weir-project/weir/internal/wire"
)

// How large the rows are that are compressed together, in bytes of the kept encodings. What one
// object has in common with its neighbours is found in a row of that size as well as in a whole
// stream, and when one of them changes no more has to be compressed again. See docs/ARCHITECTURE.md.
const (
	rowLeast = 64 << 10
	rowMost  = 256 << 10
	// rowMore is how much comes on the average after rowLeast before a row ends.
	rowMore = 64 << 10
)

// Cutter cuts a sequence of frames into rows that are compressed together. Where a row ends
// depends on the objects near its end, not on where it has begun: two sequences that are equal
// from some object on are cut alike soon after it, so that they share segments. The zero Cutter
// is ready.
type Cutter struct{ size int }

// Ends tells whether the row that f is added to ends with it.
func (c *Cutter) Ends(f *Frame) bool {
	size := f.keptSize()
	c.size += size
	if c.size < rowLeast {
		return false
	}
	// By its name, so that a new revision of the object does not move the rows behind it, and alike in all servers.
	name := unsafe.Slice(unsafe.StringData(f.key), len(f.key)) // only read
	if c.size < rowMost && crc32.ChecksumIEEE(name)%rowMore >= uint32(min(size, rowMore)) {
		return false
	}
	c.size = 0
	return true
}

// Reset begins a new row.
func (c *Cutter) Reset() { c.size = 0 }

// Segment is a row of frames in one form, compressed. It is immutable.
type Segment struct {
	*deflate.Segment
	// Sizes are how many plain bytes each event is, without the Framing before it; nil if it is none
	// of events.
	Sizes []uint32
	// Framing is how many bytes stand before each event.
	Framing int
	// ids are those of the frames.
	ids []uint64
}

// cost is how many bytes of the heap a segment takes.
func (s *Segment) cost() int64 {
	const itself = int(unsafe.Sizeof(Segment{}) + unsafe.Sizeof(deflate.Segment{}))
	return ledger.Heap(itself) + ledger.Heap(4*cap(s.Sizes)) + ledger.Heap(8*cap(s.ids)) + int64(s.Kept())
}

// of tells whether s is the segment of frames.
func (s *Segment) of(frames []*Frame) bool {
	return slices.EqualFunc(s.ids, frames, func(id uint64, f *Frame) bool { return id == f.id })
}

// Form is a form of objects in which rows of them are shared.
type Form struct {
	// ID names the form. Two that share it write the same for the same frame.
	ID runtime.Identifier
	// Kept says that Write writes an object as it is kept, with little around it: if that does not
	// compress, it need not be kept a second time.
	Kept bool
	// Write writes an object. It is called for one after the other, in their order.
	Write func(*Frame, io.Writer) error
}

// SegmentOf returns frames in a form, compressed together: made once for everybody who asks for the
// same row in the same form at the same time, and kept while it is asked for. There has to be a frame;
// all are of one resource.
func SegmentOf(frames []*Frame, form Form) (*Segment, error) { return segmentOf(frames, form, nil) }

// segmentOf returns a segment of events if events is not nil.
func segmentOf(frames []*Frame, form Form, events *Events) (*Segment, error) {
	build := func() (encoded, error) {
		s, err := newSegment(frames, form, events)
		return encoded{segment: s}, err
	}
	e, err := frames[0].codec.store.get(frames[0], encoding{id: form.ID, row: rowHash(frames)}, build)
	if err == nil && !e.segment.of(frames) {
		e, err = build() // two rows with one hash
	}
	return e.segment, err
}

func newSegment(frames []*Frame, form Form, events *Events) (*Segment, error) {
	s := &Segment{ids: make([]uint64, len(frames))}
	if events != nil {
		s.Sizes, s.Framing = make([]uint32, len(frames)), events.framing()
	}
	buf := scratch.Get().(*bytes.Buffer)
	defer putScratch(buf)
	buf.Reset()
	for i, f := range frames {
		before := buf.Len()
		if err := form.Write(f, buf); err != nil {
			return nil, err
		}
		s.ids[i] = f.id
		if events != nil {
			s.Sizes[i] = uint32(buf.Len() - before - s.Framing)
		}
	}
	// Of a large object alone it is remembered that it does not compress.
	alone := form.Kept && len(frames) == 1
	if alone && frames[0].incompressible.Load() {
		s.Segment = deflate.Incompressible(buf.Bytes())
		return s, nil
	}
	s.Segment = deflate.Compress(buf.Bytes(), form.Kept)
	if alone && s.Stored() {
		frames[0].incompressible.Store(true)
	}
	return s, nil
}

var rowSeed = maphash.MakeSeed()

// rowHash returns a number that rows share only if they are equal, or by chance. It is not 0.
func rowHash(frames []*Frame) uint64 {
	var h maphash.Hash
	h.SetSeed(rowSeed)
	var id [8]byte
	for _, f := range frames {
		binary.NativeEndian.PutUint64(id[:], f.id)
		_, _ = h.Write(id[:]) // never fails
	}
	return h.Sum64() | 1
}

// Events is a row of frames as watch events of one type, in the encoding that upstream's watch
// encoder has asked for.
type Events struct {
	frames []*Frame
	id     runtime.Identifier
	v      *variant
	encode func(runtime.Object, io.Writer) error
}

// EventsOf returns the events of frames as CacheEncode, asked for the same, would write them.
// It is false if they are nothing to be shared: a Table, or in a format whose framing is not known.
func EventsOf(frames []*Frame, id runtime.Identifier, encode func(runtime.Object, io.Writer) error) (Events, bool) {
	v := variantOf(id)
	return Events{frames, id, v, encode}, v.watch && !v.table && v.envelope != wire.Other
}

// framing is how many bytes upstream's framer puts before an event: see
// k8s.io/apimachinery/pkg/util/framer and pkg/runtime/serializer/json.
func (e Events) framing() int {
	if e.v.envelope == wire.Protobuf {
		return 4
	}
	return 0
}

// Segment returns the events with what frames them, compressed together; see SegmentOf.
func (e Events) Segment() (*Segment, error) {
	return segmentOf(e.frames, Form{ID: e.id, Kept: e.Kept(), Write: e.write}, &e)
}

// Kept tells whether the events are written from what is kept.
func (e Events) Kept() bool {
	return e.v.plain && e.frames[0].KeptIn(e.v.objectFormat, e.v.apiVersion) // all of a resource are kept alike
}

// Write writes the events with what frames them.
func (e Events) Write(w io.Writer) error {
	for _, f := range e.frames {
		if err := e.write(f, w); err != nil {
			return err
		}
	}
	return nil
}

func (e Events) write(f *Frame, w io.Writer) error {
	if f.base != nil && e.Kept() {
		return f.writeKept(e.v.eventType, w) // JSON, which has no framing
	}
	object, err := f.unkept(e.v, e.encode)
	if err != nil {
		return err
	}
	if e.framing() > 0 {
		size, _ := wire.EventSize(object.format, e.v.eventType, len(object.object()))
		if _, err := w.Write(binary.BigEndian.AppendUint32(nil, uint32(size))); err != nil {
			return err
		}
	}
	return object.writeEvent(e.v.eventType, w)
}

// unkept returns the encoding of the frame that is wanted for an event. If it has to be made, it is
// not kept: what is compressed is.
func (f *Frame) unkept(v *variant, encode func(runtime.Object, io.Writer) error) (encoded, error) {
	if v.plain && f.KeptIn(v.objectFormat, v.apiVersion) {
		return f.kept()
	}
	if e, ok := f.peek(encoding{id: v.object, envelope: v.envelope, perishable: v.table}); ok {
		return e, nil
	}
	return f.derive(v, encode)
}
