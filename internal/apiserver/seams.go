// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"fmt"
	"net/http"
	"reflect"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/apimachinery/pkg/util/version"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/registry/generic"
	genericapiserver "k8s.io/apiserver/pkg/server"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/component-base/featuregate"
	"k8s.io/kubernetes/cmd/kube-apiserver/app"
	"k8s.io/utils/clock"

	"github.com/weir-project/weir/internal/budget"
	"github.com/weir-project/weir/internal/coalesce"
	"github.com/weir-project/weir/internal/conversion"
	"github.com/weir-project/weir/internal/finalize"
	"github.com/weir-project/weir/internal/ledger"
	"github.com/weir-project/weir/internal/liststream"
	"github.com/weir-project/weir/internal/ondemand"
	"github.com/weir-project/weir/internal/openapi"
	"github.com/weir-project/weir/internal/pacer"
	"github.com/weir-project/weir/internal/sharedclient"
	"github.com/weir-project/weir/internal/usage"
	"github.com/weir-project/weir/internal/watchcache"
)

const (
	// EncodedWatchCache is the gate of weir's own watch cache. Off, the same binary
	// runs upstream's cacher.
	EncodedWatchCache featuregate.Feature = "EncodedWatchCache"
	// StreamingList is the gate of lists answered in place from that cache; see package
	// liststream. Off, lists are decoded from it and encoded by upstream.
	StreamingList featuregate.Feature = "StreamingList"
	// SharedCompression is the gate of lists and watches whose gzip is made once for everybody; see
	// package deflate. Off, each response is compressed by a writer of its own, as by upstream.
	SharedCompression featuregate.Feature = "SharedCompression"
	// FrameInformers is the gate of the server's own informers that hold frames; see package
	// frameinformer. Off, they hold decoded objects, and read over a connection, as upstream's.
	FrameInformers featuregate.Feature = "FrameInformers"
	// OpenAPIOnDemand is the gate of OpenAPI of custom resources that is made when it is asked for; see package
	// openapi. Off, upstream builds it whenever a definition changes.
	OpenAPIOnDemand featuregate.Feature = "OpenAPIOnDemand"
	// CustomResourceCachesOnDemand is the gate of caches of custom resources, and their clients of etcd, that are there while
	// somebody reads or writes the resource; see package ondemand. Off, they are there from the first request on until the definition
	// changes, as upstream's. It needs EncodedWatchCache.
	CustomResourceCachesOnDemand featuregate.Feature = "CustomResourceCachesOnDemand"
	// SharedCustomResourceStore is the gate of versions of a custom resource that are served from one cache, where they differ in nothing
	// but their name: conversion is None, and pruning, defaults and selectable fields are the same. Off, each served version has a cache
	// of its own, as with upstream. It needs EncodedWatchCache.
	SharedCustomResourceStore featuregate.Feature = "SharedCustomResourceStore"
	// UndecodedCustomResources is the gate of custom resources that are taken into the cache as they are stored, where decoding them would change
	// nothing; see package intact. Off, each is decoded and encoded again. It needs EncodedWatchCache.
	UndecodedCustomResources featuregate.Feature = "UndecodedCustomResources"
	// CompactDefinitions is the gate of definitions of custom resources that the server's own informer and controllers hold without prose, and
	// with equal schemas once; see package compact. Off, they hold each as it is, as upstream's. It needs OpenAPIOnDemand, without which
	// the documents are made of what that informer holds.
	CompactDefinitions featuregate.Feature = "CompactDefinitions"
	// BatchedConversion is the gate of custom resources that are converted many at a time, so that a conversion webhook is asked about many at
	// once; see package conversion. Off, the webhook is asked about each, as by upstream. It needs EncodedWatchCache.
	BatchedConversion featuregate.Feature = "BatchedConversion"
)

func init() {
	utilruntime.Must(utilfeature.DefaultMutableFeatureGate.AddVersioned(map[featuregate.Feature]featuregate.VersionedSpecs{
		// Version is the Kubernetes release from which a gate exists. These are a matter of
		// the binary, not of the API it emulates, so they are there under every
		// --emulated-version.
		EncodedWatchCache: {{Version: version.MustParse("1.0"), Default: true, PreRelease: featuregate.Beta}},
		StreamingList:     {{Version: version.MustParse("1.0"), Default: true, PreRelease: featuregate.Beta}},
		SharedCompression: {{Version: version.MustParse("1.0"), Default: true, PreRelease: featuregate.Beta}},
		FrameInformers:    {{Version: version.MustParse("1.0"), Default: true, PreRelease: featuregate.Beta}},
		OpenAPIOnDemand:   {{Version: version.MustParse("1.0"), Default: true, PreRelease: featuregate.Beta}},

		UndecodedCustomResources: {{Version: version.MustParse("1.0"), Default: true, PreRelease: featuregate.Beta}},
		CompactDefinitions:       {{Version: version.MustParse("1.0"), Default: true, PreRelease: featuregate.Beta}},
		BatchedConversion:        {{Version: version.MustParse("1.0"), Default: true, PreRelease: featuregate.Beta}},

		SharedCustomResourceStore:    {{Version: version.MustParse("1.0"), Default: true, PreRelease: featuregate.Beta}},
		CustomResourceCachesOnDemand: {{Version: version.MustParse("1.0"), Default: false, PreRelease: featuregate.Alpha}},
	}))
}

// plug puts weir's parts into an assembled configuration if the gate is on: the
// storage of every resource of all three servers in the chain, and a handler that
// stands innermost in the chain of the one that clients talk to, behind
// authentication, authorization, flow control and audit. The delegates' own chains
// never see a request. With weir's cache comes, until ctx ends, a collector paced by
// what the cache holds, which keeps to limit. readers are the server's own, who then read from that cache.
func plug(ctx context.Context, config *app.Config, limit pacer.Limit, readers *ownReaders) *parts {
	p := &parts{}
	if !utilfeature.DefaultFeatureGate.Enabled(EncodedWatchCache) {
		return p
	}
	streaming := utilfeature.DefaultFeatureGate.Enabled(StreamingList)
	compressing := utilfeature.DefaultFeatureGate.Enabled(SharedCompression)
	pace := pacer.New(ledger.Process, limit)
	options := watchcache.Options{Bounded: streaming, Types: builtIn{}, DefaultedOnRead: defaultedOnRead}
	if utilfeature.DefaultFeatureGate.Enabled(BatchedConversion) {
		options.Batches = &conversion.Batches{}
	}
	if limit.Go > 0 {
		options.History, options.Derived = pace.History, pace.Derived
	}
	var counts *counting
	if utilfeature.DefaultFeatureGate.Enabled(SharedCustomResourceStore) {
		options.Sharing = &watchcache.Sharing{Key: sharingKey, Linger: lingering}
		options.NewStorage = sharingClients(sharedclient.NewPool())
		counts = newCounting(clock.RealClock{})
		go counts.run(ctx)
	}
	if utilfeature.DefaultFeatureGate.Enabled(UndecodedCustomResources) {
		options.Rules = intactRules
	}
	caches := watchcache.NewCaches(options)
	if options.Sharing != nil {
		options.Sharing.Defined = definitions{caches}.defined
	}
	context.AfterFunc(ctx, caches.End)
	p.caches, p.usage = caches, usage.NewRegistry(usage.DefaultNames)
	theCacheMetrics.parts.Store(p)
	readers.caches.Store(caches)
	serveMetrics(ctx, caches, limit)
	go pace.Run(ctx, caches.Relieve)
	custom := caches.Decorator()
	if utilfeature.DefaultFeatureGate.Enabled(CustomResourceCachesOnDemand) {
		keeper := ondemand.NewKeeper(caches.Uncached(), caches.DecoratorFrom, clock.RealClock{})
		custom = keeper.Decorator()
		go keeper.Run(ctx)
	}
	p.definitionsCached = cachesDefinitions(config)
	for _, getter := range []*generic.RESTOptionsGetter{
		&config.KubeAPIs.ControlPlane.Generic.RESTOptionsGetter,
		&config.Aggregator.GenericConfig.RESTOptionsGetter,
		&config.ApiExtensions.GenericConfig.RESTOptionsGetter,
	} {
		*getter = cachedRESTOptions{upstream: *getter, cached: caches.Decorator()}
	}
	customOptions := &config.ApiExtensions.ExtraConfig.CRDRESTOptionsGetter
	*customOptions = cachedRESTOptions{upstream: *customOptions, cached: custom, counts: counts}
	if options.Batches != nil {
		*customOptions = enteredRESTOptions{*customOptions, options.Batches}
	}
	front := config.Aggregator.GenericConfig
	priced := front.FlowControl != nil
	if priced {
		front.FlowControl = charged{front.FlowControl, caches, streaming}
	}
	// Without a limit nothing waits: what the machine has is not the server's alone, and what a server that was told of none
	// can take is not known.
	registerBudgetMetrics()
	bounded := limit.Go > 0
	if bounded {
		go budget.Process.Follow(ctx, limit.Go, held)
	}
	p.documents = openapi.New(definitions{caches})
	p.compactDefinitions(ctx, config)
	chain := front.BuildHandlerChainFunc
	front.BuildHandlerChainFunc = func(api http.Handler, c *genericapiserver.Config) http.Handler {
		waiting := newInFlight(budget.Process, costs{caches, c.StorageObjectCountTracker.Get, streaming}, c)
		if bounded {
			api = waiting.whole(api)
		}
		if streaming {
			api = liststream.Handler(inPlaceMarked(api), newTypes(caches), pace.Confine, compressing)
		}
		api = p.documents.Handler(finalize.Handler(coalesce.Handler(api, compressing)))
		if bounded {
			api = waiting.handler(api)
		}
		handler := chain(lastWatches(p.usage.Handler(api, seatsOf), c.Serializer), c)
		if priced {
			handler = withQuery(handler)
		}
		return handler
	}
	return p
}

// parts are what plug has put in; without the gate, none.
type parts struct {
	caches    *watchcache.Caches
	usage     *usage.Registry
	documents *openapi.Service
	// definitionsCached: definitions of custom resources have a cache, of which documents can be made.
	definitionsCached bool
	// compact: the server's own readers of definitions get compact ones, of which upstream cannot make documents.
	compact bool
}

// onDemand tells whether documents of custom resources are to be made here.
func (p *parts) onDemand() bool {
	return p.documents != nil && p.definitionsCached && utilfeature.DefaultFeatureGate.Enabled(OpenAPIOnDemand)
}

// attach has the documents of custom resources made here. It is to be called when the chain of servers has been prepared, with
// the one that clients talk to, and before it runs. An error says that the server must not run.
func (p *parts) attach(ctx context.Context, server *genericapiserver.GenericAPIServer) error {
	attached := false
	if p.onDemand() {
		if custom := customResources(server); custom != nil {
			attached = p.documents.Attach(custom)
		}
	}
	if attached {
		go p.documents.Run(ctx)
	}
	if p.compact && !attached {
		return fmt.Errorf("the documents of custom resources cannot be made on demand here, and upstream would make them of definitions without prose; switch off the feature gate %s", CompactDefinitions)
	}
	return nil
}

// watching returns how many watches are open, as far as it is known.
func (p *parts) watching() int {
	if p.usage == nil {
		return 0
	}
	return p.usage.Watching()
}

// clientsWatching is watching without the server's own watches.
func (p *parts) clientsWatching() int {
	if p.usage == nil {
		return 0
	}
	n := p.usage.Watching()
	for _, a := range p.usage.Snapshot() {
		if a.User == user.APIServerUser && !a.Others {
			n -= int(a.Watching)
		}
	}
	return max(0, n)
}

// inPlaceMarked has the lists that are answered in place counted as such.
func inPlaceMarked(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		next.ServeHTTP(w, req)
		usage.From(req.Context()).SetStreamed(liststream.From(req.Context()).Taken())
	})
}

// held is how many bytes are counted by those who hold them, and how many of those are not for requests. What the budget has
// granted is. History, and what can be made again, are by half: they make room for what is granted (pacer.Pacer.History and Derived),
// but not at once.
func held() (counted, kept int64) {
	for _, purpose := range ledger.Purposes() {
		n := ledger.Process.Bytes(purpose)
		switch purpose {
		case ledger.Decoded:
		case ledger.History, ledger.Derived, ledger.Compressed:
			counted += n
			kept += n / 2
		default:
			counted += n
			kept += n
		}
	}
	return counted, kept
}

// cachedRESTOptions is upstream's answer with weir's cache in place of upstream's, and weir's storage in
// place of upstream's where there is none.
type cachedRESTOptions struct {
	upstream generic.RESTOptionsGetter
	cached   generic.StorageDecorator
	// counts, if set, counts the objects instead of each storage.
	counts *counting
}

func (g cachedRESTOptions) GetRESTOptions(resource schema.GroupResource, example runtime.Object) (generic.RESTOptions, error) {
	options, err := g.upstream.GetRESTOptions(resource, example)
	switch {
	case err != nil:
	case undecorated(options.Decorator):
		options.Decorator = watchcache.Uncached
	default:
		options.Decorator = g.cached
	}
	if err == nil && g.counts != nil {
		options = g.counts.over(options)
	}
	return options, err
}

// undecorated reports whether upstream chose no cache for a resource:
// --watch-cache=false, or size 0 in --watch-cache-sizes or in upstream's defaults
// (events). Its choice is visible in the function only, so the function is what is
// compared; unlike the cacher's it is no closure and has one address.
func undecorated(d generic.StorageDecorator) bool {
	return reflect.ValueOf(d).Pointer() == reflect.ValueOf(generic.UndecoratedStorage).Pointer()
}
