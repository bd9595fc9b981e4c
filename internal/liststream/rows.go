// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package liststream

import (
	"fmt"
	"io"

	"k8s.io/apimachinery/pkg/runtime"

	"github.com/weir-project/weir/internal/frame"
	"github.com/weir-project/weir/internal/wire"
)

// large tells whether the list, whose items are of size bytes in protobuf, is larger than what is
// sent uncompressed. It looks at no more items than that takes.
func (s *sending) large(size int) (bool, error) {
	total := len(s.list.Head(s.plan.Count, size)) + len(s.list.Tail())
	if s.format == wire.ListProtobuf {
		return total+size > gzipThreshold, nil
	}
	next := s.list.Items
	var before []byte
	first := true
	for f := range s.plan.Frames {
		head, rest, err := s.item(f, &next)
		if err != nil {
			return false, err
		}
		before = s.list.AppendBefore(before[:0], first, len(head)+len(rest))
		first = false
		if total += len(before) + len(head) + len(rest); total > gzipThreshold {
			return true, nil
		}
	}
	return false, nil
}

// sendRows sends the list compressed, items that are shared in rows.
func (s *sending) sendRows(size int) error {
	s.maker.once = s.format == wire.ListJSON // of protobuf, the size had to be known before
	s.out.begin()
	if _, err := s.out.Write(s.list.Head(s.plan.Count, size)); err != nil {
		return err
	}
	r := rowSender{sending: s, first: true}
	// Before the first item of JSON there is no comma.
	r.firstID, r.restID = s.rowID(s.maker.encoding == inJSON), s.rowID(false)
	next := s.list.Items
	for f := range s.plan.Frames {
		if err := r.send(f, &next); err != nil {
			return err
		}
	}
	if err := r.sendRow(); err != nil {
		return err
	}
	return s.end(r.count, r.written, size, len(next))
}

// rowID names the items as they stand in a row, which begins with the first item of JSON or not.
func (s *sending) rowID(first bool) runtime.Identifier {
	return runtime.Identifier(fmt.Sprintf("items, %s, %s, %s, first %t", s.maker.encoding, s.shared, s.maker.version, first))
}

// rowSender sends the items of one list in rows.
type rowSender struct {
	*sending
	row []*frame.Frame
	cut frame.Cutter
	// first says that no item has been sent. firstID names a row that begins with the first, restID all others.
	first           bool
	firstID, restID runtime.Identifier
	// count is how many items have been sent or are in row, written how many plain bytes have been
	// sent.
	count, written int
	before         []byte
}

// send sends an item, or has it wait for others. next are the items that upstream has written.
func (r *rowSender) send(f *frame.Frame, next *[][]byte) error {
	r.count++
	r.walk.Pass(f.Size())
	if !f.DefaultedOnRead() {
		r.row = append(r.row, f)
		if !r.cut.Ends(f) {
			return nil
		}
		return r.sendRow()
	}
	if err := r.sendRow(); err != nil {
		return err
	}
	_, item, err := r.item(f, next)
	if err != nil {
		return err
	}
	n, err := r.write(r.out, r.first, nil, item)
	r.first = false
	r.written += n
	return err
}

// sendRow sends what waits.
func (r *rowSender) sendRow() error {
	if len(r.row) == 0 {
		return nil
	}
	r.cut.Reset()
	form := frame.Form{ID: r.restID, Kept: r.format == wire.ListProtobuf && r.kept, Write: r.writeShared}
	if r.first {
		form.ID = r.firstID
	}
	segment, err := frame.SegmentOf(r.row, form)
	if err != nil {
		return err
	}
	err = r.out.segment(segment.Segment, func(w io.Writer) error {
		for _, f := range r.row {
			if err := r.writeShared(f, w); err != nil {
				return err
			}
		}
		return nil
	})
	r.first = false
	r.written += segment.Size()
	clear(r.row)
	r.row = r.row[:0]
	return err
}

// writeShared writes an item of the row.
func (r *rowSender) writeShared(f *frame.Frame, w io.Writer) error {
	head, rest, err := r.encoded(f)
	if err != nil {
		return err
	}
	_, err = r.write(w, r.first && f == r.row[0], head, rest)
	return err
}

// write writes an item with what stands before it, and returns how many bytes that are.
func (r *rowSender) write(w io.Writer, first bool, head, rest []byte) (n int, err error) {
	r.before = r.list.AppendBefore(r.before[:0], first, len(head)+len(rest))
	for _, part := range [...][]byte{r.before, head, rest} {
		if len(part) == 0 {
			continue
		}
		if _, err := w.Write(part); err != nil {
			return n, err
		}
		n += len(part)
	}
	return n, nil
}
