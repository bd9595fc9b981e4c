// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package liststream

import (
	"context"
	"errors"
	"net/http"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	auditinternal "k8s.io/apiserver/pkg/apis/audit"
	"k8s.io/apiserver/pkg/audit"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/endpoints/responsewriter"
	"k8s.io/apiserver/pkg/registry/rest"

	"github.com/weir-project/weir/internal/frame"
	"github.com/weir-project/weir/internal/wire"
)

// Plan is a list as the storage knows it.
type Plan struct {
	// Each calls yield for each object of the list, in order, until yield returns an
	// error, and returns that error. It may be called more than once, and says the same
	// each time. It keeps the state alive that it reads.
	Each func(yield func(*frame.Frame) error) error
	// Messages is the sum of the objects' MessageSize, 0 if it is not known.
	Messages int
}

var errEnough = errors.New("the first object is enough")

// first returns the first object, nil if there is none.
func (p *Plan) first() (first *frame.Frame, err error) {
	err = p.Each(func(f *frame.Frame) error {
		first = f
		return errEnough
	})
	if first != nil {
		return first, nil
	}
	return nil, err
}

// Types is what has to be known of the types that are listed.
type Types interface {
	// Encoder returns an encoder of a format into an API version, or nil if there is none.
	// It is asked where a list is served in another version or format than the one that
	// its objects are kept in.
	Encoder(format wire.Format, version schema.GroupVersion) runtime.Encoder
	// Convert returns obj, which may be changed, in an API version. A custom resource is
	// in its version already.
	Convert(obj runtime.Object, version schema.GroupVersion) (runtime.Object, error)
	// Error answers a request with an error.
	Error(err error, w http.ResponseWriter, req *http.Request)
	// Tables returns the convertors that upstream may use for the rows of the resource
	// that info names, of which obj is one.
	Tables(info *request.RequestInfo, obj runtime.Object) []Table
}

// Table is a convertor under a name that two share only if they make equal rows.
type Table struct {
	ID string
	rest.TableConvertor
}

// Answer is the response of one list request. It belongs to the request's goroutine.
type Answer struct {
	w     http.ResponseWriter
	req   *http.Request
	types Types
	hold  func() (release func())
	plan  *Plan
	// release ends the hold of the heap, nil if there is none.
	release func()
	// status and body are what the handler made of a list without items.
	status int
	body   []byte
	// told is how many bytes the handler has been told that it has written.
	told int
	// state is how far the answer is.
	state state
	// ended says of a broken answer that the filter which times requests out has ended the
	// response.
	ended bool
}

type state uint8

const (
	// collecting: the handler's answer is being gathered, or goes through if there is no
	// plan.
	collecting state = iota
	// streamed: the list has been sent.
	streamed
	// broken: a part of the list has been sent, and the rest will not be.
	broken
	// whole: it cannot be answered in place; nothing has been sent.
	whole
)

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

// Take hands over the plan of a list of the resource, of which the caller then returns
// the metadata only. It is false if the list is to be returned whole: it is not the one
// that the request is about, or not the first.
func (a *Answer) Take(resource schema.GroupResource, p Plan) bool {
	if a == nil || a.plan != nil {
		return false
	}
	info, _ := request.RequestInfoFrom(a.req.Context())
	if info == nil || info.APIGroup != resource.Group || info.Resource != resource.Resource {
		return false
	}
	a.plan = &p
	return true
}

// Handler answers lists in place where that can be done. It has to stand innermost. hold is
// called by a list that makes much garbage, and what it returns when that list ends.
func Handler(next http.Handler, types Types, hold func() (release func())) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		info, ok := request.RequestInfoFrom(req.Context())
		if !ok || req.Method != http.MethodGet || !Eligible(req.Context(), info) {
			next.ServeHTTP(w, req)
			return
		}
		a := &Answer{w: w, req: req, types: types, hold: hold}
		next.ServeHTTP(responsewriter.WrapForHTTP1Or2(a), req.WithContext(context.WithValue(req.Context(), contextKey{}, a)))
		if a.plan == nil {
			return
		}
		if a.state == collecting {
			a.finish()
		}
		switch a.state {
		case broken:
			// Half a list must not look like a whole one.
			if !a.ended {
				panic(http.ErrAbortHandler)
			}
		case whole:
			next.ServeHTTP(w, req) // sets the headers again that it has set
		}
	})
}

// printedWhole are the resources whose Tables are made of all objects at once, so that a
// row depends on the others (k8s.io/kubernetes/pkg/printers/internalversion). There are
// never many.
var printedWhole = map[schema.GroupResource]bool{
	{Group: "flowcontrol.apiserver.k8s.io", Resource: "flowschemas"}: true, // sorted by precedence
	{Group: "storage.k8s.io", Resource: "storageclasses"}:            true, // one is the default
}

// Eligible tells whether a request is a list that can be answered in place, as far as the
// request shows. What it lets through may still turn out not to.
func Eligible(ctx context.Context, info *request.RequestInfo) bool {
	if !info.IsResourceRequest || info.Verb != "list" || info.Subresource != "" ||
		printedWhole[schema.GroupResource{Group: info.APIGroup, Resource: info.Resource}] {
		return false
	}
	// At response level the audit log has the whole list.
	ac := audit.AuditContextFrom(ctx)
	return ac == nil || !ac.GetEventLevel().GreaterOrEqual(auditinternal.LevelRequestResponse)
}

// finish sends what the handler has left: an error as it is, or the list whose end was not
// recognized before.
func (a *Answer) finish() {
	if a.status == 0 {
		return // nothing has been written: the handler has been told to end
	}
	if a.status != http.StatusOK {
		a.state = streamed
		a.w.WriteHeader(a.status)
		_, _ = a.w.Write(a.body) // the server notices a broken connection itself
		return
	}
	_, _ = a.stream() // Handler ends what is broken
}

// stream sends the list. It returns how many bytes have gone out.
func (a *Answer) stream() (int, error) {
	sent, started, err := a.send()
	ctx := a.req.Context()
	switch {
	case err == nil:
		a.state = streamed
	case errors.Is(err, wire.ErrNotSpliced) && !started:
		a.state = whole
		return sent, nil
	case started || ctx.Err() != nil:
		a.state = broken
		if ctx.Err() == nil {
			utilruntime.HandleErrorWithContext(ctx, err, "Ending a list in the middle", "path", a.req.URL.Path)
		} else if started {
			_, err := a.w.Write(nil)
			a.ended = errors.Is(err, http.ErrHandlerTimeout)
		}
	default:
		// Nothing has gone out: it is an error like any other.
		utilruntime.HandleErrorWithContext(ctx, err, "Answering a list", "path", a.req.URL.Path)
		a.state = streamed
		a.types.Error(err, a.w, a.req)
	}
	a.body = nil
	return sent, err
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

// Write implements http.ResponseWriter. With the last byte of a list without items it
// sends the list, and returns what that took: more than it was given. Upstream's
// instrumentation of a request adds those numbers up to the size of the response, and
// takes its time when the handler returns. Nobody else looks at them but the encoder of
// CBOR, which takes offence.
func (a *Answer) Write(p []byte) (int, error) {
	if a.plan == nil {
		return a.w.Write(p)
	}
	switch a.state {
	case broken:
		return 0, http.ErrAbortHandler
	case streamed, whole:
		return len(p), nil
	}
	if a.status == 0 {
		a.status = http.StatusOK
	}
	a.body = append(a.body, p...)
	format := a.format()
	if a.status != http.StatusOK || !complete(format, a.body) {
		a.told += len(p)
		return len(p), nil
	}
	sent, err := a.stream()
	if err != nil {
		return 0, err
	}
	if format == wire.ListCBOR {
		return len(p), nil
	}
	return max(len(p), sent-a.told), nil
}

// Flush implements http.Flusher.
func (a *Answer) Flush() {
	if f, ok := a.w.(http.Flusher); ok && a.plan == nil {
		f.Flush()
	}
}

// Unwrap implements responsewriter.UserProvidedDecorator.
func (a *Answer) Unwrap() http.ResponseWriter { return a.w }
