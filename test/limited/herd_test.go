// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package limited

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/weir-project/weir/internal/rig/link"
	"github.com/weir-project/weir/test/servers"
	"github.com/weir-project/weir/test/wait"
)

// TestHerd kills the server that all informers are at, and they all come to the one beside it, which has a limit, too.
func TestHerd(t *testing.T) {
	size, room := sizesOf(t), servers.Room(t)
	needsLimits(t, room)
	etcd := loaded(t, room, size)
	first, second := startLimited(t, room, etcd, servers.Weir, size), startLimited(t, room, etcd, servers.Weir, size)
	first.Wait()
	second.Wait()
	way, err := link.New(strings.TrimPrefix(first.URL, "https://"))
	if err != nil {
		t.Fatal(err)
	}
	defer way.Close()
	behind, err := first.Rig.Behind(way.Address())
	if err != nil {
		t.Fatal(err)
	}
	revisions := pods(t, second)
	var informers []cache.SharedInformer
	stop := make(chan struct{})
	defer close(stop)
	for range size.informers {
		config, err := behind.RESTConfig("herd")
		if err != nil {
			t.Fatal(err)
		}
		config.ContentType = "application/vnd.kubernetes.protobuf"
		client, err := kubernetes.NewForConfig(config)
		if err != nil {
			t.Fatal(err)
		}
		pods := cache.ToListWatcherWithWatchListSemantics(cache.NewListWatchFromClient(client.CoreV1().RESTClient(), "pods", metav1.NamespaceAll, fields.Everything()), client)
		informer := cache.NewSharedInformer(pods, &corev1.Pod{}, 0)
		// This process is to hold names and revisions only.
		if err := informer.SetTransform(func(obj any) (any, error) {
			if pod, ok := obj.(*corev1.Pod); ok {
				return &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{Name: pod.Name, Namespace: pod.Namespace, ResourceVersion: pod.ResourceVersion}}, nil
			}
			return obj, nil
		}); err != nil {
			t.Fatal(err)
		}
		go informer.Run(stop)
		informers = append(informers, informer)
	}
	synced := func(what string, revisions map[string]string) {
		t.Helper()
		for i, informer := range informers {
			wait.Until(t, fmt.Sprintf("informer %d %s", i, what), size.patience, func() bool {
				if !informer.HasSynced() || len(informer.GetStore().ListKeys()) != len(revisions) {
					return false
				}
				for key, revision := range revisions {
					obj, ok, _ := informer.GetStore().GetByKey(key)
					if !ok || obj.(*metav1.PartialObjectMetadata).ResourceVersion != revision {
						return false
					}
				}
				return true
			})
		}
	}
	synced("to have all Pods", revisions)

	first.Rig.Kill()
	n := 0
	for key := range revisions {
		if n++; n > 20 {
			break
		}
		namespace, name, _ := strings.Cut(key, "/")
		revisions[key] = servers.ResourceVersion(second.Must(http.MethodPatch, "/api/v1/namespaces/"+namespace+"/pods/"+name,
			map[string]any{"metadata": map[string]any{"labels": map[string]any{"herd": "yes"}}}))
	}
	if err := way.Turn(strings.TrimPrefix(second.URL, "https://")); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	synced("to have what was written while it was away", revisions)
	t.Logf("%d informers went on after %v; the second server had at most %d MiB of %d resident", size.informers, time.Since(began), peak(t, second)>>20, size.limit>>20)
	if err := second.Rig.Died(); err != nil {
		t.Error(err)
	}
}

// pods returns the revision of each Pod, by namespace and name.
func pods(t *testing.T, s *servers.Server) map[string]string {
	t.Helper()
	list := s.Must(http.MethodGet, "/api/v1/pods", nil)
	revisions := map[string]string{}
	for _, item := range list["items"].([]any) {
		m := item.(map[string]any)["metadata"].(map[string]any)
		revisions[m["namespace"].(string)+"/"+m["name"].(string)] = m["resourceVersion"].(string)
	}
	return revisions
}
