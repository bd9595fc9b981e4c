// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package watchcache

import (
	"errors"
	"runtime"

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
	// quick says that to decide costs little: see quickTerms; slow that it takes so long that
	// it has to wait for its turn.
	quick, slow bool
	// done is closed when nobody waits for decisions any more; nil if that cannot be.
	done <-chan struct{}
}

const (
	// quickTerms is how many values a selector may have objects compared with for it to cost
	// little, and slowTerms for it not to wait for its turn. One takes up to 50 ns; a client
	// may ask with 390 kB of them.
	quickTerms = 16
	slowTerms  = 1000
)

// slowTurns has a place for each slow decision that may be made at the same time, so that
// processors are left to everybody else.
var slowTurns = make(chan struct{}, max(1, runtime.GOMAXPROCS(0)/2))

// errGivenUp is what a matcher says that nobody waits for any more.
var errGivenUp = errors.New("nobody waits for the decision any more")

func (m *matcher) matches(f *frame.Frame) (bool, error) {
	if !key.HasPathPrefix(f.Key(), m.prefix) {
		return false, nil
	}
	if m.slow {
		select {
		case slowTurns <- struct{}{}:
			defer func() { <-slowTurns }()
		case <-m.done:
			return false, errGivenUp
		}
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
	return m.selects(f), nil
}

// selects tells whether the selectors of labels and fields select an object.
func (m *matcher) selects(f *frame.Frame) bool {
	return (m.label == nil || m.label.Matches(f.Labels())) && (m.field == nil || m.field.Matches(f.Fields()))
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
	terms := m.terms()
	m.quick, m.slow = terms <= quickTerms, terms > slowTerms
	return m
}

// terms returns how many values an object is compared with.
func (m *matcher) terms() int {
	n := 0
	if m.label != nil {
		requirements, _ := m.label.Requirements()
		for _, r := range requirements {
			n += 1 + len(r.ValuesUnsorted())
		}
	}
	if m.field != nil {
		n += len(m.field.Requirements())
	}
	return n
}
