// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package frame

import (
	"bytes"
	"encoding/json"
	"fmt"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/weir-project/weir/internal/wire"
)

// A definition of custom resources with conversion None and one schema for several versions has objects that differ between them
// in apiVersion alone. A frame is kept in one of the versions, and is seen in another through a view:
//
//	Frame, in v1 ──In(v1beta1)──▶ view: a Frame with encodings of its own (Tables and rows differ by version),
//	                                    without bytes: {"apiVersion":"example.io/v1beta1" + the rest of what is kept
//
// A view is kept by the Store, like a derived encoding, so that all readers share what is derived from it.

// Version is another version that the frames of a Codec are seen in.
type Version struct {
	codec      *Codec
	apiVersion string
	name       encoding
	// number is not 0, and tells the version from others of the codec.
	number uint64
	// plain says that JSON has apiVersion as it is.
	plain bool
}

// Version returns the version of that name. The Codec's Config has Versions.
func (c *Codec) Version(apiVersion string) *Version {
	c.mu.Lock()
	defer c.mu.Unlock()
	if v, ok := c.versions[apiVersion]; ok {
		return v
	}
	if c.versions == nil {
		c.versions = map[string]*Version{}
	}
	v := &Version{
		codec:      c,
		apiVersion: apiVersion,
		name:       encoding{id: runtime.Identifier("served as " + apiVersion)},
		number:     uint64(len(c.versions) + 1),
	}
	quoted, err := json.Marshal(apiVersion)
	v.plain = err == nil && string(quoted) == `"`+apiVersion+`"`
	c.versions[apiVersion] = v
	return v
}

// versionShift is where in the id of a view the number of its version is. No process makes as many frames as have an id above it.
const versionShift = 48

// In returns the frame as it is in a version: itself if that is nil. It is the same one for everybody who asks while it is asked for.
func (f *Frame) In(v *Version) *Frame {
	if v == nil || f.typ.apiVersion == v.apiVersion {
		return f
	}
	if f.base != nil {
		return f.base.In(v)
	}
	if d := f.find(v.name); d != nil && d.pending.Load() == nil {
		d.wanted()
		return d.view
	}
	return f.codec.store.view(f, v.name, func() *Frame { return f.newView(v) })
}

func (f *Frame) newView(v *Version) *Frame {
	view := &Frame{
		id:      f.id + v.number<<versionShift, // the same whenever it is made
		codec:   f.codec,
		typ:     f.codec.intern(typeMeta{apiVersion: v.apiVersion, kind: f.typ.kind}),
		key:     f.key,
		rev:     f.rev,
		attrs:   f.attrs,
		primary: encoded{format: f.primary.format},
		base:    f,
	}
	if v.plain {
		view.apiVersionAt = f.apiVersionAt
	}
	return view
}

// View tells whether the frame is a view of another, of which it is put together when it is written.
func (f *Frame) View() bool { return f.base != nil }

// Base returns the frame of which this one is a view, or itself: what does not depend on the version is derived there.
func (f *Frame) Base() *Frame {
	if f.base != nil {
		return f.base
	}
	return f
}

// DecodeIn returns the object in a version, nil for the one that it is kept in; see Decode.
func (f *Frame) DecodeIn(v *Version) (runtime.Object, error) {
	if v == nil {
		return f.Decode()
	}
	obj, err := f.decodeAs(v.apiVersion)
	if err != nil {
		return nil, fmt.Errorf("decoding the cached %s at revision %d: %w", f.key, f.rev, err)
	}
	return obj, nil
}

func (f *Frame) decodeAs(apiVersion string) (runtime.Object, error) {
	obj, err := f.decodeKept()
	if err != nil {
		return nil, err
	}
	u, ok := obj.(*unstructured.Unstructured)
	if !ok {
		return nil, fmt.Errorf("%T is no custom resource, and cannot be seen in version %s", obj, apiVersion)
	}
	u.SetAPIVersion(apiVersion)
	return u, nil
}

// kept returns the object as it is kept. Of a view it is made, and not kept.
func (f *Frame) kept() (encoded, error) {
	switch {
	case f.base == nil:
		return f.primary, nil
	case f.apiVersionAt == 0:
		return f.build(f.primary.format, unstructured.UnstructuredJSONScheme.Encode)
	default:
		_, offset := wire.EventSize(wire.JSON, added, 0)
		total, _ := wire.EventSize(wire.JSON, added, f.keptSize())
		return encoded{data: f.appendEvent(make([]byte, 0, total), added), offset: uint32(offset), format: wire.JSON}, nil
	}
}

// keptSize returns how many bytes the object is as it is kept; with an ADDED event round it if it is no view.
func (f *Frame) keptSize() int {
	if f.base == nil {
		return len(f.primary.data)
	}
	return len(f.base.primary.object()) - len(f.base.typ.apiVersion) + len(f.typ.apiVersion)
}

// parts returns the object of a view whose apiVersionAt is known.
func (f *Frame) parts() (before, apiVersion, behind []byte) {
	object, at := f.base.primary.object(), int(f.apiVersionAt)
	return object[:at], []byte(f.typ.apiVersion), object[at+len(f.base.typ.apiVersion):]
}

// appendEvent appends an event round the object of such a view.
func (f *Frame) appendEvent(dst []byte, typ string) []byte {
	before, apiVersion, behind := f.parts()
	return wire.AppendJSONEvent(dst, typ, before, apiVersion, behind)
}

// AppendView appends to dst the object of a view in JSON.
func (f *Frame) AppendView(dst []byte) ([]byte, error) {
	if f.apiVersionAt == 0 {
		e, err := f.kept()
		if err != nil {
			return nil, err
		}
		return append(dst, e.object()...), nil
	}
	before, apiVersion, behind := f.parts()
	dst = append(dst, before...)
	dst = append(dst, apiVersion...)
	return append(dst, behind...), nil
}

// findAPIVersion returns where the text of apiVersion is in an object's JSON, 0 if it is not found as that of the type.
func findAPIVersion(object []byte, typ *objectType) uint32 {
	if bytes.HasPrefix(object, typ.begin) {
		return uint32(len(typ.begin) - len(`"`) - len(typ.apiVersion))
	}
	// Keys are sorted, and a schema may have some before it.
	d := json.NewDecoder(bytes.NewReader(object))
	if _, err := d.Token(); err != nil {
		return 0
	}
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return 0
		}
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			return 0
		}
		if name != "apiVersion" {
			continue
		}
		if string(value) != `"`+typ.apiVersion+`"` {
			return 0
		}
		return uint32(d.InputOffset()) - uint32(len(value)) + 1
	}
	return 0
}
