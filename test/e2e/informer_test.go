// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/features"
	featurestesting "k8s.io/client-go/features/testing"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

// follow runs an informer on the namespace's ConfigMaps until the test ends.
func follow(t *testing.T, client kubernetes.Interface, namespace string) cache.SharedInformer {
	t.Helper()
	lw := cache.NewListWatchFromClient(client.CoreV1().RESTClient(), "configmaps", namespace, fields.Everything())
	informer := cache.NewSharedInformer(cache.ToListWatcherWithWatchListSemantics(lw, client), &corev1.ConfigMap{}, 0)
	stop := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		informer.Run(stop)
	}()
	t.Cleanup(func() {
		close(stop)
		<-done
	})
	return informer
}

// holds tells whether an informer's store is the given ConfigMaps, name to value.
func holds(informer cache.SharedInformer, want map[string]string) (bool, string) {
	items := informer.GetStore().List()
	if len(items) != len(want) {
		return false, fmt.Sprintf("%d objects, want %d", len(items), len(want))
	}
	for _, item := range items {
		cm := item.(*corev1.ConfigMap)
		if value, ok := want[cm.Name]; !ok || cm.Data["key"] != value {
			return false, fmt.Sprintf("%s has %q, want %q (%v)", cm.Name, cm.Data["key"], value, ok)
		}
	}
	return true, ""
}

// TestInformers runs 200 informers, half of them with watch lists and half with lists,
// half in protobuf and half in JSON, and expects each to end with the same objects.
func TestInformers(t *testing.T) {
	const each, objects = 50, 40
	admin := clientFor(t, server.Client, runtime.ContentTypeProtobuf, nil)
	ns := namespace(t, admin)
	want := map[string]string{}
	for i := range objects {
		name := fmt.Sprintf("before-%02d", i)
		if _, err := admin.CoreV1().ConfigMaps(ns).Create(t.Context(), configMap(ns, name, "first"), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		want[name] = "first"
	}

	var informers []cache.SharedInformer
	for _, watchList := range []bool{true, false} {
		for _, mediaType := range []string{runtime.ContentTypeProtobuf, runtime.ContentTypeJSON} {
			featurestesting.SetFeatureDuringTest(t, features.WatchListClient, watchList)
			var count requests
			client := clientFor(t, server.Client, mediaType, &count)
			var group []cache.SharedInformer
			for range each {
				group = append(group, follow(t, client, ns))
			}
			// The gate is read when an informer starts: the next group must not change it before.
			for _, informer := range group {
				eventually(t, func() (bool, string) { return informer.HasSynced(), "not synced" })
			}
			lists, watchLists := count.lists.Load(), count.watchLists.Load()
			if watchList && (watchLists != each || lists != 0) || !watchList && (watchLists != 0 || lists != each) {
				t.Errorf("WatchListClient=%v, %s: %d informers sent %d lists and %d watch lists", watchList, mediaType, each, lists, watchLists)
			}
			informers = append(informers, group...)
		}
	}
	for _, informer := range informers {
		eventually(t, func() (bool, string) { return holds(informer, want) })
	}

	for i := range objects {
		name := fmt.Sprintf("before-%02d", i)
		switch i % 3 {
		case 0:
			if err := admin.CoreV1().ConfigMaps(ns).Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
				t.Fatal(err)
			}
			delete(want, name)
		case 1:
			if _, err := admin.CoreV1().ConfigMaps(ns).Update(t.Context(), configMap(ns, name, "second"), metav1.UpdateOptions{}); err != nil {
				t.Fatal(err)
			}
			want[name] = "second"
		case 2:
			after := fmt.Sprintf("after-%02d", i)
			if _, err := admin.CoreV1().ConfigMaps(ns).Create(t.Context(), configMap(ns, after, "third"), metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
			want[after] = "third"
		}
	}
	for _, informer := range informers {
		eventually(t, func() (bool, string) { return holds(informer, want) })
	}
}

// TestFallback: a server without the gate WatchList refuses watch lists, and a client
// that would like one falls back to a list.
func TestFallback(t *testing.T) {
	config := startChild(t, "--feature-gates=WatchList=false")
	featurestesting.SetFeatureDuringTest(t, features.WatchListClient, true)
	admin := clientFor(t, config, runtime.ContentTypeProtobuf, nil)
	ns := namespace(t, admin)
	if _, err := admin.CoreV1().ConfigMaps(ns).Create(t.Context(), configMap(ns, "a", "first"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, mediaType := range []string{runtime.ContentTypeProtobuf, runtime.ContentTypeJSON} {
		var count requests
		informer := follow(t, clientFor(t, config, mediaType, &count), ns)
		eventually(t, func() (bool, string) { return holds(informer, map[string]string{"a": "first"}) })
		if count.watchLists.Load() == 0 || count.lists.Load() == 0 {
			t.Errorf("%s: %d watch lists and %d lists, want at least one of each", mediaType, count.watchLists.Load(), count.lists.Load())
		}
	}
	informer := follow(t, admin, ns)
	if _, err := admin.CoreV1().ConfigMaps(ns).Update(t.Context(), configMap(ns, "a", "second"), metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() (bool, string) { return holds(informer, map[string]string{"a": "second"}) })
}
