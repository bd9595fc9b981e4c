// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package watchcache

import (
	"sort"
	"strings"

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
	// bytes is the size of all objects, messages that of all as items of a list in protobuf,
	// decorated the number of those that REST storage changes on their way to clients.
	bytes     int64
	messages  int
	decorated int
}

// state is the resource as far as it has been followed. It has one writer, the
// source; views of it go to anyone.
type state struct {
	objects *snapshot.Map[*frame.Frame]
	indexes []index
	// bytes, messages and decorated are as in view.
	bytes     int64
	messages  int
	decorated int
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
	for _, i := range s.indexes {
		i.objects.Delete(indexKey(i.value(prev), key))
	}
}

// count takes an object in (sign 1) or out (-1).
func (s *state) count(f *frame.Frame, sign int) {
	s.book(int64(sign) * f.Size())
	s.messages += sign * f.MessageSize()
	if f.Decorated() {
		s.decorated += sign
	}
}

func (s *state) book(n int64) {
	s.bytes += n
	ledger.Process.Add(ledger.Frames, n)
}

// release gives back what is booked. The state must not be used again.
func (s *state) release() { s.book(-s.bytes) }

func (s *state) freeze(rev uint64) view {
	v := view{rev: rev, objects: s.objects.Freeze(), bytes: s.bytes, messages: s.messages, decorated: s.decorated}
	if len(s.indexes) > 0 {
		v.byIndex = make([]snapshot.View[*frame.Frame], len(s.indexes))
		for n, i := range s.indexes {
			v.byIndex[n] = i.objects.Freeze()
		}
	}
	return v
}
