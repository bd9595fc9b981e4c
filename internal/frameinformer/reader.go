// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package frameinformer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"reflect"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/features"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/cacher/delegator"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/consistencydetector"

	"github.com/weir-project/weir/internal/frame"
)

const (
	// patience is how long a watch waits for a cache that is reading its resource, before it asks it all the same and tells
	// the reflector what it says.
	patience = 10 * time.Second
	// learning is how long it waits after that until it is known that etcd tells of progress, without which nothing can begin
	// with the objects that there are. The process learns that in the background, from the first answer of etcd.
	learning = time.Second
	// poll is how often it looks.
	poll = 20 * time.Millisecond
)

// reader reads a resource for client-go's reflector.
type reader struct{ informer *informer }

var _ cache.ListerWatcherWithContext = (*reader)(nil)

// List implements cache.ListerWatcher.
func (r *reader) List(options metav1.ListOptions) (runtime.Object, error) {
	return r.ListWithContext(context.Background(), options)
}

// Watch implements cache.ListerWatcher.
func (r *reader) Watch(options metav1.ListOptions) (watch.Interface, error) {
	return r.WatchWithContext(context.Background(), options)
}

// ListWithContext implements cache.ListerWithContext. It is asked only where the reflector does not begin with a watch list, or
// has failed to.
func (r *reader) ListWithContext(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
	list, err := cache.ToListerWatcherWithContext(r.informer.cfg.Connection).ListWithContext(ctx, options)
	if err != nil {
		return nil, err
	}
	accessor, err := meta.ListAccessor(list)
	if err != nil {
		return nil, err
	}
	items := &itemList{}
	items.SetResourceVersion(accessor.GetResourceVersion())
	items.SetContinue(accessor.GetContinue())
	items.SetRemainingItemCount(accessor.GetRemainingItemCount())
	all, err := meta.ExtractListWithAlloc(list)
	if err != nil {
		return nil, err
	}
	for _, obj := range all {
		i, err := r.received(obj)
		if err != nil {
			return nil, err
		}
		items.Items = append(items.Items, i)
	}
	return items, nil
}

// received returns the item of an object that came over the connection.
func (r *reader) received(obj runtime.Object) (*item, error) {
	changed, err := r.informer.transformed(obj)
	if err != nil {
		return nil, err
	}
	object, ok := changed.(runtime.Object)
	if !ok {
		return nil, fmt.Errorf("the transform of %v makes a %T of an object", r.informer.cfg.Resource, changed)
	}
	return whole(object), nil
}

// readable tells whether frames can be had of a source.
func readable(source Source) bool {
	// Upstream's detector of inconsistencies wants whole objects: it compares their metadata with those of a list.
	return source != nil && utilfeature.DefaultFeatureGate.Enabled(features.WatchList) && !consistencydetector.IsDataConsistencyDetectionForWatchListEnabled()
}

// WatchWithContext implements cache.WatcherWithContext.
func (r *reader) WatchWithContext(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
	source := r.informer.cfg.Source()
	if !readable(source) {
		w, err := cache.ToListerWatcherWithContext(r.informer.cfg.Connection).WatchWithContext(ctx, options)
		if err != nil {
			return nil, err
		}
		return r.items(w, func() {}), nil
	}
	await(ctx, patience, source.Ready)
	if options.SendInitialEvents != nil {
		await(ctx, learning, delegator.ConsistentReadSupported)
	} else if there, err := source.Reaches(ctx, options.ResourceVersion); err == nil && !there {
		// A watch from a revision that is the future again would tell nothing until it is reached. Where that is not known, the
		// watch is asked.
		return nil, apierrors.NewResourceExpired(fmt.Sprintf("the storage of %v has not come to revision %s: it was put back to an earlier state",
			r.informer.cfg.Resource.GroupResource(), options.ResourceVersion))
	}
	cancel := func() {}
	if options.TimeoutSeconds != nil {
		ctx, cancel = context.WithTimeout(ctx, time.Duration(*options.TimeoutSeconds)*time.Second)
	}
	predicate := storage.Everything
	predicate.AllowWatchBookmarks = options.AllowWatchBookmarks
	w, err := source.WatchAll(ctx, storage.ListOptions{
		ResourceVersion:      options.ResourceVersion,
		ResourceVersionMatch: options.ResourceVersionMatch,
		SendInitialEvents:    options.SendInitialEvents,
		Predicate:            predicate,
	})
	if err != nil {
		cancel()
		return nil, err
	}
	if options.SendInitialEvents == nil {
		r.informer.refresh(source)
	}
	return r.items(w, cancel), nil
}

// await returns when done returns true, or after a time.
func await(ctx context.Context, atMost time.Duration, done func() bool) {
	ctx, cancel := context.WithTimeout(ctx, atMost)
	defer cancel()
	_ = wait.PollUntilContextCancel(ctx, poll, true, func(context.Context) (bool, error) { return done(), nil })
}

// refresh has items that are not of the cache as it is now hold its frames, where these are equal to what they
// held. They differ after the cache has read everything anew, and after a list over the connection. Without that there would be
// two of an object for as long as it does not change.
func (n *informer) refresh(source Source) {
	for _, obj := range n.SharedIndexInformer.GetIndexer().List() {
		i, ok := obj.(*item)
		if !ok {
			continue
		}
		key, err := cache.MetaNamespaceKeyFunc(i)
		if err != nil {
			continue
		}
		if now := source.Peek(key); now != nil && n.equal(i, now) {
			i.adopt(now)
		}
	}
}

// equal tells whether an item holds another copy of what is in f.
func (n *informer) equal(i *item, f *frame.Frame) bool {
	held, obj := i.held()
	if held == f {
		return false
	}
	version := n.cfg.Resource.GroupVersion().String()
	if held != nil {
		if held.Revision() != f.Revision() {
			return false
		}
		a, err := held.Message(version, nil)
		if err != nil {
			return false
		}
		b, err := f.Message(version, nil)
		return err == nil && bytes.Equal(a, b)
	}
	other, err := n.decode(framed(f))
	return err == nil && reflect.DeepEqual(obj, other)
}

// items returns a watch of items for one of frames or objects. done is called when it has ended.
func (r *reader) items(from watch.Interface, done func()) watch.Interface {
	w := &itemWatch{from: from, reader: r, result: make(chan watch.Event), stop: make(chan struct{})}
	go w.run(done)
	return w
}

// itemWatch is a watch whose events have items.
type itemWatch struct {
	from   watch.Interface
	reader *reader
	result chan watch.Event
	// stop is closed by Stop.
	stop chan struct{}
	once sync.Once
}

// ResultChan implements watch.Interface.
func (w *itemWatch) ResultChan() <-chan watch.Event { return w.result }

// Stop implements watch.Interface.
func (w *itemWatch) Stop() {
	w.once.Do(func() { close(w.stop) })
	w.from.Stop()
}

func (w *itemWatch) run(done func()) {
	defer utilruntime.HandleCrash()
	defer close(w.result)
	defer done()
	defer w.from.Stop()
	for event := range w.from.ResultChan() {
		if event.Type != watch.Error {
			i, err := w.reader.item(event)
			if err != nil {
				event = watch.Event{Type: watch.Error, Object: &metav1.Status{
					Status: metav1.StatusFailure, Reason: metav1.StatusReasonInternalError, Message: err.Error(),
				}}
			} else {
				event.Object = i
			}
		}
		select {
		case w.result <- event:
		case <-w.stop:
			return
		}
	}
}

var errUnknown = errors.New("the watch cache tells of no object that it has encoded")

// item returns the item of an event.
func (r *reader) item(event watch.Event) (*item, error) {
	switch obj := event.Object.(type) {
	case *frame.Frame:
		return framed(obj), nil
	case Message:
		if event.Type != watch.Bookmark {
			return r.received(obj)
		}
	}
	if event.Type != watch.Bookmark {
		return nil, fmt.Errorf("%w: %T of %v", errUnknown, event.Object, r.informer.cfg.Resource)
	}
	accessor, err := meta.Accessor(event.Object)
	if err != nil {
		return nil, err
	}
	return whole(&metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{
		ResourceVersion: accessor.GetResourceVersion(), Annotations: accessor.GetAnnotations(),
	}}), nil
}
