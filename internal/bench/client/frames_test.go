// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package client

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/iotest"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes/scheme"
)

// upstreamStream is a watch response as upstream's own encoders write it.
func upstreamStream(t *testing.T, f Format, events []watch.Event) []byte {
	t.Helper()
	info, ok := runtime.SerializerInfoForMediaType(scheme.Codecs.SupportedMediaTypes(), f.MediaType())
	if !ok {
		t.Fatalf("no serializer for %s", f)
	}
	objects := scheme.Codecs.EncoderForVersion(info.Serializer, corev1.SchemeGroupVersion)
	frames := scheme.Codecs.EncoderForVersion(info.StreamSerializer.Serializer, corev1.SchemeGroupVersion)
	var out bytes.Buffer
	writer := info.StreamSerializer.Framer.NewFrameWriter(&out)
	for _, e := range events {
		var object bytes.Buffer
		if err := objects.Encode(e.Object, &object); err != nil {
			t.Fatal(err)
		}
		frame := &metav1.WatchEvent{Type: string(e.Type), Object: runtime.RawExtension{Raw: object.Bytes()}}
		if err := frames.Encode(frame, writer); err != nil {
			t.Fatal(err)
		}
	}
	return out.Bytes()
}

// randomBytes gives n bytes that do not compress, the same for the same seed.
func randomBytes(seed byte, n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{seed}).Read(b) // never fails
	return b
}

func secretOf(name, version string, size int) *corev1.Secret {
	return &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "ns", ResourceVersion: version},
		Data:       map[string][]byte{"payload": randomBytes(byte(size), size)},
	}
}

// sampleEvents has objects around the reader's buffer size, one that talks about the end of the initial events without
// being it, and a bookmark of each kind.
func sampleEvents() []watch.Event {
	var events []watch.Event
	for i, size := range []int{0, 1, 48 << 10, 63 << 10, 64 << 10, 65 << 10, 1 << 20} {
		events = append(events, watch.Event{Type: watch.Added, Object: secretOf(fmt.Sprintf("s-%d", i), fmt.Sprint(100+i), size)})
	}
	decoy := secretOf("decoy", "200", 10)
	decoy.Annotations = map[string]string{initialEventsEnd: "true"}
	closing := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{ResourceVersion: "201", Annotations: map[string]string{initialEventsEnd: "true"}}}
	return append(events,
		watch.Event{Type: watch.Modified, Object: decoy},
		watch.Event{Type: watch.Bookmark, Object: &corev1.Secret{ObjectMeta: metav1.ObjectMeta{ResourceVersion: "200"}}},
		watch.Event{Type: watch.Bookmark, Object: closing},
		watch.Event{Type: watch.Deleted, Object: secretOf("s-0", "202", 3)},
		watch.Event{Type: watch.Error, Object: &metav1.Status{Status: metav1.StatusFailure, Message: "too old resource version"}},
	)
}

func TestFramesAreUnderstood(t *testing.T) {
	for _, f := range []Format{FormatProtobuf, FormatJSON} {
		for _, keep := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s keep=%v", f, keep), func(t *testing.T) {
				events := sampleEvents()
				stream := upstreamStream(t, f, events)
				// In half reads as well: nothing may depend on how reads fall.
				for _, body := range []io.Reader{bytes.NewReader(stream), iotest.HalfReader(bytes.NewReader(stream))} {
					frames := NewFrameReader(f, body, keep)
					var total int64
					for i, want := range events {
						got, err := frames.Next()
						if err != nil {
							t.Fatalf("event %d: %v", i, err)
						}
						total += got.bytes
						if got.kind != string(want.Type) {
							t.Errorf("event %d is %s, want %s", i, got.kind, want.Type)
						}
						// Only the second bookmark is the end.
						if want := i == len(events)-3; got.InitialEnd != want {
							t.Errorf("event %d (%s): end of the initial events %v, want %v", i, got.kind, got.InitialEnd, want)
						}
						if want.Type == watch.Error {
							if !bytes.Contains(got.detail, []byte("too old resource version")) {
								t.Errorf("the error's text is lost: %q", got.detail)
							}
							continue
						}
						if !keep {
							continue
						}
						checkMeta(t, f, got.detail, want.Object)
					}
					if _, err := frames.Next(); !errors.Is(err, io.EOF) {
						t.Errorf("after the last event: %v, want EOF", err)
					}
					if total != int64(len(stream)) {
						t.Errorf("events of %d bytes, the stream has %d", total, len(stream))
					}
				}
			})
		}
	}
}

func checkMeta(t *testing.T, f Format, detail []byte, object runtime.Object) {
	t.Helper()
	want := object.(*corev1.Secret)
	got, err := metaOf(f, detail)
	if err != nil {
		t.Error(err)
		return
	}
	if got.name != want.Name || got.namespace != want.Namespace || fmt.Sprint(got.resourceVersion) != want.ResourceVersion {
		t.Errorf("identity %+v, want %s/%s at %s", got, want.Namespace, want.Name, want.ResourceVersion)
	}
}

func TestCutStreamIsNoEnd(t *testing.T) {
	for _, f := range []Format{FormatProtobuf, FormatJSON} {
		stream := upstreamStream(t, f, []watch.Event{{Type: watch.Added, Object: secretOf("s", "7", 100<<10)}})
		for _, n := range []int{1, 3, 5, 20, 70 << 10, len(stream) - 1} {
			_, err := NewFrameReader(f, bytes.NewReader(stream[:n]), false).Next()
			if err == nil || errors.Is(err, io.EOF) {
				t.Errorf("%s cut after %d of %d bytes: error %v, want one that is not EOF", f, n, len(stream), err)
			}
		}
	}
}

func TestOtherContentIsRefused(t *testing.T) {
	inputs := map[string]string{
		"an HTML page": "<html><body>502 Bad Gateway</body></html>\n" + strings.Repeat("x", 100),
		"a list":       `{"kind":"SecretList","apiVersion":"v1"}` + "\n",
		"zeros":        strings.Repeat("\x00", 64),
	}
	for name, input := range inputs {
		for _, f := range []Format{FormatProtobuf, FormatJSON} {
			if e, err := NewFrameReader(f, strings.NewReader(input), false).Next(); err == nil || errors.Is(err, io.EOF) {
				t.Errorf("%s read as %s: event %+v, error %v; want a refusal", name, f, e, err)
			}
		}
	}
}
