// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package wire_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1beta1 "k8s.io/apimachinery/pkg/apis/meta/v1beta1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/cbor/direct"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/yaml"

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

// splice puts a list together from its parts.
func splice(t *testing.T, format wire.ListFormat, place wire.Place, empty []byte, items [][]byte) []byte {
	t.Helper()
	list, err := wire.SplitList(format, place, empty)
	if err != nil {
		t.Fatal(err)
	}
	if len(list.Items) > 0 {
		t.Errorf("a list without items has %q", list.Items)
	}
	if len(items) == 0 {
		return empty
	}
	size := 0
	for _, item := range items {
		size += wire.ProtobufItemSize(len(item))
	}
	got := bytes.Clone(list.Head(len(items), size))
	for i, item := range items {
		got = append(list.AppendBefore(got, i == 0, len(item)), item...)
	}
	got = append(got, list.Tail()...)
	if format == wire.ListYAML && bytes.ContainsAny(got, "\u2028\u2029") {
		return got // see TestNotSpliced
	}
	// The whole list gives back the same items, and can be put together from them again.
	again, err := wire.SplitList(format, place, got)
	if err != nil {
		t.Fatalf("the whole list: %v", err)
	}
	if !slices.EqualFunc(items, again.Items, bytes.Equal) {
		t.Errorf("of the whole list the items are %.100q, want %.100q", again.Items, items)
	}
	if !bytes.Equal(again.Head(len(items), size), list.Head(len(items), size)) || !bytes.Equal(again.Tail(), list.Tail()) {
		t.Errorf("of the whole list head and tail are %q and %q, want %q and %q", again.Head(len(items), size), again.Tail(), list.Head(len(items), size), list.Tail())
	}
	return got
}

// TestSplice puts items that were encoded alone into a list that was encoded without,
// and expects what upstream makes of the whole list.
func TestSplice(t *testing.T) {
	for _, list := range lists() {
		empty := list.DeepCopy()
		empty.Items = []corev1.ConfigMap{}
		var plain, pretty, lines, messages [][]byte
		for i := range list.Items {
			object := bytes.TrimSuffix(encodeAs(t, runtime.ContentTypeJSON, &list.Items[i]), []byte("\n"))
			brace, rest := wire.JSONItem(object, wire.JSONTypePrefix("v1", "ConfigMap"))
			item := append(bytes.Clone(brace), rest...)
			plain = append(plain, item)
			var indented bytes.Buffer
			if err := json.Indent(&indented, item, wire.PrettyPrefix, wire.PrettyIndent); err != nil {
				t.Fatal(err)
			}
			pretty = append(pretty, indented.Bytes())
			alone, err := yaml.JSONToYAML([]byte(`{"i":[` + string(item) + `]}`))
			if err != nil {
				t.Fatal(err)
			}
			lines = append(lines, bytes.TrimPrefix(alone, []byte("i:\n")))
			alone = encodeAs(t, runtime.ContentTypeProtobuf, &list.Items[i])
			start, ok := wire.ProtobufBody(alone)
			if !ok {
				t.Fatal("an item has no message")
			}
			messages = append(messages, alone[start:len(alone)-wire.ProtobufTail])
		}
		indent := func(object runtime.Object) []byte {
			var out bytes.Buffer
			if err := json.Indent(&out, bytes.TrimSuffix(encodeAs(t, runtime.ContentTypeJSON, object), []byte("\n")), "", "  "); err != nil {
				t.Fatal(err)
			}
			return out.Bytes()
		}
		none := list.DeepCopy() // upstream writes a slice that there is not as null
		none.Items = nil
		for name, c := range map[string]struct {
			format      wire.ListFormat
			empty, want []byte
			items       [][]byte
		}{
			"JSON":         {wire.ListJSON, encodeAs(t, runtime.ContentTypeJSON, empty), encodeAs(t, runtime.ContentTypeJSON, list), plain},
			"JSON, null":   {wire.ListJSON, encodeAs(t, runtime.ContentTypeJSON, none), encodeAs(t, runtime.ContentTypeJSON, list), plain},
			"pretty, null": {wire.ListPretty, indent(none), indent(list), pretty},
			"YAML, null":   {wire.ListYAML, encodeAs(t, runtime.ContentTypeYAML, none), encodeAs(t, runtime.ContentTypeYAML, list), lines},
			"pretty":       {wire.ListPretty, indent(empty), indent(list), pretty},
			"YAML":         {wire.ListYAML, encodeAs(t, runtime.ContentTypeYAML, empty), encodeAs(t, runtime.ContentTypeYAML, list), lines},
			"protobuf":     {wire.ListProtobuf, encodeAs(t, runtime.ContentTypeProtobuf, empty), encodeAs(t, runtime.ContentTypeProtobuf, list), messages},
		} {
			if len(list.Items) == 0 {
				c.want = c.empty
			}
			if got := splice(t, c.format, wire.ItemsOfList, c.empty, c.items); !bytes.Equal(got, c.want) {
				t.Errorf("%d items in %s: %d bytes, want %d", len(list.Items), name, len(got), len(c.want))
			}
		}
		if v, k, ok := wire.ProtobufType(encodeAs(t, runtime.ContentTypeProtobuf, empty)); !ok || v != "v1" || k != "ConfigMapList" {
			t.Errorf("the list's type is %q %q (%v)", v, k, ok)
		}
	}
}

// TestSpliceItemsFirst: the list of metadata of v1beta1 has its items before its own
// metadata.
func TestSpliceItemsFirst(t *testing.T) {
	list := &metav1beta1.PartialObjectMetadataList{ListMeta: metav1.ListMeta{ResourceVersion: "7"}}
	empty := protobufOf(t, list)
	var items [][]byte
	for _, name := range []string{"a", strings.Repeat("b", 200)} {
		object := metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"l": "v"}}}
		list.Items = append(list.Items, object)
		message, err := object.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		metadata, ok := wire.ProtobufMetadata(message)
		if !ok {
			t.Fatal("an object has no metadata")
		}
		if again := wire.AppendProtobufMetadata(nil, metadata); !bytes.Equal(again, message) {
			t.Errorf("metadata alone: %q, want %q", again, message)
		}
		items = append(items, message)
	}
	if got, want := splice(t, wire.ListProtobuf, wire.ItemsFirst, empty, items), protobufOf(t, list); !bytes.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func protobufOf(t *testing.T, message interface{ Marshal() ([]byte, error) }) []byte {
	t.Helper()
	raw, err := message.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	unknown := runtime.Unknown{TypeMeta: runtime.TypeMeta{APIVersion: "v", Kind: "k"}, Raw: raw}
	out, err := unknown.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return append([]byte("k8s\x00"), out...)
}

// TestSpliceCBOR counts the items in a list's header, in every width that it has.
func TestSpliceCBOR(t *testing.T) {
	for _, n := range []int{1, 23, 24, 255, 256, 65535, 65536} {
		list := map[string]any{"kind": "L", "items": []any{}, "metadata": map[string]any{"resourceVersion": "7"}}
		empty, err := direct.Marshal(list)
		if err != nil {
			t.Fatal(err)
		}
		item, err := direct.Marshal("x")
		if err != nil {
			t.Fatal(err)
		}
		items := make([][]byte, n)
		want := make([]any, n)
		for i := range items {
			items[i], want[i] = item, "x"
		}
		list["items"] = want
		encoded, err := direct.Marshal(list)
		if err != nil {
			t.Fatal(err)
		}
		if got := splice(t, wire.ListCBOR, wire.ItemsOfList, empty, items); !bytes.Equal(got, encoded) {
			t.Errorf("%d items: %d bytes, want %d", n, len(got), len(encoded))
		}
	}
}

// TestNotSpliced: what has no place for items, or more than one, is left alone.
func TestNotSpliced(t *testing.T) {
	for _, format := range []wire.ListFormat{wire.ListJSON, wire.ListPretty, wire.ListYAML, wire.ListCBOR, 200} {
		for _, list := range []string{
			"", "{}", `{"kind":"Table","rows":[]}`, `{"items":{}}`, `{"items":[],"items":[]}`, `{"items":[]`,
			"{\n  \"a\": {\n    \"items\": []\n  }\n}\n", "a:\n  items: []\n", "items: []\nitems: []\n", "items: x\n", "\x45items",
			"items:\n- a: |-\n    b\n\u2028    c\n", "items:\n- |2+\n\n\u2029- b\nkind: L\n",
			"\xa1\x45items\x81", "\xa1\x45items\x9f\xff", "\xa2\x45items\x80\x45items\x80", "\xa1\x45items\x00",
		} {
			if _, err := wire.SplitList(format, wire.ItemsOfList, []byte(list)); !errors.Is(err, wire.ErrNotSpliced) {
				t.Errorf("format %d, %q: %v", format, list, err)
			}
		}
	}
	whole := encodeAs(t, runtime.ContentTypeProtobuf, &corev1.ConfigMapList{})
	for n := range len(whole) {
		if _, err := wire.SplitList(wire.ListProtobuf, wire.ItemsOfList, whole[:n]); !errors.Is(err, wire.ErrNotSpliced) {
			t.Errorf("the first %d of %d bytes: %v", n, len(whole), err)
		}
		if _, ok := wire.ProtobufBody(whole[:n]); ok {
			t.Errorf("the first %d of %d bytes have a message", n, len(whole))
		}
	}
}
