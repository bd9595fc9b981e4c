// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package usage

import (
	"context"
	"net/http"
	"slices"
	"strings"

	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/endpoints/responsewriter"
	"k8s.io/apiserver/pkg/server/routine"
)

// Request is a list or watch that is being counted. Its methods may be called on nil.
type Request struct {
	account  *account
	registry *Registry
	kind     Kind
	// streamed says of a list that it was answered from encoded objects. It belongs to the handler.
	streamed bool
}

type contextKey struct{}

// From returns the list or watch request that ctx belongs to, or nil.
func From(ctx context.Context) *Request {
	r, _ := ctx.Value(contextKey{}).(*Request)
	return r
}

// SetStreamed says of a list whether it is answered from encoded objects. It is for the request's goroutine, before its
// handler returns; the last call counts.
func (r *Request) SetStreamed(streamed bool) {
	if r != nil {
		r.streamed = streamed
	}
}

// Client returns the names under which the request is counted.
func (r *Request) Client() (user, userAgent string) {
	if r == nil {
		return "", ""
	}
	return r.account.name.user, r.account.name.agent
}

// Handler counts the requests that go to next. It has to stand behind authentication. seats returns how many seats of flow
// control a request has taken.
func (r *Registry) Handler(next http.Handler, seats func(context.Context) uint64) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		a := r.enter(nameOf(req))
		kind := kindOf(req)
		a.requests[kind].Add(1)
		if kind == Other {
			defer a.leave()
			next.ServeHTTP(w, req)
			return
		}
		counted := &Request{account: a, registry: r, kind: kind}
		counted.begin(seats(req.Context()))
		later := false
		defer func() {
			if !later {
				counted.end(w.Header())
			}
		}()
		next.ServeHTTP(responsewriter.WrapForHTTP1Or2(&writer{w, &a.bytes}), req.WithContext(context.WithValue(req.Context(), contextKey{}, counted)))
		// With the gate APIServingWithRoutine a watch is served when all handlers have returned.
		if task := routine.TaskFrom(req.Context()); task != nil && task.Func != nil {
			serve := task.Func
			task.Func = func() {
				defer counted.end(w.Header())
				serve()
			}
			later = true
		}
	})
}

func (r *Request) begin(seats uint64) {
	r.account.seats.Add(int64(seats))
	if r.kind != List {
		r.account.watching.Add(1)
		r.registry.watching.Add(1)
	}
}

func (r *Request) end(header http.Header) {
	switch {
	case r.kind != List:
		r.account.watching.Add(-1)
		r.registry.watching.Add(-1)
	case r.streamed:
		r.account.streamed.Add(1)
	default:
		r.account.decoded.Add(1)
	}
	if header.Get("Content-Encoding") != "" {
		r.account.compressed.Add(1)
	}
	r.account.leave()
}

func kindOf(req *http.Request) Kind {
	info, ok := request.RequestInfoFrom(req.Context())
	switch {
	case !ok || !info.IsResourceRequest:
		return Other
	case info.Verb == "list":
		return List
	case info.Verb != "watch":
		return Other
	case strings.Contains(req.URL.RawQuery, "sendInitialEvents=true"):
		return WatchList
	default:
		return Watch
	}
}

// nameOf returns who has sent a request. Nodes are one name: thousands of them would leave no room for anybody else.
func nameOf(req *http.Request) name {
	n := name{agent: short(req.UserAgent())}
	if u, ok := request.UserFrom(req.Context()); ok {
		n.user = short(u.GetName())
		if strings.HasPrefix(n.user, "system:node:") && slices.Contains(u.GetGroups(), user.NodesGroup) {
			n.user = "system:node:*"
		}
	}
	return n
}

// writer counts what goes through it.
type writer struct {
	http.ResponseWriter
	bytes interface{ Add(int64) int64 }
}

var _ responsewriter.UserProvidedDecorator = (*writer)(nil)

// Write implements http.ResponseWriter.
func (w *writer) Write(p []byte) (int, error) {
	n, err := w.ResponseWriter.Write(p)
	w.bytes.Add(int64(n))
	return n, err
}

// Unwrap implements responsewriter.UserProvidedDecorator.
func (w *writer) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// Flush implements http.Flusher.
func (w *writer) Flush() {
	if f, ok := w.ResponseWriter.(http.Flusher); ok {
		f.Flush()
	}
}
