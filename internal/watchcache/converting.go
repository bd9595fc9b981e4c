// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package watchcache

import (
	"fmt"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/storage"

	"github.com/weir-project/weir/internal/conversion"
)

// unconverted is an object of a custom resource that is stored in another version than the one that is served, on its way from the storage to where
// it is converted with others.
type unconverted struct {
	metav1.TypeMeta
	// ObjectMeta has nothing but the resourceVersion, which the storage sets.
	metav1.ObjectMeta
	rest *conversion.Unconverted
}

// DeepCopyObject implements runtime.Object. What is left to be done is done once, so it is no copy.
func (o *unconverted) DeepCopyObject() runtime.Object {
	c := &unconverted{TypeMeta: o.TypeMeta, rest: o.rest}
	o.ObjectMeta.DeepCopyInto(&c.ObjectMeta)
	return c
}

// converting is a watch of the storage whose objects it converts, several at once. A goroutine of its own does so, because a webhook takes as long as
// it likes, and nobody who can be stopped may wait for it: the goroutine ends when the watch does, or has been stopped and the webhook has answered.
type converting struct {
	follower *follower
	of       watch.Interface
	out      chan watch.Event
	stopped  chan struct{}
	stop     sync.Once
	// initial says that the events so far are those of the state that the watch begins with: a bookmark ends them.
	initial bool
}

// maxGathered bounds how many events are held back because they come between objects that are converted together.
const maxGathered = 4 * conversion.MaxObjects

// convert returns a watch that tells what w does, converted; w itself if it tells of nothing unconverted. initial says that it begins with the
// whole state.
func (c *follower) convert(w watch.Interface, initial bool) watch.Interface {
	if c.cfg.Decoder == nil {
		return w
	}
	d := &converting{follower: c, of: w, out: make(chan watch.Event), stopped: make(chan struct{}), initial: initial}
	go d.run()
	return d
}

// ResultChan implements watch.Interface.
func (d *converting) ResultChan() <-chan watch.Event { return d.out }

// Stop implements watch.Interface. It does not wait for the goroutine.
func (d *converting) Stop() {
	d.stop.Do(func() {
		close(d.stopped)
		d.of.Stop()
	})
}

func (d *converting) run() {
	defer close(d.out)
	defer d.of.Stop()
	for {
		events, ok := d.gather()
		if !d.tell(events) || !ok {
			return
		}
	}
}

// gather returns the next events: one, or as many as there are from an unconverted object on, until enough of those are among them. It waits for the
// first, and for all of the initial state, of which nothing is to be seen before its end. It is not ok if none come any more.
func (d *converting) gather() (events []watch.Event, ok bool) {
	objects, most, room := 0, 1, conversion.MaxBytes
	for objects < most && room > 0 && len(events) < maxGathered {
		event, there, ok := d.next(len(events) == 0 || d.initial)
		if !there {
			return events, ok
		}
		events = append(events, event)
		switch o := unconvertedOf(event); {
		case o != nil:
			if objects == 0 {
				most = d.follower.cfg.Decoder.Limit()
			}
			objects++
			room -= o.rest.Size()
		case event.Type == watch.Bookmark || event.Type == watch.Error:
			d.initial = false
			return events, true
		case objects == 0:
			return events, true
		}
	}
	return events, true
}

// next returns the next event if it is there, or waits for it. It is not ok if none comes any more.
func (d *converting) next(waits bool) (event watch.Event, there, ok bool) {
	if !waits {
		select {
		case event, ok = <-d.of.ResultChan():
			return event, ok, ok
		default:
			return event, false, true
		}
	}
	select {
	case event, ok = <-d.of.ResultChan():
		return event, ok, ok
	case <-d.stopped:
		return event, false, false
	}
}

// unconvertedOf returns what an event tells of, nil if that needs no conversion.
func unconvertedOf(event watch.Event) *unconverted {
	if timed, ok := event.Object.(storage.WatchEventWithRecordTime); ok {
		event.Object = timed.Unwrap()
	}
	o, _ := event.Object.(*unconverted)
	return o
}

// tell sends events in turn, converted. It is false if there is nothing more to tell: no webhook is asked then.
func (d *converting) tell(events []watch.Event) bool {
	select {
	case <-d.stopped:
		return false
	default:
	}
	var objects []*unconverted
	var rest []*conversion.Unconverted
	for _, event := range events {
		if o := unconvertedOf(event); o != nil {
			objects = append(objects, o)
			rest = append(rest, o.rest)
		}
	}
	sent := 0
	for obj, err := range d.follower.cfg.Decoder.Convert(rest) {
		for unconvertedOf(events[sent]) == nil {
			if !d.send(events[sent]) {
				return false
			}
			sent++
		}
		if err == nil {
			err = d.follower.revise(obj, objects[0])
		}
		if err != nil {
			d.send(failedEvent(err))
			return false
		}
		event := events[sent]
		if as, ok := event.Object.(storage.WatchEventWithRecordTime); ok {
			obj = timed{obj, as.RecordTime()}
		}
		event.Object = obj
		if !d.send(event) {
			return false
		}
		sent++
		objects = objects[1:]
	}
	for _, event := range events[sent:] {
		if !d.send(event) {
			return false
		}
	}
	return true
}

// send is false if the watch has been stopped.
func (d *converting) send(event watch.Event) bool {
	select {
	case d.out <- event:
		return true
	case <-d.stopped:
		return false
	}
}

// convertListed converts what is unconverted in a list of newList.
func (c *follower) convertListed(list runtime.Object) error {
	of, ok := list.(*storedList)
	if !ok || c.cfg.Decoder == nil {
		return nil
	}
	var items []*stored
	var rest []*conversion.Unconverted
	for i := range of.Items {
		if item := &of.Items[i]; item.rest != nil {
			items = append(items, item)
			rest = append(rest, item.rest)
			item.rest = nil
		}
	}
	for obj, err := range c.cfg.Decoder.Convert(rest) {
		if err != nil {
			return fmt.Errorf("listing the storage of %s: %w", c.cfg.GroupResource, err)
		}
		items[0].decoded = obj
		items = items[1:]
	}
	return nil
}

// revise gives an object the revision of what was converted to it.
func (c *follower) revise(obj runtime.Object, o *unconverted) error {
	rev, err := c.cfg.Versioner.ObjectResourceVersion(o)
	if err == nil {
		err = c.cfg.Versioner.UpdateObject(obj, rev)
	}
	if err != nil {
		return fmt.Errorf("setting the resourceVersion of an object of %s: %w", c.cfg.GroupResource, err)
	}
	return nil
}

// timed is an object of an event that knows when the storage was told of it.
type timed struct {
	runtime.Object
	recorded time.Time
}

var _ storage.WatchEventWithRecordTime = timed{}

func (t timed) RecordTime() time.Time  { return t.recorded }
func (t timed) Unwrap() runtime.Object { return t.Object }

// failedEvent is what a watch of the storage ends with that cannot decode an object; see transformErrorToEvent in
// k8s.io/apiserver/pkg/storage/etcd3/watcher.go, v1.37.2.
func failedEvent(err error) watch.Event {
	status, ok := err.(apierrors.APIStatus)
	if !ok {
		status = apierrors.NewInternalError(err)
	}
	s := status.Status()
	return watch.Event{Type: watch.Error, Object: &s}
}
