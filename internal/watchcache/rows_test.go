// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package watchcache

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/apis/example"
	examplev1 "k8s.io/apiserver/pkg/apis/example/v1"
	"k8s.io/apiserver/pkg/endpoints/handlers"
	endpointmetrics "k8s.io/apiserver/pkg/endpoints/metrics"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/component-base/metrics/legacyregistry"

	"github.com/weir-project/weir/internal/coalesce"
)

type podWatcher struct{ c *Cache }

func (w podWatcher) Watch(ctx context.Context, o *internalversion.ListOptions) (watch.Interface, error) {
	pred := storage.Everything
	pred.AllowWatchBookmarks = o.AllowWatchBookmarks
	return w.c.Watch(ctx, podPrefix, storage.ListOptions{ResourceVersion: o.ResourceVersion, SendInitialEvents: o.SendInitialEvents, Predicate: pred, Recursive: true})
}

// client is what one client has read so far.
type client struct {
	mu   sync.Mutex
	body bytes.Buffer
	done chan error
}

func (h *client) Write(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.body.Write(p)
}

func (h *client) has(s string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return bytes.Contains(h.body.Bytes(), []byte(s))
}

// TestCompressedIsPlain has upstream's handler serve watch lists compressed and not: they are
// the same bytes, and the same in the metrics, over the seam from initial to live events.
func TestCompressedIsPlain(t *testing.T) {
	endpointmetrics.Register()
	for seed := range uint64(3) {
		random := rand.New(rand.NewPCG(seed, 1))
		s := newSubject(t, withIndexes, func(_ *storeOptions, c *Config) {
			c.DefaultedOnRead = func(obj runtime.Object) bool { return obj.(*example.Pod).Labels["defaulted"] != "" }
		})
		any := func(i int) *example.Pod {
			p := pod(fmt.Sprintf("p%04d", i))
			size := random.IntN(1 << random.IntN(14))
			if random.IntN(50) == 0 {
				size = random.IntN(300_000)
			}
			content := strings.Repeat("content <", size/9+1)
			if random.IntN(3) == 0 {
				noise := make([]byte, size)
				for i := range noise {
					noise[i] = byte('!' + random.IntN(90))
				}
				content = string(noise)
			}
			p.Annotations = map[string]string{"content": content}
			if random.IntN(30) == 0 {
				p.Labels = map[string]string{"defaulted": "yes"}
			}
			return p
		}
		var last string
		for i := range 250 {
			last = s.put(t, any(i)).ResourceVersion
		}
		waitRevision(t, s.Cache, revision(t, last))

		var accepts = []string{"application/json", "application/vnd.kubernetes.protobuf", "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io",
			"application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;v=v1;g=meta.k8s.io", "application/json;as= Table;v=v1;g=meta.k8s.io", "application/json;as=Table;v=v1beta1;g=meta.k8s.io"}
		serve := func(w http.ResponseWriter, req *http.Request) {
			resource := req.Header.Get("Resource")
			scope := &handlers.RequestScope{
				Namer: handlers.ContextBasedNaming{Namer: runtime.Namer(meta.NewAccessor())}, Serializer: codecs, ParameterCodec: runtime.NewParameterCodec(scheme),
				Creater: scheme, Convertor: scheme, Defaulter: scheme, Typer: scheme, TableConvertor: rest.NewDefaultTableConvertor(podResource),
				Resource: examplev1.SchemeGroupVersion.WithResource(resource), Kind: examplev1.SchemeGroupVersion.WithKind("Pod"),
				MetaGroupVersion: metav1.SchemeGroupVersion, HubGroupVersion: example.SchemeGroupVersion,
			}
			info := &request.RequestInfo{IsResourceRequest: true, Verb: "watch", APIGroup: "example.apiserver.k8s.io", APIVersion: "v1", Resource: resource}
			api := handlers.ListResource(nil, podWatcher{s.Cache}, scope, true, time.Hour)
			coalesce.Handler(api, true).ServeHTTP(w, req.WithContext(request.WithRequestInfo(req.Context(), info)))
		}
		server := httptest.NewUnstartedServer(http.HandlerFunc(serve))
		server.EnableHTTP2 = seed != 1
		server.StartTLS()

		clients := map[string]*client{}
		const same = 3
		for a, accept := range accepts {
			for n := range same + 1 {
				encoding := "gzip"
				if n == same {
					encoding = "identity"
				}
				name := fmt.Sprintf("r%d-%d-%d", seed, a, n)
				req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL+"/?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true&resourceVersion=0", nil)
				if err != nil {
					t.Fatal(err)
				}
				req.Header.Set("Accept", accept)
				req.Header.Set("Accept-Encoding", encoding)
				req.Header.Set("Resource", name)
				h := &client{done: make(chan error, 1)}
				clients[name] = h
				go func() {
					res, err := server.Client().Do(req)
					if err != nil {
						h.done <- err
						return
					}
					defer res.Body.Close()
					var body io.Reader = res.Body
					if got := res.Header.Get("Content-Encoding"); (got == "gzip") != (encoding == "gzip") {
						h.done <- errors.New("encoded as " + got)
						return
					} else if got == "gzip" {
						z, err := gzip.NewReader(res.Body)
						if err != nil {
							h.done <- err
							return
						}
						z.Multistream(false)
						body = z
					}
					_, err = io.Copy(h, body)
					h.done <- err
				}()
			}
		}
		all := func(what, marker string) {
			for name, h := range clients {
				eventually(t, what+" at "+name, func() bool {
					select {
					case err := <-h.done:
						t.Fatalf("%s has ended: %v", name, err)
					default:
					}
					return h.has(marker)
				})
			}
		}
		all("the end of the initial events", "initial-events-end")
		for i := range 120 {
			if random.IntN(8) == 0 {
				s.remove(t, pod(fmt.Sprintf("p%04d", 249-i)))
			} else {
				s.put(t, any(random.IntN(100)))
			}
		}
		s.put(t, pod("the-last-of-all"))
		all("the last event", "the-last-of-all")
		s.setNotReady(errors.New("a test"))
		for name, h := range clients {
			if err := <-h.done; err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		counts, sizes := metricsOf(t)
		for a, accept := range accepts {
			plain := fmt.Sprintf("r%d-%d-%d", seed, a, same)
			for n := range same {
				name := fmt.Sprintf("r%d-%d-%d", seed, a, n)
				if !bytes.Equal(clients[name].body.Bytes(), clients[plain].body.Bytes()) {
					t.Errorf("seed %d, %s: %d bytes, and %d uncompressed", seed, accept, clients[name].body.Len(), clients[plain].body.Len())
				}
				if counts[name] != counts[plain] || sizes[name] != sizes[plain] || counts[name] == 0 {
					t.Errorf("seed %d, %s: %v events of %v in the metrics, and %v of %v uncompressed", seed, accept, counts[name], sizes[name], counts[plain], sizes[plain])
				}
			}
		}
		server.Close()
	}
}

// metricsOf returns events, and their number and bytes in the histogram, by resource.
func metricsOf(t *testing.T) (counts map[string]float64, sizes map[string]string) {
	t.Helper()
	counts, sizes = map[string]float64{}, map[string]string{}
	families, err := legacyregistry.DefaultGatherer.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				switch {
				case l.GetName() != "resource":
				case f.GetName() == "apiserver_watch_events_total":
					counts[l.GetValue()] += m.GetCounter().GetValue()
				case f.GetName() == "apiserver_watch_events_sizes":
					sizes[l.GetValue()] = fmt.Sprint(m.GetHistogram().GetSampleCount(), " ", m.GetHistogram().GetSampleSum())
				}
			}
		}
	}
	return counts, sizes
}
