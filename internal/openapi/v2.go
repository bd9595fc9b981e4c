// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package openapi

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"

	"github.com/NYTimes/gziphandler"
	"k8s.io/apiextensions-apiserver/pkg/controller/openapi/builder"
	"k8s.io/klog/v2"
	"k8s.io/kube-openapi/pkg/cached"
	"k8s.io/kube-openapi/pkg/handler"
	"k8s.io/kube-openapi/pkg/validation/spec"
)

// v2 is /openapi/v2.
type v2 struct {
	commons commons

	mu sync.Mutex
	// given is what upstream's service was given last beside its static document; see offer.
	given string
	// made is the document, nil until somebody has asked for it. It is made of the definitions of, and of upstream's
	// document with the ETag base.
	made *document
	of   []*definition
	base string
}

// sweep lets go of a document that has become wrong.
func (v *v2) sweep(now *set) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.made != nil && !slices.Equal(v.of, now.served) {
		v.made, v.of = nil, nil
	}
}

// serveV2 serves /openapi/v2, as handler.OpenAPIService does.
func (s *Service) serveV2(w http.ResponseWriter, r *http.Request, next http.Handler) {
	w.Header().Add("Vary", "Accept")
	contentType, protobuf, acceptable := negotiate(r, "v2")
	if !acceptable {
		w.WriteHeader(http.StatusNotAcceptable)
		return
	}
	d, err := s.documentV2(r, next)
	var text packed
	if err == nil {
		text, err = d.form(protobuf)
	}
	if err != nil {
		klog.ErrorS(err, "Cannot serve OpenAPI v2")
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	content := text.compressed
	if compresses(w) && r.Header.Get("Range") == "" {
		w.Header().Set("Content-Encoding", "gzip")
	} else if content, err = text.unpack(); err != nil {
		klog.ErrorS(err, "Cannot serve OpenAPI v2")
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Etag", `"`+d.etag+`"`)
	http.ServeContent(w, r, "/openapi/v2", d.modified, bytes.NewReader(content))
}

// gzipped returns the handler that upstream puts round that of /openapi/v2.
func gzipped(h http.HandlerFunc) http.Handler { return gziphandler.GzipHandler(h) }

// compresses tells whether gzipped has found that the client accepts gzip. What has a Content-Encoding already is then
// sent as it is.
func compresses(w http.ResponseWriter) bool {
	switch w.(type) {
	case *gziphandler.GzipResponseWriter, gziphandler.GzipResponseWriterWithCloseNotify:
		return true
	}
	return false
}

// documentV2 returns the document of now. If it cannot be made, it is the last one, as with upstream.
func (s *Service) documentV2(r *http.Request, next http.Handler) (*document, error) {
	now, err := s.refresh()
	if err != nil {
		return nil, err
	}
	s.v2.mu.Lock()
	defer s.v2.mu.Unlock()
	d, err := s.v2.document(now.served, *s.attached.Load(), func(etag string) recorded {
		header := http.Header{"Accept": {"application/json"}}
		if etag != "" {
			header.Set("If-None-Match", etag)
		}
		return ask(r, next, "/openapi/v2", header)
	})
	if err != nil && s.v2.made != nil {
		klog.ErrorS(err, "Serving an older OpenAPI v2")
		return s.v2.made, nil
	}
	return d, err
}

// document makes the document if it is not there. v.mu is held.
func (v *v2) document(served []*definition, up upstream, aggregator func(etag string) recorded) (*document, error) {
	parts := make(map[*definition]*partV2, len(served))
	odd := map[*definition]bool{}
	if v.made != nil && slices.Equal(v.of, served) {
		// Nothing has changed here; something may have in the documents of others.
		if answer := aggregator(v.base); answer.RespCode() == http.StatusNotModified {
			return v.made, nil
		}
	}
	built := make([]*partV2, len(served))
	parallel(len(served), func(i int) {
		part, err := served[i].partV2(&v.commons)
		if err != nil {
			klog.ErrorS(err, "Leaving a definition out of OpenAPI v2") // as upstream
		}
		built[i] = part
	})
	for i, d := range served {
		parts[d] = built[i]
		if built[i] != nil && built[i].odd {
			odd[d] = true
		}
	}
	// Each round finds definitions that are odd, or is the last one.
	for {
		v.offer(served, parts, odd, up)
		answer := aggregator("")
		if answer.RespCode() != http.StatusOK {
			return nil, fmt.Errorf("upstream's OpenAPI v2 has status %d", answer.RespCode())
		}
		write := func(w io.Writer) error {
			_, err := w.Write(answer.Data())
			return err
		}
		more := false
		if base, err := readV2(answer.Data()); err == nil {
			write = base.write
			if more, err = base.add(served, parts, odd); err != nil {
				return nil, err
			}
		} else if more = leave(served, parts, odd); more {
			klog.ErrorS(err, "Leaving all of OpenAPI v2 to upstream")
		}
		if more {
			continue
		}
		made, err := newDocument(handler.ToProtoBinary, write)
		if err != nil {
			return nil, err
		}
		v.made, v.of, v.base = made, served, answer.Header().Get("Etag")
		return made, nil
	}
}

// leave has all definitions be odd: upstream's document is not made of plain text, since an aggregated server names its types as it likes.
// It returns false if they were already.
func leave(served []*definition, parts map[*definition]*partV2, odd map[*definition]bool) (more bool) {
	for _, d := range served {
		if parts[d] != nil && !odd[d] {
			odd[d], more = true, true
		}
	}
	return more
}

// offer has upstream's service serve, beside its own types, what definitions have in common and all of those that are odd.
// Its merge, and that of the aggregator after it, decide what of it becomes part of the document, and under which names.
func (v *v2) offer(served []*definition, parts map[*definition]*partV2, odd map[*definition]bool, up upstream) {
	seen := map[*common]bool{}
	var names []string
	var all []cached.Value[*spec.Swagger]
	for _, d := range served {
		part := parts[d]
		switch {
		case part == nil:
		case odd[d]:
			names = append(names, fmt.Sprintf("%s %d", d.uid, d.generation))
			all = append(all, cached.Once(cached.Func(func() (*spec.Swagger, string, error) {
				built, err := d.buildV2()
				return built, "", err
			})))
		case !seen[part.common]:
			seen[part.common] = true
			names = append(names, fmt.Sprintf("%x", part.common.hash))
			all = append(all, cached.Static(part.common.Swagger, ""))
		}
	}
	slices.Sort(names)
	given := strings.Join(names, ",")
	if given == v.given {
		return
	}
	v.given = given
	up.service.UpdateSpecLazy(cached.Once(cached.Func(func() (*spec.Swagger, string, error) {
		var specs []*spec.Swagger
		for _, one := range all {
			if built, _, err := one.Get(); err == nil {
				specs = append(specs, built)
			}
		}
		merged, err := builder.MergeSpecs(up.static, specs...)
		return merged, given, err
	})))
}

// documentV2 is a document in its members, with more of them to come.
type mergedV2 struct {
	top []member
	// paths and definitions by name.
	paths, definitions map[string][]byte
}

func readV2(text []byte) (*mergedV2, error) {
	var err error
	m := &mergedV2{}
	if m.top, err = split(text); err != nil {
		return nil, fmt.Errorf("cannot read upstream's OpenAPI v2: %w", err)
	}
	for name, into := range map[string]*map[string][]byte{"paths": &m.paths, "definitions": &m.definitions} {
		members, err := split(find(m.top, name))
		if err == nil && !sorted(members) {
			err = errors.New("it is not sorted")
		}
		if err != nil {
			return nil, fmt.Errorf("cannot read %s of upstream's OpenAPI v2: %w", name, err)
		}
		*into = make(map[string][]byte, len(members))
		for _, one := range members {
			(*into)[one.key] = one.value
		}
	}
	delete(m.paths, commonPath)
	return m, nil
}

// add adds the parts of all definitions that are not odd. It returns true, and adds nothing, if some of them have names that
// are taken: then these are odd as well.
func (m *mergedV2) add(served []*definition, parts map[*definition]*partV2, odd map[*definition]bool) (more bool, err error) {
	paths, definitions := maps.Clone(m.paths), maps.Clone(m.definitions)
	for _, d := range served {
		if parts[d] == nil || odd[d] {
			continue
		}
		text, err := parts[d].own.unpack()
		if err != nil {
			return false, err
		}
		top, err := split(text)
		if err != nil {
			return false, err
		}
		taken := false
		for name, into := range map[string]map[string][]byte{"paths": paths, "definitions": definitions} {
			members, err := split(find(top, name))
			if err != nil {
				return false, err
			}
			for _, one := range members {
				if _, found := into[one.key]; found {
					taken = true
				}
				into[one.key] = one.value
			}
		}
		if taken {
			odd[d], more = true, true
		}
	}
	if !more {
		m.paths, m.definitions = paths, definitions
	}
	return more, nil
}

// write writes the document.
func (m *mergedV2) write(w io.Writer) error {
	separator := "{"
	for _, one := range m.top {
		if _, err := io.WriteString(w, separator+`"`+one.key+`":`); err != nil {
			return err
		}
		separator = ","
		var err error
		switch one.key {
		case "paths":
			err = writeSorted(w, m.paths)
		case "definitions":
			err = writeSorted(w, m.definitions)
		default:
			_, err = w.Write(one.value)
		}
		if err != nil {
			return err
		}
	}
	_, err := io.WriteString(w, "}")
	return err
}

func writeSorted(w io.Writer, values map[string][]byte) error {
	members := make([]member, 0, len(values))
	for _, key := range slices.Sorted(maps.Keys(values)) {
		members = append(members, member{key, values[key]})
	}
	return writeObject(w, members)
}
