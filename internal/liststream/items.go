// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package liststream

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
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

// items says how an item of the list is made that the handler has answered with, and
// which field of the list they are. It returns wire.ErrNotSpliced if that is not known.
func (a *Answer) items(format wire.ListFormat, h header) (items itemFunc, field string, err error) {
	version, err := schema.ParseGroupVersion(h.APIVersion)
	if err != nil {
		return nil, "", wire.ErrNotSpliced
	}
	encode := base(format)
	field = "items"
	switch transformed := h.transformed(); {
	case transformed && h.Kind == "PartialObjectMetadataList":
		items = a.metadata(encode, version)
	case transformed && h.Kind == "Table":
		field = "rows"
		items, err = a.rows(encode, version, h.ColumnDefinitions)
	case transformed:
		err = wire.ErrNotSpliced
	default:
		items = a.objects(encode, version)
	}
	if err != nil {
		return nil, "", err
	}
	switch format {
	case wire.ListPretty:
		items = pretty(items)
	case wire.ListYAML:
		items = inYAML(items)
	}
	return items, field, nil
}

// encoding is how an item is written before it is laid out.
type encoding string

const (
	inJSON     encoding = "json"
	inProtobuf encoding = "protobuf"
	inCBOR     encoding = "cbor"
)

func base(format wire.ListFormat) encoding {
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

// objects returns the objects themselves in an API version.
func (a *Answer) objects(e encoding, version schema.GroupVersion) itemFunc {
	apiVersion := version.String()
	switch e {
	case inProtobuf:
		encoder := a.types.Encoder(wire.Protobuf, version)
		return func(f *frame.Frame) ([]byte, []byte, error) {
			message, err := f.Message(apiVersion, encoder)
			return nil, message, err
		}
	case inCBOR:
		id := runtime.Identifier("list item, cbor, " + apiVersion)
		build := func(obj runtime.Object, w io.Writer) error {
			if _, ok := obj.(runtime.Unstructured); ok {
				return e.marshal(obj, w)
			}
			obj, err := a.types.Convert(obj, version)
			if err != nil {
				return err
			}
			// A list of a built-in type names the type of its items itself.
			obj.GetObjectKind().SetGroupVersionKind(schema.GroupVersionKind{})
			return e.marshal(obj, w)
		}
		return derived(e, id, false, build)
	default:
		encoder := a.types.Encoder(wire.JSON, version)
		var prefix []byte
		kind := ""
		return func(f *frame.Frame) ([]byte, []byte, error) {
			object, err := f.As(wire.JSON, apiVersion, encoder)
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
func (a *Answer) metadata(e encoding, version schema.GroupVersion) itemFunc {
	kind := version.WithKind("PartialObjectMetadata")
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
		return made
	}
	var buf []byte
	return func(f *frame.Frame) ([]byte, []byte, error) {
		metadata, ok := f.Metadata()
		if !ok {
			return made(f)
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
	obj, err := f.Decode()
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

// holdFrom is how many bytes of encoded objects a list decodes, to throw them away, before
// it asks for the heap not to grow any more: decoded they are several times that.
const holdFrom = 4 << 20

// rows returns the objects as rows of a Table with the given columns; see asTable in
// k8s.io/apiserver/pkg/endpoints/handlers/response.go.
func (a *Answer) rows(e encoding, version schema.GroupVersion, columns []metav1.TableColumnDefinition) (itemFunc, error) {
	if e != inJSON {
		return nil, wire.ErrNotSpliced // upstream has Tables in JSON and YAML only
	}
	ctx := a.req.Context()
	info, ok := request.RequestInfoFrom(ctx)
	if !ok {
		return nil, wire.ErrNotSpliced
	}
	options := &metav1.TableOptions{}
	if err := metainternalversionscheme.ParameterCodec.DecodeParameters(a.req.URL.Query(), metav1.SchemeGroupVersion, options); err != nil {
		return nil, wire.ErrNotSpliced // upstream has said so
	}
	table, err := a.table(info, columns)
	if err != nil || table == nil {
		return func(*frame.Frame) ([]byte, []byte, error) {
			return nil, nil, wire.ErrNotSpliced // there is no object to begin with
		}, err
	}
	include := options.IncludeObject
	served := schema.GroupVersion{Group: info.APIGroup, Version: info.APIVersion}
	partialKind := version.WithKind("PartialObjectMetadata")
	id := fmt.Sprintf("row, %s, %s, %s, %s, %s", e, version, include, served, table.ID)
	var decoded int64
	return derivedFrom(e, runtime.Identifier(id), true, func(f *frame.Frame, w io.Writer) error {
		if decoded += f.Size(); decoded > holdFrom && a.release == nil {
			a.release = a.hold()
		}
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
			row.Object.Object, err = a.types.Convert(row.Object.Object, served)
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
			var m metav1.Object
			if m, err = meta.Accessor(row.Object.Object); err == nil {
				partial := meta.AsPartialObjectMetadata(m)
				partial.SetGroupVersionKind(partialKind)
				row.Object.Object = partial
			}
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

// table returns the convertor that makes the columns which upstream has sent, nil if the
// list has no objects, and wire.ErrNotSpliced if there is none: which one a resource has
// is nowhere to be asked.
func (a *Answer) table(info *request.RequestInfo, columns []metav1.TableColumnDefinition) (found *Table, err error) {
	f, err := a.plan.first()
	if f == nil {
		return nil, err
	}
	first, err := f.Decode()
	if err != nil {
		return nil, err
	}
	for _, t := range a.types.Tables(info, first) {
		printed, err := t.ConvertToTable(a.req.Context(), first, &metav1.TableOptions{})
		if err == nil && len(printed.Rows) == 1 && reflect.DeepEqual(printed.ColumnDefinitions, columns) {
			return &t, nil
		}
	}
	return nil, wire.ErrNotSpliced
}
