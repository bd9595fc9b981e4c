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
	base := f.Base() // metadata are the same in every version
	if base.codec.custom && base.exact == nil && base.primary.format == wire.JSON {
		if metadata, ok := intact.Metadata(base.primary.object()); ok {
			partial := &metav1.PartialObjectMetadata{}
			if err := json.Unmarshal(metadata, &partial.ObjectMeta); err == nil {
				return partial, nil
			}
		}
	}
	return f.Decode()
}

// decodeFor returns the object as far as an encoding is made of it.
func (f *Frame) decodeFor(v *variant) (runtime.Object, error) {
	if v.metadata {
		return f.DecodeMetadata()
	}
	return f.Decode()
}
