// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package liststream

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"reflect"
	"sync"

	"k8s.io/apimachinery/pkg/api/meta"
	metainternalversionscheme "k8s.io/apimachinery/pkg/apis/meta/internalversion/scheme"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/storage"

	"github.com/weir-project/weir/internal/frame"
	"github.com/weir-project/weir/internal/transcode"
	"github.com/weir-project/weir/internal/wire"
)

// maker makes the items of one list.
type maker struct {
	types Types
	req   *http.Request
	info  *request.RequestInfo
	// encoding and version are those of the list.
	encoding encoding
	version  schema.GroupVersion
	// once says that items are not kept for others: what is made of them is.
	once bool
	// confined is told what is decoded to make garbage.
	confined *confinement
}

// encoding is how an item is written before it is laid out.
type encoding string

const (
	inJSON     encoding = "json"
	inProtobuf encoding = "protobuf"
	inCBOR     encoding = "cbor"
)

func encodingOf(format wire.ListFormat) encoding {
	switch format {
	case wire.ListProtobuf:
		return inProtobuf
	case wire.ListCBOR:
		return inCBOR
	default:
		return inJSON
	}
}

// marshal writes v as upstream's encoders of whole lists write an item.
func (e encoding) marshal(v any, w io.Writer) error {
	var data []byte
	var err error
	switch e {
	case inJSON:
		return json.NewEncoder(trimmed{w}).Encode(v) // spares the copy that json.Marshal returns
	case inCBOR:
		return marshalCBOR(v, w)
	case inProtobuf:
		message, ok := v.(interface{ Marshal() ([]byte, error) })
		if !ok {
			return fmt.Errorf("%T has no protobuf encoding", v)
		}
		data, err = message.Marshal()
	}
	if err != nil {
		return err
	}
	_, err = w.Write(data)
	return err
}

// trimmed is a writer without the newline that a json.Encoder ends with. Each Write has to
// be one value.
type trimmed struct{ io.Writer }

func (t trimmed) Write(p []byte) (int, error) {
	_, err := t.Writer.Write(bytes.TrimSuffix(p, []byte("\n")))
	return len(p), err
}

// objects returns the objects themselves.
func (m *maker) objects() itemFunc {
	apiVersion := m.version.String()
	switch m.encoding {
	case inProtobuf:
		encoder := m.types.Encoder(wire.Protobuf, m.version)
		return func(f *frame.Frame) ([]byte, []byte, error) {
			message, err := f.Message(apiVersion, encoder)
			return nil, message, err
		}
	case inCBOR:
		id := runtime.Identifier("list item, cbor, " + apiVersion)
		build := func(obj runtime.Object, w io.Writer) error {
			if _, ok := obj.(runtime.Unstructured); ok {
				return m.encoding.marshal(obj, w)
			}
			obj, err := m.types.Convert(obj, m.version)
			if err != nil {
				return err
			}
			// A list of a built-in type names the type of its items itself.
			obj.GetObjectKind().SetGroupVersionKind(schema.GroupVersionKind{})
			return m.encoding.marshal(obj, w)
		}
		return derived(m.encoding, id, false, build)
	default:
		encoder := m.types.Encoder(wire.JSON, m.version)
		var prefix, view []byte
		kind := ""
		return func(f *frame.Frame) ([]byte, []byte, error) {
			if f.View() && f.KeptIn(wire.JSON, apiVersion) {
				var err error
				view, err = f.AppendView(view[:0])
				return nil, view, err
			}
			object, err := m.object(f, apiVersion, encoder)
			if err != nil {
				return nil, nil, err
			}
			if k := f.Kind(); encoder != nil && (prefix == nil || k != kind) {
				prefix, kind = wire.JSONTypePrefix(apiVersion, k), k
			}
			brace, rest := wire.JSONItem(object, prefix)
			return brace, rest, nil
		}
	}
}

// object returns an object in JSON.
func (m *maker) object(f *frame.Frame, apiVersion string, encoder runtime.Encoder) ([]byte, error) {
	if m.once {
		return f.Once(wire.JSON, apiVersion, encoder)
	}
	return f.As(wire.JSON, apiVersion, encoder)
}

// derived returns what build makes of each object, which it may change.
func derived(e encoding, id runtime.Identifier, perishable bool, build func(runtime.Object, io.Writer) error) itemFunc {
	return derivedFrom(e, id, perishable, func(f *frame.Frame, w io.Writer) error {
		obj, err := f.Decode()
		if err != nil {
			return err
		}
		return build(obj, w)
	})
}

func derivedFrom(e encoding, id runtime.Identifier, perishable bool, build func(*frame.Frame, io.Writer) error) itemFunc {
	ids := e.variants(id)
	return func(f *frame.Frame) ([]byte, []byte, error) {
		data, err := f.Derive(ids[rand.IntN(len(ids))], perishable, build)
		return nil, data, err
	}
}

// metadata returns the objects' metadata only; see asPartialObjectMetadataList in
// k8s.io/apiserver/pkg/endpoints/handlers/response.go.
func (m *maker) metadata() itemFunc {
	e, kind := m.encoding, m.version.WithKind("PartialObjectMetadata")
	made := derivedFrom(e, runtime.Identifier(fmt.Sprintf("list item, %s, %s", e, kind)), false, func(f *frame.Frame, w io.Writer) error {
		if e == inJSON {
			p := partials.Get().(*partialJSON)
			defer partials.Put(p)
			if object, ok := p.of(f, kind); ok {
				_, err := w.Write(object)
				return err
			}
		}
		partial, err := partialOf(f)
		if err != nil {
			return err
		}
		partial.SetGroupVersionKind(kind)
		return e.marshal(partial, w)
	})
	if e != inProtobuf {
		// Metadata are the same in every version.
		return func(f *frame.Frame) ([]byte, []byte, error) { return made(f.Base()) }
	}
	var buf []byte
	return func(f *frame.Frame) ([]byte, []byte, error) {
		metadata, ok := f.Metadata()
		if !ok {
			return made(f.Base())
		}
		buf = wire.AppendProtobufMetadata(buf[:0], metadata)
		return nil, buf, nil
	}
}

var partialObject = transcode.For(reflect.TypeFor[metav1.PartialObjectMetadata]())

// partialJSON is memory for an object's metadata as a message and in JSON.
type partialJSON struct{ message, object []byte }

var partials = sync.Pool{New: func() any { return new(partialJSON) }}

// of returns the metadata of an object in JSON, where that needs no decoding. They are valid
// until the next call.
func (p *partialJSON) of(f *frame.Frame, kind schema.GroupVersionKind) (object []byte, ok bool) {
	metadata, ok := f.Metadata()
	if !ok {
		return nil, false
	}
	apiVersion, name := kind.ToAPIVersionAndKind()
	p.message = wire.AppendProtobufMetadata(p.message[:0], metadata)
	var err error
	p.object, err = partialObject.AppendJSON(p.object[:0], apiVersion, name, p.message)
	return p.object, err == nil
}

// partialOf returns the metadata of an object, which is all that is decoded where that is
// possible.
func partialOf(f *frame.Frame) (*metav1.PartialObjectMetadata, error) {
	if metadata, ok := f.Metadata(); ok {
		partial := &metav1.PartialObjectMetadata{}
		return partial, partial.ObjectMeta.Unmarshal(metadata)
	}
	obj, err := f.DecodeMetadata()
	if err != nil {
		return nil, err
	}
	m, err := meta.Accessor(obj)
	if err != nil {
		return nil, err
	}
	return meta.AsPartialObjectMetadata(m), nil
}

// inner has buffers for the object in a row.
var inner = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// rows returns the objects as rows of a Table with the given columns; see asTable in
// k8s.io/apiserver/pkg/endpoints/handlers/response.go.
func (m *maker) rows(first *frame.Frame, columns []metav1.TableColumnDefinition) (itemFunc, error) {
	if m.encoding != inJSON {
		return nil, wire.ErrNotSpliced // upstream has Tables in JSON and YAML only
	}
	if first == nil {
		return func(*frame.Frame) ([]byte, []byte, error) { return nil, nil, wire.ErrNotSpliced }, nil // never called
	}
	ctx, e := m.req.Context(), m.encoding
	options := &metav1.TableOptions{}
	if err := metainternalversionscheme.ParameterCodec.DecodeParameters(m.req.URL.Query(), metav1.SchemeGroupVersion, options); err != nil {
		return nil, wire.ErrNotSpliced // upstream has said so
	}
	table, err := m.table(first, columns)
	if err != nil {
		return nil, err
	}
	include := options.IncludeObject
	served := schema.GroupVersion{Group: m.info.APIGroup, Version: m.info.APIVersion}
	partialKind := m.version.WithKind("PartialObjectMetadata")
	id := fmt.Sprintf("row, %s, %s, %s, %s, %s", e, m.version, include, served, table.ID)
	return derivedFrom(e, runtime.Identifier(id), true, func(f *frame.Frame, w io.Writer) error {
		m.confined.decode(f.Size())
		obj, err := f.Decode()
		if err != nil {
			return err
		}
		printed, err := table.ConvertToTable(ctx, obj, &metav1.TableOptions{NoHeaders: true})
		if err != nil {
			return err
		}
		if n := len(printed.Rows); n != 1 {
			return fmt.Errorf("one object became %d rows", n)
		}
		row := &printed.Rows[0]
		// Upstream looks for the annotation of a watch's bookmark in objects of lists, too, and
		// does not leave out one that has it.
		marked, err := storage.HasInitialEventsEndBookmarkAnnotation(row.Object.Object)
		if err != nil {
			return err
		}
		switch {
		case include == metav1.IncludeObject:
			row.Object.Object, err = m.types.Convert(row.Object.Object, served)
		case include == metav1.IncludeNone && !marked:
			row.Object.Object = nil
		default:
			if e == inJSON {
				p := partials.Get().(*partialJSON)
				defer partials.Put(p)
				if object, ok := p.of(f, partialKind); ok {
					return marshalRow(row, object, w)
				}
			}
			// What is decoded of a custom resource is maps, of which metadata are made slowly.
			partial, ok := f.Partial()
			if !ok {
				var accessor metav1.Object
				if accessor, err = meta.Accessor(row.Object.Object); err != nil {
					return err
				}
				partial = meta.AsPartialObjectMetadata(accessor)
			}
			partial.SetGroupVersionKind(partialKind)
			row.Object.Object = partial
		}
		if err != nil {
			return err
		}
		if e == inJSON && row.Object.Object != nil {
			// Left to itself, RawExtension encodes its object into memory of its own.
			buf := inner.Get().(*bytes.Buffer)
			defer inner.Put(buf)
			buf.Reset()
			if err := e.marshal(row.Object.Object, buf); err != nil {
				return err
			}
			return marshalRow(row, buf.Bytes(), w)
		}
		return e.marshal(row, w)
	}), nil
}

// marshalRow writes a row whose object is JSON already, which encoding/json would check and
// copy once more.
func marshalRow(row *metav1.TableRow, object []byte, w io.Writer) error {
	const nothing = "null}"
	row.Object = runtime.RawExtension{}
	data, err := json.Marshal(row)
	if err != nil {
		return err
	}
	data, ok := bytes.CutSuffix(data, []byte(nothing))
	if !ok {
		return fmt.Errorf("a row ends in %q, not in its object", data[max(0, len(data)-len(nothing)):])
	}
	for _, part := range [...][]byte{data, object, []byte("}")} {
		if _, err := w.Write(part); err != nil {
			return err
		}
	}
	return nil
}

// table returns the convertor that makes the columns which upstream has sent, and
// wire.ErrNotSpliced if there is none: which one a resource has is nowhere to be asked.
func (m *maker) table(first *frame.Frame, columns []metav1.TableColumnDefinition) (*Table, error) {
	obj, err := first.Decode()
	if err != nil {
		return nil, err
	}
	for _, t := range m.types.Tables(m.info, obj) {
		printed, err := t.ConvertToTable(m.req.Context(), obj, &metav1.TableOptions{})
		if err == nil && len(printed.Rows) == 1 && reflect.DeepEqual(printed.ColumnDefinitions, columns) {
			return &t, nil
		}
	}
	return nil, wire.ErrNotSpliced
}
