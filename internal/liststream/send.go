// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package liststream

import (
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1beta1 "k8s.io/apimachinery/pkg/apis/meta/v1beta1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/weir-project/weir/internal/convoy"
	"github.com/weir-project/weir/internal/frame"
	"github.com/weir-project/weir/internal/wire"
)

// sending is a list that is being sent. It is there only once all of what upstream makes of it
// is. close must be called.
type sending struct {
	plan   *Plan
	format wire.ListFormat
	// table says that the items are rows.
	table bool
	// upstream is what upstream has written, list the same taken apart.
	upstream []byte
	list     *wire.List
	// encoded returns an object as an item, in JSON, protobuf or CBOR, and lines turns that of
	// JSON into what stands in the list; nil if it stands there as it is.
	encoded itemFunc
	lines   lineFunc
	// kept says that the items stand in the list as they are kept, so that plan.Messages is
	// their size.
	kept bool
	// made says that each item has to be made, for all who ask for it at the same time.
	made bool
	// shared names the items for those who share them compressed; empty if they are not shared.
	shared string
	maker  *maker
	// walk keeps the list with others that are sent at the same time in the same form.
	walk *convoy.Walk
	// out is where the list goes, confined what is done about the garbage that it makes.
	out      *output
	confined *confinement
}

// newSending returns wire.ErrNotSpliced if it is not known how to send what upstream has
// written.
func newSending(a *Answer) (*sending, error) {
	mediaType, target, ok := a.types.Negotiate(a.req, a.info)
	if !ok || mediaType != mediaTypeOf(a.w.Header()) {
		return nil, wire.ErrNotSpliced
	}
	s := &sending{plan: a.plan, format: formatOf(a.w.Header(), a.body), upstream: a.body, confined: &confinement{confine: a.confine}}
	h, err := readHeader(s.format, a.body)
	if err != nil {
		return nil, err
	}
	version, err := schema.ParseGroupVersion(h.APIVersion)
	if err != nil || target != nil && target.GroupVersion() != version {
		return nil, wire.ErrNotSpliced
	}
	m := &maker{types: a.types, req: a.req, info: a.info, encoding: encodingOf(s.format), version: version, confined: s.confined}
	place := wire.ItemsOfList
	switch {
	case target == nil:
		s.encoded = m.objects()
		s.shared = "object"
		f := s.plan.first()
		// All of a resource are kept alike.
		s.kept = s.plan.Messages > 0 && f != nil && f.KeptIn(wire.Protobuf, h.APIVersion)
		s.made = !s.kept && (m.encoding != inJSON || f == nil || !f.KeptIn(wire.JSON, h.APIVersion))
	case target.Kind != h.Kind:
		return nil, wire.ErrNotSpliced
	case h.Kind == "PartialObjectMetadataList":
		s.encoded = m.metadata()
		s.shared, s.made = "metadata", m.encoding != inProtobuf
		if version == metav1beta1.SchemeGroupVersion {
			place = wire.ItemsFirst
		}
	case h.Kind == "Table" && (version == metav1.SchemeGroupVersion || version == metav1beta1.SchemeGroupVersion):
		place, s.table, s.made = wire.RowsOfTable, true, true
		if s.encoded, err = m.rows(s.plan.first(), h.ColumnDefinitions); err != nil {
			return nil, err
		}
	default:
		return nil, wire.ErrNotSpliced
	}
	switch s.format {
	case wire.ListPretty:
		s.lines = pretty()
	case wire.ListYAML:
		s.lines = inYAML()
	}
	if s.format != wire.ListJSON && s.format != wire.ListProtobuf {
		s.shared = "" // indented, or in several orders
	}
	s.maker = m
	if s.list, err = wire.SplitList(s.format, place, a.body); err != nil {
		return nil, err
	}
	if len(s.list.Items) != s.plan.DefaultedOnRead {
		return nil, wire.ErrNotSpliced
	}
	s.out = newOutput(a.w, a.req, s.confined.pause, a.compressing)
	return s, nil
}

func (s *sending) close() {
	s.walk.Leave()
	s.out.close()
	s.confined.pause()
}

// send sends the list. out says how far it came.
func (s *sending) send() error {
	if s.plan.Count == s.plan.DefaultedOnRead {
		if _, err := s.out.Write(s.upstream); err != nil { // there is nothing to add
			return err
		}
		return s.out.finish()
	}
	s.join()
	size, err := s.measure()
	if err != nil {
		return err
	}
	if err := s.check(); err != nil {
		return err
	}
	if send, err := s.way(size); err != nil {
		return err
	} else if err := send(size); err != nil {
		return err
	}
	return s.out.finish()
}

// join begins a walk if something is made for the list that others may use: items, or compressed rows of them.
func (s *sending) join() {
	rows := s.mayShareRows()
	if s.plan.Join != nil && (s.made || rows) {
		s.walk = s.plan.Join(fmt.Sprintf("list, %s, %s, %s, table %t, rows %t", s.maker.encoding, s.shared, s.maker.version, s.table, rows))
	}
}

// mayShareRows tells whether the list is to be sent in compressed rows that others use, if it is large.
func (s *sending) mayShareRows() bool { return s.shared != "" && s.out.mayShare() }

// way returns how the list, whose items are of size bytes in protobuf, is to be sent.
func (s *sending) way(size int) (func(size int) error, error) {
	if !s.mayShareRows() {
		return s.sendItems, nil
	}
	large, err := s.large(size)
	if err != nil || !large {
		return s.sendItems, err
	}
	return s.sendRows, nil
}

// measure returns how long the items are, which protobuf says before them.
func (s *sending) measure() (size int, err error) {
	if s.format != wire.ListProtobuf {
		return 0, nil
	}
	for _, item := range s.list.Items {
		size += wire.ProtobufItemSize(len(item))
	}
	if s.kept {
		return size + s.plan.Messages, nil
	}
	for f := range s.plan.Frames {
		if f.DefaultedOnRead() {
			continue
		}
		s.walk.Pass(f.Size())
		head, rest, err := s.encoded(f)
		if err != nil {
			return 0, err
		}
		size += wire.ProtobufItemSize(len(head) + len(rest))
	}
	return size, nil
}

// check finds out whether all items can be written, where upstream writes all of them before
// it sends anything, so that who asks for what cannot be written is told so instead of being
// sent a part of it. Rows are looked at in YAML only: nothing else is known that could go
// wrong with them, and making them twice is dear.
func (s *sending) check() error {
	if s.lines == nil || s.table && s.format != wire.ListYAML {
		return nil
	}
	for f := range s.plan.Frames {
		if f.DefaultedOnRead() {
			continue
		}
		head, rest, err := s.encoded(f)
		if err != nil {
			return err
		}
		if s.format != wire.ListYAML || plainYAML(head) && plainYAML(rest) {
			continue
		}
		if _, err := s.lines(f, head, rest); err != nil {
			return err
		}
	}
	return nil
}

// item returns an object as it stands in the list. next are the items that upstream has
// written; it takes one of them if the object is.
func (s *sending) item(f *frame.Frame, next *[][]byte) (head, rest []byte, err error) {
	if f.DefaultedOnRead() {
		if len(*next) == 0 {
			return nil, nil, fmt.Errorf("more objects are completed on being read than the %d that upstream has written: %s", len(s.list.Items), f.Key())
		}
		rest, *next = (*next)[0], (*next)[1:]
		return nil, rest, nil
	}
	if head, rest, err = s.encoded(f); err != nil || s.lines == nil {
		return head, rest, err
	}
	rest, err = s.lines(f, head, rest)
	return nil, rest, err
}

// sendItems sends the list, whose items are of size bytes in protobuf.
func (s *sending) sendItems(size int) error {
	var before []byte
	count, written, next := 0, 0, s.list.Items
	for f := range s.plan.Frames {
		s.walk.Pass(f.Size())
		head, rest, err := s.item(f, &next)
		if err != nil {
			return err
		}
		if count == 0 {
			if _, err := s.out.Write(s.list.Head(s.plan.Count, size)); err != nil {
				return err
			}
		}
		before = s.list.AppendBefore(before[:0], count == 0, len(head)+len(rest))
		count++
		written += len(before) + len(head) + len(rest)
		for _, part := range [...][]byte{before, head, rest} {
			if len(part) == 0 {
				continue
			}
			if _, err := s.out.Write(part); err != nil {
				return err
			}
		}
	}
	return s.end(count, written, size, len(next))
}

// end sends what stands after the items, if those were all: count of written bytes, of which size
// were announced, and left of those that upstream has written are left.
func (s *sending) end(count, written, size, left int) error {
	if s.format == wire.ListProtobuf && written != size {
		return fmt.Errorf("the items are %d bytes, and %d were announced", written, size)
	}
	if count != s.plan.Count || left > 0 {
		return fmt.Errorf("the items are %d, and %d were announced; %d that upstream has written are left", count, s.plan.Count, left)
	}
	_, err := s.out.Write(s.list.Tail())
	return err
}

// itemFunc returns an item in JSON, protobuf or CBOR, in two parts. They are valid until the
// next call, and must not be changed.
type itemFunc func(f *frame.Frame) (head, rest []byte, err error)

// confineFrom is how many bytes of encoded objects a list decodes, to throw them away, before
// it asks for the heap not to grow any more: decoded they are several times that.
const confineFrom = 4 << 20

// confinement keeps the heap from growing while a list makes garbage.
type confinement struct {
	confine func() (lift func())
	// decoded is how many bytes have been decoded so far.
	decoded int64
	// lift ends the confinement; nil if there is none.
	lift func()
}

// decode says that an object of size bytes is going to be decoded.
func (c *confinement) decode(size int64) {
	if c.decoded += size; c.decoded > confineFrom && c.lift == nil {
		c.lift = c.confine()
	}
}

// pause says that nothing is decoded for a while: a client that does not read must not keep
// the heap of everybody confined.
func (c *confinement) pause() {
	if c.lift != nil {
		c.lift()
		c.lift = nil
	}
}
