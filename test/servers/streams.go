// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package servers

import (
	"bufio"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"

	"k8s.io/apimachinery/pkg/runtime/serializer/cbor"
)

// Member is a reader that knows one gzip member and no more, as clients do of which some stop after
// it and others fail if there is more. It has both: Read does not go on after the member, and its
// end is an error if anything is behind it.
type Member struct {
	in *bufio.Reader
	z  *gzip.Reader
}

// NewMember returns one that begins to read with the first Read.
func NewMember(r io.Reader) *Member { return &Member{in: bufio.NewReader(r)} }

// Read implements io.Reader. At the end of the member it waits for that of the stream.
func (m *Member) Read(p []byte) (n int, err error) {
	if m.z == nil {
		if m.z, err = gzip.NewReader(m.in); err != nil {
			return 0, err
		}
		m.z.Multistream(false)
	}
	n, err = m.z.Read(p)
	if !errors.Is(err, io.EOF) {
		return n, err
	}
	if _, more := m.in.Peek(1); !errors.Is(more, io.EOF) {
		return n, fmt.Errorf("the gzip member is not the end of the stream: %v", more)
	}
	return n, err
}

// Events returns what reads the stream of a watch, event by event. It reads no further than it has
// to. At the end of the stream it returns io.EOF.
func Events(contentType string, r io.Reader) func() ([]byte, error) {
	switch {
	case strings.Contains(contentType, "protobuf"):
		return func() ([]byte, error) {
			var size [4]byte
			if _, err := io.ReadFull(r, size[:]); err != nil {
				return nil, err
			}
			event := make([]byte, binary.BigEndian.Uint32(size[:]))
			n, err := io.ReadFull(r, event)
			if err != nil {
				return nil, fmt.Errorf("%d bytes of an event of %d: %w", n, len(event), io.ErrUnexpectedEOF)
			}
			return event, nil
		}
	case strings.Contains(contentType, "cbor"):
		frames := cbor.NewFramer().NewFrameReader(io.NopCloser(r))
		buf := make([]byte, 64<<10)
		return func() (event []byte, err error) {
			for {
				n, err := frames.Read(buf)
				event = append(event, buf[:n]...)
				if !errors.Is(err, io.ErrShortBuffer) {
					return event, err
				}
			}
		}
	default:
		lines := bufio.NewReader(r)
		return func() ([]byte, error) { return lines.ReadBytes('\n') }
	}
}
