// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package openapi

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/apiextensions-apiserver/pkg/apihelpers"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/controller/openapi/builder"
	"k8s.io/apiextensions-apiserver/pkg/features"
	"k8s.io/apimachinery/pkg/types"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/kube-openapi/pkg/handler"
	"k8s.io/kube-openapi/pkg/spec3"
	"k8s.io/kube-openapi/pkg/validation/spec"
)

// Source has the definitions that a server serves.
type Source interface {
	// Definitions returns them all, as they are now. An error says that this is not known at the moment.
	Definitions() ([]Definition, error)
}

// Definition is one definition at one revision.
type Definition interface {
	Name() string
	Revision() uint64
	// Outline returns what has to be known before documents are made: its metadata, group, names, versions' names and whether they are served,
	// and conditions. There may be more. The object is the caller's.
	Outline() (*apiextensionsv1.CustomResourceDefinition, error)
	// Decode returns it decoded. The object is the caller's.
	Decode() (*apiextensionsv1.CustomResourceDefinition, error)
}

// about is what has to be known of a definition before any document is made. Documents are functions of what
// has the same uid and generation, which is what upstream takes for it, too.
type about struct {
	name        string
	uid         types.UID
	generation  int64
	created     time.Time
	established bool
	// group and served, which are version names, say what documents a definition is in.
	group  string
	served []string
	// models are the names of the types that are a definition's own in OpenAPI v2: in each version its kind and the list of it.
	models []string
}

func aboutOf(crd *apiextensionsv1.CustomResourceDefinition) about {
	a := about{
		name: crd.Name, uid: crd.UID, generation: crd.Generation, created: crd.CreationTimestamp.Time,
		established: apihelpers.IsCRDConditionTrue(crd, apiextensionsv1.Established),
		group:       crd.Spec.Group,
	}
	reversed := strings.Split(crd.Spec.Group, ".")
	slices.Reverse(reversed)
	for _, v := range crd.Spec.Versions {
		if !v.Served {
			continue
		}
		a.served = append(a.served, v.Name)
		prefix := strings.Join(reversed, ".") + "." + v.Name + "."
		a.models = append(a.models, prefix+crd.Spec.Names.Kind, prefix+crd.Spec.Names.ListKind)
	}
	return a
}

// same tells whether the documents of a and b are the same.
func (a about) same(b about) bool {
	return a.uid == b.uid && a.generation == b.generation && a.established == b.established
}

// definition is a definition of one generation, with what has been made of it. Its methods may be called by any
// number of goroutines.
type definition struct {
	about
	// object is the definition at the latest revision that is known to be of this generation.
	object atomic.Pointer[Definition]

	mu sync.Mutex
	// v2 is the definition's part of /openapi/v2, nil until somebody has asked for it.
	v2 *partV2
	// v3 are its parts of documents that it shares with others, by version.
	v3 map[string]packed
}

// partV2 is what one definition adds to /openapi/v2.
type partV2 struct {
	// own has the members of "paths" and of "definitions" that are the definition's alone, as an object of these two.
	own packed
	// common is everything else, which many definitions have in the same form: types of built-in groups and parameters.
	common *common
	// odd says that upstream's merge has to do it: the part is not made of plain text.
	odd bool
}

// common is what definitions have in common: a few dozen types, in a few combinations.
type common struct {
	*spec.Swagger
	hash [sha256.Size]byte
}

// commons has each combination once.
type commons struct {
	mu  sync.Mutex
	all map[[sha256.Size]byte]*common
}

// the returns the one that is equal to s.
func (c *commons) the(s *spec.Swagger) (*common, error) {
	text, err := s.MarshalJSON()
	if err != nil {
		return nil, err
	}
	hash := sha256.Sum256(text)
	c.mu.Lock()
	defer c.mu.Unlock()
	if known, ok := c.all[hash]; ok {
		return known, nil
	}
	if c.all == nil {
		c.all = map[[sha256.Size]byte]*common{}
	}
	c.all[hash] = &common{s, hash}
	return c.all[hash], nil
}

// options are those with which upstream's controllers build.
func options(v2 bool) builder.Options {
	return builder.Options{V2: v2, IncludeSelectableFields: utilfeature.DefaultFeatureGate.Enabled(features.CustomResourceFieldSelectors)}
}

func (d *definition) decode() (*apiextensionsv1.CustomResourceDefinition, error) {
	crd, err := (*d.object.Load()).Decode()
	if err != nil {
		return nil, fmt.Errorf("cannot decode the definition %s: %w", d.name, err)
	}
	return crd, nil
}

// buildV3 returns the definition's OpenAPI v3 of one version as JSON.
func (d *definition) buildV3(version string) ([]byte, error) {
	crd, err := d.decode()
	if err != nil {
		return nil, err
	}
	built, err := builder.BuildOpenAPIV3(crd, version, options(false))
	if err == nil {
		built, err = builder.MergeSpecsV3([]*spec3.OpenAPI{built}...)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot build OpenAPI v3 of version %s of the definition %s: %w", version, d.name, err)
	}
	return json.Marshal(built) // and not its method MarshalJSON: upstream's text has "<" and ">" escaped
}

// partV3 is buildV3, kept for the next document that the definition is part of.
func (d *definition) partV3(version string) ([]byte, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if part, ok := d.v3[version]; ok {
		return part.unpack()
	}
	text, err := d.buildV3(version)
	if err != nil {
		return nil, err
	}
	part, err := pack(text)
	if err != nil {
		return nil, err
	}
	if d.v3 == nil {
		d.v3 = map[string]packed{}
	}
	d.v3[version] = part
	return text, nil
}

// buildV2 returns the definition's OpenAPI v2, all versions merged, as upstream's controller makes it.
func (d *definition) buildV2() (*spec.Swagger, error) {
	crd, err := d.decode()
	if err != nil {
		return nil, err
	}
	merged := &spec.Swagger{}
	for _, v := range crd.Spec.Versions {
		if !v.Served {
			continue
		}
		built, err := builder.BuildOpenAPIV2(crd, v.Name, options(true))
		if err == nil {
			built.Definitions = handler.PruneDefaults(built.Definitions)
			merged, err = builder.MergeSpecs(merged, built)
		}
		if err != nil {
			return nil, fmt.Errorf("cannot build OpenAPI v2 of version %s of the definition %s: %w", v.Name, d.name, err)
		}
	}
	return merged, nil
}

// partV2 returns the definition's part of /openapi/v2.
func (d *definition) partV2(all *commons) (*partV2, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.v2 != nil {
		return d.v2, nil
	}
	built, err := d.buildV2()
	if err != nil {
		return nil, err
	}
	part, err := d.takeApart(built, all)
	if err != nil {
		part = &partV2{odd: true}
	}
	d.v2 = part
	return part, nil
}

// takeApart makes the part of what has been built.
func (d *definition) takeApart(built *spec.Swagger, all *commons) (*partV2, error) {
	// The text is that which upstream's aggregator writes: it has read it from the JSON of the other server.
	text, err := built.MarshalJSON()
	if err != nil {
		return nil, err
	}
	read := &spec.Swagger{}
	if err := read.UnmarshalJSON(text); err != nil {
		return nil, err
	}
	if text, err = read.MarshalJSON(); err != nil {
		return nil, err
	}
	top, err := split(text)
	if err != nil {
		return nil, err
	}
	paths, err := split(find(top, "paths"))
	if err != nil {
		return nil, err
	}
	definitions, err := split(find(top, "definitions"))
	if err != nil {
		return nil, err
	}
	if !sorted(paths) || !sorted(definitions) {
		return nil, errors.New("the text is not sorted")
	}
	own := slices.DeleteFunc(definitions, func(m member) bool { return !slices.Contains(d.models, m.key) })
	if len(own) != len(d.models) {
		return nil, fmt.Errorf("%d types are the definition's own, and not %d", len(own), len(d.models))
	}
	rest := &spec.Swagger{SwaggerProps: spec.SwaggerProps{
		Paths:       &spec.Paths{Paths: map[string]spec.PathItem{commonPath: {}}},
		Definitions: spec.Definitions{}, Parameters: built.Parameters,
	}}
	for name, schema := range built.Definitions {
		if !slices.Contains(d.models, name) {
			rest.Definitions[name] = schema
		}
	}
	part := &partV2{}
	if part.common, err = all.the(rest); err != nil {
		return nil, err
	}
	part.own, err = pack(object([]member{{"paths", object(paths)}, {"definitions", object(own)}}))
	return part, err
}

// commonPath is a path that never leaves this package. Upstream merges nothing of a document without paths.
const commonPath = "/openapi/v2/common"
