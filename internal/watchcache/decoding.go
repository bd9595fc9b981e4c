// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package watchcache

import (
	"iter"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/storage"
)

// Decoder decodes what is stored of one resource, several objects at once.
type Decoder interface {
	// Limit returns how many objects, and bytes of them, it is of use to have ready for Decode.
	Limit() (objects, bytes int)
	// Decode yields what the storage codec makes of each object, in turn, and ends with the first error, which is the codec's.
	Decode(stored [][]byte) iter.Seq2[runtime.Object, error]
}

// decoding is a watch of the storage whose objects it decodes, several at once. A goroutine of its own does so, because decoding may wait for a
// webhook, which takes as long as it likes: the goroutine ends when the watch does, or has been stopped and the webhook has answered.
type decoding struct {
	follower *follower
	of       watch.Interface
	out      chan watch.Event
	stopped  chan struct{}
	stop     sync.Once
	// initial says that the events so far are those of the state that the watch begins with: a bookmark ends them.
	initial bool
}

// decode returns a watch that tells what w does, decoded; w itself if the resource has no Decoder.
func (c *follower) decode(w watch.Interface, initial bool) watch.Interface {
	if c.cfg.Decoder == nil {
		return w
	}
	d := &decoding{follower: c, of: w, out: make(chan watch.Event), stopped: make(chan struct{}), initial: initial}
	go d.run()
	return d
}

// ResultChan implements watch.Interface.
func (d *decoding) ResultChan() <-chan watch.Event { return d.out }

// Stop implements watch.Interface. It does not wait for the goroutine.
func (d *decoding) Stop() {
	d.stop.Do(func() {
		close(d.stopped)
		d.of.Stop()
	})
}

func (d *decoding) run() {
	defer close(d.out)
	defer d.of.Stop()
	for {
		objects, other, ok := d.gather()
		if !d.tell(objects) || !ok || other != nil && !d.send(*other) {
			return
		}
	}
}

// gather returns the next objects, as far as they are there, and what has come behind them that is none. It waits for the first, and for all of
// the initial state, of which nothing is to be seen before its end. It is false if nothing more comes.
func (d *decoding) gather() (objects []watch.Event, other *watch.Event, ok bool) {
	most, room := d.follower.cfg.Decoder.Limit()
	for len(objects) < most && room > 0 {
		event, there, ok := d.next(len(objects) == 0 || d.initial)
		switch {
		case !ok:
			return objects, nil, false
		case !there:
			return objects, nil, true
		case event.Type == watch.Bookmark:
			d.initial = false
		}
		o, is := undecoded(event)
		if !is {
			return objects, &event, true
		}
		objects = append(objects, event)
		room -= len(o.data)
	}
	return objects, nil, true
}

// next returns the next event if it is there, or waits for it. It is not ok if none comes any more.
func (d *decoding) next(waits bool) (event watch.Event, there, ok bool) {
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

// undecoded returns what an event tells of as it is stored.
func undecoded(event watch.Event) (*stored, bool) {
	if timed, ok := event.Object.(storage.WatchEventWithRecordTime); ok {
		event.Object = timed.Unwrap()
	}
	o, ok := event.Object.(*stored)
	return o, ok
}

// tell decodes objects and sends their events. It is false if there is nothing more to tell.
func (d *decoding) tell(events []watch.Event) bool {
	if len(events) == 0 {
		return true
	}
	objects := make([]*stored, len(events))
	data := make([][]byte, len(events))
	for i, event := range events {
		objects[i], _ = undecoded(event)
		data[i] = objects[i].data
	}
	i := 0
	for obj, err := range d.follower.cfg.Decoder.Decode(data) {
		if err == nil {
			err = d.follower.revise(obj, objects[i])
		}
		if err != nil {
			d.send(failedEvent(err))
			return false
		}
		event := events[i]
		if as, ok := event.Object.(storage.WatchEventWithRecordTime); ok {
			obj = timed{obj, as.RecordTime()}
		}
		event.Object = obj
		if !d.send(event) {
			return false
		}
		i++
	}
	return true
}

// send is false if the watch has been stopped.
func (d *decoding) send(event watch.Event) bool {
	select {
	case d.out <- event:
		return true
	case <-d.stopped:
		return false
	}
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
