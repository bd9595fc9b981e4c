// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package watchcache

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/endpoints/handlers"
	"k8s.io/apiserver/pkg/endpoints/handlers/negotiation"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/storage"
	clientscheme "k8s.io/client-go/kubernetes/scheme"

	"github.com/weir-project/weir/internal/coalesce"
	"github.com/weir-project/weir/internal/frame"
	"github.com/weir-project/weir/internal/ledger"
	"github.com/weir-project/weir/internal/liststream"
	"github.com/weir-project/weir/internal/wire"
	"github.com/weir-project/weir/test/etcd"
)

var mapResource = schema.GroupResource{Resource: "configmaps"}

// mapServer is a cache of ConfigMaps behind upstream's handler of lists and watches.
type mapServer struct {
	*Cache
	scope *handlers.RequestScope
	// booked has what the cache keeps of derived encodings.
	booked *ledger.Ledger
}

var (
	_ rest.Lister      = (*mapServer)(nil)
	_ rest.Watcher     = (*mapServer)(nil)
	_ liststream.Types = (*mapServer)(nil)
)

func mapAttrs(obj runtime.Object) (labels.Set, fields.Set, error) {
	m, err := meta.Accessor(obj)
	if err != nil {
		return nil, nil, err
	}
	return m.GetLabels(), fields.Set{"metadata.name": m.GetName(), "metadata.namespace": m.GetNamespace()}, nil
}

// newMapServer returns one whose cache keeps budget bytes of derived encodings.
func newMapServer(t *testing.T, budget int64) *mapServer {
	t.Helper()
	info, ok := runtime.SerializerInfoForMediaType(clientscheme.Codecs.SupportedMediaTypes(), runtime.ContentTypeProtobuf)
	if !ok {
		t.Fatal("there is no protobuf serializer")
	}
	codec := clientscheme.Codecs.CodecForVersions(info.Serializer, clientscheme.Codecs.UniversalDeserializer(), corev1.SchemeGroupVersion, corev1.SchemeGroupVersion)
	newMap := func() runtime.Object { return &corev1.ConfigMap{} }
	newMapList := func() runtime.Object { return &corev1.ConfigMapList{} }
	s := &mapServer{booked: &ledger.Ledger{}}
	store := newStore(t, etcd.Run(t), storeOptions{prefix: "/registry", codec: codec, newFunc: newMap, newListFunc: newMapList})
	cfg := podConfig(store, codec)
	cfg.GroupResource, cfg.GetAttrs, cfg.NewFunc, cfg.NewListFunc = mapResource, mapAttrs, newMap, newMapList
	cfg.Trigger, cfg.Indexers = nil, nil
	cfg.History = time.Hour // no reader is too slow, on whatever machine
	cfg.Store = frame.NewStore(budget, s.booked)
	s.Cache = startCache(t, cfg)
	s.scope = &handlers.RequestScope{
		Namer:            handlers.ContextBasedNaming{Namer: runtime.Namer(meta.NewAccessor())},
		Serializer:       clientscheme.Codecs,
		ParameterCodec:   clientscheme.ParameterCodec,
		Convertor:        clientscheme.Scheme,
		TableConvertor:   rest.NewDefaultTableConvertor(mapResource),
		Resource:         corev1.SchemeGroupVersion.WithResource("configmaps"),
		Kind:             corev1.SchemeGroupVersion.WithKind("ConfigMap"),
		MetaGroupVersion: metav1.SchemeGroupVersion,
	}
	return s
}

// serve serves as an API server does whose filters let everything pass.
func (s *mapServer) serve(t *testing.T) *httptest.Server {
	t.Helper()
	api := handlers.ListResource(s, s, s.scope, false, time.Hour)
	confine := func() (lift func()) { return func() {} }
	handler := coalesce.Handler(liststream.Handler(api, s, confine, true), true)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		info := &request.RequestInfo{IsResourceRequest: true, Path: req.URL.Path, Verb: "list", APIVersion: "v1", Resource: "configmaps"}
		if req.URL.Query().Get("watch") != "" {
			info.Verb = "watch"
		}
		ctx := request.WithReceivedTimestamp(request.WithRequestInfo(req.Context(), info), time.Now())
		handler.ServeHTTP(w, req.WithContext(ctx))
	}))
	server.EnableHTTP2 = true
	server.StartTLS()
	return server
}

// NewList implements rest.Lister.
func (s *mapServer) NewList() runtime.Object { return &corev1.ConfigMapList{} }

// ConvertToTable implements rest.Lister.
func (s *mapServer) ConvertToTable(ctx context.Context, obj, options runtime.Object) (*metav1.Table, error) {
	return s.scope.TableConvertor.ConvertToTable(ctx, obj, options)
}

// List implements rest.Lister.
func (s *mapServer) List(ctx context.Context, options *internalversion.ListOptions) (runtime.Object, error) {
	list := &corev1.ConfigMapList{}
	err := s.GetList(ctx, podPrefix, storageOptions(options), list)
	return list, err
}

// Watch implements rest.Watcher.
func (s *mapServer) Watch(ctx context.Context, options *internalversion.ListOptions) (watch.Interface, error) {
	return s.Cache.Watch(ctx, podPrefix, storageOptions(options))
}

func storageOptions(o *internalversion.ListOptions) storage.ListOptions {
	pred := storage.SelectionPredicate{Label: labels.Everything(), Field: fields.Everything(), GetAttrs: mapAttrs, AllowWatchBookmarks: o.AllowWatchBookmarks}
	if o.LabelSelector != nil {
		pred.Label = o.LabelSelector
	}
	return storage.ListOptions{
		ResourceVersion: o.ResourceVersion, ResourceVersionMatch: o.ResourceVersionMatch,
		SendInitialEvents: o.SendInitialEvents, Predicate: pred, Recursive: true,
	}
}

// Negotiate implements liststream.Types.
func (s *mapServer) Negotiate(req *http.Request, _ *request.RequestInfo) (string, *schema.GroupVersionKind, bool) {
	options, info, err := negotiation.NegotiateOutputMediaType(req, s.scope.Serializer, s.scope)
	return info.MediaType, options.Convert, err == nil
}

// Encoder implements liststream.Types.
func (s *mapServer) Encoder(format wire.Format, version schema.GroupVersion) runtime.Encoder {
	mediaType := map[wire.Format]string{wire.JSON: runtime.ContentTypeJSON, wire.Protobuf: runtime.ContentTypeProtobuf}[format]
	info, _ := runtime.SerializerInfoForMediaType(clientscheme.Codecs.SupportedMediaTypes(), mediaType)
	return clientscheme.Codecs.EncoderForVersion(info.Serializer, version)
}

// Convert implements liststream.Types.
func (s *mapServer) Convert(obj runtime.Object, version schema.GroupVersion) (runtime.Object, error) {
	return clientscheme.Scheme.UnsafeConvertToVersion(obj, version)
}

// Tables implements liststream.Types.
func (s *mapServer) Tables(*request.RequestInfo, runtime.Object) []liststream.Table {
	return []liststream.Table{{ID: "default", TableConvertor: s.scope.TableConvertor}}
}

// tale is what a list or watch tells: an object, and of a watch what happened to it.
type tale struct {
	what watch.EventType
	obj  *corev1.ConfigMap
}

func (e tale) String() string {
	return fmt.Sprintf("%s %s at %s, %v, of %d bytes", e.what, e.obj.Name, e.obj.ResourceVersion, e.obj.Labels, e.obj.Size())
}

// written is a write, as who wrote it knows it.
type written struct {
	rev uint64
	// obj is what there is since; deleted is the last content instead.
	obj, deleted *corev1.ConfigMap
}

// twin is all that has been written, from which it can be told what anybody should hear.
type twin struct {
	mu  sync.Mutex
	all []written
	// closed says that this is all; more is there when it is, or there is more.
	closed bool
	more   *sync.Cond
}

func newTwin() *twin {
	w := &twin{}
	w.more = sync.NewCond(&w.mu)
	return w
}

func (w *twin) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = true
	w.more.Broadcast()
}

func (w *twin) add(t *testing.T, obj, deleted *corev1.ConfigMap) {
	t.Helper()
	c := written{obj: obj, deleted: deleted}
	for _, o := range []*corev1.ConfigMap{obj, deleted} {
		if o != nil {
			o.TypeMeta = metav1.TypeMeta{}
			c.rev = revision(t, o.ResourceVersion)
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.all = append(w.all, c)
	w.more.Broadcast()
}

// state returns what there is at a revision, by name, once that is known: a server may tell of a
// write before who wrote does.
func (w *twin) state(rev uint64) map[string]*corev1.ConfigMap {
	w.mu.Lock()
	defer w.mu.Unlock()
	for !w.closed && (len(w.all) == 0 || w.all[len(w.all)-1].rev < rev) {
		w.more.Wait()
	}
	state := map[string]*corev1.ConfigMap{}
	for _, c := range w.all {
		switch {
		case c.rev > rev:
			return state
		case c.obj != nil:
			state[c.obj.Name] = c.obj
		default:
			delete(state, c.deleted.Name)
		}
	}
	return state
}

// list returns what a list of a revision, or the initial events, have to tell.
func (w *twin) list(rev uint64, selects func(*corev1.ConfigMap) bool) (out []tale) {
	for _, obj := range w.state(rev) {
		if selects(obj) {
			out = append(out, tale{watch.Added, obj})
		}
	}
	slices.SortFunc(out, func(a, b tale) int { return strings.Compare(a.obj.Name, b.obj.Name) })
	return out
}

// since returns what a watch has to tell after a revision.
func (w *twin) since(rev uint64, selects func(*corev1.ConfigMap) bool) (out []tale) {
	state := w.state(rev)
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range w.all {
		if c.rev <= rev {
			continue
		}
		obj := c.obj
		if obj == nil {
			obj = c.deleted
		}
		before := state[obj.Name]
		was, is := before != nil && selects(before), c.obj != nil && selects(c.obj)
		switch {
		case is && was:
			out = append(out, tale{watch.Modified, obj})
		case is:
			out = append(out, tale{watch.Added, obj})
		case was:
			last := before.DeepCopy()
			last.ResourceVersion = obj.ResourceVersion
			out = append(out, tale{watch.Deleted, last})
		}
		if state[obj.Name] = c.obj; c.obj == nil {
			delete(state, obj.Name)
		}
	}
	return out
}

// content is text of its own, or bytes that do not compress.
func content(r *rand.Rand, size int, noise bool) (map[string]string, map[string][]byte) {
	if noise {
		b := make([]byte, size)
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		return nil, map[string][]byte{"noise": b}
	}
	words := strings.Fields("apiVersion kind metadata name namespace spec status conditions True False Running")
	var b strings.Builder
	for b.Len() < size {
		fmt.Fprintf(&b, "%s-%d ", words[r.IntN(len(words))], r.IntN(100))
	}
	return map[string]string{"text": b.String()}, nil
}

// writer writes ConfigMaps, one at a time, and tells the twin.
type writer struct {
	*mapServer
	twin *twin
	rand *rand.Rand
}

func (w *writer) key(name string) string { return podPrefix + "n/" + name }

// put writes an object with new content.
func (w *writer) put(t *testing.T, name string, size int, noise bool) {
	t.Helper()
	app := "web"
	if w.rand.IntN(2) == 0 && name != lastName { // which everybody selects
		app = "db"
	}
	m := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: name, Labels: map[string]string{"app": app}}}
	m.Data, m.BinaryData = content(w.rand, size, noise)
	out := &corev1.ConfigMap{}
	err := w.cfg.Storage.GuaranteedUpdate(t.Context(), w.key(name), out, true, nil, storage.SimpleUpdate(func(obj runtime.Object) (runtime.Object, error) {
		next := m.DeepCopy()
		next.ResourceVersion = obj.(*corev1.ConfigMap).ResourceVersion
		return next, nil
	}), nil)
	if err != nil {
		t.Fatalf("writing %s: %v", name, err)
	}
	w.twin.add(t, out, nil)
}

func (w *writer) remove(t *testing.T, name string) {
	t.Helper()
	out := &corev1.ConfigMap{}
	if err := w.cfg.Storage.Delete(t.Context(), w.key(name), out, nil, storage.ValidateAllObjectFunc, nil, storage.DeleteOptions{}); err != nil {
		t.Fatalf("deleting %s: %v", name, err)
	}
	w.twin.add(t, nil, out)
}
