// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package client

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"

	"google.golang.org/protobuf/encoding/protowire"
	"k8s.io/apimachinery/pkg/runtime"
)

const (
	protobufType = runtime.ContentTypeProtobuf
	jsonType     = runtime.ContentTypeJSON

	// initialEventsEnd is the annotation of the bookmark that closes the initial events of a watch list.
	initialEventsEnd = "k8s.io/initial-events-end"
)

// Format is an encoding that a light reader can take apart.
type Format string

// The formats.
const (
	FormatProtobuf Format = "protobuf"
	FormatJSON     Format = "json"
	// FormatTable is a list as a Table in JSON, which is what kubectl get asks for.
	FormatTable Format = "table"
	// FormatMetadata is objects without all but their metadata in protobuf, which is what client-go's metadata client asks for.
	FormatMetadata Format = "metadata"
)

// protobuf tells whether a format is a kind of protobuf.
func (f Format) protobuf() bool { return f == FormatProtobuf || f == FormatMetadata }

// MediaType is what to ask for in a list.
func (f Format) MediaType() string {
	switch f {
	case FormatJSON:
		return jsonType
	case FormatTable:
		return jsonType + ";as=Table;v=v1;g=meta.k8s.io"
	case FormatMetadata:
		return protobufType + ";as=PartialObjectMetadataList;v=v1;g=meta.k8s.io"
	}
	return protobufType
}

// Accept is what to ask for in a watch.
func (f Format) Accept() string {
	switch f {
	case FormatJSON:
		return jsonType
	case FormatMetadata:
		return protobufType + ";as=PartialObjectMetadata;v=v1;g=meta.k8s.io"
	}
	return protobufType + ";stream=watch"
}

// Event is what a light reader learns of one watch event.
type Event struct {
	kind  string // ADDED, MODIFIED, DELETED, BOOKMARK or ERROR
	bytes int64  // of the whole frame, with its length prefix or its newline
	// InitialEnd says that this is the bookmark that closes the initial events.
	InitialEnd bool
	// detail is the whole encoded event, for BOOKMARK and ERROR always and for others when the reader was told to keep
	// it. It is valid until the next event is read.
	detail []byte
}

// FrameReader takes the events of one watch from a response body without decoding objects: what it does per event
// does not depend on the object's size, apart from passing its bytes. Not safe for concurrent use.
type FrameReader struct {
	format Format
	keep   bool // give detail for every event
	r      *bufio.Reader
	buf    []byte
}

// NewFrameReader reads a response body. With keep it gives the detail of every event.
func NewFrameReader(f Format, body io.Reader, keep bool) *FrameReader {
	return &FrameReader{format: f, keep: keep, r: bufio.NewReaderSize(body, 64<<10)}
}

// Next returns the next event; io.EOF when the stream ended between two events.
func (f *FrameReader) Next() (Event, error) {
	if f.format == FormatJSON {
		return f.nextJSON()
	}
	return f.nextProtobuf()
}

// maxFrame is more than any event can have: etcd takes 1.5 MiB per object, and JSON makes base64 of bytes.
const maxFrame = 64 << 20

func (f *FrameReader) nextProtobuf() (Event, error) {
	var prefix [4]byte
	if _, err := io.ReadFull(f.r, prefix[:]); err != nil {
		return Event{}, err // io.EOF only when nothing at all came
	}
	size := int(binary.BigEndian.Uint32(prefix[:]))
	if size == 0 || size > maxFrame {
		return Event{}, fmt.Errorf("frame of %d bytes: this is no stream of watch events in protobuf", size)
	}
	// WatchEvent{1: type, 2: object}; a serialized event has its fields in this order.
	head, err := f.r.Peek(min(size, 32))
	if err != nil {
		return Event{}, unexpected(err)
	}
	num, wt, n := protowire.ConsumeTag(head)
	if n < 0 || num != 1 || wt != protowire.BytesType {
		return Event{}, fmt.Errorf("frame begins with % x: this is no watch event in protobuf", head)
	}
	kind, n := protowire.ConsumeBytes(head[n:])
	if n < 0 {
		return Event{}, fmt.Errorf("frame begins with % x: this is no watch event in protobuf", head)
	}
	e := Event{kind: kindOf(kind), bytes: int64(size) + 4}
	if !f.keep && !e.hasDetail() {
		if _, err := f.r.Discard(size); err != nil {
			return Event{}, unexpected(err)
		}
		return e, nil
	}
	if cap(f.buf) < size {
		f.buf = make([]byte, size)
	}
	f.buf = f.buf[:size]
	if _, err := io.ReadFull(f.r, f.buf); err != nil {
		return Event{}, unexpected(err)
	}
	e.detail = f.buf
	e.InitialEnd = e.kind == kindBookmark && bytes.Contains(f.buf, []byte(initialEventsEnd))
	return e, nil
}

func (f *FrameReader) nextJSON() (Event, error) {
	const typePrefix = `{"type":"`
	f.buf = f.buf[:0]
	var e Event
	for {
		chunk, err := f.r.ReadSlice('\n')
		if e.bytes == 0 && err != nil && len(chunk) == 0 {
			return Event{}, err
		}
		e.bytes += int64(len(chunk))
		if e.kind == "" {
			rest, ok := bytes.CutPrefix(chunk, []byte(typePrefix))
			end := bytes.IndexByte(rest, '"')
			if !ok || end < 0 {
				return Event{}, fmt.Errorf("line begins with %.60q: this is no watch event in JSON", chunk)
			}
			e.kind = kindOf(rest[:end])
		}
		if f.keep || e.hasDetail() {
			f.buf = append(f.buf, chunk...)
		}
		switch {
		case err == nil:
			if f.keep || e.hasDetail() {
				e.detail = f.buf
				e.InitialEnd = e.kind == kindBookmark && bytes.Contains(f.buf, []byte(initialEventsEnd))
			}
			return e, nil
		case !errors.Is(err, bufio.ErrBufferFull):
			return Event{}, unexpected(err)
		}
	}
}

const (
	kindAdded    = "ADDED"
	kindModified = "MODIFIED"
	kindDeleted  = "DELETED"
	kindBookmark = "BOOKMARK"
	kindError    = "ERROR"
)

// kindOf spares the allocation of a string per event.
func kindOf(b []byte) string {
	for _, known := range []string{kindAdded, kindModified, kindDeleted, kindBookmark, kindError} {
		if string(b) == known {
			return known
		}
	}
	return string(b)
}

func (e Event) hasDetail() bool { return e.kind == kindBookmark || e.kind == kindError }

func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// objectMeta is the little that bench looks at in an object.
type objectMeta struct {
	namespace, name string
	resourceVersion uint64
}

// metaOf takes an object's identity from an event's detail.
func metaOf(f Format, detail []byte) (objectMeta, error) {
	if f == FormatJSON {
		return metaOfJSON(detail)
	}
	return metaOfProtobuf(detail)
}

func metaOfJSON(detail []byte) (objectMeta, error) {
	var e struct {
		Object struct {
			Metadata struct{ Namespace, Name, ResourceVersion string }
		}
	}
	if err := json.Unmarshal(detail, &e); err != nil {
		return objectMeta{}, fmt.Errorf("event %.60q: %w", detail, err)
	}
	m := e.Object.Metadata
	return newObjectMeta(m.Namespace, m.Name, m.ResourceVersion)
}

func metaOfProtobuf(detail []byte) (objectMeta, error) {
	// WatchEvent.object = 2, RawExtension.raw = 1: "k8s\0" and Unknown, whose raw = 2 is the object; metadata = 1 in
	// every object; ObjectMeta: name = 1, namespace = 3, resourceVersion = 6.
	raw, ok := field(detail, 2, 1)
	if !ok {
		return objectMeta{}, fmt.Errorf("event % .40x: no object in it", detail)
	}
	unknown, ok := bytes.CutPrefix(raw, []byte("k8s\x00"))
	if !ok {
		return objectMeta{}, fmt.Errorf("object % .40x: not in protobuf", raw)
	}
	meta, ok := field(unknown, 2, 1)
	if !ok {
		return objectMeta{}, fmt.Errorf("object % .40x: no metadata", raw)
	}
	name, _ := field(meta, 1)
	namespace, _ := field(meta, 3)
	version, _ := field(meta, 6)
	return newObjectMeta(string(namespace), string(name), string(version))
}

func newObjectMeta(namespace, name, version string) (objectMeta, error) {
	rv, err := strconv.ParseUint(version, 10, 64)
	if err != nil {
		return objectMeta{}, fmt.Errorf("object %s/%s: resourceVersion %q: %w", namespace, name, version, err)
	}
	return objectMeta{namespace: namespace, name: name, resourceVersion: rv}, nil
}

// field descends through length-delimited protobuf fields by number.
func field(b []byte, path ...protowire.Number) ([]byte, bool) {
	for _, want := range path {
		found := false
		for len(b) > 0 {
			num, wt, n := protowire.ConsumeTag(b)
			if n < 0 {
				return nil, false
			}
			b = b[n:]
			if num == want && wt == protowire.BytesType {
				value, n := protowire.ConsumeBytes(b)
				if n < 0 {
					return nil, false
				}
				b, found = value, true
				break
			}
			if n = protowire.ConsumeFieldValue(num, wt, b); n < 0 {
				return nil, false
			}
			b = b[n:]
		}
		if !found {
			return nil, false
		}
	}
	return b, true
}
