// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/kubernetes/pkg/api/persistentvolumeclaim"
	"k8s.io/kubernetes/pkg/apis/core"
)

// defaultedOnRead are the resources whose REST storage fills fields in, or takes some away, on
// the way from storage to clients (Store.Decorator), and what tells whether it changes an
// object. It is said on the safe side: an object of which this says so, and which is left
// alone, costs time only. Live events pass REST storage as they are, with upstream too.
var defaultedOnRead = map[schema.GroupResource]func(runtime.Object) bool{
	core.Resource("services"):               serviceDefaultedOnRead,
	core.Resource("persistentvolumeclaims"): claimDefaultedOnRead,
}

// serviceDefaultedOnRead tells whether defaultOnReadService of
// k8s.io/kubernetes/pkg/registry/core/service/storage/storage.go changes a service. It has
// something to do for those of before Kubernetes 1.20, which have no ClusterIPs and no
// ipFamilies, and for every ExternalName with an internalTrafficPolicy, which is what a service
// keeps that has become one.
func serviceDefaultedOnRead(obj runtime.Object) bool {
	service, ok := obj.(*core.Service)
	if !ok {
		return true
	}
	spec := &service.Spec
	switch {
	case spec.ClusterIP != "" && len(spec.ClusterIPs) == 0:
		return true
	case spec.Type == core.ServiceTypeExternalName:
		return spec.InternalTrafficPolicy != nil
	default:
		return len(spec.IPFamilies) == 0
	}
}

// claimDefaultedOnRead tells whether upstream changes a claim: one that has one data source of
// the two that go together.
func claimDefaultedOnRead(obj runtime.Object) bool {
	claim, ok := obj.(*core.PersistentVolumeClaim)
	if !ok {
		return true
	}
	spec := claim.Spec // what is normalized are its fields, not what they point to
	persistentvolumeclaim.NormalizeDataSources(&spec)
	return spec.DataSource != claim.Spec.DataSource || spec.DataSourceRef != claim.Spec.DataSourceRef
}
