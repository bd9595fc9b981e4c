// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package liststream

import (
	"errors"
	"net/http"

	"k8s.io/apimachinery/pkg/runtime/schema"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/endpoints/responsewriter"

	"github.com/weir-project/weir/internal/wire"
)

// errWhole is what an Answer panics with inside of upstream's handler when the list cannot be
// answered in place; serve recovers it. A handler that ends in a panic has not been counted
// (MonitorRequest of k8s.io/apiserver/pkg/endpoints/metrics is not deferred), so that the
// list counts once, with the status and in the media type that the ordinary path gives it.
var errWhole = errors.New("the list has to be answered whole")

// Answer gathers what upstream's handler makes of one list request, and with its last byte
// sends the list; see sending. Without a plan all goes through. It belongs to the request's
// goroutine.
type Answer struct {
	w       http.ResponseWriter
	req     *http.Request
	info    *request.RequestInfo
	types   Types
	confine func() (lift func())
	// compressing: see Handler.
	compressing bool
	// asked is the header of the request as upstream's handler has it.
	asked http.Header
	plan  *Plan
	// status and body are what the handler has made of a list with few items or none.
	status int
	body   []byte
	// told is how many bytes the handler has been told that it has written.
	told int
	// end is how the list was sent; nil before that.
	end *end
}

// end is how a list was sent.
type end struct {
	// err is why not all of it was: nil if it was.
	err error
	// gone says that err is that of a Write: the client has left or stalled, or the filter
	// that times requests out has ended the response. Nobody can take what there is of it
	// for a whole list: the connection, or the stream, takes nothing more.
	gone bool
}

var (
	_ http.Flusher                         = (*Answer)(nil)
	_ responsewriter.UserProvidedDecorator = (*Answer)(nil)
)

// Take hands over the plan of a list of the resource. Of its objects the caller then returns
// those that are DefaultedOnRead only, and the list's metadata. It is false if the list is to
// be returned whole: it is not the one that the request is about, or not the first.
func (a *Answer) Take(resource schema.GroupResource, p Plan) bool {
	if a == nil || a.plan != nil || a.info.APIGroup != resource.Group || a.info.Resource != resource.Resource {
		return false
	}
	a.plan = &p
	// What upstream writes has to be read here. It is compressed when it is sent.
	a.asked.Del("Accept-Encoding")
	return true
}

// Taken tells whether the storage has handed over a plan, by which the list is answered in place. False of nil.
func (a *Answer) Taken() bool { return a != nil && a.plan != nil }

// finish sends what the handler has left: an error as it is, or the list whose end was not
// recognized before. It ends the response if a part of the list is all that will come.
func (a *Answer) finish() {
	switch {
	case a.plan == nil:
		return
	case a.end == nil && a.status == http.StatusOK:
		a.send()
	case a.end == nil && a.status != 0:
		a.end = &end{}
		a.w.WriteHeader(a.status)
		_, _ = a.w.Write(a.body) // the server notices a broken connection itself
	}
	if a.end != nil && a.end.err != nil && !a.end.gone {
		panic(http.ErrAbortHandler) // half a list must not look like a whole one
	}
}

// send sends the list, and returns how many bytes have gone out. It panics with errWhole if
// nothing has, and the list is to be answered whole.
func (a *Answer) send() int {
	s, err := newSending(a)
	if err != nil {
		panic(errWhole)
	}
	defer s.close()
	err = s.send()
	a.body = nil
	switch {
	case err == nil || s.out.failed:
		// As with upstream, it is no error of the server's if the client has left.
	case !s.out.started:
		panic(errWhole)
	default:
		utilruntime.HandleErrorWithContext(a.req.Context(), err, "Ending a list in the middle", "path", a.req.URL.Path)
	}
	a.end = &end{err: err, gone: s.out.failed}
	return s.out.sent
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

// Write implements http.ResponseWriter. With the last byte of what upstream makes of the list
// it sends the list, and returns what that took: more than it was given. Upstream's
// instrumentation of a request adds those numbers up to the size of the response, and takes
// its time when the handler returns. Nobody else looks at them but the encoder of CBOR,
// which panics.
func (a *Answer) Write(p []byte) (int, error) {
	switch {
	case a.plan == nil:
		return a.w.Write(p)
	case a.end != nil && a.end.err != nil:
		return 0, a.end.err
	case a.end != nil:
		return len(p), nil
	}
	if a.status == 0 {
		a.status = http.StatusOK
	}
	a.body = append(a.body, p...)
	format := formatOf(a.w.Header(), a.body)
	if a.status != http.StatusOK || !a.complete(format) {
		a.told += len(p)
		return len(p), nil
	}
	sent := a.send()
	if format == wire.ListCBOR {
		return len(p), a.end.err
	}
	return max(0, sent-a.told), a.end.err
}

// Flush implements http.Flusher.
func (a *Answer) Flush() {
	if f, ok := a.w.(http.Flusher); ok && a.plan == nil {
		f.Flush()
	}
}

// Unwrap implements responsewriter.UserProvidedDecorator.
func (a *Answer) Unwrap() http.ResponseWriter { return a.w }
