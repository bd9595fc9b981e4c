// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package finalize_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/generic"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/storagebackend"
	"k8s.io/apiserver/pkg/storage/storagebackend/factory"
	"k8s.io/client-go/tools/cache"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	"k8s.io/kubernetes/pkg/apis/core"
	_ "k8s.io/kubernetes/pkg/apis/core/install"
	configmaps "k8s.io/kubernetes/pkg/registry/core/configmap/storage"

	"github.com/weir-project/weir/internal/finalize"
	"github.com/weir-project/weir/test/etcd"
)

// between runs something between an update and the deletion that ends it.
type between struct {
	storage.Interface
	run *func()
}

func (b between) Delete(ctx context.Context, key string, out runtime.Object, p *storage.Preconditions, v storage.ValidateObjectFunc, cached runtime.Object, opts storage.DeleteOptions) error {
	if run := *b.run; run != nil {
		*b.run = nil
		run()
	}
	return b.Interface.Delete(ctx, key, out, p, v, cached, opts)
}

// configMaps is upstream's registry of ConfigMaps over storages of this package, and what is to run between.
func configMaps(t *testing.T) (*configmaps.REST, *func()) {
	t.Helper()
	client := etcd.Run(t)
	config := storagebackend.NewDefaultConfig("/registry", legacyscheme.Codecs.LegacyCodec(corev1.SchemeGroupVersion))
	config.Transport.ServerList = client.Endpoints()
	var run func()
	store, err := configmaps.NewREST(generic.RESTOptions{
		StorageConfig:           config.ForResource(schema.GroupResource{Resource: "configmaps"}),
		EnableGarbageCollection: true, ResourcePrefix: "configmaps",
		Decorator: func(c *storagebackend.ConfigForResource, prefix string, key func(runtime.Object) (string, error), newOne, newList func() runtime.Object,
			attrs storage.AttrFunc, trigger storage.IndexerFuncs, indexers *cache.Indexers) (storage.Interface, factory.DestroyFunc, error) {
			s, destroy, err := generic.UndecoratedStorage(c, prefix, key, newOne, newList, attrs, trigger, indexers)
			return between{finalize.Storage(s), &run}, destroy, err
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(store.Destroy)
	return store, &run
}

// A patch that ends the deletion of an object finds that gone, and another of its name there: that stays. Without
// this package, upstream deletes it; should that ever be mended, the package can go.
func TestUpdateEndsNoOther(t *testing.T) {
	for _, test := range []struct {
		name  string
		begin func(context.Context) context.Context
		stays bool
	}{
		{"upstream", func(ctx context.Context) context.Context { return ctx }, false},
		{"here", finalize.WithUpdate, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			store, run := configMaps(t)
			ctx := request.WithNamespace(request.WithRequestInfo(t.Context(), &request.RequestInfo{IsResourceRequest: true, Verb: "patch", APIVersion: "v1", Resource: "configmaps"}), "default")
			create := func(finalizers ...string) *core.ConfigMap {
				obj, err := store.Create(ctx, &core.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "one", Namespace: "default", Finalizers: finalizers}},
					rest.ValidateAllObjectFunc, &metav1.CreateOptions{})
				if err != nil {
					t.Fatal(err)
				}
				return obj.(*core.ConfigMap)
			}
			release := func(ctx context.Context) *core.ConfigMap {
				obj, _, err := store.Update(ctx, "one", rest.DefaultUpdatedObjectInfo(nil, func(_ context.Context, _, old runtime.Object) (runtime.Object, error) {
					cm := old.DeepCopyObject().(*core.ConfigMap)
					cm.Finalizers = nil
					return cm, nil
				}), rest.ValidateAllObjectFunc, rest.ValidateAllObjectUpdateFunc, false, &metav1.UpdateOptions{})
				if err != nil {
					t.Fatal(err)
				}
				return obj.(*core.ConfigMap)
			}
			first := create("example.com/held")
			if _, _, err := store.Delete(ctx, "one", rest.ValidateAllObjectFunc, &metav1.DeleteOptions{}); err != nil {
				t.Fatal(err)
			}
			var second *core.ConfigMap
			*run = func() {
				release(test.begin(ctx))
				second = create()
			}
			if got := release(test.begin(ctx)); got.UID != first.UID {
				if test.stays {
					t.Errorf("the update's answer is uid %s, not %s, which it ended", got.UID, first.UID)
				}
			}
			if second == nil {
				t.Fatal("nothing was made between")
			}
			got, err := store.Get(ctx, "one", &metav1.GetOptions{})
			switch {
			case test.stays && (err != nil || got.(*core.ConfigMap).UID != second.UID):
				t.Errorf("the new object is lost: %v", err)
			case !test.stays && !apierrors.IsNotFound(err):
				t.Errorf("upstream no longer deletes the new object (%v): this package may be of no more use", err)
			}
		})
	}
}

// An update that goes through is no deletion's, and neither is one of another object.
func TestOnlyTheRefused(t *testing.T) {
	store, _ := configMaps(t)
	ctx := finalize.WithUpdate(request.WithNamespace(request.WithRequestInfo(t.Context(), &request.RequestInfo{IsResourceRequest: true, Verb: "patch", APIVersion: "v1", Resource: "configmaps"}), "default"))
	for _, name := range []string{"one", "two"} {
		obj := &core.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"}}
		if _, err := store.Create(ctx, obj, rest.ValidateAllObjectFunc, &metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	_, _, err := store.Update(ctx, "one", rest.DefaultUpdatedObjectInfo(nil, func(_ context.Context, _, _ runtime.Object) (runtime.Object, error) {
		return nil, apierrors.NewBadRequest("no")
	}), rest.ValidateAllObjectFunc, rest.ValidateAllObjectUpdateFunc, false, &metav1.UpdateOptions{})
	if !apierrors.IsBadRequest(err) {
		t.Fatal(err)
	}
	for _, name := range []string{"two", "one"} {
		if _, _, err := store.Delete(ctx, name, rest.ValidateAllObjectFunc, &metav1.DeleteOptions{}); err != nil {
			t.Errorf("%s cannot be deleted: %v", name, err)
		}
	}
}

// Requests that update are marked, and no others.
func TestHandler(t *testing.T) {
	for method, marked := range map[string]bool{http.MethodPut: true, http.MethodPatch: true, http.MethodDelete: false, http.MethodGet: false, http.MethodPost: false} {
		var seen context.Context
		req := httptest.NewRequestWithContext(t.Context(), method, "/", nil)
		finalize.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { seen = r.Context() })).ServeHTTP(httptest.NewRecorder(), req)
		if got := seen != req.Context(); got != marked {
			t.Errorf("%s: marked is %t, not %t", method, got, marked)
		}
	}
}
