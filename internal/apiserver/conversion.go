// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/registry/generic"

	"github.com/weir-project/weir/internal/conversion"
)

// enteredRESTOptions are those of custom resources. Upstream decodes what is stored with their codec, and goes on from there.
type enteredRESTOptions struct {
	generic.RESTOptionsGetter
	batches *conversion.Batches
}

func (g enteredRESTOptions) GetRESTOptions(resource schema.GroupResource, example runtime.Object) (generic.RESTOptions, error) {
	options, err := g.RESTOptionsGetter.GetRESTOptions(resource, example)
	if err == nil {
		config := *options.StorageConfig
		config.Codec = g.batches.Codec(config.Codec)
		options.StorageConfig = &config
	}
	return options, err
}
