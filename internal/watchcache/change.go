// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package watchcache

import (
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/cacher/key"

	"github.com/weir-project/weir/internal/eventlog"
	"github.com/weir-project/weir/internal/frame"
)

// change is one event of the log: an object went from prev to cur.
type change struct {
	rev uint64
	// cur is the new state, nil if the object was deleted.
	cur *frame.Frame
	// prev is the state before, nil if there was none.
	prev *frame.Frame
	// recorded is when the storage layer decoded the event, received when it came here.
	recorded, received time.Time

	// last is the previous state with the revision of this change, which is what those
	// are sent for whom the object is gone. It is there from the start for a deletion,
	// and made when first asked for where an object has only left a selector.
	lastOnce sync.Once
	last     *frame.Frame
	lastErr  error
}

// treeCost is what it costs, in bytes, to keep the state of before a change: the
// nodes that were copied. BenchmarkSetFreeze of package snapshot has 3.5 KB for one
// map of 30,000 keys.
const treeCost = 4 << 10

// size returns the bytes that only the log keeps alive.
func (c *change) size() int64 {
	n := int64(treeCost)
	if c.prev != nil {
		n += c.prev.Size()
	}
	if c.cur == nil {
		n += c.last.Size()
	}
	return n
}

// gone returns the previous state at the revision of the change. The change must
// have one.
func (c *change) gone(codec *frame.Codec, versioner storage.Versioner) (*frame.Frame, error) {
	c.lastOnce.Do(func() {
		if c.last != nil {
			return
		}
		obj, err := c.prev.Decode()
		if err == nil {
			err = versioner.UpdateObject(obj, c.rev)
		}
		if err != nil {
			c.lastErr = err
			return
		}
		c.last, c.lastErr = codec.Encode(c.prev.Key(), obj)
	})
	return c.last, c.lastErr
}

// scope is a key of the event log: which watches must look at an event.
type scope struct {
	kind            scopeKind
	namespace, name string
}

type scopeKind uint8

const (
	everything scopeKind = iota
	// inNamespace, named and inNamespaceNamed are watches of one namespace, of one
	// name in any namespace, and of one object.
	inNamespace
	named
	inNamespaceNamed
	// indexed are watches with an exact value of the indexed field, kept in name.
	indexed
)

// newLog returns the log of a resource whose index is on the field trigger, if any.
func newLog(rev uint64, trigger string, limits eventlog.Config[scope, *change]) *eventlog.Log[scope, *change] {
	limits.Keys = func(c *change, yield func(scope)) {
		f := c.cur
		if f == nil {
			f = c.prev
		}
		if f == nil {
			f = c.last
		}
		namespace, name := f.Fields().Get("metadata.namespace"), f.Fields().Get("metadata.name")
		if namespace != "" {
			yield(scope{kind: inNamespace, namespace: namespace})
			yield(scope{kind: inNamespaceNamed, namespace: namespace, name: name})
		}
		yield(scope{kind: named, name: name})
		if trigger == "" {
			return
		}
		if c.cur != nil {
			yield(scope{kind: indexed, name: c.cur.Fields().Get(trigger)})
		}
		if c.prev != nil {
			yield(scope{kind: indexed, name: c.prev.Fields().Get(trigger)})
		}
	}
	return eventlog.New(rev, limits)
}

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

// everything tells whether m wants all objects under its prefix.
func (m *matcher) everything() bool { return m.label == nil && m.field == nil && m.sharded == nil }

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
