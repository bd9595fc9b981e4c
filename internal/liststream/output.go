// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package liststream

import (
	"compress/gzip"
	"io"
	"net/http"
	"sync"
	"time"

	"k8s.io/apiserver/pkg/endpoints/handlers/responsewriters"
	"k8s.io/apiserver/pkg/features"

	"github.com/weir-project/weir/internal/deflate"
	"github.com/weir-project/weir/internal/ledger"
)

const (
	bufferSize = 64 << 10
	// gzipThreshold is upstream's defaultGzipThresholdBytes: smaller answers are not
	// compressed.
	gzipThreshold = 128 << 10
	// gzipSize is what a gzip.Writer of that pool takes.
	gzipSize = 1200 << 10
	// grace is for what has to happen when a request's time is up: the filter's answer, and
	// the end of a Write that is not blocked.
	grace = 2 * time.Second
)

var (
	gzips   = responsewriters.NewGzipWriterPoolOrDie()
	buffers = sync.Pool{New: func() any { return new([bufferSize]byte) }}
	// heads hold what has been written before it is known whether to compress.
	heads = sync.Pool{New: func() any { return new([gzipThreshold]byte) }}
)

// output gathers what is written into large writes and, as upstream does, compresses what
// turns out to be large enough. close must be called.
type output struct {
	w http.ResponseWriter
	// waits is called before each write that may have to wait for the client.
	waits func()
	// head[:headed] is what has come while it was not known whether to compress; nil from
	// then on, or if that was never asked for.
	head   *[gzipThreshold]byte
	headed int
	// shared says that what is compressed goes into member, and not into gz.
	shared bool
	// started says that the response has begun, failed that a write to it has failed: the
	// connection, or the filter that times requests out, takes no more.
	started, failed bool
	gz              *gzip.Writer
	member          *deflate.Member
	// buffer[:n] goes to the connection next.
	buffer *[bufferSize]byte
	n      int
	// sent is what has gone there.
	sent int

	// impatient ends a write that goes on for longer than it may; see newOutput.
	impatient *time.Timer
	mu        sync.Mutex
	// writing says that a write is going on. Guarded by mu.
	writing bool
}

// newOutput returns an output to the response of req.
//
// A client that stops reading would block the handler, which keeps the state alive that it
// reads, for as long as the connection lasts: upstream's timeout waits for a Write to
// return. So a Write that has begun within the request's time, and has not returned when
// that has been up for grace, is made to fail. (That it goes on says that the response is
// still the handler's: the filter would have to wait for it. A deadline set beforehand
// could reach a response that the filter has ended, and would race with its own.)
//
// Nothing else ends a list for which the time is up or whose client has left: as long as
// Write takes it, the response is the handler's, and to end it would make a whole list of what
// has been sent. The filter makes Write fail when it ends the response itself.
func newOutput(w http.ResponseWriter, req *http.Request, waits func(), shared bool) *output {
	o := &output{w: w, waits: waits, shared: shared, buffer: buffers.Get().(*[bufferSize]byte)}
	ledger.Process.Add(ledger.Streams, bufferSize)
	if responsewriters.ContentEncodingSupported(req, features.APIResponseCompression) == "gzip" {
		o.head = heads.Get().(*[gzipThreshold]byte)
		ledger.Process.Add(ledger.Streams, gzipThreshold)
	}
	if deadline, ok := req.Context().Deadline(); ok {
		control := http.NewResponseController(w)
		o.impatient = time.AfterFunc(time.Until(deadline)+grace, func() {
			o.mu.Lock()
			defer o.mu.Unlock()
			if o.writing {
				// Without one the connection ends it.
				_ = control.SetWriteDeadline(time.Now())
			}
		})
	}
	return o
}

// Write implements io.Writer.
func (o *output) Write(p []byte) (int, error) {
	if o.head != nil {
		if o.headed+len(p) <= gzipThreshold {
			o.headed += copy(o.head[o.headed:], p)
			return len(p), nil
		}
		o.compress()
		if err := o.flushHead(); err != nil {
			return 0, err
		}
	}
	return o.to().Write(p)
}

// mayShare tells whether the list is to be compressed into a member if it is larger than
// gzipThreshold.
func (o *output) mayShare() bool { return o.shared && o.head != nil }

// compress has what is written from now on compressed.
func (o *output) compress() {
	if o.shared {
		o.member = deflate.NewMember((*plainOutput)(o))
		return
	}
	o.gz = gzips.Get().(*gzip.Writer)
	o.gz.Reset((*plainOutput)(o))
	ledger.Process.Add(ledger.Compressors, gzipSize)
}

// begin begins a member, before anything has been written.
func (o *output) begin() {
	o.compress()
	o.dropHead()
}

// segment writes a segment, into a member; emit writes its plain bytes.
func (o *output) segment(s *deflate.Segment, emit func(io.Writer) error) error {
	if s.Stored() {
		return o.member.Store(s, emit)
	}
	return o.member.Add(s)
}

func (o *output) to() io.Writer {
	switch {
	case o.gz != nil:
		return o.gz
	case o.member != nil:
		return o.member
	default:
		return (*plainOutput)(o)
	}
}

// flushHead sends the head on its way.
func (o *output) flushHead() error {
	if o.head == nil {
		return nil
	}
	_, err := o.to().Write(o.head[:o.headed])
	o.dropHead()
	return err
}

func (o *output) dropHead() {
	if o.head != nil {
		heads.Put(o.head)
		o.head = nil
		ledger.Process.Add(ledger.Streams, -gzipThreshold)
	}
}

// plainOutput is an output behind the compression.
type plainOutput output

// Write implements io.Writer.
func (o *plainOutput) Write(p []byte) (int, error) {
	if o.n+len(p) > bufferSize {
		if err := o.drain(); err != nil {
			return 0, err
		}
		if len(p) >= bufferSize {
			return len(p), o.write(p)
		}
	}
	o.n += copy(o.buffer[o.n:], p)
	return len(p), nil
}

func (o *plainOutput) drain() error {
	if o.n == 0 {
		return nil
	}
	err := o.write(o.buffer[:o.n])
	o.n = 0
	return err
}

func (o *plainOutput) write(p []byte) error {
	if !o.started {
		o.started = true
		if o.gz != nil || o.member != nil {
			o.w.Header().Set("Content-Encoding", "gzip")
			o.w.Header().Add("Vary", "Accept-Encoding")
		}
		o.w.WriteHeader(http.StatusOK)
	}
	o.waits()
	o.setWriting(true)
	n, err := o.w.Write(p)
	o.setWriting(false)
	o.sent += n
	o.failed = o.failed || err != nil
	return err
}

func (o *plainOutput) setWriting(writing bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.writing = writing
}

// finish sends what is left.
func (o *output) finish() error {
	if err := o.flushHead(); err != nil {
		return err
	}
	if c, ok := o.to().(io.Closer); ok {
		if err := c.Close(); err != nil {
			return err
		}
	}
	return (*plainOutput)(o).drain()
}

// close gives the buffers back.
func (o *output) close() {
	if o.impatient != nil {
		o.impatient.Stop()
	}
	o.dropHead()
	if o.gz != nil {
		o.gz.Reset(nil)
		gzips.Put(o.gz)
		o.gz = nil
		ledger.Process.Add(ledger.Compressors, -gzipSize)
	}
	if o.member != nil {
		o.member.Discard()
		o.member = nil
	}
	if o.buffer != nil {
		buffers.Put(o.buffer)
		o.buffer = nil
		ledger.Process.Add(ledger.Streams, -bufferSize)
	}
}
