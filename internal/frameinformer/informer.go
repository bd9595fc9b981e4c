// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package frameinformer

import (
	"context"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/client-go/tools/cache"

	"github.com/weir-project/weir/internal/frame"
	"github.com/weir-project/weir/internal/ledger"
)

// Message is an object of a served version that can be read from protobuf. Every built-in type is one.
type Message interface {
	runtime.Object
	Unmarshal([]byte) error
}

// Source is what an informer asks of a resource's watch cache. Its methods are called by any goroutine.
type Source interface {
	// Ready tells whether the cache has read its resource.
	Ready() bool
	// WatchAll is storage.Interface's Watch, of the whole resource. The objects of its events are frames.
	WatchAll(ctx context.Context, opts storage.ListOptions) (watch.Interface, error)
	// Peek returns the frame of namespace/name, or of name, as the cache has it now; nil if it has none.
	Peek(name string) *frame.Frame
	// Reaches tells whether the storage has come to a revision: it has not if it was put back to an earlier state.
	Reaches(ctx context.Context, resourceVersion string) (bool, error)
}

// Config says of what an informer is. All fields but those with a remark are required.
type Config struct {
	// Resource is what is watched, in the version in which it is wanted.
	Resource schema.GroupVersionResource
	// Type is that of its objects in that version.
	Type Type
	// Encoder encodes into protobuf of that version.
	Encoder runtime.Encoder
	// Source returns the resource's watch cache, nil if there is none. It is asked whenever the informer begins to
	// read.
	Source func() Source
	// Connection reads the resource where Source has no cache that can be read.
	Connection cache.ListerWatcher
	// Name names the informer in client-go's metrics. Optional.
	Name cache.InformerNameAndResource
	// Lazy has the informer hold no objects for nobody: where it would have to read over Connection, it reads nothing until somebody wants
	// something of it, and says that it has synced, so that nobody waits for it. Frames it holds from the start: whoever wants
	// them then has them at once, and they are there anyway. Optional.
	Lazy bool
	// Ledger is where it books what it holds: the process's, but in tests.
	Ledger *ledger.Ledger
}

// informer is client-go's shared informer on items, seen as one on objects.
type informer struct {
	cache.SharedIndexInformer
	cfg Config
	// transform is set before the informer starts.
	transform cache.TransformFunc
	// used is closed when something has been wanted of the informer, once.
	used chan struct{}
	once sync.Once
}

var _ cache.SharedIndexInformer = (*informer)(nil)

// New returns an informer that has not been started. It has the index cache.NamespaceIndex. It does no resyncs:
// these would decode all objects for handlers that are told nothing new.
func New(cfg Config) cache.SharedIndexInformer {
	n := &informer{cfg: cfg, used: make(chan struct{})}
	n.SharedIndexInformer = cache.NewSharedIndexInformerWithOptions(&reader{informer: n}, &item{}, cache.SharedIndexInformerOptions{
		Indexers:          cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc},
		ObjectDescription: cfg.Resource.String(),
		Identifier:        cfg.Name,
	})
	if !cfg.Lazy {
		n.use()
	}
	return n
}

// use says that something is wanted of the informer.
func (n *informer) use() { n.once.Do(func() { close(n.used) }) }

func (n *informer) inUse() bool {
	select {
	case <-n.used:
		return true
	default:
		return false
	}
}

// Run implements cache.SharedIndexInformer.
func (n *informer) Run(stop <-chan struct{}) { n.RunWithContext(wait.ContextForChannel(stop)) }

// RunWithContext implements cache.SharedIndexInformer.
func (n *informer) RunWithContext(ctx context.Context) {
	if readable(n.cfg.Source()) {
		n.use()
	}
	select {
	case <-n.used:
	case <-ctx.Done():
		return
	}
	books := &books{ledger: n.cfg.Ledger}
	defer books.close()
	zero := time.Duration(0)
	if _, err := n.SharedIndexInformer.AddEventHandlerWithOptions(books, cache.HandlerOptions{ResyncPeriod: &zero}); err != nil {
		return // it has been stopped before
	}
	n.SharedIndexInformer.RunWithContext(ctx)
}

// HasSynced implements cache.SharedIndexInformer.
func (n *informer) HasSynced() bool { return !n.inUse() || n.SharedIndexInformer.HasSynced() }

// HasSyncedChecker implements cache.SharedIndexInformer.
func (n *informer) HasSyncedChecker() cache.DoneChecker {
	checker := n.SharedIndexInformer.HasSyncedChecker()
	if n.inUse() {
		return checker
	}
	return unused{checker}
}

// unused is done.
type unused struct{ cache.DoneChecker }

// Done implements cache.DoneChecker.
func (unused) Done() <-chan struct{} {
	done := make(chan struct{})
	close(done)
	return done
}

// SetTransform implements cache.SharedIndexInformer. What is transformed is what readers get.
func (n *informer) SetTransform(transform cache.TransformFunc) error {
	if err := n.SharedIndexInformer.SetTransform(nil); err != nil { // it has started
		return err
	}
	n.transform = transform
	return nil
}

// AddEventHandler implements cache.SharedIndexInformer.
func (n *informer) AddEventHandler(h cache.ResourceEventHandler) (cache.ResourceEventHandlerRegistration, error) {
	n.use()
	return n.SharedIndexInformer.AddEventHandler(handler{n, h})
}

// AddEventHandlerWithResyncPeriod implements cache.SharedIndexInformer.
func (n *informer) AddEventHandlerWithResyncPeriod(h cache.ResourceEventHandler, period time.Duration) (cache.ResourceEventHandlerRegistration, error) {
	n.use()
	return n.SharedIndexInformer.AddEventHandlerWithResyncPeriod(handler{n, h}, period)
}

// AddEventHandlerWithOptions implements cache.SharedIndexInformer.
func (n *informer) AddEventHandlerWithOptions(h cache.ResourceEventHandler, options cache.HandlerOptions) (cache.ResourceEventHandlerRegistration, error) {
	n.use()
	return n.SharedIndexInformer.AddEventHandlerWithOptions(handler{n, h}, options)
}

// GetStore implements cache.SharedIndexInformer.
func (n *informer) GetStore() cache.Store { return n.GetIndexer() }

// GetIndexer implements cache.SharedIndexInformer.
func (n *informer) GetIndexer() cache.Indexer {
	n.use()
	return indexer{n.SharedIndexInformer.GetIndexer(), n}
}

// AddIndexers implements cache.SharedIndexInformer.
func (n *informer) AddIndexers(indexers cache.Indexers) error {
	n.use()
	return n.SharedIndexInformer.AddIndexers(n.indexersOf(indexers))
}
