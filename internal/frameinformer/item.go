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
	// last is what was decoded last, for as long as it has not been collected.
	last atomic.Pointer[weak.Pointer[decoded]]
}

// decoded is an object as readers get it.
type decoded struct{ object any }

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

// read returns the object of an item, decoded and transformed.
func (n *informer) read(i *item) (any, error) {
	if last := i.last.Load(); last != nil {
		if d := last.Value(); d != nil {
			return d.object, nil
		}
	}
	obj, err := n.decode(i)
	if err != nil {
		return nil, err
	}
	if i.frame.Load() != nil {
		last := weak.Make(&decoded{obj})
		i.last.Store(&last)
	}
	return obj, nil
}

// decode is read without anything being shared.
func (n *informer) decode(i *item) (any, error) {
	f, obj := i.held()
	if f == nil {
		return obj, nil // it was transformed when it came
	}
	message := n.cfg.New()
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
