// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package sharedclient

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"sync"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/kubernetes"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/features"
	"k8s.io/apiserver/pkg/registry/generic"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/etcd3"
	"k8s.io/apiserver/pkg/storage/storagebackend"
	"k8s.io/apiserver/pkg/storage/storagebackend/factory"
	"k8s.io/apiserver/pkg/storage/value/encrypt/identity"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
)

// Most is how many storages share a client. Some proxies of etcd allow a connection no more than 100 streams at a time. Each cache has one
// for its watch, for as long as it is there, and what is read and written has to find room beside them. etcd itself sets no bound, unless
// --max-concurrent-streams does, which must not be lower than this.
const Most = 64

// Pool has clients of etcd that storages share. Its methods may be called by any number of goroutines.
type Pool struct {
	mu sync.Mutex
	// clients are those that are used, by what they are made of.
	clients map[string][]*client
}

// client is a client of etcd, and the storage that it was made for.
type client struct {
	// made is closed when what follows is set, which does not change from then on. etcd is nil if the donor's client cannot be shared.
	made  chan struct{}
	donor storage.Interface
	end   factory.DestroyFunc
	etcd  *kubernetes.Client
	err   error

	// users is how many storages use it, or wait for it. Guarded by Pool.mu.
	users int
}

// NewPool returns a Pool without clients.
func NewPool() *Pool { return &Pool{clients: map[string][]*client{}} }

// Create returns what upstream's factory.Create does, over a client that it may share with others of the Pool. The client is closed
// when all of them have been destroyed. It takes as long as etcd does not answer, 20 s at most.
func (p *Pool) Create(config *storagebackend.ConfigForResource, newFunc, newListFunc func() runtime.Object, resourcePrefix string) (storage.Interface, factory.DestroyFunc, error) {
	c, release, err := p.take(config, newFunc, newListFunc, resourcePrefix)
	if err != nil {
		return nil, nil, err
	}
	if c.etcd == nil {
		release()
		return generic.NewRawStorage(config, newFunc, newListFunc, resourcePrefix)
	}
	s, closeStore, err := c.store(config, newFunc, newListFunc, resourcePrefix)
	if err != nil {
		release()
		return nil, nil, err
	}
	return s, sync.OnceFunc(func() {
		closeStore()
		release()
	}), nil
}

// take returns a client that has room for one more, which it makes if there is none. release must be called.
func (p *Pool) take(config *storagebackend.ConfigForResource, newFunc, newListFunc func() runtime.Object, resourcePrefix string) (c *client, release func(), err error) {
	key := fmt.Sprintf("%v %v", config.Transport, config.CompactionInterval) // as upstream tells compactors apart
	p.mu.Lock()
	i := slices.IndexFunc(p.clients[key], func(c *client) bool { return c.users < Most })
	if i >= 0 {
		c = p.clients[key][i]
	} else {
		c = &client{made: make(chan struct{})}
		p.clients[key] = append(p.clients[key], c)
	}
	c.users++
	p.mu.Unlock()
	release = sync.OnceFunc(func() { p.release(key, c) })
	if i < 0 {
		c.make(config, newFunc, newListFunc, resourcePrefix)
	}
	if <-c.made; c.err != nil {
		release()
		return nil, nil, c.err
	}
	return c, release, nil
}

// release says that one less uses c. One that could not be made is not given to anybody else.
func (p *Pool) release(key string, c *client) {
	p.mu.Lock()
	c.users--
	ended := c.users == 0
	if ended || c.err != nil {
		p.clients[key] = slices.DeleteFunc(p.clients[key], func(o *client) bool { return o == c })
		if len(p.clients[key]) == 0 {
			delete(p.clients, key)
		}
	}
	p.mu.Unlock()
	if ended && c.err == nil {
		c.end()
	}
}

// make makes the client, whatever happens: others wait for it.
func (c *client) make(config *storagebackend.ConfigForResource, newFunc, newListFunc func() runtime.Object, resourcePrefix string) {
	defer close(c.made)
	c.err = errors.New("the client of etcd could not be made")
	if c.donor, c.end, c.err = generic.NewRawStorage(config, newFunc, newListFunc, resourcePrefix); c.err == nil {
		c.etcd = clientOf(c.donor)
	}
}

// clientOf returns the client of a storage that upstream's factory has made; nil if it is not found where it is at v1.37.2.
func clientOf(s storage.Interface) *kubernetes.Client {
	v := reflect.Indirect(reflect.ValueOf(s))
	if v.Kind() == reflect.Struct && v.Type().Name() == "corruptObjectDeleter" {
		v = reflect.Indirect(v.FieldByName("Interface").Elem())
	}
	if v.Kind() != reflect.Struct || v.Type().PkgPath()+"."+v.Type().Name() != "k8s.io/apiserver/pkg/storage/etcd3.store" {
		return nil
	}
	field := v.FieldByName("client")
	if !field.IsValid() || field.Type() != reflect.TypeFor[*kubernetes.Client]() {
		return nil
	}
	return (*kubernetes.Client)(field.UnsafePointer())
}

// view returns the client with a watcher of its own. A request for progress opens an RPC if no watch has one, which ends with a watch or with its
// watcher: of a storage that has ended none is left in the client, which goes on. Close the watcher, not the view.
func (c *client) view() *kubernetes.Client {
	own := clientv3.NewCtxClient(context.Background())
	own.KV, own.Lease, own.Cluster, own.Auth, own.Maintenance = c.etcd.KV, c.etcd.Lease, c.etcd.Cluster, c.etcd.Auth, c.etcd.Maintenance
	own.Watcher = clientv3.NewWatcher(c.etcd.Client)
	return &kubernetes.Client{Client: own, Kubernetes: c.etcd.Kubernetes}
}

// store makes a storage over the client, as the factory makes one over its own.
func (c *client) store(config *storagebackend.ConfigForResource, newFunc, newListFunc func() runtime.Object, resourcePrefix string) (storage.Interface, func(), error) {
	versioner := storage.APIObjectVersioner{}
	transformer, decoder := config.Transformer, etcd3.NewDefaultDecoder(config.Codec, versioner)
	if transformer == nil {
		transformer = identity.NewEncryptCheckTransformer()
	}
	deletesCorrupt := utilfeature.DefaultFeatureGate.Enabled(features.AllowUnsafeMalformedObjectDeletion)
	if deletesCorrupt {
		transformer, decoder = etcd3.WithCorruptObjErrorHandlingTransformer(transformer), etcd3.WithCorruptObjErrorHandlingDecoder(decoder)
	}
	own := c.view()
	s, err := etcd3.New(own, compactor{c.donor}, config.Codec, newFunc, newListFunc, config.Prefix, resourcePrefix, config.GroupResource,
		transformer, config.LeaseManagerConfig, decoder, versioner)
	if err != nil {
		return nil, nil, err
	}
	end := func() {
		s.Close()
		_ = own.Watcher.Close() // there is nothing that could be done about it
	}
	if deletesCorrupt {
		return etcd3.NewStoreWithUnsafeCorruptObjectDeletion(s, config.GroupResource), end, nil
	}
	return s, end, nil
}

// compactor is the one that the donor holds.
type compactor struct{ donor storage.Interface }

// CompactRevision implements etcd3.Compactor.
func (c compactor) CompactRevision() int64 { return c.donor.CompactRevision() }
