// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package swap

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/dynamic/dynamicinformer"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/metadata/metadatainformer"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"github.com/weir-project/weir/test/servers"
)

// The clients that informers are made of. client-go uses watch lists where a client does not say that it cannot have them.
type (
	typedThatLists    struct{ kubernetes.Interface }
	dynamicThatLists  struct{ dynamic.Interface }
	metadataThatLists struct{ metadata.Interface }
)

func (typedThatLists) IsWatchListSemanticsUnSupported() bool    { return true }
func (dynamicThatLists) IsWatchListSemanticsUnSupported() bool  { return true }
func (metadataThatLists) IsWatchListSemanticsUnSupported() bool { return true }

// watcher is one informer, and what it was told.
type watcher struct {
	name     string
	kind     *kind
	informer cache.SharedIndexInformer
	requests *requests

	mu   sync.Mutex
	seen map[string]bool // revisions
	back []string        // updates that led to an earlier state
}

// watching are all informers.
type watching struct {
	list    []*watcher
	running sync.WaitGroup
}

// watch starts informers of all kinds: typed ones and of metadata in protobuf, dynamic ones in JSON, each with watch lists and with
// lists. Each form has a connection of its own. They end with ctx.
func (w *watching) watch(ctx context.Context, t *testing.T, at string, turn *atomic.Int64, config func(agent string) *rest.Config) {
	t.Helper()
	for _, lists := range []bool{false, true} {
		for _, form := range []string{"typed", "dynamic", "metadata"} {
			name := form + at
			if lists {
				name += " that lists"
			}
			r := &requests{turn: turn, of: map[string]*stream{}}
			c := config(name)
			c.Wrap(func(under http.RoundTripper) http.RoundTripper { return &recorder{r, under} })
			informer, err := factory(form, lists, c)
			if err != nil {
				t.Fatal(err)
			}
			for _, k := range kinds {
				if form == "typed" && !k.builtin {
					continue
				}
				i, err := informer(k)
				if err != nil {
					t.Fatal(err)
				}
				one := &watcher{name: name + " of " + k.Resource, kind: k, informer: i, requests: r, seen: map[string]bool{}}
				if _, err := i.AddEventHandler(one); err != nil {
					t.Fatal(err)
				}
				w.list = append(w.list, one)
				w.running.Go(func() { i.RunWithContext(ctx) })
			}
		}
	}
}

func factory(form string, lists bool, c *rest.Config) (func(*kind) (cache.SharedIndexInformer, error), error) {
	switch form {
	case "typed":
		c.ContentType, c.AcceptContentTypes = runtime.ContentTypeProtobuf, runtime.ContentTypeProtobuf
		made, err := kubernetes.NewForConfig(c)
		client := kubernetes.Interface(made)
		if lists {
			client = typedThatLists{made}
		}
		f := informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithNamespace(namespace))
		return func(k *kind) (cache.SharedIndexInformer, error) {
			i, err := f.ForResource(k.GroupVersionResource)
			if err != nil {
				return nil, err
			}
			return i.Informer(), nil
		}, err
	case "dynamic":
		made, err := dynamic.NewForConfig(c)
		client := dynamic.Interface(made)
		if lists {
			client = dynamicThatLists{made}
		}
		f := dynamicinformer.NewFilteredDynamicSharedInformerFactory(client, 0, namespace, nil)
		return func(k *kind) (cache.SharedIndexInformer, error) {
			return f.ForResource(k.GroupVersionResource).Informer(), nil
		}, err
	default:
		client, err := metadata.NewForConfig(c)
		if lists {
			client = metadataThatLists{client}
		}
		f := metadatainformer.NewFilteredSharedInformerFactory(client, 0, namespace, nil)
		return func(k *kind) (cache.SharedIndexInformer, error) {
			return f.ForResource(k.GroupVersionResource).Informer(), nil
		}, err
	}
}

// OnAdd implements cache.ResourceEventHandler.
func (w *watcher) OnAdd(o any, _ bool) { w.OnUpdate(nil, o) }

// OnUpdate implements cache.ResourceEventHandler.
func (w *watcher) OnUpdate(before, now any) {
	revision := revisionOf(now)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.seen[revision] = true
	if before != nil && number(revisionOf(before)) > number(revision) {
		w.back = append(w.back, fmt.Sprintf("revision %s after %s", revision, revisionOf(before)))
	}
}

// OnDelete implements cache.ResourceEventHandler.
func (w *watcher) OnDelete(any) {}

func revisionOf(o any) string {
	m, err := meta.Accessor(o)
	if err != nil {
		return err.Error()
	}
	return m.GetResourceVersion()
}

// number is -1 for what is no revision.
func number(revision string) int64 {
	n, err := strconv.ParseInt(revision, 10, 64)
	if err != nil {
		return -1
	}
	return n
}

// holds is what the informer has: revisions by name.
func (w *watcher) holds() map[string]string {
	have := map[string]string{}
	for _, o := range w.informer.GetStore().List() {
		m, err := meta.Accessor(o)
		if err != nil {
			have[err.Error()] = ""
			continue
		}
		have[m.GetName()] = m.GetResourceVersion()
	}
	return have
}

// synced waits until all have had their first list: from then on they have to be told of everything.
func (w *watching) synced(t *testing.T) {
	t.Helper()
	for _, one := range w.list {
		servers.Eventually(t, one.name+" to have synced", one.informer.HasSynced)
	}
}

// agree waits until all informers hold what etcd has. Nobody writes.
func (w *watching) agree(ctx context.Context, t *testing.T, client *clientv3.Client) {
	t.Helper()
	differ := ""
	defer func() {
		if t.Failed() && !strings.HasSuffix(differ, ": ") {
			t.Log(differ)
		}
	}()
	for _, k := range kinds {
		want, err := k.revisions(ctx, client)
		if err != nil {
			t.Fatal(err)
		}
		for _, one := range w.list {
			if one.kind != k {
				continue
			}
			servers.Eventually(t, one.name+" to hold what etcd has", func() bool {
				differ = one.name + ": " + difference(one.holds(), want)
				return one.informer.HasSynced() && strings.HasSuffix(differ, ": ")
			})
		}
	}
}

// reach waits until each informer has been told of something after a revision.
func (w *watching) reach(t *testing.T, revision int64) {
	t.Helper()
	for _, one := range w.list {
		servers.Eventually(t, fmt.Sprintf("%s to be told of something after revision %d", one.name, revision), func() bool {
			return number(one.informer.LastSyncResourceVersion()) > revision
		})
	}
}

// toldAll waits until told returns nil: handlers are called a little after the store has it.
func (w *watching) toldAll(t *testing.T, l *load) {
	t.Helper()
	var err error
	defer func() {
		if err != nil {
			t.Log(err)
		}
	}()
	servers.Eventually(t, "every informer to have been told of every acknowledged write", func() bool {
		err = w.told(l)
		return err == nil
	})
}

// told holds that each informer was told of every write that was acknowledged, but for those beside which it listed anew, and that
// no object went back in time.
func (w *watching) told(l *load) error {
	var failures []error
	for _, one := range w.list {
		one.mu.Lock()
		missed, looked := 0, 0
		for _, writer := range l.list {
			for _, write := range writer.told {
				again := one.requests.again(one.kind)
				if write.kind != one.kind || slices.Contains(again, write.turn) || slices.Contains(again, write.turn+1) {
					continue
				}
				if looked++; !one.seen[write.revision] {
					missed++
					if missed == 1 {
						failures = append(failures, fmt.Errorf("%s was not told of %s at revision %s, turn %d", one.name, write.name, write.revision, write.turn))
					}
				}
			}
		}
		if missed > 0 {
			failures = append(failures, fmt.Errorf("%s was not told of %d of %d acknowledged writes", one.name, missed, looked))
		}
		for _, back := range one.back {
			failures = append(failures, fmt.Errorf("%s: %s", one.name, back))
		}
		one.mu.Unlock()
	}
	return errors.Join(failures...)
}

// requests are those of one connection.
type requests struct {
	turn *atomic.Int64

	mu sync.Mutex
	of map[string]*stream // by resource
}

// stream is one informer's requests.
type stream struct {
	// begins are those after the first that was answered.
	begins []begin
	began  bool // one was answered
	// last is how the latest one ended, or that it goes on.
	last string
}

// begin is a list, or a watch that begins with one.
type begin struct {
	turn int64
	why  string
}

// again are the turns in which an informer listed anew.
func (r *requests) again(k *kind) (turns []int64) {
	for _, b := range r.begins(k) {
		turns = append(turns, b.turn)
	}
	return turns
}

// begins are the lists of an informer after its first.
func (r *requests) begins(k *kind) []begin {
	r.mu.Lock()
	defer r.mu.Unlock()
	if s := r.of[k.Resource]; s != nil {
		return slices.Clone(s.begins)
	}
	return nil
}

func (r *requests) note(resource, outcome string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.of[resource].last = outcome
}

// recorder notes what an informer asks for, and how that ends.
type recorder struct {
	*requests
	under http.RoundTripper
}

const (
	expired = "it was told that what came after is gone (410)"
	ended   = "the stream ended in order"
	// After that client-go lists again, if it took less than a second: the server that begins to serve custom resources does it.
	endedEmpty = "the stream ended in order, with nothing in it"
)

// RoundTrip implements http.RoundTripper.
func (r *recorder) RoundTrip(req *http.Request) (*http.Response, error) {
	q := req.URL.Query()
	resource := req.URL.Path[strings.LastIndex(req.URL.Path, "/")+1:]
	watches := q.Get("watch") == "true"
	r.mu.Lock()
	s := r.of[resource]
	if s == nil {
		s = &stream{}
		r.of[resource] = s
	}
	begins := !watches || q.Get("sendInitialEvents") == "true"
	if begins && s.began {
		s.begins = append(s.begins, begin{r.turn.Load(), s.last})
	}
	r.mu.Unlock()
	resp, err := r.under.RoundTrip(req)
	if begins && err == nil && resp.StatusCode == http.StatusOK {
		r.mu.Lock()
		s.began = true
		r.mu.Unlock()
	}
	switch {
	case err != nil:
		r.note(resource, "no answer: "+err.Error())
	case resp.StatusCode == http.StatusGone:
		r.note(resource, expired)
	case resp.StatusCode != http.StatusOK:
		r.note(resource, resp.Status)
	case watches:
		r.note(resource, "the watch goes on")
		resp.Body = &sniffed{ReadCloser: resp.Body, note: func(outcome string) { r.note(resource, outcome) }}
	}
	return resp, err
}

// sniffed looks how a watch ends.
type sniffed struct {
	io.ReadCloser
	note func(string)
	told bool // an error was seen in it: how it ends after that says nothing
	some bool // something was read
}

// Read implements io.Reader.
func (s *sniffed) Read(p []byte) (int, error) {
	n, err := s.ReadCloser.Read(p)
	s.some = s.some || n > 0
	switch {
	case s.told:
	case bytes.Contains(p[:n], []byte("Expired")): // the reason; no object has the word
		s.told = true
		s.note(expired)
	case bytes.Contains(p[:n], []byte(`"Status"`)) || bytes.Contains(p[:n], []byte("\x06Status")):
		s.told = true
		s.note(fmt.Sprintf("an error in the stream: %.300q", p[:n]))
	case errors.Is(err, io.EOF) && !s.some:
		s.note(endedEmpty)
	case errors.Is(err, io.EOF):
		s.note(ended)
	case err != nil:
		s.note("the stream broke: " + err.Error())
	}
	return n, err
}
