// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package frame

import (
	"math"
	"slices"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/storage"

	"github.com/weir-project/weir/internal/intact"
	"github.com/weir-project/weir/internal/wire"
)

// takenField is where the value of a selectable field comes from.
type takenField int

const (
	takenName takenField = iota
	takenNamespace
	takenUID
)

// taken are the selectable fields of frames that Take makes.
type taken struct {
	names   []string
	sources []takenField
}

// probed are the labels and fields of an object that has nothing else.
var (
	probedLabels = labels.Set{"weir": "label"}
	probedFields = map[string]string{"metadata.name": "weir-name", "metadata.namespace": "weir-namespace"}
)

// PlainAttrs tells whether the objects of a resource are custom resources of which nothing but labels, name and namespace can be selected
// by: Codec.Take needs that.
func PlainAttrs(attrs storage.AttrFunc, newFunc func() runtime.Object) bool {
	return plainFields(attrs, newFunc) != nil
}

// plainFields returns the names of the selectable fields, nil if there are others than name and namespace, or labels that are not those of
// the object.
func plainFields(attrs storage.AttrFunc, newFunc func() runtime.Object) fields.Set {
	obj, custom := newFunc().(*unstructured.Unstructured)
	if !custom {
		return nil
	}
	obj.SetName(probedFields["metadata.name"])
	obj.SetNamespace(probedFields["metadata.namespace"])
	obj.SetLabels(probedLabels)
	l, f, err := attrs(obj)
	if err != nil || !labels.Equals(l, probedLabels) || len(f) == 0 {
		return nil
	}
	for name, value := range f {
		if want, ok := probedFields[name]; !ok || value != want {
			return nil
		}
	}
	return f
}

// takes returns the fields of frames that Take makes.
func (c *Codec) takes() *taken {
	set := fields.Set{}
	for name := range plainFields(c.cfg.Attrs, c.cfg.NewFunc) {
		set[name] = ""
	}
	if c.cfg.KeepUIDs {
		set[uidField] = ""
	}
	t := &taken{names: c.names.of(set)}
	for _, name := range t.names {
		switch name {
		case "metadata.namespace":
			t.sources = append(t.sources, takenNamespace)
		case uidField:
			t.sources = append(t.sources, takenUID)
		default:
			t.sources = append(t.sources, takenName)
		}
	}
	return t
}

// Take makes the frame of a custom resource that lies under key and is intact as it is stored, at a revision: the one that Encode makes of
// what the storage codec decodes. PlainAttrs has to be true of the resource, whose REST storage changes no objects. What o refers to is read only, and not kept.
func (c *Codec) Take(key string, revision uint64, o *intact.Object) *Frame {
	var room [5][]byte
	parts := o.Parts(room[:0], revision)
	size := 0
	for _, part := range parts {
		size += len(part)
	}
	total, offset := wire.EventSize(wire.JSON, added, size)
	f := &Frame{
		id:    lastID.Add(1),
		codec: c,
		typ:   c.intern(typeMeta{apiVersion: o.APIVersion, kind: o.Kind}),
		key:   key,
		rev:   revision,
		attrs: packTaken(o, c.taken()),
		primary: encoded{
			format: wire.JSON,
			offset: uint32(offset),
			data:   wire.AppendJSONEvent(slices.Grow([]byte(nil), total), added, parts...),
		},
		storedIn:   c.storedAs(o.Version()),
		revisionAt: uint32(o.RevisionAt()),
	}
	if c.cfg.Versions {
		f.apiVersionAt = findAPIVersion(f.primary.object(), f.typ)
	}
	return f
}

// storedAs returns the place of a version in storedIn, 0 if there is no room for it.
func (c *Codec) storedAs(version string) uint8 {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.storedIn) == 0 {
		c.storedIn = append(c.storedIn, "")
	}
	at := slices.Index(c.storedIn[1:], version) + 1
	if at == 0 && len(c.storedIn) <= math.MaxUint8 {
		at = len(c.storedIn)
		c.storedIn = append(c.storedIn, version)
	}
	return uint8(at)
}

// Stored returns the bytes that the object is stored as, after decryption, if Take has made the frame of them; false if not. The slice is the
// caller's.
func (f *Frame) Stored() ([]byte, bool) {
	if f.base != nil {
		return f.base.Stored()
	}
	if f.storedIn == 0 {
		return nil, false
	}
	f.codec.mu.Lock()
	version := f.codec.storedIn[f.storedIn]
	f.codec.mu.Unlock()
	return intact.Stored(f.primary.object(), f.rev, int(f.revisionAt), version), true
}

// packTaken is pack for an object that is taken.
func packTaken(o *intact.Object, t *taken) attrs {
	a := attrs{names: t.names}
	many := 0
	for range o.Labels() {
		many++
	}
	if many > fewLabels {
		starts := make([]uint32, 0, many)
		a.starts = &starts
	}
	var room [512]byte
	buf := room[:0]
	for key, value := range o.Labels() {
		if a.starts != nil {
			*a.starts = append(*a.starts, uint32(len(buf)))
		}
		buf = appendBytes(appendBytes(buf, key), value)
	}
	a.labels = len(buf)
	for _, source := range t.sources {
		switch source {
		case takenName:
			buf = appendBytes(buf, o.Name)
		case takenNamespace:
			buf = appendBytes(buf, o.Namespace)
		case takenUID:
			buf = appendBytes(buf, o.UID)
		}
	}
	a.packed = string(buf)
	return a
}
