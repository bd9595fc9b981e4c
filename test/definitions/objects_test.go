// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package definitions

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/dynamic/dynamicinformer"
	"k8s.io/client-go/tools/cache"

	"github.com/weir-project/weir/internal/rig"
	"github.com/weir-project/weir/test/servers"
)

// TestObjects measures what custom resources cost a server beside reading them many times, which `weir bench crs` measures: the first
// list after a start, writes, and changes of the definition while informers have them. It judges nothing. WEIR_OBJECTS is their number,
// 20,000 for the figures in the documentation; WEIR_PROGRAMS are as in TestTax.
func TestObjects(t *testing.T) {
	n, err := strconv.Atoi(os.Getenv("WEIR_OBJECTS"))
	if err != nil {
		t.Skip("WEIR_OBJECTS is not given")
	}
	for _, program := range programs(servers.Stock, servers.Weir) {
		t.Run(program, func(t *testing.T) { measureObjects(t, program, n) })
	}
}

const (
	routes     = "routes.objects.example.com"
	routesPath = "/apis/objects.example.com/"
)

func measureObjects(t *testing.T, program string, n int) {
	const writers, updates, informers = 8, 4000, 16
	room := servers.Room(t)
	etcd, err := room.StartEtcd(t.Context(), rig.EtcdOptions{})
	if err != nil {
		t.Fatal(err)
	}
	start := func() *servers.Server {
		name, flags := started(program)
		p := servers.Program(name, flags...)
		p.Etcd = etcd.Endpoints()
		return servers.StartIn(t, room, p).Wait()
	}
	sent := func() float64 { return sentBy(t, etcd) }
	s := start()
	s.Must(http.MethodPost, crds, routeDefinition("hosts"))
	servers.Eventually(t, "the definition to be served", func() bool {
		status, _ := s.Do(http.MethodGet, routesPath+"v1/routes", nil)
		return status == http.StatusOK
	})
	together(writers, n, func(i int) { s.Must(http.MethodPost, routesPath+"v1/namespaces/default/routes", route(i)) })
	if err := s.Rig.Stop(servers.Patience); err != nil {
		t.Fatal(err)
	}
	s = start()

	usage := func() (cpu, resident float64) {
		t.Helper()
		used, err := s.Rig.Usage()
		if err != nil {
			t.Fatal(err)
		}
		return used.CPU, float64(used.RSS) / 1e6
	}
	pause := func(d time.Duration) {
		select {
		case <-time.After(d):
		case <-s.Rig.Done():
			t.Fatal(s.Rig.Died())
		}
	}
	pause(rest)
	for _, version := range []string{"v1", "v2"} {
		cpu, resident := usage()
		began := time.Now()
		size := 0
		for {
			status, answer := s.Do(http.MethodGet, routesPath+version+"/routes?resourceVersion=0", nil)
			if size = len(answer); status == http.StatusOK {
				break
			}
			pause(100 * time.Millisecond)
		}
		wall := time.Since(began)
		pause(5 * time.Second)
		cpuThen, residentThen := usage()
		t.Logf("first list of %s, %d objects, %.1f MB: wall %5.2f s, CPU with 5 s after it %5.2f s, RSS %4.0f MB, %4.0f more than before", version, n, float64(size)/1e6, wall.Seconds(), cpuThen-cpu, residentThen, residentThen-resident)
	}

	cpu, _ := usage()
	began := time.Now()
	together(writers, updates, func(i int) {
		s.Must(http.MethodPatch, fmt.Sprintf("%sv1/namespaces/default/routes/route-%d", routesPath, i%n), object{"spec": object{"digest": fmt.Sprint("written ", i)}})
	})
	wall := time.Since(began)
	pause(2 * time.Second)
	cpuThen, _ := usage()
	t.Logf("%d patches by %d writers: wall %5.2f s, CPU %5.2f s", updates, writers, wall.Seconds(), cpuThen-cpu)

	seen := watched(t, s, informers, n)
	change := func(what string, to object) {
		t.Helper()
		pause(rest)
		cpu, _ := usage()
		sentBefore := sent()
		s.Must(http.MethodPatch, crds+"/"+routes, object{"spec": to["spec"]})
		began := time.Now()
		for i := 0; ; i++ {
			// Whoever has this has a watch of what serves the changed definition, or will have it until the next one is written.
			mark := fmt.Sprint(what, " ", i)
			s.Must(http.MethodPatch, routesPath+"v1/namespaces/default/routes/route-0", object{"spec": object{"digest": mark}})
			servers.Eventually(t, mark+" to be seen by all", func() bool { return seen(mark) })
			if time.Since(began) > 30*time.Second {
				break
			}
			pause(time.Second)
		}
		cpuThen, _ := usage()
		t.Logf("%s while %d informers watch: CPU of 30 s %5.2f s, etcd sent %.1f MB", what, informers, cpuThen-cpu, (sent()-sentBefore)/1e6)
	}
	change("a column changed", routeDefinition("digest"))
	change("a field added", routeDefinition("digest", "note"))
	// What these 30 s cost without a change.
	cpu, _ = usage()
	sentBefore := sent()
	for i := range 30 {
		s.Must(http.MethodPatch, routesPath+"v1/namespaces/default/routes/route-0", object{"spec": object{"digest": fmt.Sprint("more ", i)}})
		pause(time.Second)
	}
	cpuThen, _ = usage()
	t.Logf("the same without a change: CPU %5.2f s, etcd sent %.1f MB", cpuThen-cpu, (sent()-sentBefore)/1e6)
}

// together does n things, by so many goroutines.
func together(goroutines, n int, do func(i int)) {
	var next atomic.Int64
	var all sync.WaitGroup
	for range goroutines {
		all.Go(func() {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				do(i)
			}
		})
	}
	all.Wait()
}

// watched has so many informers watch the routes, half of them in each version, until the test ends. It returns when they have n; seen
// tells whether all have a digest in the first one.
func watched(t *testing.T, s *servers.Server, informers, n int) (seen func(digest string) bool) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	digests := make([]atomic.Value, informers)
	for i := range digests {
		config, err := s.Rig.RESTConfig("objects")
		if err != nil {
			t.Fatal(err)
		}
		client, err := dynamic.NewForConfig(config)
		if err != nil {
			t.Fatal(err)
		}
		resource := schema.GroupVersionResource{Group: "objects.example.com", Version: []string{"v1", "v2"}[i%2], Resource: "routes"}
		informer := dynamicinformer.NewFilteredDynamicInformer(client, resource, metav1.NamespaceAll, 0, cache.Indexers{}, nil).Informer()
		// This process is to hold little.
		if err := informer.SetTransform(func(obj any) (any, error) {
			u, ok := obj.(*unstructured.Unstructured)
			if !ok {
				return obj, nil
			}
			if u.GetName() == "route-0" {
				digest, _, _ := unstructured.NestedString(u.Object, "spec", "digest")
				digests[i].Store(digest)
			}
			return &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{Name: u.GetName(), Namespace: u.GetNamespace(), ResourceVersion: u.GetResourceVersion()}}, nil
		}); err != nil {
			t.Fatal(err)
		}
		go informer.RunWithContext(ctx)
		servers.Eventually(t, "an informer to have all", func() bool { return informer.HasSynced() && len(informer.GetStore().ListKeys()) == n })
	}
	return func(digest string) bool {
		for i := range digests {
			if digests[i].Load() != digest {
				return false
			}
		}
		return true
	}
}

// sentBy is how many bytes an etcd of one member has sent to its clients.
func sentBy(t *testing.T, etcd *rig.Etcd) float64 {
	t.Helper()
	answer, err := http.Get(etcd.Endpoints()[0] + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	metrics, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile(`(?m)^etcd_network_client_grpc_sent_bytes_total (\S+)$`).FindSubmatch(metrics)
	if found == nil {
		t.Fatalf("etcd does not say how many bytes it has sent: %.300s", metrics)
	}
	bytes, err := strconv.ParseFloat(string(found[1]), 64)
	if err != nil {
		t.Fatal(err)
	}
	return bytes
}

// routeDefinition is a definition of two versions with the same schema, and a column. more are fields of text.
func routeDefinition(column string, more ...string) object {
	text := object{"type": "string"}
	rule := properties(object{
		"match":   properties(object{"path": text, "methods": object{"type": "array", "items": text}}),
		"backend": properties(object{"service": text, "port": object{"type": "integer"}, "weight": object{"type": "integer"}}),
		"retry":   properties(object{"attempts": object{"type": "integer"}, "perTry": text, "on": text}),
	})
	fields := object{"hosts": object{"type": "array", "items": text}, "digest": text, "rules": object{"type": "array", "items": rule}}
	for _, name := range more {
		fields[name] = text
	}
	spec := properties(object{"spec": properties(fields)})
	columns := object{"additionalPrinterColumns": []object{{"name": "shown", "type": "string", "jsonPath": ".spec." + column}}}
	return define("objects.example.com", "Route", "Namespaced", version("v1", true, spec, columns), version("v2", false, spec, columns))
}

// route is a routing policy of about 1.75 KB, as those of `weir bench crs`.
func route(i int) object {
	id := fmt.Sprintf("%x", sha256.Sum256([]byte(strconv.Itoa(i))))
	rules := make([]object, 4)
	for r := range rules {
		rules[r] = object{
			"match":   object{"path": fmt.Sprintf("/api/v%d/%s", r, id[:8]), "methods": []string{"GET", "POST"}},
			"backend": object{"service": fmt.Sprintf("backend-%d", (i+r)%500), "port": 8443, "weight": 100 - r},
			"retry":   object{"attempts": 3, "perTry": "250ms", "on": "connect-failure,reset"},
		}
	}
	return object{
		"apiVersion": "objects.example.com/v1", "kind": "Route",
		"metadata": object{"name": fmt.Sprintf("route-%d", i), "labels": object{"app": "objects", "team": fmt.Sprintf("team-%02d", i%40)}},
		"spec":     object{"hosts": []string{id[8:16] + ".shop.example.com"}, "digest": strings.Repeat(id, 2), "rules": rules},
	}
}
