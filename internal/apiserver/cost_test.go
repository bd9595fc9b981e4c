// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/cacher/delegator"
	"k8s.io/apiserver/pkg/storage/storagebackend"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	api "k8s.io/kubernetes/pkg/apis/core"

	"github.com/weir-project/weir/internal/budget"
	"github.com/weir-project/weir/internal/watchcache"
	"github.com/weir-project/weir/test/etcd"
	"github.com/weir-project/weir/test/wait"
)

// TestCosts goes through kinds of requests about 8 ConfigMaps of 300 kB in namespace a and 2 in b.
func TestCosts(t *testing.T) {
	const kB = 1000
	client := etcd.Run(t)
	for i := range 10 {
		namespace := "a"
		if i >= 8 {
			namespace = "b"
		}
		object := fmt.Sprintf(`{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"m-%d","namespace":%q},"data":{"content":%q}}`, i, namespace, strings.Repeat("x", 300*kB))
		if _, err := client.KV.Put(t.Context(), fmt.Sprintf("/registry/configmaps/%s/m-%d", namespace, i), object); err != nil {
			t.Fatal(err)
		}
	}
	config := storagebackend.NewDefaultConfig("/registry", legacyscheme.Codecs.LegacyCodec(corev1.SchemeGroupVersion))
	config.Transport.ServerList = client.Endpoints()
	config.EventsHistoryWindow = watchcache.MinHistory
	resource := schema.GroupResource{Resource: "configmaps"}
	caches := watchcache.NewCaches(watchcache.Options{})
	_, destroy, err := caches.Decorator()(config.ForResource(resource), "/configmaps",
		func(obj runtime.Object) (string, error) {
			m := obj.(*api.ConfigMap)
			return "/configmaps/" + m.Namespace + "/" + m.Name, nil
		},
		func() runtime.Object { return &api.ConfigMap{} },
		func() runtime.Object { return &api.ConfigMapList{} },
		noAttrs, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer destroy()
	wait.Until(t, "the cache to be ready", time.Minute, caches.Of(resource).Ready)
	wait.Until(t, "etcd to be found to support consistent lists from the cache", time.Minute, delegator.ConsistentReadSupported)

	resolver := &request.RequestInfoFactory{APIPrefixes: sets.NewString("api", "apis"), GrouplessAPIPrefixes: sets.NewString("api")}
	const maps, table = "/api/v1/configmaps", "application/json;as=Table;g=meta.k8s.io;v=v1"
	for _, c := range []struct {
		method, path, accept, body, user string
		streaming, whole                 bool
		kind                             budget.Kind
		objects                          int64 // of 300 kB, that are held beside what every request does
	}{
		{path: "/readyz", kind: budget.Essential},
		{path: "/metrics", kind: budget.Essential},
		{path: maps, streaming: true, objects: derivedTimes},
		{path: maps, streaming: true, accept: runtime.ContentTypeProtobuf},
		{path: maps, streaming: true, accept: table, objects: printedTimes},
		{path: maps, objects: 10 * decodedTimes},
		{path: maps, streaming: true, whole: true, objects: 10 * decodedTimes},
		{path: maps + "?limit=3", objects: 3 * decodedTimes},
		{path: maps + "?limit=3&resourceVersion=0", objects: 10 * decodedTimes},
		{path: "/api/v1/namespaces/b/configmaps", objects: 2 * decodedTimes},
		{path: maps + "?resourceVersion=1&resourceVersionMatch=Exact&limit=3", streaming: true, objects: 3 * (decodedTimes + fromEtcd)},
		{path: maps + "?fieldSelector=metadata.name%3Dm-9", objects: decodedTimes + fromEtcd},
		{path: "/api/v1/namespaces/b/configmaps/m-9", objects: decodedTimes + fromEtcd},
		{path: "/api/v1/namespaces/b/configmaps/m-none"},
		{path: maps + "?watch=1", kind: budget.Lasting, objects: derivedTimes},
		{method: http.MethodPost, path: "/api/v1/namespaces/b/configmaps", body: strings.Repeat("x", 600*kB), objects: 2 * writtenTimes},
		{method: http.MethodPut, path: "/api/v1/namespaces/b/configmaps/m-9", body: strings.Repeat("x", 300*kB), objects: writtenTimes + replacedTimes},
		{method: http.MethodPatch, path: "/api/v1/namespaces/b/configmaps/m-9", objects: replacedTimes},
		{method: http.MethodDelete, path: "/api/v1/namespaces/b/configmaps/m-9", objects: replacedTimes},
		{method: http.MethodDelete, path: "/api/v1/namespaces/b/configmaps", objects: 2 * decodedTimes},
		{method: http.MethodDelete, path: "/api/v1/namespaces/b/configmaps?limit=1", objects: decodedTimes},
		{path: maps, user: user.APIServerUser, kind: budget.Essential, objects: 10 * decodedTimes},
		{method: http.MethodPut, path: "/apis/coordination.k8s.io/v1/namespaces/a/leases/l", body: "{}", kind: budget.Essential},
		{method: http.MethodPut, path: "/apis/coordination.k8s.io/v1/namespaces/a/leases/l", body: strings.Repeat("x", 300*kB), objects: writtenTimes},
		{method: http.MethodPatch, path: "/api/v1/nodes/n/status", body: "{}", kind: budget.Essential},
		{method: http.MethodPut, path: "/api/v1/nodes/n", body: "{}"},
		{method: http.MethodPost, path: "/apis/authentication.k8s.io/v1/tokenreviews", body: "{}", kind: budget.Essential},
		{method: http.MethodPost, path: "/api/v1/namespaces/a/events", body: "{}"},
		{method: http.MethodPost, path: "/apis/weir.test/v1/namespaces/a/gates", body: strings.Repeat("x", 300*kB), objects: customWrites * writtenTimes},
		{path: "/openapi/v3", objects: openAPI / (300 * kB)},
		{path: "/openapi/v3", user: user.APIServerUser, kind: budget.Essential, objects: openAPI / (300 * kB)},
	} {
		method := c.method
		if method == "" {
			method = http.MethodGet
		}
		req := httptest.NewRequestWithContext(t.Context(), method, c.path, strings.NewReader(c.body))
		req.Header.Set("Accept", c.accept)
		info, err := resolver.NewRequestInfo(req)
		if err != nil {
			t.Fatal(err)
		}
		req = req.WithContext(request.WithUser(req.Context(), &user.DefaultInfo{Name: c.user}))
		known := costs{caches: caches, streaming: c.streaming, count: func(string) (storage.Stats, error) { return storage.Stats{}, errors.New("not counted") }}
		got := known.of(req, info, c.whole)
		// An object of the cache is somewhat more than its content.
		least, most := c.objects*300*kB, c.objects*305*kB+bare+streamed
		if got.Kind != c.kind || got.Bytes < least || got.Bytes > most {
			t.Errorf("%s %s (%s, streaming %v, whole %v, user %s): %+v, want %d to %d of kind %d", method, c.path, c.accept, c.streaming, c.whole, c.user, got, least, most, c.kind)
		}
	}
}
