// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package openapi

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/klog/v2"
	"k8s.io/kube-openapi/pkg/handler"
	"k8s.io/kube-openapi/pkg/handler3"
	"k8s.io/kube-openapi/pkg/validation/spec"
)

// Service serves the documents of one server. Its methods may be called by any number of goroutines.
type Service struct {
	source Source
	// attached is set when upstream's own service is known, and before requests are served.
	attached atomic.Pointer[upstream]

	mu  sync.Mutex
	set *set

	// others is what upstream's aggregator serves under /openapi/v3, as of the last time that it was asked.
	others atomic.Pointer[handler3.OpenAPIV3Discovery]

	v2 v2
}

// upstream is what remains of the server of custom resources: it serves the documents of its built-in types.
type upstream struct {
	service *handler.OpenAPIService
	static  *spec.Swagger
}

// New returns a service that leaves everything to upstream until it is attached.
func New(source Source) *Service { return &Service{source: source} }

// Attach puts the service in the place of upstream's two controllers, which the server of custom resources starts if it
// has a StaticOpenAPISpec when it begins to run. The server must have been prepared, and not run. If the
// server has no OpenAPI, nothing happens, and false is returned.
func (s *Service) Attach(server *genericapiserver.GenericAPIServer) bool {
	if server.StaticOpenAPISpec == nil || server.OpenAPIVersionedService == nil || server.OpenAPIV3VersionedService == nil {
		return false
	}
	s.attached.Store(&upstream{service: server.OpenAPIVersionedService, static: server.StaticOpenAPISpec})
	server.StaticOpenAPISpec = nil
	return true
}

// forget is how long documents of what is gone may be kept.
const forget = time.Minute

// Run lets go of the documents of definitions that are gone or have changed, until ctx ends.
func (s *Service) Run(ctx context.Context) {
	tick := time.NewTicker(forget)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			s.sweep()
		}
	}
}

// sweep lets go of what is no longer true. Where nobody has asked for anything, there is nothing to do.
func (s *Service) sweep() {
	s.mu.Lock()
	idle := s.set == nil
	s.mu.Unlock()
	if idle {
		return
	}
	now, err := s.refresh()
	if err != nil {
		return // what is served is what is known
	}
	s.v2.sweep(now)
}

// set is what is served at one moment. It is immutable, but for what is made of the definitions in it.
type set struct {
	// known has every definition by name.
	known map[string]known
	// served are those that have documents, oldest first.
	served []*definition
	// groupVersions by their path in /openapi/v3, "apis/GROUP/VERSION".
	groupVersions map[string]*groupVersion
}

// known is a definition as of a revision.
type known struct {
	revision uint64
	*definition
}

// refresh returns the set of now. If that is not known, it is the set of before.
func (s *Service) refresh() (*set, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	objects, err := s.source.Definitions()
	if err != nil {
		if s.set != nil {
			return s.set, nil
		}
		return nil, fmt.Errorf("cannot read the definitions of custom resources: %w", err)
	}
	if s.set != nil && s.set.has(objects) {
		return s.set, nil
	}
	next := &set{known: make(map[string]known, len(objects)), groupVersions: map[string]*groupVersion{}}
	for _, o := range objects {
		var before known
		if s.set != nil {
			before = s.set.known[o.Name()]
		}
		d, err := before.at(o)
		if err != nil {
			klog.ErrorS(err, "Leaving a definition out of OpenAPI")
			continue
		}
		next.known[o.Name()] = known{o.Revision(), d}
		if d.established && len(d.served) != 0 {
			next.served = append(next.served, d)
		}
	}
	slices.SortFunc(next.served, func(a, b *definition) int {
		return cmp.Or(a.created.Compare(b.created), strings.Compare(a.name, b.name))
	})
	next.group(s.set)
	s.set = next
	return next, nil
}

// has tells whether the set is of exactly these objects.
func (s *set) has(objects []Definition) bool {
	if len(objects) != len(s.known) {
		return false
	}
	for _, o := range objects {
		if k, ok := s.known[o.Name()]; !ok || k.revision != o.Revision() {
			return false
		}
	}
	return true
}

// at returns the definition as of the object, which is the known one if nothing has changed that documents are made of.
func (k known) at(o Definition) (*definition, error) {
	if k.definition != nil && k.revision == o.Revision() {
		return k.definition, nil
	}
	crd, err := o.Outline()
	if err != nil {
		return nil, fmt.Errorf("cannot decode the definition %s: %w", o.Name(), err)
	}
	now := aboutOf(crd)
	d := k.definition
	if d == nil || !d.same(now) {
		d = &definition{about: now}
	}
	d.object.Store(&o)
	return d, nil
}

// group fills in groupVersions, with those of before that have the same members.
func (s *set) group(before *set) {
	for _, d := range s.served {
		for _, version := range d.served {
			path := "apis/" + d.group + "/" + version
			gv := s.groupVersions[path]
			if gv == nil {
				gv = &groupVersion{path: path, version: version}
				s.groupVersions[path] = gv
			}
			gv.members = append(gv.members, d)
		}
	}
	if before == nil {
		return
	}
	for path, gv := range s.groupVersions {
		if old, ok := before.groupVersions[path]; ok && slices.Equal(old.members, gv.members) {
			s.groupVersions[path] = old
		}
	}
}

// Handler returns next with the documents of custom resources in those that next serves under /openapi. It has to stand
// where requests have been authorized.
func (s *Service) Handler(next http.Handler) http.Handler {
	const v3 = "/openapi/v3"
	groupVersions := instrumented(v3+"/", http.HandlerFunc(s.serveGroupVersion))
	v2 := gzipped(func(w http.ResponseWriter, r *http.Request) { s.serveV2(w, r, next) })
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		path := r.URL.Path
		if !strings.HasPrefix(path, "/openapi/") || s.attached.Load() == nil {
			next.ServeHTTP(w, r)
			return
		}
		switch {
		case path == "/openapi/v2":
			v2.ServeHTTP(w, r)
		case path == v3:
			s.serveDiscovery(w, r, next)
		case strings.HasPrefix(path, v3+"/") && s.serves(strings.TrimPrefix(path, v3+"/"), r, next):
			groupVersions.ServeHTTP(w, r)
		default:
			next.ServeHTTP(w, r)
		}
	})
}

// parallel calls make for 0 to n-1, on half of the processors: documents are made for one client, and others wait, too. It goes
// on when the client has left, so that the next one finds them.
func parallel(n int, make func(i int)) {
	workqueue.ParallelizeUntil(context.Background(), max(1, runtime.GOMAXPROCS(0)/2), n, make)
}
