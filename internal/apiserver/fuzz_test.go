// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metainternalversion "k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metainternalversionscheme "k8s.io/apimachinery/pkg/apis/meta/internalversion/scheme"
	metainternalversionvalidation "k8s.io/apimachinery/pkg/apis/meta/internalversion/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/runtime/serializer/cbor"
	"k8s.io/apiserver/pkg/endpoints/handlers"
	"k8s.io/apiserver/pkg/endpoints/handlers/negotiation"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/features"
	"k8s.io/apiserver/pkg/registry/generic"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/cacher/delegator"
	"k8s.io/apiserver/pkg/storage/storagebackend"
	"k8s.io/apiserver/pkg/storage/storagebackend/factory"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	utilflowcontrol "k8s.io/apiserver/pkg/util/flowcontrol"
	"k8s.io/client-go/tools/cache"
	featuregatetesting "k8s.io/component-base/featuregate/testing"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	api "k8s.io/kubernetes/pkg/apis/core"
	claimstorage "k8s.io/kubernetes/pkg/registry/core/persistentvolumeclaim/storage"
	servicestorage "k8s.io/kubernetes/pkg/registry/core/service/storage"

	"github.com/weir-project/weir/internal/watchcache"
	"github.com/weir-project/weir/test/etcd"
	"github.com/weir-project/weir/test/wait"
)

// scoped is what upstream's handlers negotiate with.
type scoped struct {
	runtime.NegotiatedSerializer
	scope *handlers.RequestScope
}

// upstreamScopes returns those of built-in and of custom resources; see installer.go of
// k8s.io/apiserver/pkg/endpoints and customresource_handler.go of k8s.io/apiextensions-apiserver.
func upstreamScopes() (builtIn, custom scoped) {
	codecs := serializer.NewCodecFactory(legacyscheme.Scheme, serializer.WithSerializer(cbor.NewSerializerInfo))
	table := rest.NewDefaultTableConvertor(schema.GroupResource{})
	builtIn = scoped{codecs, &handlers.RequestScope{Serializer: codecs, TableConvertor: table, MetaGroupVersion: metav1.SchemeGroupVersion}}
	custom = scoped{codecs, &handlers.RequestScope{
		Serializer: codecs, TableConvertor: table, MetaGroupVersion: metav1.SchemeGroupVersion,
		StandardSerializers: slices.DeleteFunc(slices.Clone(codecs.SupportedMediaTypes()), func(s runtime.SerializerInfo) bool {
			return s.MediaType == runtime.ContentTypeProtobuf
		}),
	}}
	return builtIn, custom
}

// FuzzNegotiate: any Accept header is understood as upstream's handlers understand it.
//
//	go test -fuzz=FuzzNegotiate ./internal/apiserver
func FuzzNegotiate(f *testing.F) {
	featuregatetesting.SetFeatureGateDuringTest(f, utilfeature.DefaultFeatureGate, features.CBORServingAndStorage, true)
	for _, accept := range []string{
		"", "*/*", "application/json", "application/vnd.kubernetes.protobuf, application/json", "application/yaml;q=0.1,application/cbor",
		"application/json;as=Table;v=v1;g=meta.k8s.io", "application/vnd.kubernetes.protobuf;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io",
		"application/cbor;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io", "application/*;as=;g=;v=", "application/json;sv=v1;stream=watch;pretty=1;x=y",
	} {
		for _, version := range []string{"/v1", "apps/v1", "example.com/v1", "meta.k8s.io/v1", "apiextensions.k8s.io/v1"} {
			f.Add(accept, version, "pretty=true", "")
		}
	}
	ofBuiltIn, ofCustom := upstreamScopes()
	ours := newTypes(nil)
	// Served by a server of its own, of which the others know the version all the same.
	own := map[schema.GroupVersion]bool{}
	for _, s := range schemes {
		for _, gv := range s.PrioritizedVersionsAllGroups() {
			own[gv] = gv.Group != metav1.GroupName
		}
	}
	f.Fuzz(func(t *testing.T, accept, version, query, agent string) {
		group, name, _ := strings.Cut(version, "/")
		req := httptest.NewRequest(http.MethodGet, "/", nil)
		req.URL.RawQuery = query
		req.Header.Set("Accept", accept)
		req.Header.Set("User-Agent", agent)
		upstream := ofCustom
		if own[schema.GroupVersion{Group: group, Version: name}] {
			upstream = ofBuiltIn
		}
		options, info, err := negotiation.NegotiateOutputMediaType(req, upstream, upstream.scope)
		mediaType, target, ok := ours.Negotiate(req, &request.RequestInfo{APIGroup: group, APIVersion: name})
		if ok != (err == nil) || mediaType != info.MediaType || !reflect.DeepEqual(target, options.Convert) {
			t.Errorf("%q of %q: %q, %v, %v; upstream %q, %v, %v", accept, version, mediaType, target, ok, info.MediaType, options.Convert, err)
		}
	})
}

// storeless are options of a registry without a storage.
func storeless(resource string) generic.RESTOptions {
	config := storagebackend.NewDefaultConfig("/registry", legacyscheme.Codecs.LegacyCodec(corev1.SchemeGroupVersion))
	return generic.RESTOptions{
		StorageConfig: config.ForResource(schema.GroupResource{Resource: resource}), ResourcePrefix: resource,
		Decorator: func(*storagebackend.ConfigForResource, string, func(runtime.Object) (string, error), func() runtime.Object, func() runtime.Object,
			storage.AttrFunc, storage.IndexerFuncs, *cache.Indexers) (storage.Interface, factory.DestroyFunc, error) {
			return nil, func() {}, nil
		},
	}
}

// FuzzDefaultedOnRead has any Service or claim in etcd: one of which it is said that REST
// storage leaves it as it is, is left as it is by upstream's.
func FuzzDefaultedOnRead(f *testing.F) {
	services, _, _, err := servicestorage.NewREST(storeless("services"), api.IPv4Protocol, nil, nil, nil, nil, nil)
	if err != nil {
		f.Fatal(err)
	}
	claims, _, err := claimstorage.NewREST(storeless("persistentvolumeclaims"))
	if err != nil {
		f.Fatal(err)
	}
	dir, err := exec.CommandContext(f.Context(), "go", "list", "-m", "-f", "{{.Dir}}", "k8s.io/api").Output()
	if err != nil {
		f.Fatalf("go list -m k8s.io/api: %v", err)
	}
	for _, kind := range []string{"Service", "PersistentVolumeClaim"} {
		for _, ext := range []string{".pb", ".json"} {
			data, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(dir)), "testdata", "HEAD", "core.v1."+kind+ext))
			if err != nil {
				f.Fatal(err)
			}
			f.Add(data)
		}
	}
	for _, spec := range []string{
		`{"clusterIP":"10.0.0.1"}`, `{"clusterIP":"None"}`, `{"type":"ExternalName","internalTrafficPolicy":"Cluster"}`, `{"type":"ExternalName"}`,
		`{"clusterIP":"10.0.0.1","clusterIPs":["10.0.0.1"],"ipFamilies":["IPv4"]}`, `{"clusterIPs":["10.0.0.1"],"ipFamilies":["IPv4"]}`, `{"type":"Other"}`, `{}`,
	} {
		f.Add([]byte(`{"apiVersion":"v1","kind":"Service","metadata":{"name":"a"},"spec":` + spec + `}`))
	}
	for _, spec := range []string{
		`{"dataSource":{"kind":"PersistentVolumeClaim","name":"a"}}`, `{"dataSourceRef":{"kind":"PersistentVolumeClaim","name":"a"}}`, `{"dataSourceRef":{"kind":"x","namespace":"n","name":"a"}}`,
		`{"dataSource":{"kind":"PersistentVolumeClaim","name":"a"},"dataSourceRef":{"kind":"PersistentVolumeClaim","name":"b"}}`, `{}`,
	} {
		f.Add([]byte(`{"apiVersion":"v1","kind":"PersistentVolumeClaim","metadata":{"name":"a"},"spec":` + spec + `}`))
	}
	codec := legacyscheme.Codecs.LegacyCodec(corev1.SchemeGroupVersion)
	f.Fuzz(func(t *testing.T, data []byte) {
		obj, err := runtime.Decode(codec, data)
		if err != nil {
			return
		}
		before := obj.DeepCopyObject()
		var changes bool
		switch obj.(type) {
		case *api.Service:
			changes = serviceDefaultedOnRead(obj)
			services.Decorator(obj)
		case *api.PersistentVolumeClaim:
			changes = claimDefaultedOnRead(obj)
			claims.Decorator(obj)
		default:
			return
		}
		if !changes && !reflect.DeepEqual(before, obj) {
			t.Errorf("%s is left alone, and upstream changes it: %+v, into %+v", data, before, obj)
		}
	})
}

// FuzzCharged asks what a list or watch with any query is charged for: no more than there is,
// and no less than what the cache then hands out, if it has to decode it.
func FuzzCharged(f *testing.F) {
	const objects = 20
	client := etcd.Run(f)
	for i := range objects {
		object := fmt.Sprintf(`{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"m-%02d","namespace":"a"},"data":{"content":%q}}`, i, strings.Repeat("x", 1000))
		if _, err := client.KV.Put(f.Context(), fmt.Sprintf("/registry/configmaps/a/m-%02d", i), object); err != nil {
			f.Fatal(err)
		}
	}
	config := storagebackend.NewDefaultConfig("/registry", legacyscheme.Codecs.LegacyCodec(corev1.SchemeGroupVersion))
	config.Transport.ServerList = client.Endpoints()
	config.EventsHistoryWindow = watchcache.MinHistory
	resource := schema.GroupResource{Resource: "configmaps"}
	caches := watchcache.NewCaches(watchcache.Options{})
	store, destroy, err := caches.Decorator()(config.ForResource(resource), "/configmaps",
		func(obj runtime.Object) (string, error) { return "/configmaps/a/" + obj.(*api.ConfigMap).Name, nil },
		func() runtime.Object { return &api.ConfigMap{} },
		func() runtime.Object { return &api.ConfigMapList{} },
		noAttrs, nil, nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(destroy)
	wait.Until(f, "the cache to be ready", time.Minute, caches.Of(resource).Ready)
	wait.Until(f, "etcd to be found to support consistent lists from the cache", time.Minute, delegator.ConsistentReadSupported)
	count, all := caches.Of(resource).Size()
	if count != objects {
		f.Fatalf("the cache has %d objects", count)
	}
	each := all / objects
	for _, query := range []string{"", "limit=1", "limit=9223372036854775807", "limit=-5", "limit=3&resourceVersion=0", "resourceVersion=1&resourceVersionMatch=Exact", "limit=2&continue=x", "limit=7&limit=1", "%", "LIMIT=1&timeoutSeconds=x"} {
		f.Add(query, "", false)
		f.Add(query, "m-03", true)
	}
	f.Fuzz(func(t *testing.T, query, name string, watching bool) {
		info := &request.RequestInfo{IsResourceRequest: true, Verb: "list", APIVersion: "v1", Resource: resource.Resource, Name: name}
		if watching {
			info.Verb = "watch"
		}
		ctx := context.WithValue(t.Context(), queryKey{}, &priced{url: &url.URL{RawQuery: query}})
		digest := utilflowcontrol.RequestDigest{RequestInfo: info}
		if bytes, known := (charged{caches: caches, streaming: true}).size(ctx, digest); bytes != 0 || watching && !known {
			t.Errorf("%q: what streams is charged for %d bytes (%v)", query, bytes, known)
		}
		bytes, known := charged{caches: caches}.size(ctx, digest)
		if bytes < 0 || bytes > all || watching && bytes != 0 {
			t.Errorf("%q: charged for %d bytes of %d", query, bytes, all)
		}
		if !known || watching || name != "" {
			return
		}
		opts, ok := listed(query)
		if !ok {
			return
		}
		var list api.ConfigMapList
		if err := store.GetList(ctx, "/configmaps", opts, &list); err != nil {
			return
		}
		if need := each * int64(len(list.Items)); bytes < need {
			t.Errorf("%q: charged for %d bytes, and %d objects of %d are decoded", query, bytes, len(list.Items), each)
		}
	})
}

// listed reads a query as upstream's handler does. It is false for what that refuses, and for
// a revision that may be of the future, for which a list waits.
func listed(query string) (storage.ListOptions, bool) {
	values, _ := url.ParseQuery(query)
	var opts metainternalversion.ListOptions
	if err := metainternalversionscheme.ParameterCodec.DecodeParameters(values, metav1.SchemeGroupVersion, &opts); err != nil {
		return storage.ListOptions{}, false
	}
	if len(metainternalversionvalidation.ValidateListOptions(&opts, true)) > 0 || len(opts.ResourceVersion) > 1 || opts.Continue != "" {
		return storage.ListOptions{}, false
	}
	pred := storage.Everything
	pred.Limit, pred.GetAttrs = opts.Limit, noAttrs
	return storage.ListOptions{ResourceVersion: opts.ResourceVersion, ResourceVersionMatch: opts.ResourceVersionMatch, Recursive: true, Predicate: pred}, true
}
