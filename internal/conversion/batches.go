// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package conversion

import (
	"errors"
	"sync"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Batches knows the codecs that upstream decodes custom resources with. It may be used by any number of goroutines.
type Batches struct {
	// handed has a begin for each decoding of which a Decoder wants to say how it begins. The key is what is decoded "by default" as, which
	// upstream passes on as it is. The storages have no such default.
	handed sync.Map
}

// begin is the first step of a decoding, in place of that of inner.
type begin func(inner runtime.Codec) (runtime.Object, *schema.GroupVersionKind, error)

// Codec returns the codec to give to upstream in place of inner, as the one of stored custom resources. It is inner for everybody but the
// Decoders of b.
func (b *Batches) Codec(inner runtime.Codec) runtime.Codec { return &entry{inner, b} }

// entry is inner, and where decoding is entered.
type entry struct {
	runtime.Codec
	batches *Batches
}

func (e *entry) Decode(data []byte, kind *schema.GroupVersionKind, into runtime.Object) (runtime.Object, *schema.GroupVersionKind, error) {
	if kind != nil {
		if first, ok := e.batches.handed.Load(kind); ok {
			return first.(begin)(e.Codec)
		}
	}
	return e.Codec.Decode(data, kind, into)
}

// decode has codec decode what first begins with.
func (b *Batches) decode(codec runtime.Codec, into runtime.Object, first begin) (runtime.Object, error) {
	key := &schema.GroupVersionKind{}
	b.handed.Store(key, first)
	defer b.handed.Delete(key)
	obj, _, err := codec.Decode(nil, key, into)
	return obj, err
}

var (
	// errEntered tells that a codec begins where it should.
	errEntered = errors.New("entered")
	// errOdd is of what does not go the way of an object of a custom resource.
	errOdd = errors.New("no custom resource")
)

// begun returns obj as what was decoded.
func begun(obj runtime.Object) begin {
	return func(runtime.Codec) (runtime.Object, *schema.GroupVersionKind, error) {
		kind := obj.GetObjectKind().GroupVersionKind()
		return obj, &kind, nil
	}
}

// prepared returns a stored object in the version it is stored in: coerced, pruned and defaulted. It fails for whatever is not decoded as
// one object, also for what is a list to upstream because it has a field "items".
func (b *Batches) prepared(codec runtime.Codec, stored []byte) (*unstructured.Unstructured, error) {
	// What is decoded into an object is not converted if the decoder returns that object.
	u := &unstructured.Unstructured{}
	_, err := b.decode(codec, u, func(inner runtime.Codec) (runtime.Object, *schema.GroupVersionKind, error) {
		obj, kind, err := inner.Decode(stored, nil, nil)
		if err != nil {
			return nil, kind, err
		}
		decoded, ok := obj.(*unstructured.Unstructured)
		if !ok {
			return nil, kind, errOdd
		}
		u.Object = decoded.Object
		return u, kind, nil
	})
	if err != nil {
		return nil, err
	}
	return u, nil
}

// converted returns objects in the version that codec decodes to, neither coerced nor pruned by its schema. They are not to be used any more.
func (b *Batches) converted(codec runtime.Codec, objects []*Unconverted) ([]unstructured.Unstructured, error) {
	list := &unstructured.UnstructuredList{Items: make([]unstructured.Unstructured, len(objects))}
	for i, u := range objects {
		list.Items[i] = *u.object
	}
	list.SetGroupVersionKind(objects[0].object.GroupVersionKind())
	obj, err := b.decode(codec, nil, begun(hidden{list}))
	if err != nil {
		return nil, err
	}
	if list, ok := obj.(*unstructured.UnstructuredList); ok && len(list.Items) == len(objects) {
		return list.Items, nil
	}
	return nil, errOdd
}

// finished returns a converted object as codec returns it: coerced and pruned by the schema of its version. It has no defaults of that version.
func (b *Batches) finished(codec runtime.Codec, u *unstructured.Unstructured) (runtime.Object, error) {
	return b.decode(codec, nil, begun(hidden{u}))
}

// hidden is an object that shows itself to the converter alone. Before it, upstream's codec prunes and defaults what it can see to be a
// custom resource; the converter gets a copy, so as not to change the original.
type hidden struct{ runtime.Object }

// DeepCopyObject returns the object that was hidden, and not a copy of it: nobody else has it.
func (h hidden) DeepCopyObject() runtime.Object { return h.Object }
