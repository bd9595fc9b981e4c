// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"time"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/authentication/user"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/kubernetes/cmd/kube-apiserver/app"

	"github.com/weir-project/weir/internal/compact"
)

// cachesDefinitions tells whether definitions of custom resources have a cache. It is to be asked before weir's is put in.
func cachesDefinitions(config *app.Config) bool {
	options, err := config.ApiExtensions.GenericConfig.RESTOptionsGetter.GetRESTOptions(crds, &apiextensions.CustomResourceDefinition{})
	return err == nil && !undecorated(options.Decorator)
}

// compactDefinitions has the server's own readers of definitions get compact ones, unless upstream makes documents of what they read.
func (p *parts) compactDefinitions(ctx context.Context, config *app.Config) {
	if !utilfeature.DefaultFeatureGate.Enabled(CompactDefinitions) || !p.onDemand() || !compact.Possible() {
		return
	}
	p.compact = true
	custom := config.ApiExtensions.GenericConfig
	custom.LoopbackClientConfig = compact.Client(custom.LoopbackClientConfig)
	custom.AdmissionControl = specified{custom.AdmissionControl}
	go definitions{p.caches}.compacted(ctx)
}

// compacted has what only definitions used that are gone forgotten, until ctx ends.
func (d definitions) compacted(ctx context.Context) {
	wait.UntilWithContext(ctx, func(context.Context) {
		all, err := d.Definitions()
		if err != nil {
			return // it is not known now which are there
		}
		names := sets.New[string]()
		for _, one := range all {
			names.Insert(one.Name())
		}
		compact.Process.Retain(names.Has)
	}, time.Minute)
}

// specified gives the statuses of definitions that come from this server's own controllers their specifications back, before anybody is asked whether
// they may be written. They come without schemas, and upstream takes the specification from what is stored only after that
// (customresourcedefinition.statusStrategy).
type specified struct{ admission.Interface }

func (s specified) Admit(ctx context.Context, a admission.Attributes, o admission.ObjectInterfaces) error {
	if a.GetResource().GroupResource() == crds && a.GetSubresource() == "status" && a.GetOperation() == admission.Update &&
		a.GetUserInfo() != nil && a.GetUserInfo().GetName() == user.APIServerUser {
		is, ok := a.GetObject().(*apiextensions.CustomResourceDefinition)
		was, had := a.GetOldObject().(*apiextensions.CustomResourceDefinition)
		if ok && had {
			is.Spec = was.Spec // as that strategy does
		}
	}
	if mutating, ok := s.Interface.(admission.MutationInterface); ok {
		return mutating.Admit(ctx, a, o)
	}
	return nil
}

func (s specified) Validate(ctx context.Context, a admission.Attributes, o admission.ObjectInterfaces) error {
	if validating, ok := s.Interface.(admission.ValidationInterface); ok {
		return validating.Validate(ctx, a, o)
	}
	return nil
}
