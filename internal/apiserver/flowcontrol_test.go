// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/storage/cacher/delegator"
	"k8s.io/apiserver/pkg/storage/storagebackend"
	utilflowcontrol "k8s.io/apiserver/pkg/util/flowcontrol"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	api "k8s.io/kubernetes/pkg/apis/core"

	"github.com/weir-project/weir/internal/watchcache"
	"github.com/weir-project/weir/test/etcd"
	"github.com/weir-project/weir/test/wait"
)

// TestChargedWhenReady has upstream estimate lists for as long as the cache is not ready:
// etcd answers some of them then.
func TestChargedWhenReady(t *testing.T) {
	client := etcd.Run(t)
	const broken = "/registry/configmaps/a"
	if _, err := client.KV.Put(t.Context(), broken, "no object"); err != nil {
		t.Fatal(err)
	}
	config := storagebackend.NewDefaultConfig("/registry", legacyscheme.Codecs.LegacyCodec(corev1.SchemeGroupVersion))
	config.Transport.ServerList = client.Endpoints()
	config.EventsHistoryWindow = watchcache.MinHistory
	caches := watchcache.NewCaches(watchcache.Options{})
	resource := schema.GroupResource{Resource: "configmaps"}
	_, destroy, err := caches.Decorator()(config.ForResource(resource), "/configmaps",
		func(runtime.Object) (string, error) { return "/configmaps/a", nil },
		func() runtime.Object { return &api.ConfigMap{} },
		func() runtime.Object { return &api.ConfigMapList{} },
		noAttrs, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer destroy()
	wait.Until(t, "etcd to be found to support consistent lists from the cache", time.Minute, delegator.ConsistentReadSupported)
	check := func(want bool) {
		t.Helper()
		for _, query := range []string{"", "limit=1", "resourceVersion=0", "labelSelector=a"} {
			ctx := context.WithValue(t.Context(), queryKey{}, &priced{url: &url.URL{RawQuery: query}})
			for _, streaming := range []bool{true, false} {
				_, known := charged{caches: caches, streaming: streaming}.size(ctx, utilflowcontrol.RequestDigest{RequestInfo: &request.RequestInfo{
					IsResourceRequest: true, Verb: "list", APIVersion: "v1", Resource: resource.Resource,
				}})
				if known != want {
					t.Errorf("%q, streaming %v: its cost is known: %v, want %v", query, streaming, known, want)
				}
			}
		}
	}
	if caches.Of(resource).Ready() {
		t.Fatal("the cache is ready, with what cannot be decoded")
	}
	check(false)

	if _, err := client.KV.Delete(t.Context(), broken); err != nil {
		t.Fatal(err)
	}
	wait.Until(t, "the cache to be ready", time.Minute, caches.Of(resource).Ready)
	check(true)
}

// TestChargedForDefaultedOnRead: a list that streams is charged for what it decodes all the
// same, and a watch, which decodes it one by one, is not.
func TestChargedForDefaultedOnRead(t *testing.T) {
	client := etcd.Run(t)
	const large, small = 3, 20
	for i := range large + small {
		content := strings.Repeat("x", 1000)
		if i < large {
			content = strings.Repeat("x", 300_000)
		}
		object := fmt.Sprintf(`{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"m-%d","namespace":"a"},"data":{"content":%q}}`, i, content)
		if _, err := client.KV.Put(t.Context(), fmt.Sprint("/registry/configmaps/a/m-", i), object); err != nil {
			t.Fatal(err)
		}
	}
	config := storagebackend.NewDefaultConfig("/registry", legacyscheme.Codecs.LegacyCodec(corev1.SchemeGroupVersion))
	config.Transport.ServerList = client.Endpoints()
	config.EventsHistoryWindow = watchcache.MinHistory
	resource := schema.GroupResource{Resource: "configmaps"}
	caches := watchcache.NewCaches(watchcache.Options{DefaultedOnRead: map[schema.GroupResource]func(runtime.Object) bool{
		resource: func(obj runtime.Object) bool { return len(obj.(*api.ConfigMap).Data["content"]) > 1000 },
	}})
	_, destroy, err := caches.Decorator()(config.ForResource(resource), "/configmaps",
		func(obj runtime.Object) (string, error) { return "/configmaps/a/" + obj.(*api.ConfigMap).Name, nil },
		func() runtime.Object { return &api.ConfigMap{} },
		func() runtime.Object { return &api.ConfigMapList{} },
		noAttrs, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer destroy()
	wait.Until(t, "the cache to be ready", time.Minute, caches.Of(resource).Ready)
	wait.Until(t, "etcd to be found to support consistent lists from the cache", time.Minute, delegator.ConsistentReadSupported)
	for _, c := range []struct {
		verb, query string
		streaming   bool
		objects     int64 // of 300 kB
	}{
		{"list", "", true, large},
		{"list", "limit=1", true, 1},
		{"list", "limit=500", true, large},
		{"list", "", false, large},
		{"watch", "", true, 0},
		{"watch", "", false, 0},
	} {
		ctx := context.WithValue(t.Context(), queryKey{}, &priced{url: &url.URL{RawQuery: c.query}})
		size, known := charged{caches: caches, streaming: c.streaming}.size(ctx, utilflowcontrol.RequestDigest{RequestInfo: &request.RequestInfo{
			IsResourceRequest: true, Verb: c.verb, APIVersion: "v1", Resource: resource.Resource,
		}})
		// An object of the cache is somewhat more than its content.
		if !known || size < c.objects*300_000 || size > c.objects*310_000+small*2000 || c.streaming && size > c.objects*310_000 {
			t.Errorf("%+v: %d bytes (known: %v)", c, size, known)
		}
	}
}
