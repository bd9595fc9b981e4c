// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package watchcache

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/cacher/delegator"
	"k8s.io/apiserver/pkg/storage/storagebackend"
	"k8s.io/apiserver/pkg/storage/storagebackend/factory"
	"k8s.io/client-go/tools/cache"

	"github.com/weir-project/weir/internal/conversion"
	"github.com/weir-project/weir/internal/frame"
	"github.com/weir-project/weir/internal/intact"
)

// Sharing says which storages may be answered from one follower.
type Sharing struct {
	// Key returns the same key for storages whose codecs make the same of whatever is stored, but for apiVersion, and encode alike
	// whatever they are given, in any of these versions; false if that is not known. What newFunc and newListFunc return is of the
	// version that is served.
	Key func(config *storagebackend.ConfigForResource, newFunc, newListFunc func() runtime.Object) (string, bool)
	// Linger is how long a follower goes on that nobody answers from.
	Linger time.Duration
	// Defined tells whether the resource is one still. If not, nobody will come for its follower, which ends at once. Optional.
	Defined func(schema.GroupResource) bool
}

// shared is a follower that several Caches may answer from, and the storage that it follows, which they read and write.
type shared struct {
	resource schema.GroupResource
	// made is closed when follower and end, or err, are set, which do not change from then on.
	made     chan struct{}
	follower *follower
	err      error
	// end stops the follower and the storage.
	end func()

	// Guarded by Caches.mu: users are those who answer from the follower, or wait for it. If there are none, and the follower lingers,
	// timer ends that.
	users int
	timer *time.Timer
}

// share returns what is shared under a key, which start makes if it is not there. before is a follower of the same resource under another key, nil
// if there is none. release must be called.
func (s *Caches) share(key string, resource schema.GroupResource, start func(before *follower) (*follower, func(), error)) (x *shared, release func(), err error) {
	s.mu.Lock()
	x, there := s.shared[key]
	if !there {
		x = &shared{resource: resource, made: make(chan struct{})}
		s.shared[key] = x
	}
	x.users++
	if x.timer != nil {
		x.timer.Stop()
		x.timer = nil
	}
	before := s.beforeLocked(key, resource)
	var superseded []func()
	if !there {
		superseded = s.supersedeLocked(key, resource)
	}
	s.mu.Unlock()
	release = sync.OnceFunc(func() { s.release(key, x) })
	if !there {
		made := false
		defer func() {
			if !made {
				release() // start has panicked: the next one begins anew
			}
			for _, end := range superseded {
				end()
			}
		}()
		x.make(func() (*follower, func(), error) { return start(before) })
		made = true
	}
	if <-x.made; x.err != nil {
		release()
		return nil, nil, x.err
	}
	return x, release, nil
}

// make sets what start returns, whatever happens: others wait for it.
func (x *shared) make(start func() (*follower, func(), error)) {
	defer close(x.made)
	x.err = errors.New("what was to be shared could not be started")
	x.follower, x.end, x.err = start()
}

// beforeLocked returns the follower of a resource under another key, of what its definition was before, that has come furthest.
func (s *Caches) beforeLocked(key string, resource schema.GroupResource) (before *follower) {
	var furthest uint64
	for other, x := range s.shared {
		if other == key || x.resource != resource {
			continue
		}
		select {
		case <-x.made:
			if x.follower == nil {
				continue
			}
			if rev, ok := x.follower.newest(); ok && rev > furthest {
				before, furthest = x.follower, rev
			}
		default:
		}
	}
	return before
}

// supersedeLocked takes away what lingers of a resource under other keys: its definition has changed, and nobody will come for it.
func (s *Caches) supersedeLocked(key string, resource schema.GroupResource) (ends []func()) {
	for other, x := range s.shared {
		if other != key && x.resource == resource && x.timer != nil {
			x.timer.Stop()
			delete(s.shared, other)
			ends = append(ends, x.end)
		}
	}
	return ends
}

// release says that one less answers from x.
func (s *Caches) release(key string, x *shared) {
	defined := s.opts.Sharing.Defined == nil || s.opts.Sharing.Defined(x.resource)
	s.mu.Lock()
	x.users--
	ended := x.users == 0
	switch {
	case !ended:
	case x.err == nil && s.opts.Sharing.Linger > 0 && defined && !s.ended:
		ended = false
		x.timer = time.AfterFunc(s.opts.Sharing.Linger, func() { s.expire(key, x) })
	case s.shared[key] == x:
		delete(s.shared, key)
	}
	s.mu.Unlock()
	if ended && x.err == nil {
		x.end()
	}
}

// expire ends x if nobody has come for it.
func (s *Caches) expire(key string, x *shared) {
	s.mu.Lock()
	ended := s.shared[key] == x && x.timer != nil
	if ended {
		x.timer = nil
		delete(s.shared, key)
	}
	s.mu.Unlock()
	if ended {
		x.end()
	}
}

// End has nothing linger any more.
func (s *Caches) End() {
	s.mu.Lock()
	s.ended = true
	var ends []func()
	for key, x := range s.shared {
		if x.timer != nil {
			x.timer.Stop()
			x.timer = nil
			delete(s.shared, key)
			ends = append(ends, x.end)
		}
	}
	s.mu.Unlock()
	for _, end := range ends {
		end()
	}
}

// decorated are the arguments of a decorator.
type decorated struct {
	config         *storagebackend.ConfigForResource
	resourcePrefix string
	keyFunc        func(obj runtime.Object) (string, error)
	newFunc        func() runtime.Object
	newListFunc    func() runtime.Object
	getAttrs       storage.AttrFunc
	trigger        storage.IndexerFuncs
	indexers       *cache.Indexers
}

// codec returns the codec of the storage of custom resources: it leaves those as they are stored that are intact, and those unconverted that are
// converted several at once.
func (s *Caches) codec(d decorated) *storedCodec {
	c := &storedCodec{Codec: d.config.Codec, newFunc: d.newFunc}
	var rules intact.Rules
	known := false
	if s.opts.Rules != nil {
		rules, known = s.opts.Rules(d.config, d.newFunc)
	}
	if known && s.opts.DefaultedOnRead[d.config.GroupResource] == nil && frame.PlainAttrs(d.getAttrs, d.newFunc) {
		c.judge = intact.NewJudge(rules)
	}
	// What is only renamed is not worth a goroutine; see converting.
	if s.opts.Batches != nil && !(known && rules.Renames) {
		c.decoder = s.opts.Batches.Decoder(d.config.Codec, d.newFunc().GetObjectKind().GroupVersionKind().GroupVersion())
	}
	return c
}

// start starts a follower of a storage of its own. end stops both.
func (s *Caches) start(d decorated, from uint64, versions bool, inherited *heritage) (f *follower, end func(), err error) {
	config := *d.config
	var counted *taken
	var codec *storedCodec
	var decoder *conversion.Decoder
	if _, custom := d.newFunc().(runtime.Unstructured); custom {
		counted, codec = &s.taken, s.codec(d)
		config.Codec, decoder = codec, codec.decoder
	}
	raw, destroy, err := s.newStorage(&config, d.newFunc, d.newListFunc, d.resourcePrefix)
	if err != nil {
		return nil, nil, err
	}
	f, err = newFollower(Config{
		Storage:        mended(raw),
		Versioner:      storage.APIObjectVersioner{},
		GroupResource:  d.config.GroupResource,
		History:        d.config.EventsHistoryWindow,
		ResourcePrefix: d.resourcePrefix,
		KeyFunc:        d.keyFunc,
		GetAttrs:       d.getAttrs,
		Trigger:        d.trigger,
		Indexers:       d.indexers,
		NewFunc:        d.newFunc,
		NewListFunc:    d.newListFunc,
		Leased:         leased(d.config.GroupResource),
		From:           from,
		Codec:          d.config.Codec,
		Decoder:        decoder,
		Store:          s.store,
		Convoys:        s.convoys,
		Types:          s.opts.Types,
		Bounded:        s.opts.Bounded,
		HistoryBound:   s.opts.History,
		Versions:       versions,
		taken:          counted,
		stored:         codec,
		heritage:       inherited,

		DefaultedOnRead: s.opts.DefaultedOnRead[d.config.GroupResource],
	})
	if err != nil {
		destroy()
		return nil, nil, fmt.Errorf("starting the watch cache of %s: %w", d.config.GroupResource, err)
	}
	return f, sync.OnceFunc(func() {
		f.stop()
		destroy()
	}), nil
}

// open returns a Cache. destroy must be called.
func (s *Caches) open(d decorated, from uint64) (c *Cache, destroy factory.DestroyFunc, err error) {
	key, ok := "", false
	// Who joins a follower waits for what etcd has then, which it could not ask for: nothing would come where nothing happens.
	if s.opts.Sharing != nil && delegator.ConsistentReadSupported() {
		key, ok = s.opts.Sharing.Key(d.config, d.newFunc, d.newListFunc)
	}
	if !ok {
		f, end, err := s.start(d, from, false, nil)
		if err != nil {
			return nil, nil, err
		}
		return &Cache{follower: f, newFunc: d.newFunc, end: f.stop}, end, nil
	}
	began := false
	x, release, err := s.share(key+d.resourcePrefix, d.config.GroupResource, func(before *follower) (*follower, func(), error) {
		began = true
		return s.start(d, from, true, before.heritage())
	})
	if err != nil {
		return nil, nil, err
	}
	c = x.follower.in(d.newFunc, release)
	c.joined.Store(!began)
	return c, c.Stop, nil
}
