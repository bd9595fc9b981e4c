// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package wire_test

import (
	"bytes"
	"encoding/json"
	"reflect"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/cbor/direct"
	utiljson "k8s.io/apimachinery/pkg/util/json"
	"sigs.k8s.io/yaml"

	"github.com/weir-project/weir/internal/wire"
)

// FuzzProtobuf cuts up messages as the generated code reads them: whatever has the shape of an
// encoded object names the type, and has the message, that runtime.Unknown reads; and metadata
// that are cut out of an object are those that it is decoded with.
//
//	go test -fuzz=FuzzProtobuf ./internal/wire
func FuzzProtobuf(f *testing.F) {
	for _, obj := range []interface{ Marshal() ([]byte, error) }{
		&metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{Name: "a", Labels: map[string]string{"l": "v"}, ResourceVersion: "7"}},
		&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "a"}, Data: map[string]string{"k": "v"}},
		&corev1.ConfigMapList{Items: make([]corev1.ConfigMap, 2)},
	} {
		raw, err := obj.Marshal()
		if err != nil {
			f.Fatal(err)
		}
		unknown := runtime.Unknown{TypeMeta: runtime.TypeMeta{APIVersion: "v1", Kind: "Kind"}, Raw: raw}
		out, err := unknown.Marshal()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
		f.Add(append([]byte("k8s\x00"), out...))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		checkUnknown(t, data)
		checkMetadata(t, data)
	})
}

func checkUnknown(t *testing.T, data []byte) {
	t.Helper()
	body, ok := bytes.CutPrefix(data, []byte("k8s\x00"))
	start, found := wire.ProtobufBody(data)
	if !ok {
		if found {
			t.Fatalf("%q has a message, but not the prefix", data)
		}
		return
	}
	var unknown runtime.Unknown
	if unknown.Unmarshal(body) != nil {
		return
	}
	if found && !bytes.Equal(data[start:len(data)-wire.ProtobufTail], unknown.Raw) {
		t.Errorf("%q: the message is %q, want %q", data, data[start:len(data)-wire.ProtobufTail], unknown.Raw)
	}
	// As upstream's encoder writes it, it has to be understood.
	again, err := unknown.Marshal()
	if err != nil || !bytes.Equal(again, body) || unknown.Raw == nil || unknown.ContentType != "" || unknown.ContentEncoding != "" {
		return
	}
	apiVersion, kind, named := wire.ProtobufType(data)
	if !found || !named || apiVersion != unknown.APIVersion || kind != unknown.Kind {
		t.Errorf("%q: %q %q (%v), a message: %v; want %+v", data, apiVersion, kind, named, found, unknown.TypeMeta)
	}
	for n := range len(data) {
		if _, ok := wire.ProtobufBody(data[:n]); ok {
			t.Errorf("%q: the first %d of %d bytes are taken for all", data, n, len(data))
		}
	}
}

func checkMetadata(t *testing.T, data []byte) {
	t.Helper()
	var partial metav1.PartialObjectMetadata
	if partial.Unmarshal(data) != nil {
		return
	}
	body, err := partial.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	cut, ok := wire.ProtobufMetadata(body)
	if !ok {
		t.Fatalf("%q has no metadata", body)
	}
	want, err := partial.ObjectMeta.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	// Maps are written in the order of their keys: equal objects are equal bytes.
	if !bytes.Equal(cut, want) || !bytes.Equal(wire.AppendProtobufMetadata(nil, cut), body) {
		t.Errorf("%q: the metadata are %q, want %q", body, cut, want)
	}
}

// FuzzSplitBytes takes apart whatever bytes: what is taken for a list has the items that
// upstream's decoders find in it, and is the same when it is put together again.
func FuzzSplitBytes(f *testing.F) {
	list := map[string]any{"kind": "L", "metadata": map[string]any{"continue": "x"}, "items": []any{map[string]any{"a": int64(1)}, "b"}}
	inJSON, err := json.Marshal(list)
	if err != nil {
		f.Fatal(err)
	}
	inCBOR, err := direct.Marshal(list)
	if err != nil {
		f.Fatal(err)
	}
	metadata := metav1.PartialObjectMetadataList{ListMeta: metav1.ListMeta{Continue: "x"}, Items: make([]metav1.PartialObjectMetadata, 2)}
	raw, err := metadata.Marshal()
	if err != nil {
		f.Fatal(err)
	}
	unknown := runtime.Unknown{TypeMeta: runtime.TypeMeta{APIVersion: "v1", Kind: "L"}, Raw: raw}
	inProtobuf, err := unknown.Marshal()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(inJSON)
	f.Add([]byte(`{"items": [ ], "a" : "\u0069tems", "items2" : null}`))
	f.Add(inCBOR)
	f.Add(append([]byte("\xd9\xd9\xf7"), inCBOR...))
	f.Add(append([]byte("k8s\x00"), inProtobuf...))
	f.Fuzz(func(t *testing.T, data []byte) {
		if l, err := wire.SplitList(wire.ListJSON, wire.ItemsOfList, data); err == nil {
			checkSplit(t, l, data, func(data []byte) (value any, err error) {
				d := json.NewDecoder(bytes.NewReader(data))
				d.UseNumber()
				return value, d.Decode(&value)
			})
		}
		if l, err := wire.SplitList(wire.ListCBOR, wire.ItemsOfList, data); err == nil {
			checkSplit(t, l, data, func(data []byte) (value any, err error) { return value, direct.Unmarshal(data, &value) })
			if !wire.CompleteCBOR(data) {
				t.Errorf("%q is taken apart, and is not complete", data)
			}
		}
		if l, err := wire.SplitList(wire.ListProtobuf, wire.ItemsOfList, data); err == nil {
			checkSplitProtobuf(t, l, data)
		}
	})
}

// together puts a list together from the items that it had.
func together(l *wire.List) []byte {
	size := 0
	for _, item := range l.Items {
		size += wire.ProtobufItemSize(len(item))
	}
	out := bytes.Clone(l.Head(len(l.Items), size))
	for i, item := range l.Items {
		out = append(l.AppendBefore(out, i == 0, len(item)), item...)
	}
	return append(out, l.Tail()...)
}

func checkSplit(t *testing.T, l *wire.List, data []byte, decode func([]byte) (any, error)) {
	t.Helper()
	value, err := decode(data)
	if err != nil {
		return // upstream does not write it
	}
	object, ok := value.(map[string]any)
	if !ok {
		t.Fatalf("%q is taken apart, and is a %T", data, value)
	}
	items, _ := object["items"].([]any)
	if len(items) != len(l.Items) || items == nil && object["items"] != nil {
		t.Fatalf("%q has the items %q, want %v", data, l.Items, object["items"])
	}
	for i, item := range l.Items {
		got, err := decode(item)
		if err != nil || !reflect.DeepEqual(got, items[i]) {
			t.Fatalf("%q: item %d is %v (%v), want %v", data, i, got, err, items[i])
		}
	}
	if len(items) == 0 {
		return
	}
	if again, err := decode(together(l)); err != nil || !reflect.DeepEqual(again, value) {
		t.Errorf("%q is put together as %q, %v", data, together(l), err)
	}
}

func checkSplitProtobuf(t *testing.T, l *wire.List, data []byte) {
	t.Helper()
	read := func(data []byte) (list metav1.PartialObjectMetadataList, err error) {
		var unknown runtime.Unknown
		if err := unknown.Unmarshal(data[len("k8s\x00"):]); err != nil {
			return list, err
		}
		return list, list.Unmarshal(unknown.Raw)
	}
	list, err := read(data)
	if err != nil {
		return
	}
	if len(list.Items) != len(l.Items) {
		t.Fatalf("%q has %d items, want %d", data, len(l.Items), len(list.Items))
	}
	for i, item := range l.Items {
		var got metav1.PartialObjectMetadata
		if err := got.Unmarshal(item); err != nil || !apiequality.Semantic.DeepEqual(got, list.Items[i]) {
			t.Fatalf("%q: item %d is %v (%v), want %v", data, i, got, err, list.Items[i])
		}
	}
	again, err := read(together(l))
	if err != nil || !apiequality.Semantic.DeepEqual(again, list) {
		t.Errorf("%q is put together as %q, %v", data, together(l), err)
	}
}

// FuzzSplice has lists with whatever metadata and items: put together from a list without
// items, and from items that were written alone, they are what upstream's encoders write.
func FuzzSplice(f *testing.F) {
	f.Add([]byte(`{"resourceVersion":"7","continue":"x"}`), []byte(`[{"a":"b\nitems:\n- c"},"- x",[[],{}],1.5,null]`))
	f.Add([]byte(`{}`), []byte(`[]`))
	f.Add([]byte(`"x\n\n y "`), []byte(`["\n","\n a\n\n",{"? long":"`+string(bytes.Repeat([]byte("word "), 60))+`"},"~","0x1","é\u2028"]`))
	f.Fuzz(func(t *testing.T, metadata, array []byte) {
		var head any
		var items []any
		if utiljson.Unmarshal(metadata, &head) != nil || utiljson.Unmarshal(array, &items) != nil {
			return
		}
		if items == nil {
			items = []any{}
		}
		whole := map[string]any{"apiVersion": "v1", "kind": "List", "metadata": head, "items": items}
		empty := map[string]any{"apiVersion": "v1", "kind": "List", "metadata": head, "items": []any{}}
		for _, form := range spliced {
			want, err := form.write(whole)
			if err != nil {
				continue // YAML cannot have all characters
			}
			none, err := form.write(empty)
			if err != nil {
				t.Fatal(err)
			}
			alone := make([][]byte, len(items))
			for i, item := range items {
				if alone[i], err = form.item(item); err != nil {
					t.Fatalf("%s: item %d: %v", form.name, i, err)
				}
			}
			if got := splice(t, form.format, wire.ItemsOfList, none, alone); !bytes.Equal(got, want) {
				t.Errorf("%s:\n%q, want\n%q", form.name, got, want)
			}
		}
	})
}

// spliced are the ways to write lists of values and their items alone.
var spliced = []struct {
	name   string
	format wire.ListFormat
	write  func(list any) ([]byte, error)
	item   func(item any) ([]byte, error)
}{
	{
		"JSON", wire.ListJSON,
		func(list any) ([]byte, error) {
			data, err := json.Marshal(list)
			return append(data, '\n'), err
		},
		json.Marshal,
	},
	{
		"pretty", wire.ListPretty,
		func(list any) ([]byte, error) { return json.MarshalIndent(list, "", "  ") },
		func(item any) ([]byte, error) {
			return json.MarshalIndent(item, wire.PrettyPrefix, wire.PrettyIndent)
		},
	},
	{
		"YAML", wire.ListYAML,
		yaml.Marshal,
		func(item any) ([]byte, error) {
			lines, err := yaml.Marshal(map[string]any{"i": []any{item}})
			return bytes.TrimPrefix(lines, []byte("i:\n")), err
		},
	},
	{"CBOR", wire.ListCBOR, func(v any) ([]byte, error) { return direct.Marshal(v) }, func(v any) ([]byte, error) { return direct.Marshal(v) }},
}
