// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package watchcache

import (
	"context"

	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/storage"

	"github.com/weir-project/weir/internal/eventlog"
)

// scope is a key of the event log: which watches must look at an event.
type scope struct {
	kind            scopeKind
	namespace, name string
}

type scopeKind uint8

const (
	// wholeResource has all objects; the zero scope is of it.
	wholeResource scopeKind = iota
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
	limits.Keys = scopesOf(trigger)
	return eventlog.New(rev, limits)
}

// scopesOf returns a function that tells in which scopes a change is, of a resource whose index
// is on the field trigger, if any: all but the whole resource, which has all changes.
func scopesOf(trigger string) func(c *change, yield func(scope)) {
	return func(c *change, yield func(scope)) {
		f := c.frame()
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
}

// scopeOf returns the narrowest scope that has all that a watch can select.
func (c *Cache) scopeOf(ctx context.Context, pred storage.SelectionPredicate) scope {
	if c.trigger != "" {
		for _, field := range pred.IndexFields {
			if field != c.trigger {
				continue
			}
			if value, ok := pred.Field.RequiresExactMatch(field); ok {
				return scope{kind: indexed, name: value}
			}
		}
	}
	var namespace, name string
	if ns, ok := request.NamespaceFrom(ctx); ok && ns != "" {
		namespace = ns
	} else if pred.Field != nil {
		namespace, _ = pred.Field.RequiresExactMatch("metadata.namespace")
	}
	if info, ok := request.RequestInfoFrom(ctx); ok && info != nil && info.Name != "" {
		name = info.Name
	} else if pred.Field != nil {
		name, _ = pred.Field.RequiresExactMatch("metadata.name")
	}
	// A request for /api/v1/watch/namespaces/x has the namespace x, but a Namespace has
	// no metadata.namespace.
	if c.cfg.GroupResource.Group == "" && c.cfg.GroupResource.Resource == "namespaces" && namespace == name {
		namespace = ""
	}
	switch {
	case namespace != "" && name != "":
		return scope{kind: inNamespaceNamed, namespace: namespace, name: name}
	case namespace != "":
		return scope{kind: inNamespace, namespace: namespace}
	case name != "":
		return scope{kind: named, name: name}
	default:
		return scope{}
	}
}
