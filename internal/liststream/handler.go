// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package liststream

import (
	"context"
	"errors"
	"mime"
	"net/http"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	auditinternal "k8s.io/apiserver/pkg/apis/audit"
	"k8s.io/apiserver/pkg/audit"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/endpoints/responsewriter"

	"github.com/weir-project/weir/internal/frame"
	"github.com/weir-project/weir/internal/wire"
)

// Plan is a list as the storage knows it.
type Plan struct {
	// Each calls yield for each object of the list, in order, until yield returns an
	// error, and returns that error. It may be called more than once, and says the same
	// each time.
	Each func(yield func(*frame.Frame) error) error
}

// Encoders returns an encoder of a format into an API version, or nil if there is
// none. It is asked where a list is served in another version or format than the one
// that its objects are kept in.
type Encoders func(format wire.Format, version schema.GroupVersion) runtime.Encoder

// Answer is the response of one list request. It belongs to the request's goroutine.
type Answer struct {
	w    http.ResponseWriter
	plan *Plan
	// status and body are what the handler made of a list without items.
	status int
	body   []byte
}

var (
	_ http.Flusher                         = (*Answer)(nil)
	_ responsewriter.UserProvidedDecorator = (*Answer)(nil)
)

type contextKey struct{}

// From returns the Answer of the list request that ctx belongs to, or nil if it is to
// be answered the ordinary way.
func From(ctx context.Context) *Answer {
	a, _ := ctx.Value(contextKey{}).(*Answer)
	return a
}

// Take hands over the plan of the list, of which the caller then returns the metadata
// only. It must be called before anything is written, and takes one plan.
func (a *Answer) Take(p Plan) { a.plan = &p }

// Taken tells whether a plan has been taken.
func (a *Answer) Taken() bool { return a.plan != nil }

// Handler answers lists in place where that can be done. It has to stand innermost.
func Handler(next http.Handler, encoders Encoders) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if !eligible(req) {
			next.ServeHTTP(w, req)
			return
		}
		before := w.Header().Clone()
		a := &Answer{w: w}
		next.ServeHTTP(responsewriter.WrapForHTTP1Or2(a), req.WithContext(context.WithValue(req.Context(), contextKey{}, a)))
		if a.plan == nil {
			return
		}
		if a.status != http.StatusOK {
			w.WriteHeader(a.status)
			_, _ = w.Write(a.body) // the server notices a broken connection itself
			return
		}
		started, err := a.stream(req, encoders)
		switch {
		case errors.Is(err, wire.ErrNotSpliced):
			clear(w.Header())
			for name, values := range before {
				w.Header()[name] = values
			}
			next.ServeHTTP(w, req)
		case err != nil && started:
			// Half a list must not look like a whole one.
			utilruntime.HandleErrorWithContext(req.Context(), err, "Ending a list in the middle", "path", req.URL.Path)
			panic(http.ErrAbortHandler)
		case err != nil:
			utilruntime.HandleErrorWithContext(req.Context(), err, "Answering a list", "path", req.URL.Path)
			http.Error(w, err.Error(), http.StatusInternalServerError)
		}
	})
}

// eligible tells whether a list can be answered in place, as far as the request shows.
// What it lets through may still turn out not to; see Handler.
func eligible(req *http.Request) bool {
	info, ok := request.RequestInfoFrom(req.Context())
	if !ok || !info.IsResourceRequest || info.Verb != "list" || info.Subresource != "" || req.Method != http.MethodGet {
		return false
	}
	if ac := audit.AuditContextFrom(req.Context()); ac != nil && ac.GetEventLevel().GreaterOrEqual(auditinternal.LevelRequestResponse) {
		return false
	}
	return !pretty(req) && plain(req.Header.Get("Accept"))
}

// plain tells whether an Accept header can only lead to JSON or protobuf of the
// resource itself.
func plain(accept string) bool {
	for clause := range strings.SplitSeq(accept, ",") {
		if clause = strings.TrimSpace(clause); clause == "" {
			continue
		}
		mediaType, params, err := mime.ParseMediaType(clause)
		if err != nil || params["as"] != "" {
			return false
		}
		switch mediaType {
		case runtime.ContentTypeJSON, runtime.ContentTypeProtobuf, "*/*", "application/*":
		default:
			return false
		}
	}
	return true
}

// pretty mirrors isPrettyPrint of k8s.io/apiserver/pkg/endpoints/handlers/negotiation.
func pretty(req *http.Request) bool {
	if asked := req.URL.Query().Get("pretty"); asked != "" {
		yes, _ := strconv.ParseBool(asked)
		return yes
	}
	for _, agent := range []string{"curl", "Wget", "Mozilla/5.0"} {
		if strings.HasPrefix(req.UserAgent(), agent) {
			return true
		}
	}
	return false
}

// Header implements http.ResponseWriter.
func (a *Answer) Header() http.Header { return a.w.Header() }

// WriteHeader implements http.ResponseWriter.
func (a *Answer) WriteHeader(status int) {
	if a.plan == nil {
		a.w.WriteHeader(status)
		return
	}
	a.status = status
}

// Write implements http.ResponseWriter.
func (a *Answer) Write(p []byte) (int, error) {
	if a.plan == nil {
		return a.w.Write(p)
	}
	if a.status == 0 {
		a.status = http.StatusOK
	}
	a.body = append(a.body, p...)
	return len(p), nil
}

// Flush implements http.Flusher.
func (a *Answer) Flush() {
	if f, ok := a.w.(http.Flusher); ok && a.plan == nil {
		f.Flush()
	}
}

// Unwrap implements responsewriter.UserProvidedDecorator.
func (a *Answer) Unwrap() http.ResponseWriter { return a.w }
