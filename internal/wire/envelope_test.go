// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package wire_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/weir-project/weir/internal/wire"
)

var mediaTypes = map[wire.Format]string{
	wire.JSON:     runtime.ContentTypeJSON,
	wire.Protobuf: runtime.ContentTypeProtobuf,
}

// upstream is the encoder of watch events that upstream's handler would use.
func upstream(t testing.TB, f wire.Format) runtime.Encoder {
	t.Helper()
	v1 := schema.GroupVersion{Version: "v1"}
	scheme := runtime.NewScheme()
	metav1.AddToGroupVersion(scheme, v1)
	codecs := serializer.NewCodecFactory(scheme)
	info, ok := runtime.SerializerInfoForMediaType(codecs.SupportedMediaTypes(), mediaTypes[f])
	if !ok {
		t.Fatalf("upstream has no serializer for %s", mediaTypes[f])
	}
	return codecs.EncoderForVersion(info.StreamSerializer.Serializer, v1)
}

// compare puts an event round an object in both ways. The object must not be nil, and
// JSON must be as upstream's encoder leaves it.
func compare(t testing.TB, f wire.Format, encoder runtime.Encoder, eventType string, object []byte) {
	t.Helper()
	var want bytes.Buffer
	err := encoder.Encode(&metav1.WatchEvent{Type: eventType, Object: runtime.RawExtension{Raw: object}}, &want)
	if err != nil {
		t.Fatalf("upstream cannot encode %.100q: %v", object, err)
	}
	const before = "what was there"
	got := wire.AppendEvent([]byte(before), f, eventType, object)
	if !bytes.HasPrefix(got, []byte(before)) {
		t.Fatalf("%v: %q was overwritten by %.100q", f, before, got)
	}
	got = got[len(before):]
	if !bytes.Equal(got, want.Bytes()) {
		t.Fatalf("%v %s of %d bytes:\n got %.200q\nwant %.200q", f, eventType, len(object), got, want.Bytes())
	}
	total, offset := wire.EventSize(f, eventType, len(object))
	if total != len(got) {
		t.Fatalf("%v %s of %d bytes: EventSize says %d, it is %d", f, eventType, len(object), total, len(got))
	}
	if !bytes.Equal(got[offset:offset+len(object)], object) {
		t.Fatalf("%v %s: the object of %d bytes is not at %d", f, eventType, len(object), offset)
	}
}

// TestAppendEvent compares with upstream's encoders around every length of a varint
// that an object may have.
func TestAppendEvent(t *testing.T) {
	sizes := []int{0, 1, 2, 3, 4, 125, 126, 127, 128, 129, 16379, 16380, 16381, 16382, 16383, 16384, 16385, 1 << 20, 2097147, 2097151, 2097152}
	types := []watch.EventType{watch.Added, watch.Modified, watch.Deleted, watch.Bookmark, watch.Error}
	for f := range mediaTypes {
		encoder := upstream(t, f)
		for _, eventType := range types {
			for _, size := range sizes {
				object := bytes.Repeat([]byte("x"), size)
				if f == wire.JSON {
					if size < 2 {
						continue // there is no such JSON object
					}
					if size > 2 {
						object = fmt.Appendf(nil, `"%s"`, object[2:])
					} else {
						object = []byte("{}")
					}
				}
				compare(t, f, encoder, string(eventType), object)
			}
		}
	}
	for _, object := range []string{`{"kind":"Pod","apiVersion":"v1","metadata":{"name":"a"}}`, `{"a":"\u003c\u0026\u2028é","b":[1,2.5,null,true]}`} {
		compare(t, wire.JSON, upstream(t, wire.JSON), "ADDED", []byte(object))
	}
}

func TestFormat(t *testing.T) {
	for f, want := range map[wire.Format]string{wire.JSON: "json", wire.Protobuf: "protobuf", wire.Other: "other", 77: "other"} {
		if f.String() != want {
			t.Errorf("format %d is %q, want %q", f, f, want)
		}
	}
}

// FuzzAppendEvent compares with upstream's encoders for whatever bytes.
func FuzzAppendEvent(f *testing.F) {
	f.Add("ADDED", []byte("{}"))
	f.Add("DELETED", []byte("k8s\x00\x0a\x00"))
	f.Add("", []byte(`{"a":"<&>"}`))
	inJSON, inProtobuf := upstream(f, wire.JSON), upstream(f, wire.Protobuf)
	f.Fuzz(func(t *testing.T, eventType string, object []byte) {
		if object == nil {
			object = []byte{}
		}
		compare(t, wire.Protobuf, inProtobuf, eventType, object)

		// JSON objects come as upstream's encoder writes them, event types are names.
		var value any
		if json.Unmarshal(object, &value) != nil {
			return
		}
		var encoded bytes.Buffer
		if err := json.NewEncoder(&encoded).Encode(value); err != nil {
			return
		}
		compare(t, wire.JSON, inJSON, string(watch.Modified), bytes.TrimSuffix(encoded.Bytes(), []byte("\n")))
	})
}

func BenchmarkAppendEvent(b *testing.B) {
	object := bytes.Repeat([]byte("x"), 7<<10)
	for f := range mediaTypes {
		total, _ := wire.EventSize(f, "MODIFIED", len(object))
		buf := make([]byte, 0, total)
		b.Run(f.String(), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				buf = wire.AppendEvent(buf[:0], f, "MODIFIED", object)
			}
		})
	}
}
