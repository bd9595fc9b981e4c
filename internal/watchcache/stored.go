// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package watchcache

import (
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// The storage decodes each object that its watch tells of before it hands it on. Of custom resources it is given a codec that
// leaves them as they are stored, so that what they are decoded with, and whether at all, is the source's matter:
//
//	etcd ──▶ upstream's etcd3 store ──▶ storedCodec.Decode(data, nil, nil): a stored ──▶ source ──▶ frame
//	                                ──▶ storedCodec.Decode(data, nil, into): decoded ──▶ lists, gets, updates
//
// Only a watch decodes into nothing (decodeObj in k8s.io/apiserver/pkg/storage/etcd3/watcher.go, v1.37.2; lists and single objects are
// decoded into one that they bring), and the only watch of such a storage is the source's.

// stored is an object of a custom resource as it is stored, after decryption, on its way from the storage to the source.
type stored struct {
	metav1.TypeMeta
	// ObjectMeta has nothing but the resourceVersion, which the storage sets.
	metav1.ObjectMeta
	// data are the bytes. They are the storage's, and not to be changed.
	data []byte
}

// DeepCopyObject implements runtime.Object. It does not copy the bytes, which nobody changes.
func (o *stored) DeepCopyObject() runtime.Object {
	c := &stored{TypeMeta: o.TypeMeta, data: o.data}
	o.ObjectMeta.DeepCopyInto(&c.ObjectMeta)
	return c
}

// storedCodec is a storage codec that leaves to the source what is decoded for a watch.
type storedCodec struct{ runtime.Codec }

// Decode implements runtime.Decoder.
func (c storedCodec) Decode(data []byte, defaults *schema.GroupVersionKind, into runtime.Object) (runtime.Object, *schema.GroupVersionKind, error) {
	if defaults == nil && into == nil {
		return &stored{data: data}, nil, nil
	}
	return c.Codec.Decode(data, defaults, into)
}

// decoded returns an object of a watch of the storage as the storage codec decodes it, itself if it is that. An error is that of a watch
// that could not decode it.
func (c *follower) decoded(obj runtime.Object) (runtime.Object, error) {
	o, undecoded := obj.(*stored)
	if !undecoded {
		return obj, nil
	}
	out, err := runtime.Decode(c.cfg.Codec, o.data)
	if err != nil {
		return nil, watchError(err)
	}
	if err := c.revise(out, o); err != nil {
		return nil, watchError(err)
	}
	return out, nil
}

// revise gives an object the revision of what it was decoded from.
func (c *follower) revise(obj runtime.Object, o *stored) error {
	rev, err := c.cfg.Versioner.ObjectResourceVersion(o)
	if err == nil {
		err = c.cfg.Versioner.UpdateObject(obj, rev)
	}
	if err != nil {
		return fmt.Errorf("setting the resourceVersion of an object of %s: %w", c.cfg.GroupResource, err)
	}
	return nil
}

// watchError returns the error that a watch of the storage ends with after one of decoding.
func watchError(err error) error { return apierrors.FromObject(failedEvent(err).Object) }
