// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package client

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// countList reads a whole list response and view.Counts its items and bytes without decoding them.
func countList(f Format, body io.Reader) (items, size int64, err error) {
	counted := &countedReader{r: body}
	r := bufio.NewReaderSize(counted, 64<<10)
	if f.protobuf() {
		items, err = countProtobufList(r)
	} else {
		items, err = countJSONList(r) // a Table's row has the object's metadata
	}
	return items, counted.n, err
}

// countProtobufList walks "k8s\0", Unknown{1: TypeMeta, 2: raw}, raw = List{1: ListMeta, 2: items}.
func countProtobufList(r *bufio.Reader) (items int64, err error) {
	magic := make([]byte, 4)
	if _, err := io.ReadFull(r, magic); err != nil {
		return 0, unexpected(err)
	}
	if !bytes.Equal(magic, []byte("k8s\x00")) {
		return 0, fmt.Errorf("list begins with % x: not in Kubernetes' protobuf", magic)
	}
	for {
		number, length, err := fieldHead(r)
		if errors.Is(err, io.EOF) {
			return items, nil
		}
		if err != nil {
			return items, err
		}
		if number != 2 {
			if _, err := r.Discard(int(length)); err != nil {
				return items, unexpected(err)
			}
			continue
		}
		for rest := int64(length); rest > 0; {
			number, length, err := fieldHead(r)
			if err != nil {
				return items, unexpected(err)
			}
			if _, err := r.Discard(int(length)); err != nil {
				return items, unexpected(err)
			}
			if number == 2 {
				items++
			}
			rest -= int64(uvarintLen(number<<3|2)) + int64(uvarintLen(length)) + int64(length)
			if rest < 0 {
				return items, errors.New("a list item is longer than its list")
			}
		}
	}
}

// fieldHead reads the head of a length-delimited protobuf field; io.EOF when nothing at all came.
func fieldHead(r *bufio.Reader) (number, length uint64, err error) {
	tag, err := binary.ReadUvarint(r)
	if err != nil {
		return 0, 0, err
	}
	if tag&7 != 2 {
		return 0, 0, fmt.Errorf("protobuf field with tag %d in a list: only length-delimited ones are expected", tag)
	}
	length, err = binary.ReadUvarint(r)
	if err != nil {
		return 0, 0, unexpected(err)
	}
	if length > 1<<40 {
		return 0, 0, fmt.Errorf("protobuf field of %d bytes in a list", length)
	}
	return tag >> 3, length, nil
}

func uvarintLen(v uint64) int {
	n := 1
	for ; v >= 0x80; v >>= 7 {
		n++
	}
	return n
}

// jsonItem begins an item of the lists that bench reads, and nothing else in them: list metadata has no name, and in
// strings quotes are escaped. Built-in types put metadata first in a list item, custom resources may not.
var jsonItem = []byte(`"metadata":{`)

// countJSONList view.Counts items by the beginning of their metadata. The list has one of its own. The objects that bench
// loads have no other "metadata" field.
func countJSONList(r *bufio.Reader) (items int64, err error) {
	buf := make([]byte, 0, 64<<10)
	var last byte
	for {
		n, err := r.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		if n > 0 {
			if b := bytes.TrimRight(buf, "\n"); len(b) > 0 {
				last = b[len(b)-1]
			}
			items += int64(bytes.Count(buf, jsonItem))
			// The end may be the beginning of another one; what was counted is not seen again.
			keep := min(len(jsonItem)-1, len(buf))
			buf = append(buf[:0], buf[len(buf)-keep:]...)
		}
		if errors.Is(err, io.EOF) {
			if last != '}' {
				return items, io.ErrUnexpectedEOF
			}
			return items - 1, nil
		}
		if err != nil {
			return items, err
		}
	}
}

type countedReader struct {
	r io.Reader
	n int64
}

func (c *countedReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}
