// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package frame

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"unsafe"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer/cbor/direct"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/weir-project/weir/internal/ledger"
	"github.com/weir-project/weir/internal/transcode"
	"github.com/weir-project/weir/internal/wire"
)

// Frame is one object at one revision. It implements runtime.CacheableObject, so
// that it can be the object of a watch event. It is immutable.
type Frame struct {
	codec *Codec
	// typ is the type that the primary encoding names.
	typ *objectType
	key string
	rev uint64
	attrs
	primary encoded
	// exact is what Decode reads where the primary encoding does not give the object back as
	// it was: CBOR of a custom resource; JSON or protobuf of the stored version of a built-in
	// type. It is nil for nearly all objects. If it is there, all encodings but the primary
	// one are made from it.
	exact *[]byte
	// base is the frame of which this one is a view in another version, nil if it is none; see In. A view has no
	// primary encoding but its format: what it is written as is put together from that of base.
	base *Frame
	// id tells the frame from all others of the process.
	id uint64
	// derived is the list of the frame's other encodings; see Store.
	derived atomic.Pointer[derived]
	// defaultedOnRead: see Config.DefaultedOnRead.
	defaultedOnRead bool
	// ownMetadata says that the metadata in the primary encoding are those of the object:
	// conversion to the stored version may add annotations, which whoever reads the object
	// in another form does not see.
	ownMetadata bool
	// storedIn is the place in Codec.storedIn of the version that the object is stored in, if it was taken; 0 if not, and revisionAt is where
	// in its JSON stands what is not stored. See Frame.Stored.
	storedIn   uint8
	revisionAt uint32
	// incompressible says that the primary encoding was seen not to compress.
	incompressible atomic.Bool
	// apiVersionAt is where the text of apiVersion is in the object's JSON, 0 if that is not known; see Config.Versions.
	apiVersionAt uint32
}

var _ runtime.CacheableObject = (*Frame)(nil)

// typeMeta names the type of encoded objects.
type typeMeta struct {
	apiVersion, kind string
}

// objectType is the type of encoded objects; one for all frames of a type.
type objectType struct {
	typeMeta
	// begin is how the JSON of nearly all objects begins.
	begin []byte
	// json makes JSON of what is kept in protobuf; nil if it is not known how.
	json *transcode.Object
}

// encoded is what is kept of one encoding: an encoded object with the ADDED event round it,
// because that is how it is sent most: initial events then need no copy. Where there is no
// envelope for the format, it is whatever was encoded: an object, a row or a whole event.
type encoded struct {
	data []byte
	// offset is where in data the object begins.
	offset uint32
	// message is where in data the protobuf message begins, 0 if there is none known. With
	// it, len(data) says how long the message is, without data being read.
	message uint32
	format  wire.Format
	// segment is there, alone, if it is a row that was encoded.
	segment *Segment
}

var added = string(watch.Added)

// enclose puts an ADDED event round object. A JSON object may end in a newline. The capacity
// of what it returns is what the heap has given for it.
func enclose(f wire.Format, object []byte) encoded {
	if f == wire.Other {
		return encoded{data: append([]byte(nil), object...)}
	}
	if f == wire.JSON {
		object = bytes.TrimSuffix(object, []byte("\n"))
	}
	total, offset := wire.EventSize(f, added, len(object))
	data := wire.AppendEvent(slices.Grow([]byte(nil), total), f, added, object)
	e := encoded{format: f, offset: uint32(offset), data: data}
	if f == wire.Protobuf {
		if start, ok := wire.ProtobufBody(object); ok {
			e.message = uint32(offset + start)
		}
	}
	return e
}

// body returns the protobuf message of the object alone.
func (e encoded) body() ([]byte, bool) {
	if e.message == 0 {
		return nil, false
	}
	return e.data[e.message : len(e.data)-wire.ProtobufTail], true
}

// object returns the encoded object alone. The caller must not change it.
func (e encoded) object() []byte {
	if e.format == wire.JSON {
		return e.data[e.offset : len(e.data)-len("}\n")]
	}
	return e.data[e.offset:]
}

// writeEvent writes an event of the given type with one Write: a framer below
// counts and delimits by Writes.
func (e encoded) writeEvent(eventType string, w io.Writer) error {
	if eventType == added || e.format == wire.Other {
		_, err := w.Write(e.data)
		return err
	}
	buf := scratch.Get().(*bytes.Buffer)
	defer putScratch(buf)
	buf.Reset()
	total, _ := wire.EventSize(e.format, eventType, len(e.object()))
	buf.Grow(total)
	_, err := w.Write(wire.AppendEvent(buf.AvailableBuffer(), e.format, eventType, e.object()))
	return err
}

// scratch holds buffers for what is encoded before its size is known.
var scratch = sync.Pool{New: func() any { return new(bytes.Buffer) }}

func putScratch(b *bytes.Buffer) {
	// A buffer grown by one large object must not stay for small ones.
	if b.Cap() <= 4<<20 {
		scratch.Put(b)
	}
}

// Key returns the object's key in storage, without the cluster's prefix.
func (f *Frame) Key() string { return f.key }

// Revision returns the resourceVersion that the encoded object bears.
func (f *Frame) Revision() uint64 { return f.rev }

// DefaultedOnRead tells whether the resource's REST storage changes the object on its way
// from storage to clients, which it can do to the decoded object only.
func (f *Frame) DefaultedOnRead() bool { return f.defaultedOnRead }

// Labels returns a view of the object's labels.
func (f *Frame) Labels() *Labels { return (*Labels)(f) }

// Fields returns a view of the object's selectable fields.
func (f *Frame) Fields() *Fields { return (*Fields)(f) }

// places is how many bytes the place of a frame in an ordered map costs: a key, a pointer and
// what is free in its nodes. TestFramesAreBooked measures it. Places in further maps are not in
// it.
const places = 56

// Size returns how many bytes of the heap the frame keeps, without derived encodings. A view keeps nothing of its own: it has the size
// of what it is a view of.
func (f *Frame) Size() int64 {
	if f.base != nil {
		return f.base.Size()
	}
	const itself = int(unsafe.Sizeof(Frame{}))
	n := ledger.Heap(itself) + ledger.Heap(len(f.key)) + ledger.Heap(len(f.packed)) + int64(cap(f.primary.data)) + places
	if f.starts != nil {
		n += ledger.Heap(int(unsafe.Sizeof(*f.starts))) + ledger.Heap(4*cap(*f.starts))
	}
	if f.exact != nil {
		n += ledger.Heap(int(unsafe.Sizeof(*f.exact))) + int64(cap(*f.exact))
	}
	return n
}

// Identity returns an object that has the namespace and the UID of the frame's, for
// shard selectors. Only frames of a Codec that keeps UIDs have one.
func (f *Frame) Identity() *metav1.PartialObjectMetadata {
	uid, _ := f.Fields().lookup(uidField)
	return &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{
		Namespace: f.Fields().Get("metadata.namespace"),
		Name:      f.Fields().Get("metadata.name"),
		UID:       types.UID(uid),
	}}
}

// Decode returns the object as the storage codec decodes it: a new one, the
// caller's own.
func (f *Frame) Decode() (runtime.Object, error) {
	obj, err := f.decodeKept()
	if err != nil {
		return nil, fmt.Errorf("decoding the cached %s at revision %d: %w", f.key, f.rev, err)
	}
	return obj, nil
}

func (f *Frame) decodeKept() (runtime.Object, error) {
	switch {
	case f.base != nil:
		return f.base.decodeAs(f.typ.apiVersion)
	case f.exact != nil && f.codec.custom:
		u := &unstructured.Unstructured{}
		return u, direct.Unmarshal(*f.exact, &u.Object)
	case f.exact != nil:
		return f.codec.decode(*f.exact)
	}
	if f.primary.format == wire.JSON && !f.codec.custom {
		if obj := f.codec.given.take(f); obj != nil {
			return obj, nil
		}
	}
	obj, err := f.decodeMessage()
	if err == nil && (obj == nil || reflect.TypeOf(obj) != f.codec.decoded) {
		obj, err = f.codec.decode(f.primary.object())
	}
	return obj, err
}

// decodeMessage does what the storage codec does, but for the copy that it makes of what
// it decodes; nil if that is not possible.
func (f *Frame) decodeMessage() (runtime.Object, error) {
	types := f.codec.cfg.Types
	body, ok := f.primary.body()
	if !ok || types == nil {
		return nil, nil
	}
	kind := schema.FromAPIVersionAndKind(f.typ.apiVersion, f.typ.kind)
	obj, err := types.New(kind)
	if err != nil {
		return nil, nil
	}
	message, ok := obj.(interface{ Unmarshal([]byte) error })
	if !ok {
		return nil, nil
	}
	if err := message.Unmarshal(body); err != nil {
		return nil, err
	}
	obj.GetObjectKind().SetGroupVersionKind(kind)
	return types.Internal(obj)
}

// Kind returns the kind that the primary encoding names.
func (f *Frame) Kind() string { return f.typ.kind }

// As returns the encoded object in a format and API version: the primary encoding if
// it is that, else one derived with encoder, which shares with the watches that ask
// for it. The caller must not change the bytes.
func (f *Frame) As(format wire.Format, apiVersion string, encoder runtime.Encoder) ([]byte, error) {
	e, err := f.as(format, apiVersion, encoder)
	if err != nil {
		return nil, err
	}
	return e.object(), nil
}

// Once is As, but what has to be made is not kept.
func (f *Frame) Once(format wire.Format, apiVersion string, encoder runtime.Encoder) ([]byte, error) {
	if encoder != nil && !f.KeptIn(format, apiVersion) {
		e, ok := f.peek(encoding{id: encoder.Identifier(), envelope: format})
		if !ok {
			var err error
			if e, err = f.made(format, apiVersion, encoder); err != nil {
				return nil, err
			}
		}
		return e.object(), nil
	}
	return f.As(format, apiVersion, encoder)
}

// Message returns the object as a protobuf message in an API version, without what names
// its type; see As.
func (f *Frame) Message(apiVersion string, encoder runtime.Encoder) ([]byte, error) {
	e, err := f.as(wire.Protobuf, apiVersion, encoder)
	if err != nil {
		return nil, err
	}
	body, ok := e.body()
	if !ok {
		return nil, fmt.Errorf("%s is not encoded as protobuf", f.key)
	}
	return body, nil
}

// Unmarshal decodes the object, as it is sent in protobuf of an API version, into an empty object of that version. What has to
// be encoded for that is not kept.
func (f *Frame) Unmarshal(apiVersion string, encoder runtime.Encoder, into interface{ Unmarshal([]byte) error }) error {
	if body, ok := f.primary.body(); ok && f.KeptIn(wire.Protobuf, apiVersion) {
		return into.Unmarshal(body)
	}
	object, err := f.Once(wire.Protobuf, apiVersion, encoder)
	if err != nil {
		return err
	}
	start, ok := wire.ProtobufBody(object)
	if !ok {
		return fmt.Errorf("%s is not encoded as protobuf", f.key)
	}
	return into.Unmarshal(object[start : len(object)-wire.ProtobufTail])
}

// MessageSize returns how much the object as it is kept adds to a list in protobuf, 0 if it
// is not kept in protobuf.
func (f *Frame) MessageSize() int {
	body, ok := f.primary.body()
	if !ok {
		return 0
	}
	return wire.ProtobufItemSize(len(body))
}

// ObjectSize returns how many bytes the object as it is kept has, without the event round it.
func (f *Frame) ObjectSize() int {
	if f.base != nil {
		return f.base.ObjectSize()
	}
	return len(f.primary.object())
}

// Format returns the format that the object is kept in.
func (f *Frame) Format() wire.Format { return f.primary.format }

// KeptIn tells whether the object is kept in a format and API version.
func (f *Frame) KeptIn(format wire.Format, apiVersion string) bool {
	return f.primary.format == format && f.typ.apiVersion == apiVersion
}

func (f *Frame) as(format wire.Format, apiVersion string, encoder runtime.Encoder) (encoded, error) {
	if f.KeptIn(format, apiVersion) {
		return f.kept()
	}
	if encoder == nil {
		return encoded{}, fmt.Errorf("there is no encoder of %s into %s %s", f.key, format, apiVersion)
	}
	return f.codec.store.get(f, encoding{id: encoder.Identifier(), envelope: format}, func() (encoded, error) {
		return f.made(format, apiVersion, encoder)
	})
}

func (f *Frame) made(format wire.Format, apiVersion string, encoder runtime.Encoder) (encoded, error) {
	if e, ok := f.transcode(format, apiVersion); ok {
		return e, nil
	}
	return f.build(format, encoder.Encode)
}

// transcode encodes the object without decoding it, where that is possible: in the JSON of
// what is kept in protobuf.
func (f *Frame) transcode(format wire.Format, apiVersion string) (encoded, bool) {
	body, ok := f.primary.body()
	if !ok || f.exact != nil || f.typ.json == nil || format != wire.JSON || apiVersion != f.typ.apiVersion {
		return encoded{}, false
	}
	buf := scratch.Get().(*bytes.Buffer)
	defer putScratch(buf)
	buf.Reset()
	buf.Grow(2 * len(body))
	object, err := f.typ.json.AppendJSON(buf.AvailableBuffer(), f.typ.apiVersion, f.typ.kind, body)
	if err != nil {
		return encoded{}, false
	}
	return enclose(wire.JSON, object), true
}

// Metadata returns the object's metadata as a protobuf message, if the primary encoding has
// them as they are. The caller must not change the bytes.
func (f *Frame) Metadata() ([]byte, bool) {
	if !f.ownMetadata {
		return nil, false
	}
	return f.storedMetadata()
}

func (f *Frame) storedMetadata() ([]byte, bool) {
	body, ok := f.primary.body()
	if !ok {
		return nil, false
	}
	return wire.ProtobufMetadata(body)
}

// hasOwnMetadata compares the size of the metadata in the primary encoding with that of
// the object's: whatever a conversion adds or takes away shows in it.
func (f *Frame) hasOwnMetadata(obj runtime.Object) bool {
	stored, ok := f.storedMetadata()
	if !ok {
		return false
	}
	accessor, ok := obj.(metav1.ObjectMetaAccessor)
	if !ok {
		return false
	}
	own, ok := accessor.GetObjectMeta().(*metav1.ObjectMeta)
	return ok && own.Size() == len(stored)
}

// Derive returns what build writes for the frame: made once for everybody who asks for
// the same id at the same time, and kept while it is asked for. An encoding that is true
// for the moment only (it says how old something is) is perishable. The caller must not
// change the bytes.
func (f *Frame) Derive(id runtime.Identifier, perishable bool, build func(*Frame, io.Writer) error) ([]byte, error) {
	e, err := f.codec.store.get(f, encoding{id: id, perishable: perishable}, func() (encoded, error) {
		return f.gather(wire.Other, func(w io.Writer) error { return build(f, w) })
	})
	return e.data, err
}

// CacheEncode implements runtime.CacheableObject. A watch event is written from
// shared bytes, unless it carries a Table's columns; for that, and for what is no
// watch event, the object is decoded and encoded anew.
func (f *Frame) CacheEncode(id runtime.Identifier, encode func(runtime.Object, io.Writer) error, w io.Writer) error {
	v := variantOf(id)
	switch {
	case v.plain && f.KeptIn(v.objectFormat, v.apiVersion):
		return f.writeKept(v.eventType, w)
	case !v.watch || v.columns || v.table && f.codec.cfg.Versions:
		// Column definitions are sent once per stream, and encoding anew is what tells
		// upstream's encoder that they have been sent. Which columns a custom resource has is
		// not in the identifier: of a definition whose columns have changed there are watches
		// with either for a while.
		return f.encode(encode, w)
	case v.envelope == wire.Other:
		name := encoding{id: id, perishable: v.table}
		if v.shuffled {
			name.variant = uint8(rand.IntN(variety))
		}
		return f.writeEvent(name, v.eventType, func() (encoded, error) {
			return f.codec.store.get(f, name, func() (encoded, error) {
				return f.buildAs(v, wire.Other, encode)
			})
		}, w)
	default:
		name := encoding{id: v.object, envelope: v.envelope, perishable: v.table}
		return f.writeEvent(name, v.eventType, func() (encoded, error) {
			return f.codec.store.get(f, name, func() (encoded, error) {
				return f.derive(v, encode)
			})
		}, w)
	}
}

// derive makes the encoding of the object that is wanted for an event.
func (f *Frame) derive(v *variant, encode func(runtime.Object, io.Writer) error) (encoded, error) {
	if v.plain {
		if e, ok := f.transcode(v.objectFormat, v.apiVersion); ok {
			return e, nil
		}
	}
	return f.buildObject(v, encode)
}

func (f *Frame) encode(encode func(runtime.Object, io.Writer) error, w io.Writer) error {
	obj, err := f.Decode()
	if err != nil {
		return err
	}
	return encode(obj, w)
}

// build keeps what encode makes of the decoded object.
func (f *Frame) build(format wire.Format, encode func(runtime.Object, io.Writer) error) (encoded, error) {
	return f.gather(format, func(w io.Writer) error { return f.encode(encode, w) })
}

// buildAs is build for an encoding that may be made of a part of the object.
func (f *Frame) buildAs(v *variant, format wire.Format, encode func(runtime.Object, io.Writer) error) (encoded, error) {
	obj, err := f.decodeFor(v)
	if err != nil {
		return encoded{}, err
	}
	return f.gather(format, func(w io.Writer) error { return encode(obj, w) })
}

// gather keeps what write writes.
func (f *Frame) gather(format wire.Format, write func(io.Writer) error) (encoded, error) {
	buf := scratch.Get().(*bytes.Buffer)
	defer putScratch(buf)
	buf.Reset()
	if err := write(buf); err != nil {
		return encoded{}, err
	}
	return enclose(format, buf.Bytes()), nil
}

// buildObject encodes the object of an event without the event round it. The
// encoder of the event is asked to encode a stand-in; it hands that on to the
// encoder of the object, which by the contract of CacheableObject asks the stand-in
// to encode itself, and so shows its encode function.
func (f *Frame) buildObject(v *variant, encodeEvent func(runtime.Object, io.Writer) error) (encoded, error) {
	probe := &probe{}
	err := encodeEvent(probe, io.Discard)
	if probe.encode == nil {
		if err == nil {
			err = errors.New("the watch encoder did not ask for the object")
		}
		return encoded{}, fmt.Errorf("encoding %s: %w", f.key, err)
	}
	if probe.id != v.object {
		return encoded{}, fmt.Errorf("encoding %s: the watch encoder names its object encoding %q in the event and %q when asked", f.key, v.object, probe.id)
	}
	return f.buildAs(v, v.envelope, probe.encode)
}

// probe is a CacheableObject that only remembers how it was asked to be encoded.
type probe struct {
	runtime.Object
	id     runtime.Identifier
	encode func(runtime.Object, io.Writer) error
}

func (p *probe) CacheEncode(id runtime.Identifier, encode func(runtime.Object, io.Writer) error, w io.Writer) error {
	p.id, p.encode = id, encode
	// Something has to be there for the event's encoder to put an envelope round.
	_, err := w.Write([]byte("{}"))
	return err
}

func (p *probe) GetObject() runtime.Object { return p.Object }

// GetObject implements runtime.CacheableObject. An object that cannot be decoded,
// which would be an error of weir's own, is returned as the Status that says so.
func (f *Frame) GetObject() runtime.Object {
	obj, err := f.Decode()
	if err != nil {
		return &metav1.Status{
			Status:  metav1.StatusFailure,
			Code:    http.StatusInternalServerError,
			Reason:  metav1.StatusReasonInternalError,
			Message: err.Error(),
		}
	}
	return obj
}

// GetObjectKind implements runtime.Object with the type of the primary encoding.
func (f *Frame) GetObjectKind() schema.ObjectKind {
	return &metav1.TypeMeta{APIVersion: f.typ.apiVersion, Kind: f.typ.kind}
}

// DeepCopyObject implements runtime.Object. Frames are immutable: it is the same one.
func (f *Frame) DeepCopyObject() runtime.Object { return f }
