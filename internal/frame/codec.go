// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package frame

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"reflect"
	"sync"
	"sync/atomic"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/storage"
	"sigs.k8s.io/yaml"

	"github.com/weir-project/weir/internal/transcode"
	"github.com/weir-project/weir/internal/wire"
)

// uidField is the name under which a Codec with KeepUIDs packs the UID. No selectable
// field has it: field names have no space.
const uidField = "metadata uid"

// Config says how the frames of one resource are made. Fields without a remark
// are required.
type Config struct {
	// Codec is the resource's storage codec.
	Codec runtime.Codec
	// NewFunc returns an empty object of the type that Codec decodes to.
	NewFunc func() runtime.Object
	// Attrs returns what selectors look at.
	Attrs storage.AttrFunc
	// Versioner reads resource versions.
	Versioner storage.Versioner
	// Store keeps derived encodings.
	Store *Store
	// Types knows the built-in types. With it, what is kept in protobuf is decoded without
	// the copy that Codec makes of it first, and not at all for JSON. Optional.
	Types Types
	// DefaultedOnRead tells whether the resource's REST storage changes an object, which is read
	// only, on its way from storage to clients. Optional: none.
	DefaultedOnRead func(runtime.Object) bool
	// KeepUIDs makes Frame.Identity work.
	KeepUIDs bool
	// Versions says that objects are custom resources which are served in several versions that differ in nothing but
	// apiVersion; see Frame.In.
	Versions bool
}

// Types knows built-in types.
type Types interface {
	// New returns an empty object of a kind.
	New(kind schema.GroupVersionKind) (runtime.Object, error)
	// Internal returns obj, which may be changed, defaulted and in the internal version.
	Internal(obj runtime.Object) (runtime.Object, error)
	// Encoder returns the encoder into a format and version, nil if there is none.
	Encoder(format wire.Format, gv schema.GroupVersion) runtime.Encoder
}

// Codec makes the frames of one resource. It may be used by any number of goroutines.
type Codec struct {
	cfg   Config
	store *Store
	names fieldNames
	// custom says that objects are unstructured: the storage codec then decodes to the
	// served version and encodes to the stored one, but what is sent is the served one.
	custom bool
	// decoded is the type that the storage codec decodes to.
	decoded reflect.Type
	// taken returns the selectable fields of what Take makes.
	taken func() *taken
	given given

	mu       sync.Mutex
	types    map[typeMeta]*objectType
	versions map[string]*Version
	// storedIn are the versions that frames were stored in which were taken; the first stands for none.
	storedIn []string
}

// NewCodec returns a Codec.
func NewCodec(cfg Config) *Codec {
	obj := cfg.NewFunc()
	_, custom := obj.(runtime.Unstructured)
	c := &Codec{cfg: cfg, store: cfg.Store, custom: custom, decoded: reflect.TypeOf(obj), types: map[typeMeta]*objectType{}}
	c.taken = sync.OnceValue(c.takes)
	return c
}

// lastID is the id of the frame that was made last.
var lastID atomic.Uint64

// Encode makes a frame of an object that lies under key. The object is read only,
// and not kept.
func (c *Codec) Encode(key string, obj runtime.Object) (*Frame, error) {
	rev, err := c.cfg.Versioner.ObjectResourceVersion(obj)
	if err != nil {
		return nil, fmt.Errorf("reading the resourceVersion of %s: %w", key, err)
	}
	l, f, err := c.cfg.Attrs(obj)
	if err != nil {
		return nil, fmt.Errorf("reading the labels and fields of %s: %w", key, err)
	}
	if c.cfg.KeepUIDs {
		accessor, err := meta.Accessor(obj)
		if err != nil {
			return nil, fmt.Errorf("reading the UID of %s: %w", key, err)
		}
		withUID := make(map[string]string, len(f)+1)
		for name, value := range f {
			withUID[name] = value
		}
		withUID[uidField] = string(accessor.GetUID())
		f = withUID
	}

	buf := scratch.Get().(*bytes.Buffer)
	defer putScratch(buf)
	buf.Reset()
	if c.custom {
		err = unstructured.UnstructuredJSONScheme.Encode(obj, buf)
	} else {
		err = c.cfg.Codec.Encode(obj, buf)
	}
	if err != nil {
		return nil, fmt.Errorf("encoding %s: %w", key, err)
	}
	format, typ := identify(buf.Bytes())
	frame := &Frame{
		id:      lastID.Add(1),
		codec:   c,
		typ:     c.intern(typ),
		key:     key,
		rev:     rev,
		attrs:   pack(l, f, &c.names),
		primary: enclose(format, buf.Bytes()),

		defaultedOnRead: c.cfg.DefaultedOnRead != nil && c.cfg.DefaultedOnRead(obj),
	}
	if c.cfg.Versions && format == wire.JSON {
		frame.apiVersionAt = findAPIVersion(frame.primary.object(), frame.typ)
	}
	frame.ownMetadata = frame.hasOwnMetadata(obj)
	exact, err := c.exactly(frame, obj)
	if err != nil {
		return nil, fmt.Errorf("encoding %s so that nothing is lost: %w", key, err)
	}
	if exact != nil {
		frame.exact = &exact
	}
	return frame, nil
}

func (c *Codec) decode(data []byte) (runtime.Object, error) {
	if c.custom {
		// What is kept has been defaulted and converted, in that order. The storage codec
		// would default it in the served version, which upstream never does. The type is
		// named: left to itself, the scheme takes an object with a field "items" for a list.
		u := &unstructured.Unstructured{}
		return u, runtime.DecodeInto(unstructured.UnstructuredJSONScheme, data, u)
	}
	return runtime.Decode(c.cfg.Codec, data)
}

func (c *Codec) intern(t typeMeta) *objectType {
	c.mu.Lock()
	defer c.mu.Unlock()
	if shared, ok := c.types[t]; ok {
		return shared
	}
	shared := &objectType{typeMeta: t, begin: fmt.Appendf(nil, `{"apiVersion":"%s"`, t.apiVersion)}
	if types := c.cfg.Types; types != nil {
		if obj, err := types.New(schema.FromAPIVersionAndKind(t.apiVersion, t.kind)); err == nil {
			shared.json = transcode.For(reflect.TypeOf(obj).Elem())
		}
	}
	c.types[t] = shared
	return shared
}

// identify tells what an encoded object is. YAML has no envelope, but its type is wanted
// all the same: an item of a list does without what JSON's encoder makes of it.
func identify(object []byte) (wire.Format, typeMeta) {
	if apiVersion, kind, ok := wire.ProtobufType(object); ok {
		return wire.Protobuf, typeMeta{apiVersion: apiVersion, kind: kind}
	}
	if len(object) > 0 && object[0] == '{' {
		if t, err := jsonType(bytes.NewReader(object)); err == nil {
			return wire.JSON, t
		}
		return wire.Other, typeMeta{}
	}
	var t metav1.TypeMeta
	if err := yaml.Unmarshal(object, &t); err != nil {
		return wire.Other, typeMeta{}
	}
	return wire.Other, typeMeta{apiVersion: t.APIVersion, kind: t.Kind}
}

// jsonType reads an object's apiVersion and kind, and no more of it than it has to.
func jsonType(r io.Reader) (typeMeta, error) {
	d := json.NewDecoder(r)
	if _, err := d.Token(); err != nil {
		return typeMeta{}, err
	}
	var t typeMeta
	for d.More() && (t.apiVersion == "" || t.kind == "") {
		name, err := d.Token()
		if err != nil {
			return typeMeta{}, err
		}
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			return typeMeta{}, err
		}
		var into *string
		switch name {
		case "apiVersion":
			into = &t.apiVersion
		case "kind":
			into = &t.kind
		default:
			continue
		}
		if err := json.Unmarshal(value, into); err != nil {
			return typeMeta{}, err
		}
	}
	return t, nil
}
