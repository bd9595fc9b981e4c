// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package snapshot

import (
	"iter"
	"strings"

	"github.com/google/btree"
)

// degree is the branching of the tree: what upstream's cache uses. A write after
// a Freeze copies one node of at most 2*degree entries per level.
const degree = 16

// filled is how many entries a node has on average; of at most 2*degree-1.
const filled = 22

type entry[V any] struct {
	key   string
	value V
}

func less[V any](a, b entry[V]) bool { return a.key < b.key }

// Map is an ordered map from string to V with constant-time pictures of itself.
// One goroutine at a time may call its methods; the Views it hands out may be
// read by anyone at any time.
type Map[V any] struct {
	tree *btree.BTreeG[entry[V]]
}

// New returns an empty map.
func New[V any]() *Map[V] {
	return &Map[V]{tree: btree.NewG(degree, less[V])}
}

// Set stores value under key and returns what was there before.
func (m *Map[V]) Set(key string, value V) (previous V, existed bool) {
	old, existed := m.tree.ReplaceOrInsert(entry[V]{key: key, value: value})
	return old.value, existed
}

// Delete removes key and returns what was there before.
func (m *Map[V]) Delete(key string) (previous V, existed bool) {
	old, existed := m.tree.Delete(entry[V]{key: key})
	return old.value, existed
}

// Get returns the value under key.
func (m *Map[V]) Get(key string) (V, bool) {
	e, ok := m.tree.Get(entry[V]{key: key})
	return e.value, ok
}

// Len returns the number of keys.
func (m *Map[V]) Len() int { return m.tree.Len() }

// Depth returns how many levels the map's tree has, about: a write after a Freeze copies a
// node of each.
func (m *Map[V]) Depth() int {
	depth := 1
	for n := m.tree.Len(); n > 2*degree; n /= filled {
		depth++
	}
	return depth
}

// Freeze returns the map's present state. It takes constant time and must be
// called by the writer, like Set and Delete.
func (m *Map[V]) Freeze() View[V] {
	return View[V]{tree: m.tree.Clone()}
}

// View is a map that never changes. The zero View is empty.
type View[V any] struct {
	tree *btree.BTreeG[entry[V]]
}

// Get returns the value under key.
func (v View[V]) Get(key string) (V, bool) {
	if v.tree == nil {
		var none V
		return none, false
	}
	e, ok := v.tree.Get(entry[V]{key: key})
	return e.value, ok
}

// Len returns the number of keys.
func (v View[V]) Len() int {
	if v.tree == nil {
		return 0
	}
	return v.tree.Len()
}

// Ascend calls yield for every key that begins with prefix and is not less than
// from, in order, until yield returns false. An empty from starts at the first.
func (v View[V]) Ascend(prefix, from string, yield func(key string, value V) bool) {
	if v.tree == nil {
		return
	}
	v.tree.AscendGreaterOrEqual(entry[V]{key: max(prefix, from)}, func(e entry[V]) bool {
		if !strings.HasPrefix(e.key, prefix) {
			return false
		}
		return yield(e.key, e.value)
	})
}

// All yields every value, in the order of their keys.
func (v View[V]) All() iter.Seq[V] {
	return func(yield func(V) bool) {
		v.Ascend("", "", func(_ string, value V) bool { return yield(value) })
	}
}

// Count returns how many keys begin with prefix and are not less than from. It
// walks them, without touching their values.
func (v View[V]) Count(prefix, from string) int {
	n := 0
	v.Ascend(prefix, from, func(string, V) bool { n++; return true })
	return n
}
