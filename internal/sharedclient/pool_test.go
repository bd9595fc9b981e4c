// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package sharedclient

import (
	"context"
	"fmt"
	"reflect"
	goruntime "runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/features"
	"k8s.io/apiserver/pkg/registry/generic"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/etcd3"
	"k8s.io/apiserver/pkg/storage/storagebackend"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	featuregatetesting "k8s.io/component-base/featuregate/testing"

	"github.com/weir-project/weir/test/etcd"
	"github.com/weir-project/weir/test/wait"
)

const prefix = "/example.io/widgets"

func configOf(endpoints []string, resource string) *storagebackend.ConfigForResource {
	return &storagebackend.ConfigForResource{
		GroupResource: schema.GroupResource{Group: "example.io", Resource: resource},
		Config: storagebackend.Config{
			Prefix:             "/registry",
			Transport:          storagebackend.TransportConfig{ServerList: endpoints},
			Codec:              unstructured.UnstructuredJSONScheme,
			LeaseManagerConfig: etcd3.NewDefaultLeaseManagerConfig(),
		},
	}
}

func newObject() runtime.Object { return &unstructured.Unstructured{} }

func newList() runtime.Object { return &unstructured.UnstructuredList{} }

func widget(name string) *unstructured.Unstructured {
	u := &unstructured.Unstructured{}
	u.SetAPIVersion("example.io/v1")
	u.SetKind("Widget")
	u.SetName(name)
	return u
}

// clients returns how many clients are in use.
func (p *Pool) count() (clients, users int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, all := range p.clients {
		clients += len(all)
		for _, c := range all {
			users += c.users
		}
	}
	return clients, users
}

// TestShared has more storages than share a client be made and destroyed at the same time, and read, write and watch meanwhile.
func TestShared(t *testing.T) {
	endpoints := etcd.Run(t).Endpoints()
	before := connections()
	p := NewPool()
	const storages = Most + Most/2
	var all, made sync.WaitGroup
	made.Add(storages)
	read := make(chan struct{})
	for i := range storages {
		all.Go(func() {
			resource := fmt.Sprint("widgets", i)
			under := "/example.io/" + resource
			s, destroy, err := p.Create(configOf(endpoints, resource), newObject, newList, under)
			made.Done()
			if err != nil {
				t.Error(err)
				return
			}
			<-read
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			w, err := s.Watch(ctx, under+"/", storage.ListOptions{ResourceVersion: "1", Recursive: true, Predicate: storage.Everything})
			if err != nil {
				t.Error(err)
				return
			}
			out := newObject()
			if err := s.Create(ctx, under+"/a", widget("a"), out, 0); err != nil {
				t.Error(err)
			}
			if e := <-w.ResultChan(); !reflect.DeepEqual(e.Object, out) {
				t.Errorf("%s: a watch tells of %v, want %v", resource, e.Object, out)
			}
			if rev := s.CompactRevision(); rev != 0 {
				t.Errorf("nobody compacts, and %s has been up to revision %d", resource, rev)
			}
			w.Stop()
			destroy()
			destroy()
		})
	}
	made.Wait()
	if clients, users := p.count(); clients != 2 || users != storages {
		t.Errorf("%d storages have %d clients for %d users, want 2", storages, clients, users)
	}
	close(read)
	all.Wait()
	if clients, _ := p.count(); clients != 0 || len(p.clients) != 0 {
		t.Errorf("%d clients are left", clients)
	}
	wait.Until(t, "the connections to be closed", time.Minute, func() bool { return connections() <= before })
}

// connections returns how many clients' connections there are in the process.
func connections() int {
	stacks := make([]byte, 16<<20)
	return strings.Count(string(stacks[:goruntime.Stack(stacks, true)]), "transport.(*http2Client).reader(")
}

// TestAsUpstreams holds a storage over a shared client against one that upstream's factory makes: all that they are made of has to be of the same
// types and, where it can be compared, the same.
func TestAsUpstreams(t *testing.T) {
	endpoints := etcd.Run(t).Endpoints()
	for _, corrupt := range []bool{false, true} {
		t.Run(fmt.Sprint("AllowUnsafeMalformedObjectDeletion=", corrupt), func(t *testing.T) {
			featuregatetesting.SetFeatureGateDuringTest(t, utilfeature.DefaultFeatureGate, features.AllowUnsafeMalformedObjectDeletion, corrupt)
			config := configOf(endpoints, "widgets")
			upstream, destroy, err := generic.NewRawStorage(config, newObject, newList, prefix)
			if err != nil {
				t.Fatal(err)
			}
			defer destroy()
			p := NewPool()
			shared, destroyShared, err := p.Create(config, newObject, newList, prefix)
			if err != nil {
				t.Fatal(err)
			}
			defer destroyShared()
			if clientOf(upstream) == nil {
				t.Fatal("the client of upstream's storage is not where it is expected: nothing is shared")
			}
			pools := p.clients[fmt.Sprintf("%v %v", config.Transport, config.CompactionInterval)][0].etcd
			sameClient(t, reflect.ValueOf(clientOf(upstream)), reflect.ValueOf(pools), reflect.ValueOf(clientOf(shared)))
			same(t, "storage", reflect.ValueOf(upstream), reflect.ValueOf(shared), map[uintptr]bool{})
		})
	}
}

// sameClient holds that a storage's client is the pool's, but for a watcher of its own, and has all that upstream's has.
func sameClient(t *testing.T, upstreams, pools, shared reflect.Value) {
	t.Helper()
	if pools.Pointer() == shared.Pointer() || pools.Elem().FieldByName("Kubernetes").Interface() != shared.Elem().FieldByName("Kubernetes").Interface() {
		t.Error("the storage does not have a view of the pool's client")
	}
	of := func(v reflect.Value) reflect.Value { return v.Elem().FieldByName("Client").Elem() }
	upstreams, pools, shared = of(upstreams), of(pools), of(shared)
	for i := range upstreams.NumField() {
		field := upstreams.Type().Field(i)
		if !field.IsExported() {
			continue
		}
		want, have := pools.Field(i), shared.Field(i)
		if own := field.Name == "Watcher"; want.Equal(have) == own {
			t.Errorf("%s of the storage's client is the pool's: %t", field.Name, !own)
		}
		if field.Type.Kind() == reflect.Interface && upstreams.Field(i).Elem().Type() != have.Elem().Type() {
			t.Errorf("%s of the storage's client is a %v, upstream's a %v", field.Name, have.Elem().Type(), upstreams.Field(i).Elem().Type())
		}
	}
}

// TestNoStreamIsLeft: of a storage that was asked for progress without a watch nothing is left in the client when it is destroyed, which others
// go on to use.
func TestNoStreamIsLeft(t *testing.T) {
	p, endpoints := NewPool(), etcd.Run(t).Endpoints()
	other, destroyOther, err := p.Create(configOf(endpoints, "others"), newObject, newList, "/example.io/others")
	if err != nil {
		t.Fatal(err)
	}
	defer destroyOther()
	before := streams()
	s, destroy, err := p.Create(configOf(endpoints, "widgets"), newObject, newList, prefix)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.RequestWatchProgress(t.Context()); err != nil {
		t.Fatal(err)
	}
	if streams() == before {
		t.Fatal("nothing has an RPC, and nothing is tested")
	}
	destroy()
	wait.Until(t, "the RPC to end", time.Minute, func() bool { return streams() <= before })
	if err := other.Create(t.Context(), "/example.io/others/a", widget("a"), newObject(), 0); err != nil {
		t.Errorf("the other storage has ended, too: %v", err)
	}
}

// streams returns how many RPCs the process has for watches.
func streams() int {
	stacks := make([]byte, 16<<20)
	return strings.Count(string(stacks[:goruntime.Stack(stacks, true)]), ".(*watchGRPCStream).run(")
}

// same compares what two storages are made of.
func same(t *testing.T, what string, a, b reflect.Value, seen map[uintptr]bool) {
	t.Helper()
	if strings.HasSuffix(what, ".client") || strings.HasSuffix(what, ".compactor") || !a.IsValid() && !b.IsValid() {
		return // they differ, and are as the factory has made them
	}
	if a.IsValid() != b.IsValid() || a.Type() != b.Type() {
		t.Errorf("%s: %v, upstream's is %v", what, b, a)
		return
	}
	switch a.Kind() {
	case reflect.Interface:
		same(t, what, a.Elem(), b.Elem(), seen)
	case reflect.Pointer:
		if a.IsNil() != b.IsNil() {
			t.Errorf("%s: nil is %v, upstream's %v", what, b.IsNil(), a.IsNil())
			return
		}
		if a.IsNil() || seen[a.Pointer()] || a.Pointer() == b.Pointer() {
			return
		}
		seen[a.Pointer()] = true
		same(t, what, a.Elem(), b.Elem(), seen)
	case reflect.Struct:
		for i := range a.NumField() {
			same(t, what+"."+a.Type().Field(i).Name, a.Field(i), b.Field(i), seen)
		}
	case reflect.Func, reflect.Map, reflect.Chan, reflect.Slice:
		if a.IsNil() != b.IsNil() {
			t.Errorf("%s: nil is %v, upstream's %v", what, b.IsNil(), a.IsNil())
		}
	default:
		if !a.Equal(b) {
			t.Errorf("%s: %v, upstream's is %v", what, b, a)
		}
	}
}

// TestNotMade: who waits for a client that cannot be made gets the error, and the next one tries again.
func TestNotMade(t *testing.T) {
	endpoints := etcd.Run(t).Endpoints()
	p := NewPool()
	bad := configOf(endpoints, "widgets")
	bad.Transport.CertFile, bad.Transport.KeyFile = "/nowhere/cert", "/nowhere/key"
	var all sync.WaitGroup
	for range 5 {
		all.Go(func() {
			if _, _, err := p.Create(bad, newObject, newList, prefix); err == nil {
				t.Error("a client without a certificate has been made")
			}
		})
	}
	all.Wait()
	if clients, _ := p.count(); clients != 0 {
		t.Errorf("%d clients are left that could not be made", clients)
	}
	bad.Transport.CertFile, bad.Transport.KeyFile = "", ""
	_, destroy, err := p.Create(bad, newObject, newList, prefix)
	if err != nil {
		t.Fatal(err)
	}
	destroy()
	bad.Prefix = ""
	if _, _, err := p.Create(bad, newObject, newList, ""); err == nil {
		t.Error("a storage without a prefix has been made")
	}
	if clients, _ := p.count(); clients != 0 {
		t.Errorf("%d clients are left of a storage that could not be made", clients)
	}
}
