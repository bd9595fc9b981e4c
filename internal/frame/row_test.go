// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package frame

import (
	"fmt"
	"io"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
)

// inRows is a Frame whose events go out as compressed rows do.
type inRows struct {
	*Frame
	t *testing.T
	// stored counts segments without data, encodes how often something was encoded, and size and
	// kept are those of the last segment.
	stored, encodes *int
	size, kept      *int
}

func (r inRows) CacheEncode(id runtime.Identifier, encode func(runtime.Object, io.Writer) error, w io.Writer) error {
	counted := func(obj runtime.Object, w io.Writer) error {
		*r.encodes++
		return encode(obj, w)
	}
	events, ok := EventsOf([]*Frame{r.Frame}, id, counted)
	if !ok {
		r.t.Fatal("not shared")
	}
	s, err := events.Segment()
	if err != nil {
		return err
	}
	if s.Stored() {
		*r.stored++
		if err := events.Write(io.Discard); err != nil { // as Member.Store has it done, for each stream
			return err
		}
	}
	*r.size, *r.kept = s.Size(), s.Kept()
	_, err = w.Write(make([]byte, s.Size()))
	return err
}

func newInRows(t *testing.T, f *Frame) inRows {
	return inRows{Frame: f, t: t, stored: new(int), encodes: new(int), size: new(int), kept: new(int)}
}

// What does not compress in one form (an object's metadata alone) says nothing of another.
func TestMetadataSayNothingOfTheObject(t *testing.T) {
	r := core("ConfigMap", "configmaps")
	c, _ := r.codec(t, 1<<20)
	big := &v1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: "kube-root-ca.crt", Namespace: "default", UID: "7d1c8a34-52f1-4c7e-9d0b-c1a6f2e38b95", ResourceVersion: "4711"},
		Data:       map[string]string{"text": strings.Repeat("a line like every other line\n", 5000)},
	}
	f := frameOf(t, c, big)
	partial := newInRows(t, f)
	r.serve(t, inProtobuf+asPartial, watch.Event{Type: watch.Modified, Object: partial})
	t.Logf("metadata: %d bytes, kept %d, stored %d", *partial.size, *partial.kept, *partial.stored)
	whole := newInRows(t, f)
	r.serve(t, inProtobuf, watch.Event{Type: watch.Modified, Object: whole})
	t.Logf("object: %d bytes, kept %d, stored %d", *whole.size, *whole.kept, *whole.stored)
	if *whole.stored > 0 {
		t.Errorf("%d bytes of text are sent uncompressed, because %d bytes of metadata do not compress", *whole.size, *partial.size)
	}
}

// What does not compress is encoded once for all streams, as what does.
func TestWhatDoesNotCompressIsEncodedOnce(t *testing.T) {
	r := core("ConfigMap", "configmaps")
	c, _ := r.codec(t, 1<<20)
	f := frameOf(t, c, &v1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: "kube-root-ca.crt", Namespace: "default", UID: "7d1c8a34-52f1-4c7e-9d0b-c1a6f2e38b95", ResourceVersion: "4711"},
	})
	rows := newInRows(t, f)
	const streams = 50
	for range streams {
		r.serve(t, inProtobuf+asPartial, watch.Event{Type: watch.Modified, Object: rows})
	}
	if *rows.encodes > 2 {
		t.Errorf("an event of %d bytes was encoded %d times for %d streams", *rows.size, *rows.encodes, streams)
	}
}

// Any number of rows may begin with one object, as those of selectors "name in (m, x)", each with another x.
// None is looked at to find another.
func TestRowsOfOneObject(t *testing.T) {
	r := core("ConfigMap", "configmaps")
	c, _ := r.codec(t, DefaultBudget)
	frames := make([]*Frame, 2_001)
	for i := range frames {
		frames[i] = frameOf(t, c, &v1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("m", i), Namespace: "n", ResourceVersion: "1"}})
	}
	made := 0
	form := Form{ID: "row", Kept: true, Write: func(f *Frame, w io.Writer) error {
		made++
		_, err := w.Write(f.primary.data)
		return err
	}}
	for range 2 {
		for _, other := range frames[1:] {
			if _, err := SegmentOf([]*Frame{frames[0], other}, form); err != nil {
				t.Fatal(err)
			}
		}
	}
	s := c.store
	if listed := frames[0].derived.Load(); made != 4_000 || len(s.rows) != 2_000 || listed != nil {
		t.Errorf("%d objects written for %d rows, of which the object lists %v", made, len(s.rows), listed)
	}
	for range 3 {
		s.sweepIdle(&s.compressed)
	}
	if len(s.rows) != 0 || s.compressed.single.len+s.compressed.shared.len != 0 {
		t.Errorf("%d rows are left that nobody has asked for", len(s.rows))
	}
}
