// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package frameinformer

import (
	"fmt"
	"strconv"
	"sync/atomic"
	"weak"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/weir-project/weir/internal/frame"
)

// item is one object in an informer's store. To client-go it is the object, of which it reads no more than
// the namespace, the name and the resourceVersion. It may be used by any number of goroutines.
type item struct {
	// frame is the object. It is nil for one that came over a connection, and for a bookmark.
	frame atomic.Pointer[frame.Frame]
	// object is what came over a connection, or a bookmark; nil if there is a frame. An item that has no frame yet
	// gets it first and loses object then: whoever reads looks for frame first, and again if there is neither.
	object atomic.Pointer[runtime.Object]
	// last returns what was decoded last, nil if nobody has it any more. It is nil before.
	last atomic.Pointer[func() any]
}

var (
	_ runtime.Object            = (*item)(nil)
	_ metav1.ObjectMetaAccessor = (*item)(nil)
)

func framed(f *frame.Frame) *item {
	i := &item{}
	i.frame.Store(f)
	return i
}

func whole(obj runtime.Object) *item {
	i := &item{}
	i.object.Store(&obj)
	return i
}

// held returns the frame, or the object where there is none.
func (i *item) held() (*frame.Frame, runtime.Object) {
	for {
		if f := i.frame.Load(); f != nil {
			return f, nil
		}
		if obj := i.object.Load(); obj != nil {
			return nil, *obj
		}
	}
}

// adopt has the item hold f in place of what it held, which is equal.
func (i *item) adopt(f *frame.Frame) {
	i.frame.Store(f)
	i.object.Store(nil)
}

// GetObjectMeta implements metav1.ObjectMetaAccessor: of a frame it has the namespace, the name and the
// resourceVersion.
func (i *item) GetObjectMeta() metav1.Object {
	f, obj := i.held()
	if f == nil {
		if accessor, ok := obj.(metav1.ObjectMetaAccessor); ok {
			return accessor.GetObjectMeta()
		}
		return nil
	}
	fields := f.Fields()
	return &metav1.ObjectMeta{
		Namespace:       fields.Get("metadata.namespace"),
		Name:            fields.Get("metadata.name"),
		ResourceVersion: strconv.FormatUint(f.Revision(), 10),
	}
}

// GetObjectKind implements runtime.Object. Objects of typed informers do not say of what kind they are.
func (i *item) GetObjectKind() schema.ObjectKind { return schema.EmptyObjectKind }

// DeepCopyObject implements runtime.Object. Items are not changed by those who copy: it is the same one.
func (i *item) DeepCopyObject() runtime.Object { return i }

// itemList is a list of items.
type itemList struct {
	metav1.TypeMeta
	metav1.ListMeta
	Items []runtime.Object
}

// DeepCopyObject implements runtime.Object.
func (l *itemList) DeepCopyObject() runtime.Object {
	c := *l
	c.Items = append([]runtime.Object(nil), l.Items...)
	return &c
}

// Type is a type of objects.
type Type struct {
	new func() Message
	// remember returns a function that returns the object, or nil when it has been collected; it is nil itself for an object
	// of another type.
	remember func(obj any) func() any
}

// TypeOf returns the Type of P.
func TypeOf[T any, P interface {
	*T
	Message
}]() Type {
	return Type{
		new: func() Message { return P(new(T)) },
		remember: func(obj any) func() any {
			p, ok := obj.(P)
			if !ok {
				return nil
			}
			kept := weak.Make((*T)(p))
			return func() any {
				if p := kept.Value(); p != nil {
					return P(p)
				}
				return nil
			}
		},
	}
}

// New returns an empty object.
func (t Type) New() Message { return t.new() }

// read returns the object of an item, decoded and transformed. There is one of it at a time: as long as somebody has it, the next
// one gets the same.
func (n *informer) read(i *item) (any, error) {
	for {
		last := i.last.Load()
		if last != nil {
			if obj := (*last)(); obj != nil {
				return obj, nil
			}
		}
		obj, err := n.decode(i)
		if err != nil {
			return nil, err
		}
		remembered := n.cfg.Type.remember(obj)
		if remembered == nil || i.frame.Load() == nil || i.last.CompareAndSwap(last, &remembered) {
			return obj, nil
		} // another reader was first
	}
}

// decode is read without anything being shared.
func (n *informer) decode(i *item) (any, error) {
	f, obj := i.held()
	if f == nil {
		return obj, nil // it was transformed when it came
	}
	message := n.cfg.Type.new()
	if err := f.Unmarshal(n.cfg.Resource.GroupVersion().String(), n.cfg.Encoder, message); err != nil {
		return nil, fmt.Errorf("decoding %s for the server's own use: %w", f.Key(), err)
	}
	return n.transformed(message)
}

func (n *informer) transformed(obj any) (any, error) {
	if n.transform == nil {
		return obj, nil
	}
	return n.transform(obj)
}
