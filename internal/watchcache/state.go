// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package watchcache

import (
	"sort"
	"strings"
	"sync/atomic"

	"github.com/weir-project/weir/internal/frame"
	"github.com/weir-project/weir/internal/ledger"
	"github.com/weir-project/weir/internal/snapshot"
)

// view is the state at one revision. It never changes.
type view struct {
	// rev is the revision of the last change; the state is the same up to the next.
	rev     uint64
	objects snapshot.View[*frame.Frame]
	// byIndex has, for each of state.indexes, the same objects under indexKey.
	byIndex []snapshot.View[*frame.Frame]
	// defaulted has those of objects that are DefaultedOnRead, under the same keys.
	defaulted snapshot.View[*frame.Frame]
	totals
}

// totals are sums over the objects of a state.
type totals struct {
	// bytes is the size of all objects, and defaultedBytes that of those DefaultedOnRead.
	bytes, defaultedBytes int64
	// messages is the size that those which are not DefaultedOnRead have as items of a list in
	// protobuf.
	messages int
	// encoded is the size of all objects as they are kept, without the events round them.
	encoded int64
}

// state is the resource as far as it has been followed. It has one writer, the
// source; views of it go to anyone.
type state struct {
	objects *snapshot.Map[*frame.Frame]
	indexes []index
	// defaulted is nil for as long as there was no such object: most resources have none.
	defaulted *snapshot.Map[*frame.Frame]
	// books has what is booked for the resource, if anybody wants to know.
	books *atomic.Int64
	totals
}

// index orders objects by the value of a label or field.
type index struct {
	// name is what storage.FieldIndex or storage.LabelIndex makes of it.
	name    string
	value   func(*frame.Frame) string
	objects *snapshot.Map[*frame.Frame]
}

// indexKey is an object's key in an index: values never contain a zero byte.
func indexKey(value, key string) string { return value + "\x00" + key }

// newState returns an empty state with those of the named indexes that are on a
// field or label; the others only made upstream's lists faster.
func newState(names []string) *state {
	s := &state{objects: snapshot.New[*frame.Frame]()}
	sort.Strings(names)
	for _, name := range names {
		var value func(*frame.Frame) string
		if field, ok := strings.CutPrefix(name, "f:"); ok {
			if field == "metadata.namespace" || field == "metadata.name" {
				continue // the keys are in this order already
			}
			value = func(f *frame.Frame) string { return f.Fields().Get(field) }
		} else if label, ok := strings.CutPrefix(name, "l:"); ok {
			value = func(f *frame.Frame) string { return f.Labels().Get(label) }
		} else {
			continue
		}
		s.indexes = append(s.indexes, index{name: name, value: value, objects: snapshot.New[*frame.Frame]()})
	}
	return s
}

func (s *state) set(f *frame.Frame) {
	prev, existed := s.objects.Set(f.Key(), f)
	s.count(f, 1)
	if existed {
		s.count(prev, -1)
	}
	switch {
	case f.DefaultedOnRead():
		if s.defaulted == nil {
			s.defaulted = snapshot.New[*frame.Frame]()
		}
		s.defaulted.Set(f.Key(), f)
	case existed && prev.DefaultedOnRead():
		s.defaulted.Delete(f.Key())
	}
	for _, i := range s.indexes {
		if existed {
			if old := i.value(prev); old != i.value(f) {
				i.objects.Delete(indexKey(old, prev.Key()))
			}
		}
		i.objects.Set(indexKey(i.value(f), f.Key()), f)
	}
}

func (s *state) delete(key string) {
	prev, existed := s.objects.Delete(key)
	if !existed {
		return
	}
	s.count(prev, -1)
	if prev.DefaultedOnRead() {
		s.defaulted.Delete(key)
	}
	for _, i := range s.indexes {
		i.objects.Delete(indexKey(i.value(prev), key))
	}
}

// count takes an object in (sign 1) or out (-1).
func (s *state) count(f *frame.Frame, sign int) {
	s.book(int64(sign) * f.Size())
	s.encoded += int64(sign * f.ObjectSize())
	if f.DefaultedOnRead() {
		s.defaultedBytes += int64(sign) * f.Size()
	} else {
		s.messages += sign * f.MessageSize()
	}
}

func (s *state) book(n int64) {
	s.bytes += n
	if s.books != nil {
		s.books.Add(n)
	}
	ledger.Process.Add(ledger.Frames, n)
}

// unbook gives back what is booked. The state must not be used again.
func (s *state) unbook() { s.book(-s.bytes) }

func (s *state) freeze(rev uint64) view {
	v := view{rev: rev, objects: s.objects.Freeze(), totals: s.totals}
	if s.defaulted != nil {
		v.defaulted = s.defaulted.Freeze()
	}
	if len(s.indexes) > 0 {
		v.byIndex = make([]snapshot.View[*frame.Frame], len(s.indexes))
		for n, i := range s.indexes {
			v.byIndex[n] = i.objects.Freeze()
		}
	}
	return v
}
