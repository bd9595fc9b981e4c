// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package liststream

import (
	"context"
	"iter"
	"net/http"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	auditinternal "k8s.io/apiserver/pkg/apis/audit"
	"k8s.io/apiserver/pkg/audit"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/endpoints/responsewriter"
	"k8s.io/apiserver/pkg/registry/rest"

	"github.com/weir-project/weir/internal/convoy"
	"github.com/weir-project/weir/internal/frame"
	"github.com/weir-project/weir/internal/wire"
)

// Plan is a list as the storage knows it.
type Plan struct {
	// Frames are the list's objects, in order. It may be gone through more than once, and
	// says the same each time. It keeps the state alive that it reads.
	Frames iter.Seq[*frame.Frame]
	// Done is called when Frames is not gone through any more; nil if nobody wants to know.
	Done func()
	// Count is how many they are, and DefaultedOnRead how many of them are
	// (frame.Frame.DefaultedOnRead): those, and no others, the storage returns as items of
	// its list, in the same order.
	Count, DefaultedOnRead int
	// Join begins a walk that keeps together who reads the same list in a form that has to be made; nil if there is none.
	Join func(form string) *convoy.Walk
	// Messages is the sum of MessageSize of those that are not DefaultedOnRead; 0 if it is
	// not known.
	Messages int
}

// first returns the first object, nil if there is none.
func (p *Plan) first() *frame.Frame {
	for f := range p.Frames {
		return f
	}
	return nil
}

// Types is what has to be known of the types that are listed.
type Types interface {
	// Negotiate negotiates as upstream's handler of the request does: mediaType is what is
	// answered in, and target what the objects are transformed into (a Table, or their
	// metadata), or nil if they are wanted themselves. It is false if the handler will refuse.
	Negotiate(req *http.Request, info *request.RequestInfo) (mediaType string, target *schema.GroupVersionKind, ok bool)
	// Encoder returns an encoder of a format into an API version, or nil if there is none.
	// It is asked where a list is served in another version or format than the one that
	// its objects are kept in.
	Encoder(format wire.Format, version schema.GroupVersion) runtime.Encoder
	// Convert returns obj, which may be changed, in an API version. A custom resource is
	// in its version already.
	Convert(obj runtime.Object, version schema.GroupVersion) (runtime.Object, error)
	// Tables returns the convertors that upstream may use for the rows of the resource
	// that info names, of which obj is one.
	Tables(info *request.RequestInfo, obj runtime.Object) []Table
}

// Table is a convertor under a name that two share only if they make equal rows.
type Table struct {
	ID string
	rest.TableConvertor
}

type contextKey struct{}

type againKey struct{}

// Again tells whether the list request that ctx belongs to has asked the storage before, for a
// list in place that could not be sent. It should count once.
func Again(ctx context.Context) bool { return ctx.Value(againKey{}) != nil }

// From returns the Answer of the list request that ctx belongs to, or nil if it is to
// be answered the ordinary way.
func From(ctx context.Context) *Answer {
	a, _ := ctx.Value(contextKey{}).(*Answer)
	return a
}

// Handler answers lists in place where that can be done. It has to stand innermost. confine
// is called by a list before it makes much garbage, and what it returns when the list does
// not do so any more, or has to wait for its client; both any number of times. With compressing, what is
// compressed is compressed once for everybody who asks for the same.
func Handler(next http.Handler, types Types, confine func() (lift func()), compressing bool) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		info, ok := request.RequestInfoFrom(req.Context())
		if !ok || req.Method != http.MethodGet || !Eligible(req.Context(), info) {
			next.ServeHTTP(w, req)
			return
		}
		a := &Answer{w: w, req: req, info: info, types: types, confine: confine, compressing: compressing}
		if a.serve(next) == inPlace {
			return
		}
		ctx := context.WithValue(req.Context(), againKey{}, true)
		next.ServeHTTP(w, req.WithContext(ctx)) // sets the headers again that it has set
	})
}

// way is how a list is answered.
type way bool

const (
	inPlace way = false
	whole   way = true
)

// serve has next handle the request. It returns whole if it turned out that the list cannot
// be answered in place: nothing has been sent then.
func (a *Answer) serve(next http.Handler) (w way) {
	defer func() {
		if a.plan != nil && a.plan.Done != nil {
			a.plan.Done()
		}
		switch r := recover(); r {
		case nil:
		case errWhole:
			w = whole
		default:
			panic(r)
		}
	}()
	req := a.req.WithContext(context.WithValue(a.req.Context(), contextKey{}, a))
	req.Header = req.Header.Clone()
	a.asked = req.Header
	next.ServeHTTP(responsewriter.WrapForHTTP1Or2(a), req)
	a.finish()
	return inPlace
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
