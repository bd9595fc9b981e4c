// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"net/http"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/storage"

	"github.com/weir-project/weir/internal/budget"
	"github.com/weir-project/weir/internal/liststream"
	"github.com/weir-project/weir/internal/watchcache"
)

// What requests hold, in bytes, and in multiples of what the objects are that they are about, as
// those are kept. test/limited measures it.
const (
	// bare is what any request takes: its stack, the connection's buffers. streamed is one whose answer streams:
	// what is gathered, and what is compressed.
	bare     = 16 << 10
	streamed = 320 << 10
	// derivedTimes is an object that is sent in another form than the kept one, while it is made and
	// sent, and printedTimes one that is decoded for a row of a Table.
	derivedTimes = 3
	printedTimes = 8
	// decodedTimes is an object of a list that is decoded first and then sent, customTimes the same of
	// a custom resource; fromEtcd comes on top if etcd has sent it.
	decodedTimes = 4
	customTimes  = 10
	fromEtcd     = 1
	// writtenTimes is what a client sends to be written, and replacedTimes what that changes or deletes; customWrites is how
	// many times as much either is for a custom resource. Some of it is for webhooks, which are sent both.
	writtenTimes  = 6
	replacedTimes = 4
	customWrites  = 2
	// unknown is a list of a resource whose cache is not ready, and which has not been counted yet.
	unknown = 64 << 20
	// sizeUnknown is taken for an object of a resource without a cache. What is large there is underestimated.
	sizeUnknown = 8 << 10
	// namespaceUnknown is taken, at most, for a namespace of a resource without a cache: of how much of the resource is in it
	// nothing is known, and the namespace controller has to list each, and to delete from each, in every namespace that
	// is deleted. So much is let in however little there is (budget.ErrTooLarge).
	namespaceUnknown = 32 << 20 / (customTimes + fromEtcd)
	// bodyUnknown is taken for what is sent without saying how long it is: as long as a body may be
	// (genericapiserver.Config.MaxRequestBodyBytes).
	bodyUnknown = 3 << 20
	// openAPI is a document that describes the API, while it is made anew and sent, and openAPIProtobuf one in protobuf, which upstream makes
	// of all of its JSON at once: 14 times as much as the document was measured. Many large definitions take more.
	openAPI         = 8 << 20
	openAPIProtobuf = 64 << 20
)

// costs knows what requests hold while they are answered.
type costs struct {
	caches *watchcache.Caches
	// count tells of resources without a cache how many objects there are.
	count func(groupResource string) (storage.Stats, error)
	// streaming says that lists are answered in place.
	streaming bool
}

// essential are resources by which a cluster lives: nodes say that they are there, leaders that they lead, and
// others ask whether somebody may do something.
var essential = map[schema.GroupResource]bool{
	{Group: "coordination.k8s.io", Resource: "leases"}:                     true,
	{Group: "authentication.k8s.io", Resource: "tokenreviews"}:             true,
	{Group: "authorization.k8s.io", Resource: "subjectaccessreviews"}:      true,
	{Group: "authorization.k8s.io", Resource: "selfsubjectaccessreviews"}:  true,
	{Group: "authorization.k8s.io", Resource: "localsubjectaccessreviews"}: true,
}

// of estimates what a request holds. whole says that it is a list that turned out not to stream.
func (c costs) of(req *http.Request, info *request.RequestInfo, whole bool) budget.Request {
	u, _ := request.UserFrom(req.Context())
	r := budget.Request{Bytes: bare}
	switch {
	case info.IsResourceRequest:
		r.Bytes += c.resource(req, info, whole)
	case strings.HasPrefix(info.Path, "/openapi/"):
		r.Bytes += openAPI
		if strings.Contains(req.Header.Get("Accept"), "protobuf") {
			r.Bytes += openAPIProtobuf
		}
	default:
		r.Kind = budget.Essential // health, metrics, profiles, discovery
	}
	switch {
	case u != nil && u.GetName() == user.APIServerUser:
		r.Kind = budget.Essential // the server itself, which is not ready without
	case !info.IsResourceRequest:
	case info.Verb == "watch":
		r.Kind = budget.Lasting
	case r.Bytes > budget.Small || info.Verb == "list" || info.Verb == "deletecollection":
	case essential[schema.GroupResource{Group: info.APIGroup, Resource: info.Resource}],
		info.APIGroup == "" && info.Resource == "nodes" && (info.Subresource == "status" || info.Verb == "get"):
		r.Kind = budget.Essential
	}
	return r
}

// resource is what a request for objects holds beside what any does.
func (c costs) resource(req *http.Request, info *request.RequestInfo, whole bool) int64 {
	cache := c.caches.Of(schema.GroupResource{Group: info.APIGroup, Resource: info.Resource})
	switch info.Verb {
	case "watch":
		// Its objects are written one by one.
		return streamed + c.form(req, info)*c.average(cache, info)
	case "list":
		return c.list(req, info, cache, whole)
	case "get":
		return (c.decoded(info) + fromEtcd) * c.object(cache, info)
	case "deletecollection":
		return c.decoded(info) * c.collection(cache, info, pageOfDeletion(req))
	case "create", "update", "patch", "apply", "delete":
		body := req.ContentLength
		if body < 0 {
			body = bodyUnknown
		}
		was := int64(0)
		if info.Verb != "create" {
			was = c.object(cache, info)
		}
		held := writtenTimes*body + replacedTimes*was
		if custom(info) {
			held *= customWrites
		}
		return held
	default:
		return streamed
	}
}

// pageOfDeletion is how many objects a deletion of a collection reads at once, at most; see deleteCollectionPageSize of
// k8s.io/apiserver/pkg/registry/generic/registry.
func pageOfDeletion(req *http.Request) int64 {
	const page = 10_000
	query := req.URL.Query()
	var opts metav1.ListOptions
	if err := metav1.Convert_url_Values_To_v1_ListOptions(&query, &opts, nil); err != nil || opts.Limit <= 0 {
		return page
	}
	return min(opts.Limit, page)
}

func (c costs) list(req *http.Request, info *request.RequestInfo, cache *watchcache.Cache, whole bool) int64 {
	query := req.URL.Query()
	var opts metav1.ListOptions
	if err := metav1.Convert_url_Values_To_v1_ListOptions(&query, &opts, nil); err != nil {
		return 0 // it is refused for that
	}
	most := int64(0)
	if opts.ResourceVersion != "0" {
		most = opts.Limit
	}
	cached := cache != nil && cache.Ready() && cache.Answers(opts)
	switch {
	case cached && c.streaming && !whole && liststream.Eligible(req.Context(), info):
		_, bytes := cache.DefaultedOnRead()
		return streamed + c.form(req, info)*c.average(cache, info) + c.decoded(info)*bytes
	case info.Name != "":
		return streamed + (c.decoded(info)+fromEtcd)*c.object(cache, info)
	case cached:
		return streamed + c.decoded(info)*c.collection(cache, info, most)
	default:
		return streamed + (c.decoded(info)+fromEtcd)*c.collection(cache, info, most)
	}
}

// form is how many times an object is there that is written in the form which the client accepts.
func (costs) form(req *http.Request, info *request.RequestInfo) int64 {
	accepted := req.Header.Get("Accept")
	switch {
	case strings.Contains(accepted, "as=Table"):
		return printedTimes
	case strings.HasPrefix(accepted, runtime.ContentTypeProtobuf) && !strings.Contains(accepted, "as=") && !custom(info):
		return 0 // as it is kept
	default:
		return derivedTimes
	}
}

func (costs) decoded(info *request.RequestInfo) int64 {
	if custom(info) {
		return customTimes
	}
	return decodedTimes
}

// custom tells whether the resource is none that is built in.
func custom(info *request.RequestInfo) bool {
	for _, s := range schemes {
		if s.IsGroupRegistered(info.APIGroup) {
			return false
		}
	}
	return true
}

// object is the size of the object that a request names.
func (c costs) object(cache *watchcache.Cache, info *request.RequestInfo) int64 {
	if cache != nil && info.Name != "" {
		name := info.Name
		if info.Namespace != "" && info.Resource != "namespaces" {
			name = info.Namespace + "/" + name
		}
		if f := cache.Peek(name); f != nil {
			return f.Size()
		}
		if cache.Ready() && info.Verb != "list" { // which may be of all namespaces
			return 0
		}
	}
	return c.average(cache, info)
}

// average is the size of an object of the resource.
func (c costs) average(cache *watchcache.Cache, info *request.RequestInfo) int64 {
	objects, bytes := c.all(cache, info)
	if objects == 0 {
		return 0
	}
	return bytes / objects
}

// collection is the size of the objects that a request is about, of which it reads at most so many at once, if that is not 0.
func (c costs) collection(cache *watchcache.Cache, info *request.RequestInfo, most int64) int64 {
	var objects, bytes int64
	if cache != nil && cache.Ready() && info.Namespace != "" {
		n, size := cache.SizeIn(info.Namespace)
		objects, bytes = int64(n), size
	} else {
		objects, bytes = c.all(cache, info)
		if cache == nil && info.Namespace != "" {
			bytes = min(bytes, namespaceUnknown)
		}
	}
	if most > 0 && objects > most {
		return bytes / objects * most
	}
	return bytes
}

// all is how many objects the resource has, and how many bytes they are: none if that is not known, as of a resource of another
// server.
func (c costs) all(cache *watchcache.Cache, info *request.RequestInfo) (objects, bytes int64) {
	if cache != nil && cache.Ready() {
		n, size := cache.Size()
		return int64(n), size
	}
	resource := schema.GroupResource{Group: info.APIGroup, Resource: info.Resource}
	stats, err := c.count(resource.String())
	switch {
	case err != nil && cache != nil:
		return 1000, unknown / decodedTimes
	case err != nil:
		return 0, 0
	}
	size := stats.EstimatedAverageObjectSizeBytes
	if size <= 0 {
		size = sizeUnknown // without a cache, upstream counts objects only
	}
	return stats.ObjectCount, stats.ObjectCount * size
}
