// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package model

import (
	"fmt"
	"math/rand"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/storage"
)

// Kind is what objects are stored. They are namespaced, and lie under Prefix.
type Kind struct {
	// New and NewList return an empty object and list.
	New, NewList func() runtime.Object
	// Prefix is the resource prefix of the storages, with a slash at its end.
	Prefix string
	// Attrs returns labels and fields: metadata.name, metadata.namespace, spec.nodeName and
	// status.phase.
	Attrs storage.AttrFunc
	// Make returns an object that has the content.
	Make func(namespace, name string, c Content) runtime.Object
	// IndexFields are the fields that the storages have indexes of.
	IndexFields []string
}

// Content is what selectors look at, and something that is always another.
type Content struct {
	App, Node, Phase string
	UID              types.UID
	N                int
}

// The little world that operations and selectors draw from. A namespace and some names are
// the beginning of others.
var (
	namespaces = []string{"a", "b", "load", "load2"}
	names      = []string{"p", "p0", "p1", "p10", "p2", "p3", "p-4"}
	nodes      = []string{"", "n1", "n2"}
	apps       = []string{"", "web", "db"}
	phases     = []string{"Pending", "Running"}
)

func oneOf[T any](r *rand.Rand, of []T) T { return of[r.Intn(len(of))] }

// oneIn is true once in n times.
func oneIn(r *rand.Rand, n int) bool { return r.Intn(n) == 0 }

func drawContent(r *rand.Rand) Content {
	n := r.Int()
	return Content{App: oneOf(r, apps), Node: oneOf(r, nodes), Phase: oneOf(r, phases), UID: types.UID(fmt.Sprintf("%016x", n)), N: n}
}

func (k Kind) key(namespace, name string) string { return k.Prefix + namespace + "/" + name }

func (k Kind) keyOf(obj runtime.Object) (string, error) {
	accessor, err := meta.Accessor(obj)
	if err != nil {
		return "", err
	}
	return k.key(accessor.GetNamespace(), accessor.GetName()), nil
}

// node returns the value of the indexed field.
func (k Kind) node(obj runtime.Object) string {
	_, set, err := k.Attrs(obj)
	if err != nil {
		return ""
	}
	return set["spec.nodeName"]
}

// at returns a copy of obj that has the revision.
func at(obj runtime.Object, rev uint64) runtime.Object {
	out := obj.DeepCopyObject()
	accessor, err := meta.Accessor(out)
	if err == nil {
		accessor.SetResourceVersion(fmt.Sprint(rev))
	}
	return out
}

// scope is where a list or watch looks: at a key, or under it.
type scope struct {
	key             string
	recursive       bool
	namespace, name string
}

// prefix is the key as storages have it.
func (s scope) prefix() string {
	if s.recursive && s.key[len(s.key)-1] != '/' {
		return s.key + "/"
	}
	return s.key
}

func (s scope) has(key string) bool {
	if !s.recursive {
		return key == s.key
	}
	prefix := s.prefix()
	return len(key) > len(prefix) && key[:len(prefix)] == prefix
}

func (k Kind) drawScope(r *rand.Rand) scope {
	namespace, name := oneOf(r, namespaces), oneOf(r, names)
	switch r.Intn(6) {
	case 0, 1:
		key := k.Prefix + namespace
		if oneIn(r, 2) {
			key += "/"
		}
		return scope{key: key, recursive: true, namespace: namespace}
	case 2:
		return scope{key: k.key(namespace, name), namespace: namespace, name: name}
	default:
		return scope{key: k.Prefix, recursive: true}
	}
}

func (k Kind) drawPredicate(r *rand.Rand, s scope) storage.SelectionPredicate {
	pred := storage.SelectionPredicate{Label: labels.Everything(), Field: fields.Everything(), GetAttrs: k.Attrs}
	if oneIn(r, 2) {
		pred.IndexFields = k.IndexFields
	}
	switch r.Intn(8) {
	case 0, 1:
		pred.Label = labels.SelectorFromSet(labels.Set{"app": oneOf(r, apps[1:])})
	case 2:
		pred.Label, _ = labels.Parse("app notin (web)")
	case 3:
		pred.Label, _ = labels.Parse("app")
	}
	node, phase := oneOf(r, nodes), oneOf(r, phases)
	var terms []fields.Selector
	if !s.recursive {
		// A request for one object has its name as a field.
		terms = append(terms, fields.OneTermEqualSelector("metadata.name", s.name))
	}
	switch r.Intn(10) {
	case 0, 1:
		terms = append(terms, fields.OneTermEqualSelector("spec.nodeName", node))
	case 2:
		terms = append(terms, fields.OneTermEqualSelector("status.phase", phase))
	case 3:
		terms = append(terms, fields.OneTermEqualSelector("spec.nodeName", node), fields.OneTermNotEqualSelector("status.phase", phase))
	case 4:
		if s.recursive {
			terms = append(terms, fields.OneTermEqualSelector("metadata.name", oneOf(r, names)))
		}
	case 5:
		if s.namespace == "" {
			terms = append(terms, fields.OneTermEqualSelector("metadata.namespace", oneOf(r, namespaces)))
		}
	}
	if len(terms) > 0 {
		pred.Field = fields.AndSelectors(terms...)
	}
	return pred
}
