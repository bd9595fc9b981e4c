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
	r := rowSender{sending: s, first: true, form: frame.Form{Kept: s.format == wire.ListProtobuf && s.kept}}
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

// rowSender sends the items of one list in rows.
type rowSender struct {
	*sending
	row []*frame.Frame
	cut frame.Cutter
	// form is that of the items; its ID is set for each row.
	form frame.Form
	// first says that no item has been sent, rest is form.ID of all rows but the first.
	first bool
	rest  runtime.Identifier
	// count is how many items have been sent or are in row, written how many plain bytes have been
	// sent.
	count, written int
	before         []byte
}

// send sends an item, or has it wait for others. next are the items that upstream has written.
func (r *rowSender) send(f *frame.Frame, next *[][]byte) error {
	r.count++
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
	write := func(f *frame.Frame, w io.Writer) error {
		head, rest, err := r.encoded(f)
		if err != nil {
			return err
		}
		_, err = r.write(w, r.first && f == r.row[0], head, rest)
		return err
	}
	// Before the first item of JSON there is no comma.
	r.form.ID, r.form.Write = r.rest, write
	if r.first || r.rest == "" {
		first := r.first && r.maker.encoding == inJSON
		r.form.ID = runtime.Identifier(fmt.Sprintf("items, %s, %s, %s, first %t", r.maker.encoding, r.shared, r.maker.version, first))
		if !first {
			r.rest = r.form.ID
		}
	}
	segment, err := frame.SegmentOf(r.row, r.form)
	if err != nil {
		return err
	}
	err = r.out.segment(segment.Segment, func(w io.Writer) error {
		for _, f := range r.row {
			if err := write(f, w); err != nil {
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
