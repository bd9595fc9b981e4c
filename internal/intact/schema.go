// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package intact

import (
	"sync"

	structuralschema "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
)

// node is what matters of a schema. What is below it is made when an object is there for the first time: a definition may have
// thousands of properties, of which its objects have few. A nil *node is that of what no schema says anything of.
type node struct {
	// nullable, defaulted and preserves are Nullable, that there is a Default, and XPreserveUnknownFields.
	nullable, defaulted, preserves bool
	// unsure says that nobody knows here what decoding makes of an object: it is an embedded resource, or has properties both named and
	// not, which upstream admits in no definition, but may have stored before it was as strict.
	unsure bool
	// values says that properties which are not named may be there, additional what their schema is.
	values bool

	// of is what the schema has below it, until it is unfolded.
	of   below
	once sync.Once
	// Set once: properties are those that are named, defaults is how many of them have a default, items is the schema of items.
	properties map[string]*node
	defaults   int
	items      *node
	additional *node
}

// below are schemas that a schema refers to. The schema itself, which may be a copy, is not kept.
type below struct {
	properties map[string]structuralschema.Structural
	items      *structuralschema.Structural
	values     *structuralschema.StructuralOrBool
}

func newNode(s *structuralschema.Structural) *node {
	if s == nil {
		return nil
	}
	return &node{
		nullable:  s.Nullable,
		defaulted: s.Default.Object != nil,
		preserves: s.XPreserveUnknownFields,
		unsure:    s.XEmbeddedResource || len(s.Properties) > 0 && s.AdditionalProperties != nil,
		values:    s.AdditionalProperties != nil,
		of:        below{s.Properties, s.Items, s.AdditionalProperties},
	}
}

// unfold has what is below the node be there.
func (n *node) unfold() {
	n.once.Do(func() {
		of := n.of
		n.of = below{}
		n.items = newNode(of.items)
		if of.values != nil {
			n.additional = newNode(of.values.Structural)
		}
		if len(of.properties) > 0 {
			n.properties = make(map[string]*node, len(of.properties))
		}
		for name, property := range of.properties {
			n.properties[name] = newNode(&property)
			if property.Default.Object != nil {
				n.defaults++
			}
		}
	})
}

// child returns what is said of a property, and whether anything is: where not, it is pruned if the object is.
func (n *node) child(name []byte) (c *node, known bool) {
	if c, ok := n.properties[string(name)]; ok {
		return c, true
	}
	return n.additional, n.values
}

// implied are the fields at the root of every object.
var implied = []string{"apiVersion", "kind", "metadata"}

// plain tells whether a schema can be the root of objects of which the implied fields are looked at without it: it says nothing of them that
// would change them. Upstream admits no other definitions.
func plain(s *structuralschema.Structural) bool {
	if s == nil {
		return true
	}
	if s.XEmbeddedResource || s.AdditionalProperties != nil || s.Items != nil || s.Default.Object != nil {
		return false
	}
	for _, name := range implied {
		if property, ok := s.Properties[name]; ok && !harmless(&property) {
			return false
		}
	}
	return true
}

// harmless tells whether neither defaults nor embedded resources are below a schema.
func harmless(s *structuralschema.Structural) bool {
	switch {
	case s == nil:
		return true
	case s.Default.Object != nil || s.XEmbeddedResource || !harmless(s.Items):
		return false
	case s.AdditionalProperties != nil && !harmless(s.AdditionalProperties.Structural):
		return false
	}
	for _, property := range s.Properties {
		if !harmless(&property) {
			return false
		}
	}
	return true
}
