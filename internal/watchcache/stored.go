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

// The storage decodes each object before it hands it on. For custom resources it is given a codec that leaves those as they are stored which
// decoding, and encoding again, would give back as they are; of them the source makes frames:
//
//	etcd ──▶ upstream's etcd3 store ──▶ storedCodec.Decode(data, nil, nil): a stored, or decoded ──▶ source, from the watch ──▶ frame
//	                                ──▶ storedCodec.Decode(data, nil, a stored): the same        ──▶ source, from a list
//	                                ──▶ storedCodec.Decode(data, nil, into): decoded             ──▶ all other lists, gets, updates
//
// Only a watch decodes into nothing (decodeObj in k8s.io/apiserver/pkg/storage/etcd3/watcher.go, v1.37.2; lists and single objects are
// decoded into one that they bring), and the only watch of such a storage is the source's. Objects that are decoded are so where the storage decodes, which is in
// several goroutines.

// stored is an object of a custom resource as it is stored, after decryption, on its way from the storage to the source.
type stored struct {
	metav1.TypeMeta
	// ObjectMeta has nothing but the resourceVersion, which the storage sets, and name, namespace and UID.
	metav1.ObjectMeta
	object intact.Object
	// decoded is the object if it is not intact, in a list alone: then nothing else is set but the resourceVersion. rest is what it is to
	// be converted from.
	decoded runtime.Object
	rest    *conversion.Unconverted
}

// DeepCopyObject implements runtime.Object. It does not copy the bytes, which nobody changes.
func (o *stored) DeepCopyObject() runtime.Object {
	c := &stored{TypeMeta: o.TypeMeta, object: o.object, rest: o.rest}
	o.ObjectMeta.DeepCopyInto(&c.ObjectMeta)
	if o.decoded != nil {
		c.decoded = o.decoded.DeepCopyObject()
	}
	return c
}

func (o *stored) set(object intact.Object) {
	o.object = object
	o.Name, o.Namespace, o.UID = string(object.Name), string(object.Namespace), types.UID(object.UID)
}

// storedList is a list of what is stored, which the source asks for.
type storedList struct {
	metav1.TypeMeta
	metav1.ListMeta
	Items []stored
}

// DeepCopyObject implements runtime.Object.
func (l *storedList) DeepCopyObject() runtime.Object {
	c := &storedList{TypeMeta: l.TypeMeta}
	l.ListMeta.DeepCopyInto(&c.ListMeta)
	for i := range l.Items {
		c.Items = append(c.Items, *l.Items[i].DeepCopyObject().(*stored))
	}
	return c
}

// storedCodec is a storage codec that leaves what is intact as it is stored where it is decoded for the source, and what is to be converted
// unconverted.
type storedCodec struct {
	runtime.Codec
	// Either may be nil.
	judge   *intact.Judge
	decoder *conversion.Decoder
	// newFunc returns an empty object of the version that is decoded to.
	newFunc func() runtime.Object
}

// Decode implements runtime.Decoder.
func (c *storedCodec) Decode(data []byte, defaults *schema.GroupVersionKind, into runtime.Object) (runtime.Object, *schema.GroupVersionKind, error) {
	if item, ok := into.(*stored); ok {
		if object, ok := c.look(data); ok {
			item.set(object)
			return item, nil, nil
		}
		if c.decoder != nil {
			obj, rest, err := c.decoder.Begin(data)
			if u, is := obj.(runtime.Unstructured); rest != nil || err == nil && is && !u.IsList() {
				item.decoded, item.rest = obj, rest
				return item, nil, nil
			}
		}
		obj, kind, err := c.Codec.Decode(data, defaults, c.newFunc())
		if err != nil {
			return nil, kind, err
		}
		item.decoded = obj
		return item, kind, nil
	}
	if defaults == nil && into == nil {
		if object, ok := c.look(data); ok {
			o := &stored{}
			o.set(object)
			return o, nil, nil
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

// look tells whether what is stored is intact.
func (c *storedCodec) look(data []byte) (intact.Object, bool) {
	if c.judge == nil {
		return intact.Object{}, false
	}
	return c.judge.Look(data)
}

// newList returns an empty list to read the resource with.
func (c *follower) newList() runtime.Object {
	if c.cfg.stored != nil {
		return &storedList{}
	}
	return c.cfg.NewListFunc()
}

// listed returns an object of such a list as a watch would tell of it.
func (c *follower) listed(obj runtime.Object) (runtime.Object, error) {
	o, ok := obj.(*stored)
	if !ok || o.decoded == nil {
		return obj, nil
	}
	rev, err := c.cfg.Versioner.ObjectResourceVersion(o)
	if err == nil {
		err = c.cfg.Versioner.UpdateObject(o.decoded, rev)
	}
	if err != nil {
		return nil, fmt.Errorf("setting the resourceVersion of an object of %s: %w", c.cfg.GroupResource, err)
	}
	return o.decoded, nil
}

// frameOf makes the frame of an object that the storage has handed on.
func (c *follower) frameOf(obj runtime.Object) (*frame.Frame, error) {
	key, err := c.cfg.KeyFunc(obj)
	if err != nil {
		return nil, fmt.Errorf("computing the storage key of an object of %s: %w", c.cfg.GroupResource, err)
	}
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

// Taken returns how many custom resources have been read since the start, at first, with each change, and anew when their definition changes: so many were
// taken as they are stored, and so many decoded.
func (s *Caches) Taken() (stored, decoded uint64) {
	return s.taken.stored.Load(), s.taken.decoded.Load()
}
