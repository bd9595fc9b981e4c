// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	listersv1 "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	serviceaccountcontroller "k8s.io/kubernetes/pkg/controller/serviceaccount"
	"k8s.io/kubernetes/pkg/features"
	"k8s.io/kubernetes/pkg/serviceaccount"

	"github.com/weir-project/weir/internal/frameinformer"
	"github.com/weir-project/weir/internal/ledger"
	"github.com/weir-project/weir/internal/watchcache"
	"github.com/weir-project/weir/internal/wire"
)

// ownReaders are those in the server who read from it: authenticators, authorizers, admission plugins, policies. They share
// informers, which one factory of upstream's makes.
type ownReaders struct {
	// caches is what they read from; nil until the server is assembled, and if it has none.
	caches atomic.Pointer[watchcache.Caches]
}

// ownReads are the resources whose informers hold frames: those of which there may be many bytes, and of which the readers want
// one object at a time, by name. What they want of all others they want often, and of all objects at once (roles and their
// bindings, policies), or there is little of it: such objects are better held decoded.
var ownReads = []struct {
	resource string
	of       frameinformer.Type
	// lazy are those that are wanted only if a policy has them as parameters.
	lazy bool
}{
	{resource: "pods", of: frameinformer.TypeOf[corev1.Pod]()},
	{resource: "secrets", of: frameinformer.TypeOf[corev1.Secret]()},
	{resource: "configmaps", of: frameinformer.TypeOf[corev1.ConfigMap](), lazy: true},
}

// ownReaders arranges for the informers of ownReads to be frameinformer's, unless a gate is off. It is to be called before the
// options are completed.
//
// The factory keeps the first informer that it is given for a type. The function that makes the token getter is the first whom upstream
// hands the factory of those who want one of these types (BuiltInAuthenticationOptions.ApplyTo), so the informers are made there.
func (o *Options) ownReaders() *ownReaders {
	r := &ownReaders{}
	gates := utilfeature.DefaultFeatureGate
	if gates.Enabled(EncodedWatchCache) && gates.Enabled(FrameInformers) && o.Authentication != nil && o.Authentication.ServiceAccounts != nil {
		o.Authentication.ServiceAccounts.OptionalTokenGetter = r.tokenGetter
	}
	return r
}

// tokenGetter gives the factory its informers, and returns the token getter that upstream makes if it is not asked for another.
func (r *ownReaders) tokenGetter(factory informers.SharedInformerFactory) serviceaccount.ServiceAccountTokenGetter {
	var client kubernetes.Interface
	for _, read := range ownReads {
		factory.InformerFor(read.of.New(), func(c kubernetes.Interface, _ time.Duration) cache.SharedIndexInformer {
			client = c
			resource := corev1.SchemeGroupVersion.WithResource(read.resource)
			return frameinformer.New(frameinformer.Config{
				Resource: resource,
				Type:     read.of,
				Encoder:  builtIn{}.Encoder(wire.Protobuf, corev1.SchemeGroupVersion),
				Source:   func() frameinformer.Source { return r.source(resource.GroupResource()) },
				Connection: cache.NewFilteredListWatchFromClient(c.CoreV1().RESTClient(), read.resource, metav1.NamespaceAll,
					func(*metav1.ListOptions) {}),
				Name:   factory.InformerName().WithResource(resource),
				Lazy:   read.lazy,
				Ledger: ledger.Process,
			})
		})
	}
	var nodes listersv1.NodeLister
	if utilfeature.DefaultFeatureGate.Enabled(features.ServiceAccountTokenNodeBindingValidation) {
		nodes = factory.Core().V1().Nodes().Lister()
	}
	return serviceaccountcontroller.NewGetterFromClient(
		client,
		factory.Core().V1().Secrets().Lister(),
		factory.Core().V1().ServiceAccounts().Lister(),
		factory.Core().V1().Pods().Lister(),
		nodes,
		factory.Admissionregistration().V1().ValidatingWebhookConfigurations().Lister(),
		factory.Admissionregistration().V1().MutatingWebhookConfigurations().Lister(),
	)
}

// source returns the cache of a resource, nil if it has none.
func (r *ownReaders) source(resource schema.GroupResource) frameinformer.Source {
	caches := r.caches.Load()
	if caches == nil {
		return nil
	}
	if c := caches.Of(resource); c != nil {
		return c
	}
	return nil
}
