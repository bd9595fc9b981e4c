// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package watchcache

import (
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/cacher/key"

	"github.com/weir-project/weir/internal/frame"
)

// matcher decides whether a watch or list wants an object.
type matcher struct {
	prefix string
	label  labels.Selector
	field  fields.Selector
	// sharded is the predicate if it has a shard selector, else nil.
	sharded *storage.SelectionPredicate
	// filtered is called for each object that the shard selector turns away; nil if
	// there is no shard selector.
	filtered func()
}

func (m *matcher) matches(f *frame.Frame) (bool, error) {
	if !key.HasPathPrefix(f.Key(), m.prefix) {
		return false, nil
	}
	if m.sharded != nil {
		ok, err := m.sharded.MatchesSharding(f.Identity())
		if err != nil {
			return false, err
		}
		if !ok {
			m.filtered()
			return false, nil
		}
	}
	return (m.label == nil || m.label.Matches(f.Labels())) && (m.field == nil || m.field.Matches(f.Fields())), nil
}

// wantsAll tells whether m wants all objects under its prefix.
func (m *matcher) wantsAll() bool { return m.label == nil && m.field == nil && m.sharded == nil }

// newMatcher returns a matcher for the objects under prefix that pred selects.
func newMatcher(prefix string, pred storage.SelectionPredicate, filtered func()) matcher {
	m := matcher{prefix: prefix}
	if pred.Label != nil && !pred.Label.Empty() {
		m.label = pred.Label
	}
	if pred.Field != nil && !pred.Field.Empty() {
		m.field = pred.Field
	}
	if pred.ShardSelector != nil && !pred.ShardSelector.Empty() {
		sharded := pred // a copy, so that the others' predicates stay off the heap
		m.sharded, m.filtered = &sharded, filtered
	}
	return m
}
