// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package compact

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"hash"
	"maps"
	"slices"
	"sync"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
)

type (
	spec  = apiextensionsv1.CustomResourceDefinitionSpec
	props = apiextensionsv1.JSONSchemaProps
	// digest is a SHA-256 of all that is in a schema, below it, too, but for its prose. Schemas of one digest are taken for equal.
	digest [sha256.Size]byte
)

// Table has each schema once that is in the definitions which it was given. It may be used by many goroutines at once.
type Table struct {
	mu     sync.Mutex
	shared map[digest]*shared
	// last is the last state of each definition, by its name. What it uses counts it once in shared.users.
	last map[string]state
}

// shared is a map, a pointer or a slice that leads to schemas, and that definitions have in common.
type shared struct {
	digest digest
	value  any
	// users is how many definitions there are in which this is. Whatever is below it has as many at least.
	users int
}

// state is that of a definition.
type state struct {
	// spec is compact, and encoded the SHA-256 of the bytes that it was decoded from.
	spec    *spec
	encoded digest
	uses    map[*shared]struct{}
}

// NewTable returns an empty table.
func NewTable() *Table {
	return &Table{shared: map[digest]*shared{}, last: map[string]state{}}
}

// decode decodes the specification of the definition of that name, a protobuf message, and compacts it. One that is encoded as the last was is the last.
// An error says that the message is none.
func (t *Table) decode(name string, message []byte) (*spec, error) {
	encoded := digest(sha256.Sum256(message))
	if last := t.known(name, encoded); last != nil {
		return last, nil
	}
	decoded := &spec{}
	if err := decoded.Unmarshal(message); err != nil {
		return nil, err
	}
	t.compact(name, encoded, decoded)
	return decoded, nil
}

// known returns the last specification of the definition of that name, if it was decoded from a message of that digest, or nil.
func (t *Table) known(name string, encoded digest) *spec {
	t.mu.Lock()
	defer t.mu.Unlock()
	if last, ok := t.last[name]; ok && last.encoded == encoded {
		return last.spec
	}
	return nil
}

// compact leaves the prose out of a specification, which was decoded from a message of that digest, and has what is in the table already
// take the place of what is equal to it. It has to be the caller's alone; afterwards nobody may change what it leads to.
//
// The description of a version's schema becomes a digest of the prose that was in it and below it, so that definitions which differ in nothing
// else still differ: upstream's handler begins a resource anew when its definition has changed in any way.
func (t *Table) compact(name string, encoded digest, decoded *spec) {
	t.mu.Lock()
	defer t.mu.Unlock()
	c := compaction{table: t, uses: map[*shared]struct{}{}}
	for i := range decoded.Versions {
		if schema := decoded.Versions[i].Schema; schema != nil && schema.OpenAPIV3Schema != nil {
			c.schema(schema.OpenAPIV3Schema)
		}
	}
	for s := range c.uses {
		s.users++
	}
	t.forget(name)
	if name == "" {
		return // a bookmark
	}
	t.last[name] = state{decoded, encoded, c.uses}
}

// Retain forgets the definitions that are not kept, and what only they use.
func (t *Table) Retain(kept func(name string) bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for name := range t.last {
		if !kept(name) {
			t.forget(name)
		}
	}
}

func (t *Table) forget(name string) {
	for s := range t.last[name].uses {
		if s.users--; s.users == 0 {
			delete(t.shared, s.digest)
		}
	}
	delete(t.last, name)
}

// compaction is that of one definition.
type compaction struct {
	table *Table
	uses  map[*shared]struct{}
	// prose is a digest of what was left out of the schema that is being looked at.
	prose hash.Hash
	// scratch is what a schema is marshalled into.
	scratch []byte
}

// schema compacts that of a version.
func (c *compaction) schema(root *props) {
	c.prose = sha256.New()
	c.props(root, true, false)
	root.Description = hex.EncodeToString(c.prose.Sum(nil))
}

// props compacts p and what is below it, and returns its digest. The prose of a schema counts where upstream forbids it, and tells of it in a
// condition (k8s.io/apiextensions-apiserver/pkg/apiserver/schema/validation.go): within allOf, anyOf, oneOf and not, and in the metadata at the root.
// There it is kept.
func (c *compaction) props(p *props, root, prose bool) digest {
	if !prose {
		c.leaveOut(p)
	}
	below := sha256.New()
	c.alternatives(below, 'i', &p.Items, prose)
	c.list(below, 'a', &p.AllOf, true)
	c.list(below, 'o', &p.OneOf, true)
	c.list(below, 'n', &p.AnyOf, true)
	c.pointer(below, '!', &p.Not, true)
	c.byName(below, 'p', &p.Properties, root, prose)
	c.orBool(below, '+', &p.AdditionalProperties, prose)
	c.byName(below, '*', &p.PatternProperties, false, prose)
	c.dependencies(below, 'd', &p.Dependencies, prose)
	c.orBool(below, '&', &p.AdditionalItems, prose)
	c.byName(below, 's', (*map[string]props)(&p.Definitions), false, prose)
	// Upstream appends to some of these (pkg/controller/openapi/builder), without a copy: not into memory that others have as well.
	p.Required, p.Enum, p.XListMapKeys, p.XValidations = slices.Clip(p.Required), slices.Clip(p.Enum), slices.Clip(p.XListMapKeys), slices.Clip(p.XValidations)

	// What is below is in below by its digests, and everything else as it is encoded.
	alone := *p
	alone.Items, alone.AllOf, alone.OneOf, alone.AnyOf, alone.Not, alone.Properties = nil, nil, nil, nil, nil, nil
	alone.AdditionalProperties, alone.PatternProperties, alone.Dependencies, alone.AdditionalItems, alone.Definitions = nil, nil, nil, nil, nil
	size := alone.Size()
	c.scratch = slices.Grow(c.scratch[:0], size)[:size]
	if _, err := alone.MarshalToSizedBuffer(c.scratch); err != nil {
		c.scratch = []byte(rand.Text()) // what cannot be encoded is like nothing else
	}
	below.Write([]byte{0})
	below.Write(c.scratch)
	return digest(below.Sum(nil))
}

// leaveOut takes the prose out of p.
func (c *compaction) leaveOut(p *props) {
	if p.Description == "" && p.Title == "" && p.Example == nil && p.ExternalDocs == nil {
		// Where there is none is a part of what the prose says.
		c.prose.Write([]byte{0})
		return
	}
	c.prose.Write([]byte{1})
	named(c.prose, p.Description)
	named(c.prose, p.Title)
	if p.Example != nil {
		c.prose.Write([]byte{'e'})
		named(c.prose, string(p.Example.Raw))
	}
	if p.ExternalDocs != nil {
		c.prose.Write([]byte{'d'})
		named(c.prose, p.ExternalDocs.Description)
		named(c.prose, p.ExternalDocs.URL)
	}
	p.Description, p.Title, p.Example, p.ExternalDocs = "", "", nil, nil
}

// settle ends h, the digest of what is at v, to which a field leads: it is in above from now on, and what the table has for it, which is
// v's if there was nothing, takes its place.
func settle[T any](c *compaction, above hash.Hash, field byte, h hash.Hash, v *T) {
	d := digest(h.Sum(nil))
	s := c.table.shared[d]
	if s == nil {
		s = &shared{digest: d, value: *v}
		c.table.shared[d] = s
	}
	c.uses[s] = struct{}{}
	*v = s.value.(T)
	add(above, field, d)
}

// add writes to h that field leads to what has the digest d.
func add(h hash.Hash, field byte, d digest) {
	h.Write([]byte{field})
	h.Write(d[:])
}

// named writes a name to h, so that where it ends is in the digest.
func named(h hash.Hash, name string) {
	h.Write(binary.AppendUvarint(nil, uint64(len(name))))
	h.Write([]byte(name))
}

// The functions below compact what one field of a schema leads to, write its digest to above, and have
// the table's take its place. Each kind of value has a letter of its own in its digest, since no value is ever of two types.

func (c *compaction) byName(above hash.Hash, field byte, m *map[string]props, root, prose bool) {
	if len(*m) == 0 {
		return
	}
	h := sha256.New()
	h.Write([]byte{'M'})
	for _, name := range slices.Sorted(maps.Keys(*m)) {
		p := (*m)[name]
		d := c.props(&p, false, prose || root && name == "metadata")
		(*m)[name] = p
		named(h, name)
		h.Write(d[:])
	}
	settle(c, above, field, h, m)
}

func (c *compaction) pointer(above hash.Hash, field byte, p **props, prose bool) {
	if *p == nil {
		return
	}
	h := sha256.New()
	add(h, 'P', c.props(*p, false, prose))
	settle(c, above, field, h, p)
}

func (c *compaction) list(above hash.Hash, field byte, l *[]props, prose bool) {
	if len(*l) == 0 {
		return
	}
	h := sha256.New()
	h.Write([]byte{'L'})
	for i := range *l {
		d := c.props(&(*l)[i], false, prose)
		h.Write(d[:])
	}
	*l = slices.Clip(*l)
	settle(c, above, field, h, l)
}

func (c *compaction) alternatives(above hash.Hash, field byte, a **apiextensionsv1.JSONSchemaPropsOrArray, prose bool) {
	if *a == nil {
		return
	}
	h := sha256.New()
	h.Write([]byte{'A'})
	c.pointer(h, 's', &(*a).Schema, prose)
	c.list(h, 'l', &(*a).JSONSchemas, prose)
	settle(c, above, field, h, a)
}

func (c *compaction) orBool(above hash.Hash, field byte, b **apiextensionsv1.JSONSchemaPropsOrBool, prose bool) {
	if *b == nil {
		return
	}
	h := sha256.New()
	h.Write([]byte{'B'})
	if (*b).Allows {
		h.Write([]byte{1})
	}
	c.pointer(h, 's', &(*b).Schema, prose)
	settle(c, above, field, h, b)
}

func (c *compaction) dependencies(above hash.Hash, field byte, m *apiextensionsv1.JSONSchemaDependencies, prose bool) {
	if len(*m) == 0 {
		return
	}
	h := sha256.New()
	h.Write([]byte{'D'})
	for _, name := range slices.Sorted(maps.Keys(*m)) {
		named(h, name)
		v := (*m)[name]
		c.pointer(h, 's', &v.Schema, prose)
		v.Property = slices.Clip(v.Property)
		for _, property := range v.Property {
			h.Write([]byte{'-'})
			named(h, property)
		}
		h.Write([]byte{0})
		(*m)[name] = v
	}
	settle(c, above, field, h, m)
}
