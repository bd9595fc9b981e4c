// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package wire_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/scheme"

	"github.com/weir-project/weir/internal/wire"
)

func encodeAs(t *testing.T, mediaType string, obj runtime.Object) []byte {
	t.Helper()
	info, ok := runtime.SerializerInfoForMediaType(scheme.Codecs.SupportedMediaTypes(), mediaType)
	if !ok {
		t.Fatalf("no serializer of %s", mediaType)
	}
	out, err := runtime.Encode(scheme.Codecs.EncoderForVersion(info.Serializer, corev1.SchemeGroupVersion), obj)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// lists have no items, one, and some of sizes at which lengths grow by a byte.
func lists() []*corev1.ConfigMapList {
	var out []*corev1.ConfigMapList
	for _, sizes := range [][]int{{}, {0}, {1, 60, 70, 127, 128, 16000, 16384, 1 << 20}} {
		list := &corev1.ConfigMapList{ListMeta: metav1.ListMeta{ResourceVersion: "7", Continue: "token"}, Items: []corev1.ConfigMap{}}
		for _, size := range sizes {
			list.Items = append(list.Items, corev1.ConfigMap{
				ObjectMeta: metav1.ObjectMeta{Name: "c", Namespace: "n", ResourceVersion: "5"},
				Data:       map[string]string{"key": strings.Repeat("<", size)},
			})
		}
		out = append(out, list)
	}
	return out
}

// TestSplice puts items that were encoded alone into a list that was encoded without,
// and expects what upstream makes of the whole list.
func TestSplice(t *testing.T) {
	for _, list := range lists() {
		empty := list.DeepCopy()
		empty.Items = []corev1.ConfigMap{}

		head, tail, err := wire.SplitJSON(encodeAs(t, runtime.ContentTypeJSON, empty))
		if err != nil {
			t.Fatal(err)
		}
		got := bytes.Clone(head)
		for i := range list.Items {
			if i > 0 {
				got = append(got, ',')
			}
			object := bytes.TrimSuffix(encodeAs(t, runtime.ContentTypeJSON, &list.Items[i]), []byte("\n"))
			brace, rest := wire.JSONItem(object, wire.JSONTypePrefix("v1", "ConfigMap"))
			got = append(append(got, brace...), rest...)
		}
		got = append(got, tail...)
		if want := encodeAs(t, runtime.ContentTypeJSON, list); !bytes.Equal(got, want) {
			t.Errorf("%d items in JSON: %d bytes, want %d", len(list.Items), len(got), len(want))
		}

		plain := encodeAs(t, runtime.ContentTypeProtobuf, empty)
		if v, k, ok := wire.ProtobufType(plain); !ok || v != "v1" || k != "ConfigMapList" {
			t.Errorf("the list's type is %q %q (%v)", v, k, ok)
		}
		headOf, tail, err := wire.SplitProtobuf(plain)
		if err != nil {
			t.Fatal(err)
		}
		var items []byte
		total := 0
		for i := range list.Items {
			body, ok := wire.ProtobufBody(encodeAs(t, runtime.ContentTypeProtobuf, &list.Items[i]))
			if !ok {
				t.Fatal("an item has no message")
			}
			total += wire.ProtobufItemSize(len(body))
			items = append(wire.AppendProtobufItemHead(items, len(body)), body...)
		}
		got = append(append(headOf(total), items...), tail...)
		if want := encodeAs(t, runtime.ContentTypeProtobuf, list); !bytes.Equal(got, want) {
			t.Errorf("%d items in protobuf: %d bytes, want %d", len(list.Items), len(got), len(want))
		}
	}
}

// TestNotSpliced: what has no place for items, or more than one, is left alone.
func TestNotSpliced(t *testing.T) {
	for _, list := range []string{
		"", "{}", `{"kind":"Table","rows":[]}`, "{\n  \"items\": []\n}\n", `{"items":[{}]}`, `{"a":{"items":[]},"items":[]}`,
	} {
		if _, _, err := wire.SplitJSON([]byte(list)); !errors.Is(err, wire.ErrNotSpliced) {
			t.Errorf("%q: %v", list, err)
		}
	}
	whole := encodeAs(t, runtime.ContentTypeProtobuf, &corev1.ConfigMapList{})
	for n := range len(whole) {
		if _, _, err := wire.SplitProtobuf(whole[:n]); !errors.Is(err, wire.ErrNotSpliced) {
			t.Errorf("the first %d of %d bytes: %v", n, len(whole), err)
		}
		if _, ok := wire.ProtobufBody(whole[:n]); ok {
			t.Errorf("the first %d of %d bytes have a message", n, len(whole))
		}
	}
}
