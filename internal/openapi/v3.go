// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package openapi

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/munnerz/goautoneg"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/endpoints/metrics"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/util/responsewriter"
	"k8s.io/klog/v2"
	"k8s.io/kube-openapi/pkg/handler3"
)

// groupVersion is the document of one version of one group.
type groupVersion struct {
	path, version string
	// members are the definitions that are in the document, oldest first.
	members []*definition

	mu sync.Mutex
	// made is the document, nil until somebody has asked for it.
	made *document
}

// name names the document before it is made. It changes whenever the document does.
func (g *groupVersion) name() string {
	hash := sha256.New()
	for _, d := range g.members {
		fmt.Fprintln(hash, d.uid, d.generation)
	}
	return fmt.Sprintf("%x", hash.Sum(nil))
}

// document returns the document, which it makes for the first who asks.
func (g *groupVersion) document() (*document, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.made != nil {
		return g.made, nil
	}
	text, err := g.build()
	if err != nil {
		return nil, err
	}
	g.made, err = newDocument(handler3.ToV3ProtoBinary, func(w io.Writer) error {
		_, err := w.Write(text)
		return err
	})
	return g.made, err
}

func (g *groupVersion) build() ([]byte, error) {
	if len(g.members) == 1 {
		return g.members[0].buildV3(g.version)
	}
	var merged *mergedV3
	var failed error
	for _, d := range g.members {
		text, err := d.partV3(g.version)
		var part *mergedV3
		if err == nil {
			part, err = readV3(text)
		}
		if err != nil {
			// As with upstream, the others are in the document.
			failed = fmt.Errorf("cannot make OpenAPI v3 of version %s of the definition %s: %w", g.version, d.name, err)
			klog.ErrorS(failed, "Leaving a definition out of OpenAPI v3", "definition", d.name, "groupVersion", g.path)
			continue
		}
		if merged == nil {
			merged = part
			continue
		}
		if err := merged.add(part); err != nil {
			// As with upstream, the document is what it was before the definition that is in conflict.
			klog.ErrorS(err, "Leaving a definition out of OpenAPI v3", "definition", d.name, "groupVersion", g.path)
		}
	}
	if merged == nil {
		return nil, failed
	}
	return merged.text(), nil
}

// mergedV3 is a document in its members. What they are is checked when it is read.
type mergedV3 struct{ top, paths, schemas []member }

func readV3(text []byte) (*mergedV3, error) {
	top, err := split(text)
	if err != nil {
		return nil, err
	}
	if names := keys(top); !slices.Equal(names, []string{"openapi", "info", "paths", "components"}) {
		return nil, fmt.Errorf("it has the members %q", names)
	}
	components, err := split(top[3].value)
	if err != nil {
		return nil, err
	}
	if names := keys(components); !slices.Equal(names, []string{"schemas"}) {
		return nil, fmt.Errorf("its components are %q", names)
	}
	m := &mergedV3{top: top}
	if m.paths, err = split(top[2].value); err != nil {
		return nil, err
	}
	m.schemas, err = split(components[0].value)
	return m, err
}

func keys(members []member) []string {
	names := make([]string, len(members))
	for i, m := range members {
		names[i] = m.key
	}
	return names
}

// add merges another document into m, by the rules of builder.MergeSpecsV3. If there is a conflict, m is as before.
func (m *mergedV3) add(o *mergedV3) error {
	schemas := make(map[string]bool, len(m.schemas))
	for _, s := range m.schemas {
		schemas[s.key] = true
	}
	merged := slices.Clone(m.schemas)
	for _, s := range o.schemas {
		switch {
		case !schemas[s.key]:
			merged = append(merged, s)
		case !strings.HasPrefix(s.key, "io.k8s.apimachinery.pkg.apis.meta.v1") && !strings.HasPrefix(s.key, "io.k8s.api.autoscaling.v1"):
			return fmt.Errorf("the schema %s is that of another definition", s.key)
		}
	}
	slices.SortFunc(merged, byKey)
	m.schemas = merged
	m.paths = slices.DeleteFunc(m.paths, func(p member) bool { return find(o.paths, p.key) != nil })
	m.paths = append(m.paths, o.paths...)
	slices.SortFunc(m.paths, byKey)
	return nil
}

func (m *mergedV3) text() []byte {
	return object([]member{m.top[0], m.top[1], {"paths", object(m.paths)}, {"components", object([]member{{"schemas", object(m.schemas)}})}})
}

// serves tells whether the document at this path is the service's. What upstream serves comes first: it is what
// upstream's aggregator said when /openapi/v3 was asked for last, which clients do before.
func (s *Service) serves(path string, r *http.Request, next http.Handler) bool {
	now, err := s.refresh()
	if err != nil {
		return false
	}
	if _, ok := now.groupVersions[path]; !ok {
		return false
	}
	others := s.others.Load()
	if others == nil {
		if others, err = s.discovery(r, next); err != nil {
			return true
		}
	}
	_, taken := others.Paths[path]
	return !taken
}

// discovery asks upstream's aggregator for /openapi/v3.
func (s *Service) discovery(r *http.Request, next http.Handler) (*handler3.OpenAPIV3Discovery, error) {
	answer := ask(r, next, "/openapi/v3", nil)
	if answer.RespCode() != http.StatusOK {
		return nil, fmt.Errorf("status %d", answer.RespCode())
	}
	root := &handler3.OpenAPIV3Discovery{}
	if err := json.Unmarshal(answer.Data(), root); err != nil {
		return nil, err
	}
	s.others.Store(root)
	return root, nil
}

// recorded is an answer in memory.
type recorded interface {
	http.ResponseWriter
	RespCode() int
	Data() []byte
}

// ask puts a request of the service's own to next, in the name of whoever has sent r.
func ask(r *http.Request, next http.Handler, path string, header http.Header) recorded {
	own := r.Clone(r.Context())
	own.Method, own.Body, own.ContentLength = http.MethodGet, http.NoBody, 0
	own.URL = &url.URL{Path: path}
	own.RequestURI = path
	own.Header = header
	if header == nil {
		own.Header = http.Header{}
	}
	answer := responsewriter.NewInMemoryResponseWriter()
	next.ServeHTTP(answer, own)
	return answer
}

// serveDiscovery serves /openapi/v3. It has a hash of each document, which has to be made for it; but not for the server's
// own client, which asks every 5 s whether documents have changed (package
// k8s.io/apiserver/pkg/admission/plugin/policy/mutating/patch): to it they go by other names that change with them.
func (s *Service) serveDiscovery(w http.ResponseWriter, r *http.Request, next http.Handler) {
	now, err := s.refresh()
	if err != nil {
		next.ServeHTTP(w, r)
		return
	}
	others, err := s.discovery(r, next)
	if err != nil {
		next.ServeHTTP(w, r) // it is upstream's to say what is wrong
		return
	}
	asker, _ := request.UserFrom(r.Context())
	own := asker != nil && asker.GetName() == user.APIServerUser
	root := handler3.OpenAPIV3Discovery{Paths: map[string]handler3.OpenAPIV3DiscoveryGroupVersion{}}
	maps.Copy(root.Paths, others.Paths)
	var missing []*groupVersion
	for path, gv := range now.groupVersions {
		if _, taken := root.Paths[path]; !taken {
			missing = append(missing, gv)
		}
	}
	hashes := make([]string, len(missing))
	if own {
		for i, gv := range missing {
			hashes[i] = gv.name()
		}
	} else {
		parallel(len(missing), func(i int) {
			d, err := missing[i].document()
			if err != nil {
				klog.ErrorS(err, "Leaving a document out of /openapi/v3", "groupVersion", missing[i].path)
				return
			}
			hashes[i] = d.etag
		})
	}
	for i, gv := range missing {
		if hashes[i] != "" {
			root.Paths[gv.path] = handler3.OpenAPIV3DiscoveryGroupVersion{ServerRelativeURL: relativeURL(gv.path, hashes[i])}
		}
	}
	text, err := json.Marshal(&root)
	if err != nil {
		klog.ErrorS(err, "Cannot write /openapi/v3")
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	http.ServeContent(w, r, "/openapi/v3", time.Now(), bytes.NewReader(text))
}

// relativeURL is where a document is found that may be cached for ever.
func relativeURL(groupVersion, etag string) string {
	u := url.URL{Path: path.Join("/openapi/v3", groupVersion), RawQuery: url.Values{"hash": {etag}}.Encode()}
	return u.String()
}

// instrumented counts requests as upstream counts those for the same path.
func instrumented(subresource string, h http.Handler) http.Handler {
	return metrics.InstrumentHandlerFunc("GET", "", "", "", strings.TrimPrefix(subresource, "/"), "", "", false, "", h.ServeHTTP)
}

// serveGroupVersion serves /openapi/v3/apis/GROUP/VERSION, as handler3.OpenAPIService does.
func (s *Service) serveGroupVersion(w http.ResponseWriter, r *http.Request) {
	w.Header().Add("Vary", "Accept")
	contentType, protobuf, acceptable := negotiate(r, "v3")
	if !acceptable {
		w.WriteHeader(http.StatusNotAcceptable)
		return
	}
	now, err := s.refresh()
	if err != nil {
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	gv, ok := now.groupVersions[strings.TrimPrefix(r.URL.Path, "/openapi/v3/")]
	if !ok {
		w.WriteHeader(http.StatusNotFound) // deleted since serves was asked
		return
	}
	d, err := gv.document()
	var text packed
	if err == nil {
		text, err = d.form(protobuf)
	}
	var data []byte
	if err == nil {
		data, err = text.unpack()
	}
	if err != nil {
		klog.ErrorS(err, "Cannot serve OpenAPI v3", "groupVersion", gv.path)
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Etag", `"`+d.etag+`"`)
	if hash := r.URL.Query().Get("hash"); hash != "" {
		if hash != d.etag && hash != gv.name() {
			http.Redirect(w, r, relativeURL(gv.path, d.etag), http.StatusMovedPermanently)
			return
		}
		w.Header().Set("Vary", "Accept")
		w.Header().Set("Cache-Control", "public, immutable")
		w.Header().Set("Expires", time.Now().AddDate(1, 0, 0).Format(time.RFC1123))
	}
	http.ServeContent(w, r, "", d.modified, bytes.NewReader(data))
}

// negotiate returns the media type of the answer, as upstream's handlers choose it. version is "v2" or "v3".
func negotiate(r *http.Request, version string) (contentType string, protobuf, acceptable bool) {
	accept := r.Header.Get("Accept")
	if accept == "" {
		accept = "*/*"
	}
	proto := "com.github.proto-openapi.spec." + version + ".v1.0+protobuf"
	deprecated := "com.github.proto-openapi.spec." + version + "@v1.0+protobuf"
	for _, clause := range goautoneg.ParseAccept(accept) {
		if clause.Type != "application" && clause.Type != "*" {
			continue
		}
		switch clause.SubType {
		case "json", "*":
			return "application/json", false, true
		case proto, deprecated:
			return "application/" + proto, true, true
		}
	}
	return "", false, false
}
