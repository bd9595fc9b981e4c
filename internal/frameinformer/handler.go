// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package frameinformer

import (
	"sync/atomic"
	"unsafe"

	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/client-go/tools/cache"

	"github.com/weir-project/weir/internal/ledger"
)

// handler hands objects to a handler that is told of items. It decodes when it is the handler's turn, so that what waits for a slow
// one are frames. What it decodes is for that handler alone.
type handler struct {
	informer *informer
	to       cache.ResourceEventHandler
}

var _ cache.ResourceEventHandler = handler{}

// OnAdd implements cache.ResourceEventHandler.
func (h handler) OnAdd(obj any, isInInitialList bool) {
	if obj, ok := h.object(obj); ok {
		h.to.OnAdd(obj, isInInitialList)
	}
}

// OnUpdate implements cache.ResourceEventHandler.
func (h handler) OnUpdate(before, after any) {
	obj, ok := h.object(after)
	if !ok {
		return
	}
	was := obj
	if before != after {
		if was, ok = h.object(before); !ok {
			return
		}
	}
	h.to.OnUpdate(was, obj)
}

// OnDelete implements cache.ResourceEventHandler.
func (h handler) OnDelete(obj any) {
	if unknown, ok := obj.(cache.DeletedFinalStateUnknown); ok {
		if unknown.Obj, ok = h.object(unknown.Obj); ok {
			h.to.OnDelete(unknown)
		}
		return
	}
	if obj, ok := h.object(obj); ok {
		h.to.OnDelete(obj)
	}
}

func (h handler) object(obj any) (any, bool) {
	i, ok := obj.(*item)
	if !ok {
		return obj, true
	}
	obj, err := h.informer.decode(i)
	if err != nil {
		utilruntime.HandleError(err)
	}
	return obj, err == nil
}

// places is what an object costs beside its item and its key: its places in the store and in the index of namespaces.
const places = 80

// books tells the ledger what the informer holds beside frames that the cache has: items, and places in the store.
type books struct {
	ledger *ledger.Ledger
	held   atomic.Int64
}

var _ cache.ResourceEventHandler = (*books)(nil)

func (b *books) add(obj any, sign int64) {
	key, err := cache.DeletionHandlingMetaNamespaceKeyFunc(obj)
	if err != nil {
		return
	}
	n := sign * (ledger.Heap(int(unsafe.Sizeof(item{}))) + ledger.Heap(len(key)) + places)
	b.held.Add(n)
	b.ledger.Add(ledger.Informers, n)
}

// OnAdd implements cache.ResourceEventHandler.
func (b *books) OnAdd(obj any, _ bool) { b.add(obj, 1) }

// OnUpdate implements cache.ResourceEventHandler.
func (b *books) OnUpdate(any, any) {}

// OnDelete implements cache.ResourceEventHandler.
func (b *books) OnDelete(obj any) { b.add(obj, -1) }

// close gives back what is left when the informer has ended.
func (b *books) close() { b.ledger.Add(ledger.Informers, -b.held.Swap(0)) }
