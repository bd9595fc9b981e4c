// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package intact

import (
	"bytes"
	"iter"
	"reflect"
	"strconv"
	"strings"
	"sync"

	structuralschema "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
)

// Rules are what a storage codec of a custom resource does, as far as it matters here.
type Rules struct {
	// Group and Kind are those of the definition. Objects of others are not intact.
	Group, Kind string
	// Version is what is decoded to.
	Version string
	// Schemas are the schemas by version, of all versions of the definition. They are read only, also while a Judge is used.
	Schemas map[string]*structuralschema.Structural
	// Renames says that conversion to Version does nothing but set apiVersion. If it does not, objects that are stored in other
	// versions are not intact. An object of Version is never changed by conversion.
	Renames bool
	// PreservesUnknown says that nothing is pruned: spec.preserveUnknownFields of the definition.
	PreservesUnknown bool
}

// Judge looks at the objects of one definition. It may be used by any number of goroutines.
type Judge struct {
	rules Rules
	// prefix is how objects begin, up to the version; apiVersion is that of what they are decoded to.
	prefix     []byte
	apiVersion string

	mu    sync.Mutex
	roots map[string]*root
}

// root is what is known of a version that objects are stored in.
type root struct {
	// usable says that the schema asks for nothing at the root of objects that is not looked at.
	usable bool
	schema *node
	// served is what is pruned by after conversion, nil if that can change nothing that schema does not.
	served *node
}

// NewJudge returns a Judge.
func NewJudge(rules Rules) *Judge {
	return &Judge{
		rules:      rules,
		prefix:     []byte(`{"apiVersion":"` + rules.Group + "/"),
		apiVersion: rules.Group + "/" + rules.Version,
		roots:      map[string]*root{},
	}
}

// Object is an object that is intact. Its bytes are those that Look was given.
type Object struct {
	// Name, Namespace and UID are those of metadata; Namespace and UID are empty if there is none.
	Name, Namespace, UID []byte
	// APIVersion and Kind are those that it is decoded to.
	APIVersion, Kind string

	data []byte
	// labels is the text of metadata.labels, nil if there are none.
	labels []byte
	// versionBegin and versionEnd are where in data another apiVersion is, in place of which APIVersion goes; 0 if it is that.
	versionBegin, versionEnd int
	// at is where in data resourceVersion goes; last says that it is the last member of metadata.
	at   int
	last bool
}

const resourceVersion = `"resourceVersion":"`

// Version returns the name of the version that it is stored in.
func (o *Object) Version() string {
	begin, end := o.versionBegin, o.versionEnd
	version := o.APIVersion
	if end > 0 {
		version = string(o.data[begin:end])
	}
	return version[strings.IndexByte(version, '/')+1:]
}

// RevisionAt returns where in the JSON that Parts makes the text begins that is not stored: resourceVersion, and a comma before or behind it.
func (o *Object) RevisionAt() int {
	if o.versionEnd > 0 {
		return o.at - (o.versionEnd - o.versionBegin) + len(o.APIVersion)
	}
	return o.at
}

// Stored returns what is stored of an object of which Parts has made object, with that revision; at and version are RevisionAt and Version.
// The slice is the caller's.
func Stored(object []byte, revision uint64, at int, version string) []byte {
	behind := at + len(resourceVersion) + len(strconv.FormatUint(revision, 10)) + len(`",`)
	group := object[:bytes.IndexByte(object, '/')+1]
	stored := make([]byte, 0, len(object)+len(version)+len("\n"))
	stored = append(append(stored, group...), version...)
	stored = append(stored, object[len(group)+bytes.IndexByte(object[len(group):], '"'):at]...)
	return append(append(stored, object[behind:]...), '\n')
}

// Parts appends to dst the parts that, one behind the other, are the object's JSON with a resourceVersion, without a newline. The parts
// are read only.
func (o *Object) Parts(dst [][]byte, revision uint64) [][]byte {
	text := make([]byte, 0, len(resourceVersion)+len(`,"`)+20)
	if o.last {
		text = append(text, ',')
	}
	text = strconv.AppendUint(append(text, resourceVersion...), revision, 10)
	text = append(text, '"')
	if !o.last {
		text = append(text, ',')
	}
	rest, at := o.data, o.at
	if o.versionEnd > 0 {
		dst = append(dst, rest[:o.versionBegin], []byte(o.APIVersion))
		rest, at = rest[o.versionEnd:], at-o.versionEnd
	}
	return append(dst, rest[:at], text, rest[at:])
}

// Labels are those of metadata, by ascending key.
func (o *Object) Labels() iter.Seq2[[]byte, []byte] {
	return func(yield func(key, value []byte) bool) {
		// Look has seen that it is {"key":"value","key":"value"}, without escapes.
		for rest := o.labels; len(rest) > len("{}"); {
			var key, value []byte
			key, rest = quoted(rest)
			value, rest = quoted(rest)
			if !yield(key, value) {
				return
			}
		}
	}
}

// quoted returns what is between the first two quotes, and what comes behind them.
func quoted(text []byte) (inner, rest []byte) {
	text = text[bytes.IndexByte(text, '"')+1:]
	end := bytes.IndexByte(text, '"')
	return text[:end], text[end+1:]
}

// maxVersion is how long the name of a version is at most: it is a DNS label.
const maxVersion = 63

// Look tells whether data is intact, and if so where what is needed of it is. data is read only, and the Object refers to it.
func (j *Judge) Look(data []byte) (o Object, intact bool) {
	data = bytes.TrimSuffix(data, []byte("\n")) // encoding/json ends with one
	if !bytes.HasPrefix(data, j.prefix) {
		return Object{}, false
	}
	begin := len(`{"apiVersion":"`)
	length := bytes.IndexByte(data[len(j.prefix):min(len(data), len(j.prefix)+maxVersion+1)], '"')
	if length <= 0 {
		return Object{}, false
	}
	end := len(j.prefix) + length
	r := j.root(data[len(j.prefix):end])
	if r == nil || !r.usable {
		return Object{}, false
	}
	o = Object{APIVersion: j.apiVersion, Kind: j.rules.Kind, data: data}
	if string(data[begin:end]) != j.apiVersion {
		if !j.rules.Renames {
			return Object{}, false
		}
		o.versionBegin, o.versionEnd = begin, end
	}
	p := pass{data: data, prunes: !j.rules.PreservesUnknown, defaults: true}
	if !p.whole(r.schema, &o) {
		return Object{}, false
	}
	if r.served != nil {
		again := Object{Kind: o.Kind}
		p = pass{data: data, prunes: p.prunes}
		if !p.whole(r.served, &again) {
			return Object{}, false
		}
	}
	return o, true
}

// root returns what is known of a version, nil if there is no such version.
func (j *Judge) root(version []byte) *root {
	j.mu.Lock()
	defer j.mu.Unlock()
	if r, ok := j.roots[string(version)]; ok {
		return r
	}
	schema, ok := j.rules.Schemas[string(version)]
	if !ok {
		return nil
	}
	r := &root{usable: plain(schema), schema: newNode(schema)}
	if string(version) != j.rules.Version {
		served, ok := j.rules.Schemas[j.rules.Version]
		r.usable = r.usable && ok && plain(served)
		if !reflect.DeepEqual(schema, served) {
			r.served = newNode(served)
		}
	}
	j.roots[string(version)] = r
	return r
}
