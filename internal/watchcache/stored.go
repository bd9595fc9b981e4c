// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package watchcache

import (
	"fmt"
	"sync/atomic"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/weir-project/weir/internal/conversion"
	"github.com/weir-project/weir/internal/frame"
	"github.com/weir-project/weir/internal/intact"
)

// The storage decodes each object that its watch tells of before it hands it on. Of custom resources it is given a codec that
// leaves those as they are stored which decoding, and encoding again, would give back as they are; of them the source makes frames:
//
//	etcd ──▶ upstream's etcd3 store ──▶ storedCodec.Decode(data, nil, nil): a stored, or decoded ──▶ source ──▶ frame
//	                                ──▶ storedCodec.Decode(data, nil, into): decoded ──▶ lists, gets, updates
//
// Only a watch decodes into nothing (decodeObj in k8s.io/apiserver/pkg/storage/etcd3/watcher.go, v1.37.2; lists and single objects are
// decoded into one that they bring), and the only watch of such a storage is the source's.

// stored is an object of a custom resource as it is stored, after decryption, on its way from the storage to the source.
type stored struct {
	metav1.TypeMeta
	// ObjectMeta has nothing but the resourceVersion, which the storage sets, and name, namespace and UID.
	metav1.ObjectMeta
	object intact.Object
}

// DeepCopyObject implements runtime.Object. It does not copy the bytes, which nobody changes.
func (o *stored) DeepCopyObject() runtime.Object {
	c := &stored{TypeMeta: o.TypeMeta, object: o.object}
	o.ObjectMeta.DeepCopyInto(&c.ObjectMeta)
	return c
}

// storedCodec is a storage codec that leaves what is intact as it is stored where it is decoded for a watch, and what is to be converted
// unconverted.
type storedCodec struct {
	runtime.Codec
	// Either may be nil.
	judge   *intact.Judge
	decoder *conversion.Decoder
}

// Decode implements runtime.Decoder.
func (c storedCodec) Decode(data []byte, defaults *schema.GroupVersionKind, into runtime.Object) (runtime.Object, *schema.GroupVersionKind, error) {
	if defaults == nil && into == nil {
		if c.judge != nil {
			if object, ok := c.judge.Look(data); ok {
				return newStored(object), nil, nil
			}
		}
		if c.decoder != nil {
			obj, rest, err := c.decoder.Begin(data)
			if rest != nil {
				return &unconverted{rest: rest}, nil, nil
			}
			return obj, nil, err
		}
	}
	return c.Codec.Decode(data, defaults, into)
}

func newStored(object intact.Object) *stored {
	o := &stored{object: object}
	o.Name, o.Namespace, o.UID = string(object.Name), string(object.Namespace), types.UID(object.UID)
	return o
}

// frameOf makes the frame of an object that the storage has handed on, which lies under key.
func (c *follower) frameOf(key string, obj runtime.Object) (*frame.Frame, error) {
	o, undecoded := obj.(*stored)
	if !undecoded {
		if c.cfg.taken != nil {
			c.cfg.taken.decoded.Add(1)
		}
		return c.codec.Encode(key, obj)
	}
	rev, err := c.cfg.Versioner.ObjectResourceVersion(o)
	if err != nil {
		return nil, fmt.Errorf("reading the resourceVersion of %s: %w", key, err)
	}
	if c.cfg.taken != nil {
		c.cfg.taken.stored.Add(1)
	}
	return c.codec.Take(key, rev, &o.object), nil
}

// taken counts what is read of custom resources, at first and with each change: as it is stored, or decoded.
type taken struct{ stored, decoded atomic.Uint64 }

// Taken returns how many custom resources have been read from etcd since the start, at first and with each change: so many were taken as they
// are stored, and so many decoded.
func (s *Caches) Taken() (stored, decoded uint64) {
	return s.taken.stored.Load(), s.taken.decoded.Load()
}
