// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package coalesce

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/endpoints/responsewriter"
	"k8s.io/apiserver/pkg/server/routine"

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
// innermost, so that nothing between it and the API handlers holds bytes back.
func Handler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		info, ok := request.RequestInfoFrom(req.Context())
		if !ok || !info.IsResourceRequest || info.Verb != "watch" {
			next.ServeHTTP(w, req)
			return
		}
		s := &Stream{w: w, unflushed: true, size: firstSize}
		var later bool
		defer func() {
			if !later {
				s.close()
			}
		}()
		next.ServeHTTP(hijackable(responsewriter.WrapForHTTP1Or2(s), s), req.WithContext(context.WithValue(req.Context(), contextKey{}, s)))
		// With the gate APIServingWithRoutine, next has only left word of what there is to
		// serve, and that is done when all handlers have returned.
		if task := routine.TaskFrom(req.Context()); task != nil && task.Func != nil {
			serve := task.Func
			task.Func = func() {
				defer s.close()
				serve()
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
	if s.n > 0 && !s.busy.Load() {
		s.flush()
	}
}

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
	if !s.produced.Load() || len(p) == 0 {
		var n int
		n, s.err = s.w.Write(p)
		return n, s.err
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
	if s.n > 0 && s.busy.Load() {
		return
	}
	s.flush()
}

// flush sends everything. An error shows at the next Write.
func (s *Stream) flush() {
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

func (s *Stream) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.drain() == nil { // the server notices a broken connection itself
		s.err = errReturned
	}
}
