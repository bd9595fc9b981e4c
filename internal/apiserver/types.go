// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apiextensionsapiserver "k8s.io/apiextensions-apiserver/pkg/apiserver"
	"k8s.io/apiextensions-apiserver/pkg/registry/customresource/tableconvertor"
	crdtable "k8s.io/apiextensions-apiserver/pkg/registry/customresourcedefinition/tableconvertor"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apiserver/pkg/endpoints/handlers"
	"k8s.io/apiserver/pkg/endpoints/handlers/negotiation"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/util/apihelpers"
	"k8s.io/kube-aggregator/pkg/apis/apiregistration"
	aggregatorscheme "k8s.io/kube-aggregator/pkg/apiserver/scheme"
	apiservicestorage "k8s.io/kube-aggregator/pkg/registry/apiservice/etcd"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	"k8s.io/kubernetes/pkg/printers"
	printersinternal "k8s.io/kubernetes/pkg/printers/internalversion"
	printerstorage "k8s.io/kubernetes/pkg/printers/storage"

	"github.com/weir-project/weir/internal/frame"
	"github.com/weir-project/weir/internal/liststream"
	"github.com/weir-project/weir/internal/watchcache"
	"github.com/weir-project/weir/internal/wire"
)

// schemes are the built-in types of the three servers in the chain.
var schemes = []struct {
	*runtime.Scheme
	codecs serializer.CodecFactory
}{
	{legacyscheme.Scheme, legacyscheme.Codecs},
	{apiextensionsapiserver.Scheme, apiextensionsapiserver.Codecs},
	{aggregatorscheme.Scheme, aggregatorscheme.Codecs},
}

// builtIn knows the built-in types of all servers.
type builtIn struct{}

var _ frame.Types = builtIn{}

// New implements frame.Types.
func (builtIn) New(kind schema.GroupVersionKind) (runtime.Object, error) {
	for _, s := range schemes {
		if s.Recognizes(kind) {
			return s.New(kind)
		}
	}
	return nil, runtime.NewNotRegisteredErrForKind("built-in", kind)
}

// Internal implements frame.Types.
func (builtIn) Internal(obj runtime.Object) (runtime.Object, error) {
	kind := obj.GetObjectKind().GroupVersionKind()
	for _, s := range schemes {
		if s.Recognizes(kind) {
			s.Default(obj)
			return s.UnsafeConvertToVersion(obj, schema.GroupVersion{Group: kind.Group, Version: runtime.APIVersionInternal})
		}
	}
	return nil, runtime.NewNotRegisteredErrForKind("built-in", kind)
}

// Encoder implements frame.Types and liststream.Types with the encoder of the server that has the version
// among its built-in types.
func (builtIn) Encoder(format wire.Format, gv schema.GroupVersion) runtime.Encoder {
	mediaType := map[wire.Format]string{wire.JSON: runtime.ContentTypeJSON, wire.Protobuf: runtime.ContentTypeProtobuf}[format]
	if !isBuiltIn(gv) {
		return nil
	}
	for _, s := range schemes {
		if !s.IsVersionRegistered(gv) {
			continue
		}
		if info, ok := runtime.SerializerInfoForMediaType(s.codecs.SupportedMediaTypes(), mediaType); ok {
			return s.codecs.EncoderForVersion(info.Serializer, gv)
		}
	}
	return nil
}

// types is what liststream asks of the assembled servers.
type types struct {
	builtIn
	caches  *watchcache.Caches
	printed liststream.Table
}

var _ liststream.Types = (*types)(nil)

func newTypes(caches *watchcache.Caches) *types {
	return &types{caches: caches, printed: liststream.Table{
		ID: "printers",
		TableConvertor: printerstorage.TableConvertor{
			TableGenerator: printers.NewTableGenerator().With(printersinternal.AddHandlers),
		},
	}}
}

// Convert implements liststream.Types.
func (*types) Convert(obj runtime.Object, gv schema.GroupVersion) (runtime.Object, error) {
	if _, custom := obj.(runtime.Unstructured); custom {
		return obj, nil
	}
	for _, s := range schemes {
		if s.IsVersionRegistered(gv) {
			return s.UnsafeConvertToVersion(obj, gv)
		}
	}
	return nil, fmt.Errorf("no server has types of %s", gv)
}

// Negotiate implements liststream.Types with the rules of upstream's handlers. What an answer can
// be in is the same for all built-in resources, and for custom ones but for protobuf of the
// objects themselves; see scopes in k8s.io/apiserver/pkg/endpoints/installer.go and
// k8s.io/apiextensions-apiserver/pkg/apiserver/customresource_handler.go.
func (t *types) Negotiate(req *http.Request, info *request.RequestInfo) (string, *schema.GroupVersionKind, bool) {
	codecs := apihelpers.GetMetaInternalVersionCodecs()
	scope := &handlers.RequestScope{TableConvertor: t.printed, MetaGroupVersion: metav1.SchemeGroupVersion}
	if !isBuiltIn(schema.GroupVersion{Group: info.APIGroup, Version: info.APIVersion}) {
		scope.StandardSerializers = slices.DeleteFunc(slices.Clone(codecs.SupportedMediaTypes()), func(s runtime.SerializerInfo) bool {
			return s.MediaType == runtime.ContentTypeProtobuf
		})
	}
	options, accepted, err := negotiation.NegotiateOutputMediaType(req, codecs, scope)
	return accepted.MediaType, options.Convert, err == nil
}

// isBuiltIn tells whether a server has resources of its own in a version. The version of
// metadata and Tables is known to all, and has none.
func isBuiltIn(gv schema.GroupVersion) bool {
	if gv.Group == metav1.GroupName {
		return false
	}
	for _, s := range schemes {
		if s.IsVersionRegistered(gv) {
			return true
		}
	}
	return false
}

var (
	// crds is the resource of which a custom resource's columns are read.
	crds        = apiextensions.Resource("customresourcedefinitions")
	apiServices = apiregistration.Resource("apiservices")
)

// Tables implements liststream.Types.
func (t *types) Tables(info *request.RequestInfo, obj runtime.Object) []liststream.Table {
	resource := schema.GroupResource{Group: info.APIGroup, Resource: info.Resource}
	if _, custom := obj.(runtime.Unstructured); custom {
		if table, ok := t.columnsOf(resource, info.APIVersion); ok {
			return []liststream.Table{table}
		}
		return nil
	}
	tables := []liststream.Table{t.printed, {ID: "default", TableConvertor: rest.NewDefaultTableConvertor(resource)}}
	switch resource {
	case crds:
		tables = append(tables, liststream.Table{ID: "definition", TableConvertor: crdtable.New()})
	case apiServices:
		// The storage makes the rows itself, and does not need what is in it for that.
		tables = append(tables, liststream.Table{ID: "apiservice", TableConvertor: &apiservicestorage.REST{}})
	}
	return tables
}

// columnsOf returns the convertor of a custom resource by its definition as it is now. It
// is the caller's own: a convertor is not to be used by two at a time.
func (t *types) columnsOf(resource schema.GroupResource, version string) (liststream.Table, bool) {
	definitions := t.caches.Of(crds)
	if definitions == nil {
		return liststream.Table{}, false
	}
	definition := definitions.Peek(resource.String())
	if definition == nil {
		return liststream.Table{}, false
	}
	// What has been read of a definition is kept with it, and goes when it does.
	id := runtime.Identifier("columns of " + version)
	columns, err := definition.Derive(id, false, func(f *frame.Frame, w io.Writer) error {
		obj, err := f.Decode()
		if err != nil {
			return err
		}
		return writeColumns(obj, version, w)
	})
	if err != nil {
		return liststream.Table{}, false
	}
	var served []apiextensionsv1.CustomResourceColumnDefinition
	if err := json.Unmarshal(columns, &served); err != nil {
		return liststream.Table{}, false
	}
	convertor, err := tableconvertor.New(served)
	if err != nil {
		return liststream.Table{}, false // upstream serves what it has of it
	}
	return liststream.Table{ID: string(columns), TableConvertor: convertor}, true
}

// writeColumns writes the columns that a definition has for a version.
func writeColumns(obj runtime.Object, version string, w io.Writer) error {
	crd, ok := obj.(*apiextensions.CustomResourceDefinition)
	if !ok {
		return fmt.Errorf("%T is no definition", obj)
	}
	internal, err := apiextensions.GetColumnsForVersion(crd, version)
	if err != nil {
		return err
	}
	served := make([]apiextensionsv1.CustomResourceColumnDefinition, len(internal))
	for i, c := range internal {
		served[i] = apiextensionsv1.CustomResourceColumnDefinition(c)
	}
	return json.NewEncoder(w).Encode(served)
}
