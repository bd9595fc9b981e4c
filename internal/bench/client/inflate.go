// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package client

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/klauspost/compress/gzip"
)

// gzipCoding is the content coding that readers ask for and understand.
const gzipCoding = "gzip"

// Decode gives the plain bytes of a response whose body is read from wire, which is resp.Body or passes it on.
func Decode(resp *http.Response, wire io.Reader) (io.Reader, error) {
	switch coding := resp.Header.Get("Content-Encoding"); coding {
	case "", "identity":
		return wire, nil
	case gzipCoding:
		return newInflater(wire), nil
	default:
		return nil, fmt.Errorf("the response has Content-Encoding %q, which nobody asked for", coding)
	}
}

// inflater reads the plain bytes of a gzip body that has one member or many (RFC 1952, section 2.2): upstream's server ends
// one at each flush. A gzip.Reader that goes through members by itself may hold back the end of one until the next begins,
// which in a watch is an event that comes too late; this one gives it out first. Not safe for concurrent use.
type inflater struct {
	r       *bufio.Reader
	member  gzip.Reader
	inside  bool  // member is not at its end
	members int64 // that have begun
}

func newInflater(r io.Reader) *inflater { return &inflater{r: bufio.NewReaderSize(r, 64<<10)} }

// Read implements io.Reader. The end of the body is io.EOF only where a member has ended.
func (i *inflater) Read(p []byte) (int, error) {
	for {
		if !i.inside {
			err := i.member.Reset(i.r)
			if errors.Is(err, io.EOF) {
				return 0, io.EOF
			}
			if err != nil {
				return 0, fmt.Errorf("gzip member %d: %w", i.members, err)
			}
			i.member.Multistream(false)
			i.inside = true
			i.members++
		}
		n, err := i.member.Read(p)
		if errors.Is(err, io.EOF) {
			i.inside = false
			if n == 0 && len(p) > 0 {
				continue
			}
			return n, nil
		}
		if err != nil {
			err = fmt.Errorf("gzip member %d: %w", i.members-1, err)
		}
		return n, err
	}
}
