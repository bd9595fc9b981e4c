// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package liststream

import (
	"bytes"
	"encoding/json"
	"fmt"

	"sigs.k8s.io/yaml"

	"github.com/weir-project/weir/internal/frame"
	"github.com/weir-project/weir/internal/wire"
)

// send sends the list. It returns how many bytes have gone out, and whether the response
// has begun; wire.ErrNotSpliced is returned before that.
func (a *Answer) send() (sent int, started bool, err error) {
	format := a.format()
	h, err := readHeader(format, a.body)
	if err != nil {
		return 0, false, err
	}
	items, field, err := a.items(format, h)
	if err != nil {
		return 0, false, err
	}
	list, err := wire.SplitList(format, field, a.body)
	if err != nil {
		return 0, false, err
	}

	out := newOutput(a.w, a.req)
	defer func() {
		out.close()
		if a.release != nil {
			a.release()
		}
	}()
	if err := a.sendItems(out, list, format, h, items); err != nil {
		return out.sent, out.started, err
	}
	err = out.finish()
	return out.sent, out.started, err
}

// keptSize returns how long the items of a list in protobuf are, where that is known without
// looking at them: they are sent as they are kept.
func (a *Answer) keptSize(h header) int {
	if a.plan.Messages == 0 || h.transformed() {
		return 0
	}
	// All of a resource are kept alike.
	if f, _ := a.plan.first(); f == nil || !f.KeptIn(wire.Protobuf, h.APIVersion) {
		return 0
	}
	return a.plan.Messages
}

// sendItems writes the list to out.
func (a *Answer) sendItems(out *output, list *wire.List, format wire.ListFormat, h header, items itemFunc) error {
	ctx := a.req.Context()
	each := func(yield func(head, rest []byte) error) error {
		return a.plan.Each(func(f *frame.Frame) error {
			if err := ctx.Err(); err != nil {
				return err
			}
			head, rest, err := items(f)
			if err != nil {
				return err
			}
			return yield(head, rest)
		})
	}
	// Some formats say before the items how many they are, or how long.
	count, size := 0, 0
	var err error
	switch format {
	case wire.ListCBOR:
		err = a.plan.Each(func(*frame.Frame) error { count++; return nil })
	case wire.ListProtobuf:
		if size = a.keptSize(h); size == 0 {
			err = each(func(head, rest []byte) error {
				size += wire.ProtobufItemSize(len(head) + len(rest))
				return nil
			})
		}
	}
	if err != nil {
		return err
	}
	before := make([]byte, 0, 32)
	first, written := true, 0
	err = each(func(head, rest []byte) error {
		if first {
			if _, err := out.Write(list.Head(count, size)); err != nil {
				return err
			}
		}
		before = list.AppendBefore(before[:0], first, len(head)+len(rest))
		first = false
		written += len(before) + len(head) + len(rest)
		for _, part := range [...][]byte{before, head, rest} {
			if len(part) == 0 {
				continue
			}
			if _, err := out.Write(part); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	if first {
		_, err = out.Write(a.body) // it had no items anyway
		return err
	}
	if format == wire.ListProtobuf && written != size {
		return fmt.Errorf("the items are %d bytes, and %d were announced", written, size)
	}
	_, err = out.Write(list.Tail())
	return err
}

// itemFunc returns an item as it stands in a list, in two parts. They are valid until the
// next call, and must not be changed.
type itemFunc func(f *frame.Frame) (head, rest []byte, err error)

// pretty indents the JSON that items returns.
func pretty(items itemFunc) itemFunc {
	var whole, buf bytes.Buffer
	return func(f *frame.Frame) ([]byte, []byte, error) {
		object, err := join(&whole, f, items)
		if err != nil {
			return nil, nil, err
		}
		buf.Reset()
		if err := json.Indent(&buf, object, wire.PrettyPrefix, wire.PrettyIndent); err != nil {
			return nil, nil, fmt.Errorf("indenting %s: %w", f.Key(), err)
		}
		return nil, buf.Bytes(), nil
	}
}

// inYAML turns the JSON that items returns into the lines of a sequence.
func inYAML(items itemFunc) itemFunc {
	var whole bytes.Buffer
	const open, closing = `{"i":[`, `]}`
	return func(f *frame.Frame) ([]byte, []byte, error) {
		object, err := join(&whole, f, items)
		if err != nil {
			return nil, nil, err
		}
		// Long strings are folded by column: the item has to stand where it will.
		lines, err := yaml.JSONToYAML(append(append([]byte(open), object...), closing...))
		if err != nil {
			return nil, nil, fmt.Errorf("turning %s into YAML: %w", f.Key(), err)
		}
		lines, ok := bytes.CutPrefix(lines, []byte("i:\n"))
		if !ok {
			return nil, nil, fmt.Errorf("turning %s into YAML: unexpected %.20q", f.Key(), lines)
		}
		return nil, lines, nil
	}
}

func join(buf *bytes.Buffer, f *frame.Frame, items itemFunc) ([]byte, error) {
	head, rest, err := items(f)
	if err != nil || len(head) == 0 {
		return rest, err
	}
	buf.Reset()
	buf.Write(head)
	buf.Write(rest)
	return buf.Bytes(), nil
}
