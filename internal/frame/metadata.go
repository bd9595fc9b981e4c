// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package frame

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/json"

	"github.com/weir-project/weir/internal/intact"
	"github.com/weir-project/weir/internal/wire"
)

// DecodeMetadata returns an object that has the metadata of the frame's, for who looks at nothing else: of a custom resource they alone are decoded,
// where that gives the same. It is a new one, the caller's own.
func (f *Frame) DecodeMetadata() (runtime.Object, error) {
	if partial, ok := f.Partial(); ok {
		return partial, nil
	}
	return f.Decode()
}

// Partial returns the metadata of a custom resource, decoded without the rest; false where that is not sure to give the same, and of all other objects. They
// are new ones, the caller's own.
func (f *Frame) Partial() (*metav1.PartialObjectMetadata, bool) {
	base := f.Base() // metadata are the same in every version
	if !base.codec.custom || base.exact != nil || base.primary.format != wire.JSON {
		return nil, false
	}
	metadata, ok := intact.Metadata(base.primary.object())
	if !ok {
		return nil, false
	}
	partial := &metav1.PartialObjectMetadata{}
	return partial, json.Unmarshal(metadata, &partial.ObjectMeta) == nil
}

// decodeFor returns the object as far as an encoding is made of it.
func (f *Frame) decodeFor(v *variant) (runtime.Object, error) {
	if v.metadata {
		return f.DecodeMetadata()
	}
	return f.Decode()
}
