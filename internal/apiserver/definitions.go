// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"slices"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apiextensionsv1beta1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1beta1"
	apiextensionsapiserver "k8s.io/apiextensions-apiserver/pkg/apiserver"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	genericapiserver "k8s.io/apiserver/pkg/server"

	"github.com/weir-project/weir/internal/frame"
	"github.com/weir-project/weir/internal/openapi"
	"github.com/weir-project/weir/internal/watchcache"
	"github.com/weir-project/weir/internal/wire"
)

// definitions are those of custom resources, as the cache has them.
type definitions struct{ caches *watchcache.Caches }

var _ openapi.Source = definitions{}

func (d definitions) Definitions() ([]openapi.Definition, error) {
	cache := d.caches.Of(crds)
	if cache == nil {
		return nil, errors.New("they have no cache")
	}
	frames, err := cache.Frames()
	if err != nil {
		return nil, err
	}
	all := make([]openapi.Definition, len(frames))
	for i, f := range frames {
		all[i] = definition{f}
	}
	return all, nil
}

// defined tells whether a resource is known to have a definition.
func (d definitions) defined(resource schema.GroupResource) bool {
	cache := d.caches.Of(crds)
	return cache != nil && cache.Peek(resource.String()) != nil
}

// definition is one of them.
type definition struct{ *frame.Frame }

func (d definition) Name() string { return path.Base(d.Key()) }

// outline is what of the stored form, which is JSON of v1beta1, reads as that of v1.
type outline struct {
	Metadata metav1.ObjectMeta
	Spec     struct {
		Group    string
		Names    apiextensionsv1.CustomResourceDefinitionNames
		Versions []struct {
			Name   string
			Served bool
		}
	}
	Status struct {
		Conditions []apiextensionsv1.CustomResourceDefinitionCondition
	}
}

// Outline passes over the schemas, which are nearly all of a definition. Every state of each is looked at, and few of them get documents.
func (d definition) Outline() (*apiextensionsv1.CustomResourceDefinition, error) {
	v1beta1 := apiextensionsv1beta1.SchemeGroupVersion.String()
	if !d.KeptIn(wire.JSON, v1beta1) {
		return d.Decode()
	}
	stored, err := d.As(wire.JSON, v1beta1, nil)
	if err != nil {
		return nil, err
	}
	o := outline{}
	if err := json.Unmarshal(stored, &o); err != nil {
		return nil, fmt.Errorf("decoding the outline of the cached %s at revision %d: %w", d.Key(), d.Revision(), err)
	}
	crd := &apiextensionsv1.CustomResourceDefinition{ObjectMeta: o.Metadata}
	crd.Spec.Group, crd.Spec.Names, crd.Status.Conditions = o.Spec.Group, o.Spec.Names, o.Status.Conditions
	for _, v := range o.Spec.Versions {
		crd.Spec.Versions = append(crd.Spec.Versions, apiextensionsv1.CustomResourceDefinitionVersion{Name: v.Name, Served: v.Served})
	}
	return crd, nil
}

func (d definition) Decode() (*apiextensionsv1.CustomResourceDefinition, error) {
	obj, err := d.Frame.Decode()
	if err != nil {
		return nil, err
	}
	internal, ok := obj.(*apiextensions.CustomResourceDefinition)
	if !ok {
		return nil, fmt.Errorf("%T is no definition", obj)
	}
	crd := &apiextensionsv1.CustomResourceDefinition{}
	if err := apiextensionsapiserver.Scheme.Convert(internal, crd, nil); err != nil {
		return nil, err
	}
	return crd, nil
}

// customResources returns the server of custom resources, or nil. It is the last in the chain that begins with server.
func customResources(server *genericapiserver.GenericAPIServer) *genericapiserver.GenericAPIServer {
	var last *genericapiserver.GenericAPIServer
	for delegate := server.NextDelegate(); delegate != nil; delegate = delegate.NextDelegate() {
		if s, ok := delegate.(*genericapiserver.GenericAPIServer); ok {
			last = s
		}
	}
	if last == nil || !slices.Contains(last.ListedPaths(), "/apis/"+apiextensions.GroupName) {
		return nil
	}
	return last
}
