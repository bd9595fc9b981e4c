// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/kubernetes/pkg/apis/core"
)

// decorated are the resources whose REST storage fills fields in, on the way from storage
// to clients, that objects of old releases lack, and what it takes an object to be left
// alone. It is said on the safe side: an object that is called decorated and is left alone
// costs time only. Live events pass REST storage undecorated, with upstream too.
var decorated = map[schema.GroupResource]func(runtime.Object) bool{
	core.Resource("services"):               decoratedService,
	core.Resource("persistentvolumeclaims"): decoratedClaim,
}

// decoratedService mirrors defaultOnReadService of
// k8s.io/kubernetes/pkg/registry/core/service/storage/storage.go: ClusterIPs from before
// Kubernetes 1.20, ipFamilies likewise, and a traffic policy that an ExternalName should
// not have.
func decoratedService(obj runtime.Object) bool {
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

// decoratedClaim mirrors NormalizeDataSources of
// k8s.io/kubernetes/pkg/api/persistentvolumeclaim: one data source of the two that go
// together.
func decoratedClaim(obj runtime.Object) bool {
	claim, ok := obj.(*core.PersistentVolumeClaim)
	if !ok {
		return true
	}
	return (claim.Spec.DataSource == nil) != (claim.Spec.DataSourceRef == nil)
}
