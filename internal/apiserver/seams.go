// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"net/http"
	"reflect"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/apimachinery/pkg/util/version"
	"k8s.io/apiserver/pkg/registry/generic"
	genericapiserver "k8s.io/apiserver/pkg/server"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/component-base/featuregate"
	"k8s.io/kubernetes/cmd/kube-apiserver/app"

	"github.com/weir-project/weir/internal/coalesce"
	"github.com/weir-project/weir/internal/ledger"
	"github.com/weir-project/weir/internal/pacer"
	"github.com/weir-project/weir/internal/watchcache"
)

// EncodedWatchCache is the gate of weir's own watch cache. Off, the same binary
// runs upstream's cacher.
const EncodedWatchCache featuregate.Feature = "EncodedWatchCache"

func init() {
	utilruntime.Must(utilfeature.DefaultMutableFeatureGate.AddVersioned(map[featuregate.Feature]featuregate.VersionedSpecs{
		// Version is the Kubernetes release from which the gate exists. The cache is a
		// matter of the binary, not of the API it emulates, so it is there under every
		// --emulated-version.
		EncodedWatchCache: {{Version: version.MustParse("1.0"), Default: true, PreRelease: featuregate.Beta}},
	}))
}

// watchCache makes the storage that stands where upstream has its cacher.
var watchCache = watchcache.Decorator()

// plug puts weir's parts into an assembled configuration if the gate is on: the
// storage of every resource of all three servers in the chain, and a handler that
// stands innermost in the chain of the one that clients talk to, behind
// authentication, authorization, flow control and audit. The delegates' own chains
// never see a request. With weir's cache come leaner informers of the server's own
// and, until ctx ends, a collector paced by what the cache holds.
func plug(ctx context.Context, config *app.Config) error {
	if !utilfeature.DefaultFeatureGate.Enabled(EncodedWatchCache) {
		return nil
	}
	if err := slim(config.KubeAPIs.ControlPlane.VersionedInformers); err != nil {
		return err
	}
	registerMetrics()
	go pacer.Run(ctx, ledger.Process)
	for _, getter := range []*generic.RESTOptionsGetter{
		&config.KubeAPIs.ControlPlane.Generic.RESTOptionsGetter,
		&config.Aggregator.GenericConfig.RESTOptionsGetter,
		&config.ApiExtensions.GenericConfig.RESTOptionsGetter,
		&config.ApiExtensions.ExtraConfig.CRDRESTOptionsGetter,
	} {
		*getter = cachedRESTOptions{*getter}
	}
	chain := config.Aggregator.GenericConfig.BuildHandlerChainFunc
	config.Aggregator.GenericConfig.BuildHandlerChainFunc = func(api http.Handler, c *genericapiserver.Config) http.Handler {
		return chain(coalesce.Handler(api), c)
	}
	return nil
}

// cachedRESTOptions is upstream's answer with weir's cache in place of upstream's.
type cachedRESTOptions struct{ upstream generic.RESTOptionsGetter }

func (g cachedRESTOptions) GetRESTOptions(resource schema.GroupResource, example runtime.Object) (generic.RESTOptions, error) {
	options, err := g.upstream.GetRESTOptions(resource, example)
	if err == nil && !undecorated(options.Decorator) {
		options.Decorator = watchCache
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
