// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package watchcache

import (
	"context"
	"io"
	"net/http"
	"strings"

	"k8s.io/apimachinery/pkg/runtime"
	endpointmetrics "k8s.io/apiserver/pkg/endpoints/metrics"
	"k8s.io/apiserver/pkg/endpoints/request"
	compbasemetrics "k8s.io/component-base/metrics"

	"github.com/weir-project/weir/internal/coalesce"
	"github.com/weir-project/weir/internal/frame"
)

// rows makes the events of a watch whose response is compressed. One of initial events is a row of
// objects, compressed together, where that can be; all others are of one.
//
//	watch ──row──▶ upstream's handler ──CacheEncode──▶ Stream.Instead: the row's segment
//	                                  └──Write──▶ as many bytes as the last event is, for its metrics
//
// The handler counts a row as one event. The others are counted here.
type rows struct {
	stream *coalesce.Stream
	// together says that initial events may be sent in rows: not where each has to be encoded by
	// itself.
	together bool
	// events and sizes are the handler's own metrics.
	events compbasemetrics.CounterMetric
	sizes  compbasemetrics.ObserverMetric
}

// newRows returns the rows of the watch request that ctx belongs to; nil if there is none.
func newRows(ctx context.Context, stream *coalesce.Stream) *rows {
	info, ok := request.RequestInfoFrom(ctx)
	if !ok {
		return nil
	}
	// A Table is made anew for each client, and CBOR in several orders. Another form that cannot be
	// shared is sent all the same; see row.apart.
	accept := acceptOf(stream.Asked())
	return &rows{
		stream:   stream,
		together: !strings.Contains(accept, "as=Table") && !strings.Contains(accept, "cbor"),
		events:   endpointmetrics.WatchEvents.WithContext(ctx).WithLabelValues(info.APIGroup, info.APIVersion, info.Resource),
		sizes:    endpointmetrics.WatchEventsSizes.WithContext(ctx).WithLabelValues(info.APIGroup, info.APIVersion, info.Resource),
	}
}

// acceptOf returns what a request accepts, without spaces.
func acceptOf(asked http.Header) string {
	return strings.Join(strings.Fields(strings.Join(asked.Values("Accept"), ",")), "")
}

// of returns the object of an event that stands for frames, all of one event type.
func (r *rows) of(frames []*frame.Frame) runtime.Object {
	return &row{Frame: frames[0], rows: r, frames: frames}
}

// one returns the object of an event of obj alone. Only frames are shared. r may be nil.
func (r *rows) one(obj runtime.Object) runtime.Object {
	f, ok := obj.(*frame.Frame)
	if r == nil || !ok {
		return obj
	}
	o := &row{Frame: f, rows: r, alone: [1]*frame.Frame{f}}
	o.frames = o.alone[:]
	return o
}

// count counts events that the handler does not.
func (r *rows) count(sizes []uint32) {
	r.events.Add(float64(len(sizes)))
	for _, size := range sizes {
		r.sizes.Observe(float64(size))
	}
}

// row is the object of an event of a compressed watch. All but its encoding is that of its first
// frame.
type row struct {
	*frame.Frame
	rows   *rows
	frames []*frame.Frame
	// alone has the frame of a row of one.
	alone [1]*frame.Frame
}

var _ runtime.CacheableObject = (*row)(nil)

// DeepCopyObject implements runtime.Object. Rows are immutable: it is the same one.
func (r *row) DeepCopyObject() runtime.Object { return r }

// CacheEncode implements runtime.CacheableObject.
func (r *row) CacheEncode(id runtime.Identifier, encode func(runtime.Object, io.Writer) error, w io.Writer) error {
	events, ok := frame.EventsOf(r.frames, id, encode)
	if !ok {
		return r.apart(id, encode, w)
	}
	segment, err := events.Segment()
	if err != nil {
		return err
	}
	last := len(r.frames) - 1
	size := int(segment.Sizes[last])
	err = r.rows.stream.Instead(segment.Segment, events.Write, segment.Framing+size, func() error {
		if size > len(blank) && events.Kept() {
			return r.frames[last].CacheEncode(id, encode, w) // which copies nothing
		}
		_, err := w.Write(blankOf(size))
		return err
	})
	if err == nil {
		r.rows.count(segment.Sizes[:last])
	}
	return err
}

// apart writes the events one by one. The handler counts all of their bytes as those of one event.
func (r *row) apart(id runtime.Identifier, encode func(runtime.Object, io.Writer) error, w io.Writer) error {
	for _, f := range r.frames {
		if err := f.CacheEncode(id, encode, w); err != nil {
			return err
		}
	}
	r.rows.events.Add(float64(len(r.frames) - 1))
	return nil
}

// blank are bytes for those who look at their number only.
var blank [64 << 10]byte

// blankOf returns n bytes that must not be changed.
func blankOf(n int) []byte {
	if n > len(blank) {
		return make([]byte, n) // of a large object in another form than it is kept in
	}
	return blank[:n]
}
