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
	// maxObjects and maxBytes bound what is decoded, and asked of a webhook, at once. Bytes are those that are stored; one object may have more.
	maxObjects = 250
	maxBytes   = 1 << 20
	// quick and slow are how long several objects may take so that more are taken next time, or not fewer: whoever waits for the first waits
	// for the last. A webhook may bound its time as well; upstream does not.
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
	// limit is how many objects are decoded at once. It begins with one, so that a webhook that is not there is asked once, as by upstream.
	limit int
	// hold is how many objects are yet to be decoded until limit may grow, and nextHold how many it will be the next time that objects are
	// decoded alone, but not together.
	hold, nextHold int
}

// Decoder returns a Decoder for a codec, which decodes to a version; nil if what the codec begins with is not of Codec.
func (b *Batches) Decoder(codec runtime.Codec, version schema.GroupVersion) *Decoder {
	_, err := b.decode(codec, nil, func(runtime.Codec) (runtime.Object, *schema.GroupVersionKind, error) { return nil, nil, errEntered })
	if !errors.Is(err, errEntered) {
		return nil
	}
	return &Decoder{batches: b, codec: codec, version: version, clock: clock.RealClock{}, limit: 1}
}

// Limit returns how many objects, and bytes of them, it is of use to have ready for Decode now.
func (d *Decoder) Limit() (objects, bytes int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.limit, maxBytes
}

// Decode yields the objects that the codec makes of what is stored, in turn, and ends with the first that it cannot decode: the error is the
// codec's. It waits for a webhook without end, as the codec does.
func (d *Decoder) Decode(stored [][]byte) iter.Seq2[runtime.Object, error] {
	return func(yield func(runtime.Object, error) bool) {
		for len(stored) > 0 {
			limit, _ := d.Limit()
			n := take(stored, limit)
			if !d.together(stored[:n], yield) {
				return
			}
			stored = stored[n:]
		}
	}
}

// take returns how many of the first objects are decoded at once.
func take(stored [][]byte, limit int) int {
	n, size := 1, len(stored[0])
	for n < min(len(stored), limit) && size+len(stored[n]) <= maxBytes {
		size += len(stored[n])
		n++
	}
	return n
}

// together decodes some objects at once. It is false if that was the end.
func (d *Decoder) together(stored [][]byte, yield func(runtime.Object, error) bool) bool {
	start := d.clock.Now()
	if len(stored) == 1 {
		obj, err := runtime.Decode(d.codec, stored[0])
		d.decoded(1, d.clock.Since(start), err)
		return yield(obj, err) && err == nil
	}
	objects, err := d.convert(stored)
	if err != nil {
		return d.apart(stored, yield)
	}
	d.decoded(len(stored), d.clock.Since(start), nil)
	for i, u := range objects {
		var obj runtime.Object
		if u != nil {
			obj, err = d.batches.finished(d.codec, u)
		} else {
			obj, err = runtime.Decode(d.codec, stored[i])
		}
		if !yield(obj, err) || err != nil {
			return false
		}
	}
	return true
}

// convert has objects converted by one request; nil is one that cannot be converted with others.
func (d *Decoder) convert(stored [][]byte) ([]*unstructured.Unstructured, error) {
	objects := make([]*unstructured.Unstructured, len(stored))
	var others []*unstructured.Unstructured // in another version
	for i, data := range stored {
		u, err := d.batches.prepared(d.codec, data)
		if err != nil || len(u.Object) <= 2 { // no webhook is asked about what has no more than a type, alone
			continue
		}
		objects[i] = u
		if u.GroupVersionKind().GroupVersion() != d.version {
			others = append(others, u)
		}
	}
	if len(others) == 0 {
		return objects, nil
	}
	converted, err := d.batches.converted(d.codec, others)
	if err != nil {
		return nil, err
	}
	for i, u := range others {
		u.Object = converted[i].Object
	}
	return objects, nil
}

// apart decodes one by one what could not be decoded at once.
func (d *Decoder) apart(stored [][]byte, yield func(runtime.Object, error) bool) bool {
	for _, data := range stored {
		obj, err := runtime.Decode(d.codec, data)
		if err != nil {
			d.decoded(1, 0, err)
		}
		if !yield(obj, err) || err != nil {
			return false
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	// It was not the objects: the webhook cannot take as many, or was not there for a moment.
	d.nextHold = min(2*d.nextHold+len(stored), maxHold)
	d.hold = d.nextHold
	d.limit = max(1, len(stored)/2)
	return true
}

// decoded learns from n objects that were decoded at once. An error is that of one alone, which says nothing about several.
func (d *Decoder) decoded(n int, took time.Duration, err error) {
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
		d.limit = min(2*d.limit, maxObjects)
	}
}
