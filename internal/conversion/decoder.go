// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package conversion

import (
	"errors"
	"iter"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/utils/clock"
)

const (
	// MaxObjects is how many objects a webhook is asked about at once, at most.
	MaxObjects = 250
	// MaxBytes is how many bytes, as they are stored, these have; one object may have more.
	MaxBytes = 1 << 20
	// quick and slow are how long several objects may take so that more are converted at once next time, or not fewer: whoever waits for
	// the first waits for the last, and upstream waits for 30 s.
	quick = 500 * time.Millisecond
	slow  = time.Second
	// maxHold bounds for how many objects the limit is held where it is.
	maxHold = 10_000
)

// Decoder decodes objects as a storage codec does that decodes to one version. It may be used by any number of goroutines, and
// learns from all of them how many objects their webhook can take.
type Decoder struct {
	batches *Batches
	codec   runtime.Codec
	version schema.GroupVersion
	clock   clock.PassiveClock

	mu sync.Mutex
	// limit is how many objects are converted at once. It begins with one, so that a webhook that is not there is asked once, as by upstream.
	limit int
	// hold is how many objects are yet to be converted until limit may grow, and nextHold how many it will be the next time that objects
	// can be converted one by one, but not together.
	hold, nextHold int
}

// Unconverted is an object that has been decoded but for its conversion.
type Unconverted struct {
	stored []byte
	object *unstructured.Unstructured
}

// Size is how many bytes the object has as it is stored.
func (u *Unconverted) Size() int { return len(u.stored) }

// Decoder returns a Decoder for a codec, which decodes to a version; nil if what the codec begins with is not of Codec.
func (b *Batches) Decoder(codec runtime.Codec, version schema.GroupVersion) *Decoder {
	_, err := b.decode(codec, nil, func(runtime.Codec) (runtime.Object, *schema.GroupVersionKind, error) { return nil, nil, errEntered })
	if !errors.Is(err, errEntered) {
		return nil
	}
	return &Decoder{batches: b, codec: codec, version: version, clock: clock.RealClock{}, limit: 1}
}

// Limit returns how many objects it is of use to have ready for Convert now.
func (d *Decoder) Limit() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.limit
}

// Begin decodes what is stored. What is stored in another version is left unconverted, all else is what the codec makes of it. stored must not
// be changed any more.
func (d *Decoder) Begin(stored []byte) (runtime.Object, *Unconverted, error) {
	u, err := d.batches.prepared(d.codec, stored)
	switch {
	case err != nil || len(u.Object) <= 2: // the codec says what is wrong; and no webhook is asked about what has a type alone
		obj, err := runtime.Decode(d.codec, stored)
		return obj, nil, err
	case u.GroupVersionKind().GroupVersion() == d.version:
		obj, err := d.batches.finished(d.codec, u)
		return obj, nil, err
	}
	return nil, &Unconverted{stored, u}, nil
}

// Convert yields what the codec makes of each object, in turn, and ends with the first that it cannot decode: the error is the codec's. It waits
// for a webhook as the codec does. Each object can be converted once.
func (d *Decoder) Convert(objects []*Unconverted) iter.Seq2[runtime.Object, error] {
	return func(yield func(runtime.Object, error) bool) {
		for len(objects) > 0 {
			n := take(objects, d.Limit())
			if !d.together(objects[:n], yield) {
				return
			}
			objects = objects[n:]
		}
	}
}

// take returns how many of the first objects are converted at once.
func take(objects []*Unconverted, limit int) int {
	n, size := 1, objects[0].Size()
	for n < min(len(objects), limit) && size+objects[n].Size() <= MaxBytes {
		size += objects[n].Size()
		n++
	}
	return n
}

// together converts some objects at once. It is false if that was the end.
func (d *Decoder) together(objects []*Unconverted, yield func(runtime.Object, error) bool) bool {
	start := d.clock.Now()
	if len(objects) == 1 {
		obj, err := runtime.Decode(d.codec, objects[0].stored)
		d.converted(1, d.clock.Since(start), err)
		return yield(obj, err) && err == nil
	}
	converted, err := d.batches.converted(d.codec, objects)
	if err != nil {
		return d.apart(objects, yield)
	}
	d.converted(len(objects), d.clock.Since(start), nil)
	for i := range converted {
		obj, err := d.batches.finished(d.codec, &converted[i])
		if !yield(obj, err) || err != nil {
			return false
		}
	}
	return true
}

// apart converts one by one what could not be converted at once.
func (d *Decoder) apart(objects []*Unconverted, yield func(runtime.Object, error) bool) bool {
	for _, u := range objects {
		obj, err := runtime.Decode(d.codec, u.stored)
		if err != nil {
			d.converted(1, 0, err)
		}
		if !yield(obj, err) || err != nil {
			return false
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	// It was not the objects: the webhook cannot take as many, or was not there for a moment.
	d.nextHold = min(2*d.nextHold+len(objects), maxHold)
	d.hold = d.nextHold
	d.limit = max(1, len(objects)/2)
	return true
}

// converted learns from n objects that were converted at once. An error is that of one alone, which says nothing about several.
func (d *Decoder) converted(n int, took time.Duration, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case err != nil:
		d.limit, d.hold, d.nextHold = 1, 0, 0
	case took > slow:
		d.limit = max(1, d.limit/2)
	case d.hold > 0:
		d.hold -= n
	case took < quick && n >= d.limit:
		d.limit = min(2*d.limit, MaxObjects)
	}
}
