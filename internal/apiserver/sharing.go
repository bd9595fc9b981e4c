// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash"
	"math"
	"reflect"
	"slices"
	"time"

	structuralschema "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/registry/generic"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/storagebackend"
	"k8s.io/apiserver/pkg/storage/storagebackend/factory"

	"github.com/weir-project/weir/internal/sharedclient"
	"github.com/weir-project/weir/internal/watchcache"
)

// Upstream makes, for each version of a definition, a storage whose codec turns what is stored into that version: it is decoded, pruned,
// coerced and defaulted by the schema of the version that it is stored in, converted, then pruned and coerced by the schema of the version
// that is served. Where conversion only sets apiVersion, two versions with the same schema get the same but for that.
//
// Whether that is so is read off the codec itself (see customCodec): a key made of a definition that is newer, or older, than the codec's would have
// an old codec decode for a new definition. What does not look as expected is not shared; TestSharingKey fails then.

// lingering is how long what follows a custom resource goes on that no storage reads from: a definition whose columns have changed has its
// storages made anew, when the next request comes.
const lingering = 15 * time.Second

// sharingKey implements watchcache.Sharing.Key.
func sharingKey(config *storagebackend.ConfigForResource, newFunc, newListFunc func() runtime.Object) (string, bool) {
	example := newFunc()
	if _, custom := example.(runtime.Unstructured); !custom {
		return "", false
	}
	served, list := example.GetObjectKind().GroupVersionKind(), newListFunc().GetObjectKind().GroupVersionKind()
	if served.Version == "" || served.GroupVersion() != list.GroupVersion() {
		return "", false
	}
	d := &digest{hash: sha256.New()}
	d.of(config.GroupResource, config.Prefix, config.Transport.ServerList, config.EventsHistoryWindow, served.Kind, list.Kind)
	if !d.codec(reflect.ValueOf(config.Codec), served) || d.failed {
		return "", false
	}
	return string(d.hash.Sum(nil)), true
}

// sharingClients returns what makes storages: those of custom resources over clients of etcd that they share. All others have clients of their
// own, as upstream.
func sharingClients(pool *sharedclient.Pool) watchcache.NewStorage {
	return func(config *storagebackend.ConfigForResource, newFunc, newListFunc func() runtime.Object, resourcePrefix string) (storage.Interface, factory.DestroyFunc, error) {
		if _, custom := newFunc().(runtime.Unstructured); custom {
			return pool.Create(config, newFunc, newListFunc, resourcePrefix)
		}
		return generic.NewRawStorage(config, newFunc, newListFunc, resourcePrefix)
	}
}

// codec adds what a codec does with objects that are served as a kind, but for the name of the version. It is false if that is not known.
func (d *digest) codec(codec reflect.Value, served schema.GroupVersionKind) bool {
	c := customCodecOf(codec, served)
	if c == nil {
		return false
	}
	for _, validator := range []map[string]reflect.Value{c.decoded, c.converted} {
		for _, name := range []string{"dropInvalidMetadata", "repairGeneration", "structuralSchemaGK", "preserveUnknownFields", "returnUnknownFieldPaths"} {
			d.value(validator[name])
		}
	}
	switch {
	case !c.renames():
		return false // a webhook may make anything of an object
	case fieldsOf(c.codec["creater"], apiextensionsServer+"unstructuredCreator") == nil:
		return false
	}
	d.value(c.codec["encodeVersion"])
	// One getter of options makes these for all custom resources of the process, from its flags and gates.
	for _, of := range []reflect.Value{c.codec["encoder"], c.decoder["delegate"], c.codec["typer"], c.defaulter["delegate"]} {
		kind, ok := inner(of)
		if !ok {
			return false
		}
		d.text(kind.Type().String())
	}
	d.value(c.defaulter["structuralSchemaGK"])
	for _, name := range []string{"convertScale", "validVersions", "clusterScoped"} {
		d.value(c.converter[name])
	}
	// What is stored in any version, and then what makes the one that is served of it.
	d.value(c.schemas)
	d.value(c.schemas.MapIndex(reflect.ValueOf(served.Version)))
	if selectable := c.converter["selectableFields"]; selectable.Type().Key() == reflect.TypeFor[schema.GroupVersion]() {
		d.value(selectable.MapIndex(reflect.ValueOf(served.GroupVersion())))
		return true
	}
	return false
}

// digest adds values to a hash, so that those which differ have another.
type digest struct {
	hash hash.Hash
	// failed says that one was of a kind that cannot be compared.
	failed bool
}

// unseen are the fields of a schema that neither pruning, nor coercion, nor defaulting looks at.
var unseen = map[reflect.Type][]string{
	reflect.TypeFor[structuralschema.Structural](): {"ValidationExtensions", "ValueValidation"},
	reflect.TypeFor[structuralschema.Generic]():    {"Description", "Title", "ExternalDocs", "Example"},
}

func (d *digest) of(values ...any) {
	for _, value := range values {
		d.value(reflect.ValueOf(value))
	}
}

// number adds a number, and text a string: what comes next is not mistaken for a part of it.
func (d *digest) number(n uint64) { _, _ = d.hash.Write(binary.BigEndian.AppendUint64(nil, n)) } // never fails

func (d *digest) text(s string) {
	d.number(uint64(len(s)))
	_, _ = d.hash.Write([]byte(s)) // never fails
}

func (d *digest) value(v reflect.Value) {
	if !v.IsValid() {
		d.text("none")
		return
	}
	d.text(v.Type().String())
	switch v.Kind() {
	case reflect.Bool:
		d.text(fmt.Sprint(v.Bool()))
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		d.number(uint64(v.Int()))
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		d.number(v.Uint())
	case reflect.Float64:
		d.number(math.Float64bits(v.Float()))
	case reflect.String:
		d.text(v.String())
	case reflect.Interface, reflect.Pointer:
		d.value(v.Elem())
	case reflect.Slice:
		d.text(fmt.Sprint(v.IsNil(), v.Len()))
		for i := range v.Len() {
			d.value(v.Index(i))
		}
	case reflect.Map:
		d.entries(v)
	case reflect.Struct:
		for i := range v.NumField() {
			if name := v.Type().Field(i).Name; !slices.Contains(unseen[v.Type()], name) {
				d.text(name)
				d.value(v.Field(i))
			}
		}
	default:
		d.failed = true
	}
}

// entries adds those of a map, in an order that does not depend on chance.
func (d *digest) entries(v reflect.Value) {
	d.text(fmt.Sprint(v.IsNil(), v.Len()))
	all := make([][]byte, 0, v.Len())
	for entry := v.MapRange(); entry.Next(); {
		one := &digest{hash: sha256.New()}
		one.value(entry.Key())
		one.value(entry.Value())
		d.failed = d.failed || one.failed
		all = append(all, one.hash.Sum(nil))
	}
	slices.SortFunc(all, bytes.Compare)
	for _, one := range all {
		_, _ = d.hash.Write(one) // never fails
	}
}
