// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package openapi

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/endpoints/request"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/apiserver/pkg/server/mux"
	"k8s.io/kube-openapi/pkg/handler"
	"k8s.io/kube-openapi/pkg/handler3"
	"k8s.io/kube-openapi/pkg/validation/spec"
)

// What is held against upstream's answers is in test/definitions. Here is what cannot be seen from outside: what is made
// when, and what is let go of.

// store is a Source. It counts what is decoded.
type store struct {
	mu       sync.Mutex
	revision uint64
	all      map[string]stored
	decoded  int
	err      error
}

type stored struct {
	store    *store
	revision uint64
	crd      *apiextensionsv1.CustomResourceDefinition
}

func (s stored) Name() string                                                { return s.crd.Name }
func (s stored) Revision() uint64                                            { return s.revision }
func (s stored) Outline() (*apiextensionsv1.CustomResourceDefinition, error) { return s.Decode() }

func (s stored) Decode() (*apiextensionsv1.CustomResourceDefinition, error) {
	s.store.mu.Lock()
	defer s.store.mu.Unlock()
	s.store.decoded++
	return s.crd.DeepCopy(), nil
}

func (s *store) Definitions() ([]Definition, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []Definition
	for _, one := range s.all {
		all = append(all, one)
	}
	return all, s.err
}

func (s *store) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = err
}

// put writes a definition. generation is that of its spec.
func (s *store) put(group, kind string, generation int64, versions ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.revision++
	crd := &apiextensionsv1.CustomResourceDefinition{
		ObjectMeta: metav1.ObjectMeta{Name: strings.ToLower(kind) + "s." + group, UID: types.UID(kind + group), Generation: generation},
		Spec: apiextensionsv1.CustomResourceDefinitionSpec{
			Group: group, Scope: apiextensionsv1.NamespaceScoped,
			Names: apiextensionsv1.CustomResourceDefinitionNames{Plural: strings.ToLower(kind) + "s", Kind: kind, ListKind: kind + "List"},
		},
		Status: apiextensionsv1.CustomResourceDefinitionStatus{Conditions: []apiextensionsv1.CustomResourceDefinitionCondition{
			{Type: apiextensionsv1.Established, Status: apiextensionsv1.ConditionTrue},
		}},
	}
	for _, v := range versions {
		crd.Spec.Versions = append(crd.Spec.Versions, apiextensionsv1.CustomResourceDefinitionVersion{
			Name: v, Served: true, Schema: &apiextensionsv1.CustomResourceValidation{OpenAPIV3Schema: &apiextensionsv1.JSONSchemaProps{
				Type: "object", Description: fmt.Sprintf("%s %s, generation %d.", kind, v, generation),
			}},
		})
	}
	s.all[crd.Name] = stored{s, s.revision, crd}
}

func (s *store) remove(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.all, name)
}

func (s *store) decodings() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.decoded
}

// world is a service before what remains of upstream.
type world struct {
	*store
	service *Service
	handler http.Handler
	server  *genericapiserver.GenericAPIServer
}

func newWorld() *world {
	upstream := mux.NewPathRecorderMux("upstream")
	static := &spec.Swagger{SwaggerProps: spec.SwaggerProps{
		Swagger: "2.0", Info: &spec.Info{InfoProps: spec.InfoProps{Title: "built-in"}},
		Paths:       &spec.Paths{Paths: map[string]spec.PathItem{"/version/": {}}},
		Definitions: spec.Definitions{"built-in": spec.Schema{}},
	}}
	w := &world{store: &store{all: map[string]stored{}}, server: &genericapiserver.GenericAPIServer{
		StaticOpenAPISpec: static, OpenAPIVersionedService: handler.NewOpenAPIService(static), OpenAPIV3VersionedService: handler3.NewOpenAPIService(),
	}}
	w.server.OpenAPIVersionedService.RegisterOpenAPIVersionedService("/openapi/v2", upstream)
	_ = w.server.OpenAPIV3VersionedService.RegisterOpenAPIV3VersionedService("/openapi/v3", upstream)
	w.service = New(w.store)
	w.handler = w.service.Handler(upstream)
	w.service.Attach(w.server)
	return w
}

func (w *world) get(path, as string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(http.MethodGet, path, nil)
	answer := httptest.NewRecorder()
	w.handler.ServeHTTP(answer, r.WithContext(request.WithUser(r.Context(), &user.DefaultInfo{Name: as})))
	return answer
}

func (w *world) paths(t *testing.T, as string) map[string]handler3.OpenAPIV3DiscoveryGroupVersion {
	t.Helper()
	answer := w.get("/openapi/v3", as)
	root := handler3.OpenAPIV3Discovery{}
	if err := json.Unmarshal(answer.Body.Bytes(), &root); err != nil {
		t.Fatalf("%d: %v", answer.Code, err)
	}
	return root.Paths
}

func TestUpstreamsControllersDoNotRun(t *testing.T) {
	if w := newWorld(); w.server.StaticOpenAPISpec != nil {
		t.Error("they would be started")
	}
}

func TestWithoutOpenAPINothingIsServed(t *testing.T) {
	w := newWorld()
	w.service = New(w.store)
	w.handler = w.service.Handler(http.NotFoundHandler())
	w.service.Attach(&genericapiserver.GenericAPIServer{})
	w.put("example.com", "One", 1, "v1")
	for _, path := range []string{"/openapi/v2", "/openapi/v3", "/openapi/v3/apis/example.com/v1"} {
		if answer := w.get(path, "somebody"); answer.Code != http.StatusNotFound {
			t.Errorf("%s: %d", path, answer.Code)
		}
	}
}

// The server's own client asks every few seconds, and makes no documents by it.
func TestTheServersOwnPollMakesNoDocuments(t *testing.T) {
	w := newWorld()
	w.put("example.com", "One", 1, "v1")
	url := w.paths(t, user.APIServerUser)["apis/example.com/v1"].ServerRelativeURL
	if gv := w.service.set.groupVersions["apis/example.com/v1"]; gv.made != nil {
		t.Error("a document was made")
	}
	if answer := w.get(url, user.APIServerUser); answer.Code != http.StatusOK || answer.Header().Get("Cache-Control") == "" {
		t.Errorf("%s: %d %v", url, answer.Code, answer.Header())
	}
	w.put("example.com", "One", 2, "v1")
	if again := w.paths(t, user.APIServerUser)["apis/example.com/v1"].ServerRelativeURL; again == url {
		t.Error("it does not learn that the document has changed")
	}
}

func TestDocumentsAreMadeOnce(t *testing.T) {
	w := newWorld()
	w.put("example.com", "One", 1, "v1", "v2")
	w.put("example.com", "Two", 1, "v1")
	ask := func() {
		t.Helper()
		w.paths(t, "somebody")
		for _, path := range []string{"/openapi/v2", "/openapi/v3/apis/example.com/v1", "/openapi/v3/apis/example.com/v2"} {
			if answer := w.get(path, "somebody"); answer.Code != http.StatusOK {
				t.Fatalf("%s: %d", path, answer.Code)
			}
		}
	}
	ask()
	before := w.decodings()
	ask()
	if after := w.decodings(); after != before {
		t.Errorf("what has not changed was decoded %d times more", after-before)
	}
	w.put("example.com", "Two", 1, "v1")
	ask()
	if after := w.decodings(); after != before+1 {
		t.Errorf("a change beside the spec cost %d decodings", after-before)
	}
}

func TestWhatIsGoneIsLetGoOf(t *testing.T) {
	w := newWorld()
	w.put("example.com", "One", 1, "v1")
	w.paths(t, "somebody")
	w.get("/openapi/v2", "somebody")
	w.remove("ones.example.com")
	w.service.sweep()
	if s := w.service.set; len(s.known)+len(s.served)+len(s.groupVersions) != 0 {
		t.Errorf("the set has %d definitions, %d of them served, in %d group versions", len(s.known), len(s.served), len(s.groupVersions))
	}
	if v := &w.service.v2; v.made != nil || v.of != nil {
		t.Error("the document of /openapi/v2 is kept")
	}
}

func TestWhatIsKnownIsServedWhenNothingCanBeRead(t *testing.T) {
	w := newWorld()
	w.put("example.com", "One", 1, "v1")
	w.get("/openapi/v2", "somebody")
	w.fail(errors.New("not now"))
	for _, path := range []string{"/openapi/v2", "/openapi/v3/apis/example.com/v1"} {
		if answer := w.get(path, "somebody"); answer.Code != http.StatusOK || !strings.Contains(answer.Body.String(), "One v1, generation 1.") {
			t.Errorf("%s: %d", path, answer.Code)
		}
	}
	if _, served := w.paths(t, "somebody")["apis/example.com/v1"]; !served {
		t.Error("it is not in /openapi/v3")
	}
}

// Two definitions in conflict: the older one has the name, in upstream's merge and in ours.
func TestNamesInConflict(t *testing.T) {
	w := newWorld()
	w.put("example.com", "One", 1, "v1")
	crd := w.all["ones.example.com"].crd.DeepCopy()
	crd.Name, crd.UID, crd.Spec.Names.Plural = "twos.example.com", "two", "twos"
	w.all[crd.Name] = stored{w.store, 99, crd}
	if answer := w.get("/openapi/v3/apis/example.com/v1", "somebody"); answer.Code != http.StatusOK ||
		!strings.Contains(answer.Body.String(), "/ones/") || strings.Contains(answer.Body.String(), "/twos/") {
		t.Errorf("v3: %d %s", answer.Code, answer.Body)
	}
	if answer := w.get("/openapi/v2", "somebody"); answer.Code != http.StatusOK || !strings.Contains(answer.Body.String(), "/twos/") {
		t.Errorf("v2: %d", answer.Code)
	}
}

// What an aggregated server calls its types is its own affair: upstream serves it.
func TestNamesThatAreNotPlain(t *testing.T) {
	w := newWorld()
	w.service.attached.Load().static.Definitions[`a"b\c`] = spec.Schema{}
	w.put("example.com", "One", 1, "v1")
	w.put("example.com", "Two", 1, "v1")
	answer := w.get("/openapi/v2", "somebody")
	if text := answer.Body.String(); answer.Code != http.StatusOK || !json.Valid(answer.Body.Bytes()) || strings.Contains(text, commonPath) ||
		!strings.Contains(text, `"a\"b\\c":`) || !strings.Contains(text, "/ones/") || !strings.Contains(text, "/twos/") {
		t.Errorf("%d %.500s", answer.Code, text)
	}
}

// Readers see one generation or another, and never half of one, while definitions change.
func TestConcurrentReaders(t *testing.T) {
	w := newWorld()
	const kinds, generations = 4, 20
	for k := range kinds {
		w.put("example.com", fmt.Sprintf("Kind%d", k), 1, "v1")
	}
	done := make(chan struct{})
	var readers sync.WaitGroup
	for _, path := range []string{"/openapi/v2", "/openapi/v3", "/openapi/v3/apis/example.com/v1", "/openapi/v3/apis/example.com/v2"} {
		readers.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				answer := w.get(path, "somebody")
				if answer.Code != http.StatusOK && !(answer.Code == http.StatusNotFound && strings.HasSuffix(path, "v2")) {
					t.Errorf("%s: %d", path, answer.Code)
					return
				}
				if answer.Code == http.StatusOK && answer.Body.Len() != 0 && !json.Valid(answer.Body.Bytes()) {
					t.Errorf("%s: no JSON", path)
					return
				}
			}
		})
	}
	for g := int64(2); g <= generations; g++ {
		w.put("example.com", "Kind0", g, "v1", "v2")
		w.remove("kind1s.example.com")
		w.service.sweep()
		w.put("example.com", "Kind1", g, "v1")
		w.get("/openapi/v2", "somebody")
	}
	close(done)
	readers.Wait()
	if text := w.get("/openapi/v2", "somebody").Body.String(); !strings.Contains(text, fmt.Sprintf("Kind0 v2, generation %d.", generations)) {
		t.Error("the last generation is not served")
	}
}
