// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package coalesce

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/apimachinery/pkg/util/httpstream/wsstream"
	"k8s.io/apiserver/pkg/endpoints/handlers/responsewriters"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/endpoints/responsewriter"
	"k8s.io/apiserver/pkg/features"
	"k8s.io/apiserver/pkg/server/routine"

	"github.com/weir-project/weir/internal/deflate"
	"github.com/weir-project/weir/internal/ledger"
)

const (
	// bufferSize is how much is gathered before it is written.
	bufferSize = 64 << 10
	// slowWrite is how long a write takes to a connection that is slow. To such a one
	// slowSize is written at once, to one that is not known firstSize (which is a frame of
	// HTTP/2), and bufferSize once quickWrites in a row have not taken long.
	slowWrite   = time.Second
	slowSize    = 4 << 10
	firstSize   = 16 << 10
	quickWrites = 64
)

var buffers = sync.Pool{New: func() any { return new([bufferSize]byte) }}

// errReturned is what a write gets that comes after the handler has returned: the
// connection may be serving another request by then.
var errReturned = errors.New("writing to a watch response whose handler has returned")

// Stream is the response of one watch request. Its Write and Flush belong to the
// request's handler, Busy and Idle to the producer; the two may be two goroutines, and
// Progress may be called by any.
type Stream struct {
	// produced says that there is a producer; busy that it is about to send more; idle that
	// it has said Idle and what is gathered has not been flushed since.
	produced, busy, idle atomic.Bool
	// progress is how many bytes the connection has taken.
	progress atomic.Int64
	// req is the request as the handler has it, with a header of its own; nil where the
	// response is not to be compressed here.
	req *http.Request
	// asked is the header of the request.
	asked http.Header

	// mu is held during writes to the connection, which may last: the producer never waits
	// for it. Who has held it looks whether idle has been set meanwhile; see settle.
	mu sync.Mutex
	w  http.ResponseWriter
	// buffer[:n] is what has been gathered; nil when n == 0.
	buffer *[bufferSize]byte
	n      int
	// size is how much is written at once, quick how many writes there have been since the
	// last that took long.
	size, quick int
	// unflushed says that the connection has been given something since its last flush.
	unflushed bool
	// compressed says that the response is to be compressed, if it is none of an error. member is
	// there from then on when it has begun. Of what the handler writes during Instead, silent, only
	// the number of bytes is taken, counted.
	compressed bool
	member     *deflate.Member
	silent     bool
	counted    int
	// err is the connection's error, or errReturned once the handler has returned and w
	// must not be touched. Whatever is written after it gets it too.
	err error
}

var (
	_ http.Flusher                         = (*Stream)(nil)
	_ responsewriter.UserProvidedDecorator = (*Stream)(nil)
)

type contextKey struct{}

// Handler gives every watch request that goes to next a Stream. It has to stand
// innermost, so that nothing between it and the API handlers holds bytes back. With compressing,
// producers may have a response compressed by its Stream.
func Handler(next http.Handler, compressing bool) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		info, ok := request.RequestInfoFrom(req.Context())
		if !ok || !info.IsResourceRequest || info.Verb != "watch" {
			next.ServeHTTP(w, req)
			return
		}
		s := &Stream{w: w, asked: req.Header, unflushed: true, size: firstSize}
		req = req.WithContext(context.WithValue(req.Context(), contextKey{}, s))
		if compressing && !wsstream.IsWebSocketRequest(req) &&
			responsewriters.ContentEncodingSupported(req, features.WatchListCompression) == "gzip" {
			req.Header = req.Header.Clone()
			s.req, s.asked = req, req.Header
		}
		var later, whole bool
		defer func() {
			if !later {
				s.close(whole)
			}
		}()
		next.ServeHTTP(hijackable(responsewriter.WrapForHTTP1Or2(s), s), req)
		whole = true
		// With the gate APIServingWithRoutine, next has only left word of what there is to
		// serve, and that is done when all handlers have returned.
		if task := routine.TaskFrom(req.Context()); task != nil && task.Func != nil {
			serve := task.Func
			task.Func = func() {
				served := false
				defer func() { s.close(served) }()
				serve()
				served = true
			}
			later = true
		}
	})
}

// From returns the Stream of the request that ctx belongs to, or nil: a nil
// *Stream's Busy and Idle do nothing.
func From(ctx context.Context) *Stream {
	s, _ := ctx.Value(contextKey{}).(*Stream)
	return s
}

// Compress has the response compressed here if the client accepts that and upstream would, and
// tells whether it is. The request's handler calls it, for a watch list, before it begins the
// response: it then finds a request whose client accepts no compression.
func (s *Stream) Compress() bool {
	if s == nil || s.req == nil {
		return false
	}
	s.req.Header.Del("Accept-Encoding")
	s.mu.Lock()
	defer s.mu.Unlock()
	s.compressed = true
	return true
}

// Asked returns the header of the request. It must not be changed.
func (s *Stream) Asked() http.Header { return s.asked }

// Instead sends a segment in place of what write has the handler write, of which only the size is
// looked at, as the proof that it is what the segment stands for: size bytes. emit writes the
// segment's plain bytes, which it has to if they do not compress. The response has to be one that
// is compressed. After an error, which may be the connection's, the stream takes nothing more.
func (s *Stream) Instead(segment *deflate.Segment, emit func(io.Writer) error, size int, write func() error) error {
	if err := s.send(segment, emit); err != nil {
		return err
	}
	err := write()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.silent = false; s.err == nil && err == nil && s.counted != size {
		s.err = fmt.Errorf("a compressed event of %d bytes stands for one that was written as %d", size, s.counted)
	}
	if err == nil {
		err = s.err
	}
	return err
}

func (s *Stream) send(segment *deflate.Segment, emit func(io.Writer) error) (err error) {
	defer s.settle()
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.err != nil:
		return s.err
	case s.member == nil:
		return errors.New("a compressed event on a stream that is not compressed")
	}
	s.unflushed = true
	if segment.Stored() {
		err = s.member.Store(segment, emit)
	} else {
		err = s.member.Add(segment)
	}
	if s.err == nil {
		s.err = err // a part of it may have been sent
	}
	s.silent, s.counted = true, 0
	return err
}

// Busy says that the producer has, or is about to look for, more to send. Until
// Idle, flushes are held back. It does not block.
func (s *Stream) Busy() {
	if s == nil {
		return
	}
	s.produced.Store(true)
	s.busy.Store(true)
}

// Idle says that the producer has handed over all that there is. What has been
// written is sent now, and what the handler still writes when it flushes. It blocks only if
// it is this call that sends, and the connection does not take it.
func (s *Stream) Idle() {
	if s == nil {
		return
	}
	s.busy.Store(false)
	s.idle.Store(true)
	s.settle()
}

// settle sends what has been gathered if the producer is idle. If somebody else has the
// stream, he does so afterwards.
func (s *Stream) settle() {
	for s.idle.Load() && s.mu.TryLock() {
		s.idle.Store(false)
		s.sendGathered()
	}
}

// sendGathered needs mu, and unlocks it.
func (s *Stream) sendGathered() {
	defer s.mu.Unlock()
	if s.gathered() && !s.busy.Load() {
		s.flush()
	}
}

// gathered tells whether there is something that has not been written to the connection.
func (s *Stream) gathered() bool { return s.n > 0 || s.member != nil && s.member.Pending() }

// Progress returns a number that grows whenever the connection takes something.
func (s *Stream) Progress() int64 {
	if s == nil {
		return 0
	}
	return s.progress.Load()
}

// Header implements http.ResponseWriter.
func (s *Stream) Header() http.Header { return s.w.Header() }

// WriteHeader implements http.ResponseWriter.
func (s *Stream) WriteHeader(status int) {
	defer s.settle()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.unflushed = true
	if s.compressed && status == http.StatusOK {
		s.w.Header().Set("Content-Encoding", "gzip")
		s.w.Header().Add("Vary", "Accept-Encoding")
		s.member = deflate.NewMember(gathering{s})
	}
	s.w.WriteHeader(status)
}

// Unwrap implements responsewriter.UserProvidedDecorator.
func (s *Stream) Unwrap() http.ResponseWriter { return s.w }

// Write implements http.ResponseWriter. What it takes may be sent later; an error
// of the connection is returned by the next call at the latest.
func (s *Stream) Write(p []byte) (int, error) {
	defer s.settle()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return 0, s.err
	}
	s.unflushed = true
	switch {
	case s.silent:
		s.counted += len(p)
		return len(p), nil
	case s.member != nil:
		return s.member.Write(p)
	case !s.produced.Load() || len(p) == 0:
		var n int
		n, s.err = s.w.Write(p)
		return n, s.err
	default:
		return gathering{s}.Write(p)
	}
}

// gathering is a Stream behind the compression. It needs mu.
type gathering struct{ s *Stream }

// Write implements io.Writer.
func (g gathering) Write(p []byte) (int, error) {
	s := g.s
	if s.member != nil && s.n > 0 && s.n < firstSize && len(p) >= bufferSize-firstSize && s.n+len(p) >= bufferSize {
		// The little that is there goes out in one frame with the beginning of p, and the rest of p is not copied.
		n := copy(s.buffer[s.n:firstSize], p)
		s.n += n
		if err := s.drain(); err != nil {
			return 0, err
		}
		rest, err := s.write(p[n:])
		return n + rest, err
	}
	if s.n+len(p) > bufferSize {
		if err := s.drain(); err != nil {
			return 0, err
		}
		if len(p) >= bufferSize {
			return s.write(p)
		}
	}
	if s.buffer == nil {
		s.buffer = buffers.Get().(*[bufferSize]byte)
		ledger.Process.Add(ledger.Streams, bufferSize)
	}
	s.n += copy(s.buffer[s.n:], p)
	return len(p), nil
}

// Flush implements http.Flusher.
func (s *Stream) Flush() {
	defer s.settle()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gathered() && s.busy.Load() {
		return
	}
	s.flush()
}

// flush sends everything. An error shows at the next Write.
func (s *Stream) flush() {
	if s.member != nil && s.err == nil {
		s.note(s.member.Flush())
	}
	if s.drain() != nil || s.produced.Load() && !s.unflushed {
		return
	}
	s.unflushed = false
	if f, ok := s.w.(http.Flusher); ok {
		f.Flush()
	}
}

// drain writes what has been gathered and gives the buffer back.
func (s *Stream) drain() error {
	if s.n > 0 && s.err == nil {
		_, _ = s.write(s.buffer[:s.n]) // which notes the error
	}
	s.n = 0
	if s.buffer != nil {
		buffers.Put(s.buffer)
		s.buffer = nil
		ledger.Process.Add(ledger.Streams, -bufferSize)
	}
	return s.err
}

// write writes p to the connection, what is large in pieces, so that Progress shows that the
// connection takes something.
func (s *Stream) write(p []byte) (int, error) {
	done := 0
	for done < len(p) && s.err == nil {
		began := time.Now()
		var n int
		n, s.err = s.w.Write(p[done:min(len(p), done+s.size)])
		switch {
		case time.Since(began) > slowWrite:
			s.size, s.quick = slowSize, 0
		case s.quick < quickWrites:
			s.quick++
		default:
			s.size = bufferSize
		}
		s.progress.Add(int64(n))
		done += n
	}
	return done, s.err
}

// note remembers the first error.
func (s *Stream) note(err error) {
	if s.err == nil {
		s.err = err
	}
}

// close ends the response; whole says that its handler has returned as it should.
func (s *Stream) close(whole bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.member != nil {
		if whole && s.err == nil {
			s.note(s.member.Close())
		}
		s.member.Discard()
	}
	if s.drain() == nil { // the server notices a broken connection itself
		s.err = errReturned
	}
}
