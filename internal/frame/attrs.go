// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package frame

import (
	"encoding/binary"
	"slices"
	"sort"
	"strings"
	"sync"

	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
)

// attrs is what selectors look at. A map per object is too much at 100,000 objects:
// the values stand one after the other in a single string, labels with their keys
// and fields without, because all objects of a resource have the same field names.
type attrs struct {
	// names are the field names, sorted; shared by the objects of the resource.
	names []string
	// packed is a sequence of strings, each behind its length as a varint:
	// for each label its key and its value, by key; then a value for each name.
	// labels is where the fields begin.
	packed string
	labels int
	// starts are where in packed each label begins, if there are more than fewLabels; else nil.
	starts *[]uint32
}

// fewLabels is how many labels are looked through one by one.
const fewLabels = 16

// fieldNames hands out one slice for equal sets of names.
type fieldNames struct {
	mu sync.Mutex
	// known is by the names one after the other, each behind its length.
	known map[string][]string
}

func (n *fieldNames) of(set fields.Set) []string {
	names := make([]string, 0, len(set))
	for name := range set {
		names = append(names, name)
	}
	sort.Strings(names)
	var id []byte
	for _, name := range names {
		id = appendString(id, name)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if shared, ok := n.known[string(id)]; ok {
		return shared
	}
	if n.known == nil {
		n.known = map[string][]string{}
	}
	n.known[string(id)] = names
	return names
}

func pack(l labels.Set, f fields.Set, names *fieldNames) attrs {
	a := attrs{names: names.of(f)}
	keys := make([]string, 0, len(l))
	size := 0
	for k, v := range l {
		keys = append(keys, k)
		size += len(k) + len(v) + 4
	}
	sort.Strings(keys)
	for _, name := range a.names {
		size += len(f[name]) + 2
	}
	buf := make([]byte, 0, size)
	if len(keys) > fewLabels {
		starts := make([]uint32, 0, len(keys))
		a.starts = &starts
	}
	for _, k := range keys {
		if a.starts != nil {
			*a.starts = append(*a.starts, uint32(len(buf)))
		}
		buf = appendString(buf, k)
		buf = appendString(buf, l[k])
	}
	a.labels = len(buf)
	for _, name := range a.names {
		buf = appendString(buf, f[name])
	}
	a.packed = string(buf)
	return a
}

// SelectedAs tells whether every selector, of labels or fields, selects both frames or
// neither.
func (f *Frame) SelectedAs(other *Frame) bool {
	return f.labels == other.labels && f.packed == other.packed && slices.Equal(f.names, other.names)
}

func appendString(dst []byte, s string) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(s)))
	return append(dst, s...)
}

func appendBytes(dst, s []byte) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(s)))
	return append(dst, s...)
}

// cut splits the first string off s.
func cut(s string) (first, rest string) {
	// binary.Uvarint wants bytes; lengths are short, so this loop is all it takes.
	n, shift, i := 0, 0, 0
	for ; s[i] >= 0x80; i++ {
		n |= int(s[i]&0x7f) << shift
		shift += 7
	}
	n |= int(s[i]) << shift
	s = s[i+1:]
	return s[:n], s[n:]
}

// Labels is a view of a frame's labels. It implements labels.Labels.
type Labels Frame

// Fields is a view of a frame's selectable fields. It implements fields.Fields.
type Fields Frame

var (
	_ labels.Labels = (*Labels)(nil)
	_ fields.Fields = (*Fields)(nil)
)

// Lookup returns the value of a label and whether it is there.
func (l *Labels) Lookup(label string) (string, bool) {
	rest := l.attrs.packed[:l.attrs.labels]
	if l.attrs.starts != nil {
		starts := *l.attrs.starts
		i, found := sort.Find(len(starts), func(i int) int {
			key, _ := cut(rest[starts[i]:])
			return strings.Compare(label, key)
		})
		if !found {
			return "", false
		}
		rest = rest[starts[i]:]
	}
	for rest != "" {
		var key, value string
		key, rest = cut(rest)
		value, rest = cut(rest)
		if key == label {
			return value, true
		}
		if key > label {
			break
		}
	}
	return "", false
}

// Has tells whether the label is there.
func (l *Labels) Has(label string) bool {
	_, ok := l.Lookup(label)
	return ok
}

// Get returns the value of the label, or "".
func (l *Labels) Get(label string) string {
	value, _ := l.Lookup(label)
	return value
}

func (f *Fields) lookup(field string) (string, bool) {
	i, ok := sort.Find(len(f.attrs.names), func(i int) int { return strings.Compare(field, f.attrs.names[i]) })
	if !ok {
		return "", false
	}
	rest := f.attrs.packed[f.attrs.labels:]
	for ; i > 0; i-- {
		_, rest = cut(rest)
	}
	value, _ := cut(rest)
	return value, true
}

// Has tells whether the object has such a field.
func (f *Fields) Has(field string) bool {
	_, ok := f.lookup(field)
	return ok
}

// Get returns the value of the field, or "".
func (f *Fields) Get(field string) string {
	value, _ := f.lookup(field)
	return value
}
