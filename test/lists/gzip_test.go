// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package lists

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/weir-project/weir/test/servers"
)

// testGzip compares what clients get that take gzip: lists and watch lists of every resource.
func (p *pair) testGzip(t *testing.T) {
	padded := p.pad(t)
	t.Run("Lists", func(t *testing.T) { p.compressedLists(t, padded) })
	t.Run("Watches", func(t *testing.T) {
		for _, r := range p.resources {
			if object, ok := padded[r]; ok {
				t.Run(strings.ReplaceAll(strings.Trim(r.path(""), "/"), "/", "_"), func(t *testing.T) { p.compressedWatches(t, r, object) })
			}
		}
	})
	p.current = p.settle(t)
}

// padding is more than what is sent uncompressed.
const padding = 150 << 10

// pad makes lists larger than what is sent uncompressed. It returns, for each resource that has any,
// the path of an object, which is labelled app=web.
func (p *pair) pad(t *testing.T) map[resource]string {
	t.Helper()
	words := rand.New(rand.NewPCG(1, 2))
	var text strings.Builder
	for text.Len() < padding {
		fmt.Fprintf(&text, "condition-%d ", words.IntN(1000))
	}
	noise := make([]byte, padding)
	for i := range noise {
		noise[i] = byte(words.Uint32())
	}
	p.stock.In(t).Must(http.MethodPost, "/api/v1/namespaces/lists/secrets", map[string]any{
		"metadata": map[string]any{"name": "noise", "labels": map[string]any{"app": "web"}}, "data": map[string]any{"noise": base64.StdEncoding.EncodeToString(noise)}})

	padded := map[resource]string{}
	for _, r := range p.resources {
		if r.name == "componentstatuses" {
			continue // nothing is stored
		}
		var list struct {
			Items []struct {
				Metadata struct {
					Name, Namespace string
					Labels          map[string]string
				}
			}
		}
		get(t, p.stock, r.path(""), &list)
		chosen := ""
		for _, item := range list.Items {
			// One of ours, rather than one of the server's.
			if _, ours := item.Metadata.Labels["copy"]; chosen == "" || ours {
				if chosen = r.path(item.Metadata.Namespace) + "/" + url.PathEscape(item.Metadata.Name); ours {
					break
				}
			}
		}
		if chosen == "" {
			t.Logf("there is nothing in %s", r.path(""))
			continue
		}
		p.stock.In(t).Must(http.MethodPatch, chosen, map[string]any{"metadata": map[string]any{
			"labels": map[string]any{"app": "web"}, "annotations": map[string]any{"padding": text.String()}}})
		padded[r] = chosen
	}
	if len(padded) < 80 {
		t.Errorf("there are objects of %d resources only", len(padded))
	}
	p.current = p.settle(t)
	return padded
}

// compressedLists compares lists of every resource, once in every media type.
func (p *pair) compressedLists(t *testing.T, padded map[resource]string) {
	var all []combination
	for _, r := range p.resources {
		if _, ok := padded[r]; !ok {
			continue
		}
		for i, f := range []form{
			{accept: []string{"application/json"}},
			{accept: []string{"application/vnd.kubernetes.protobuf"}},
			{accept: []string{"application/json;as=PartialObjectMetadataList;v=v1" + meta}},
			{accept: []string{"application/vnd.kubernetes.protobuf;as=PartialObjectMetadataList;v=v1" + meta}},
			{accept: []string{"application/vnd.kubernetes.protobuf;as=PartialObjectMetadataList;v=v1beta1" + meta}},
			{accept: []string{"application/json;as=Table;v=v1" + meta}},
			{accept: []string{"application/json;as=Table;v=v1" + meta}, query: "includeObject=Object"},
			{accept: []string{"application/cbor"}},
			{accept: []string{"application/yaml"}},
			{accept: []string{"application/json"}, query: "pretty=true"},
			{accept: []string{"application/json"}, query: "resourceVersion=0"},
			{accept: []string{"application/json"}, query: "labelSelector=app%3Dweb"},
			{accept: []string{"application/vnd.kubernetes.protobuf"}, query: "labelSelector=app%3Dweb"},
			{accept: []string{"application/json"}, query: "limit=1"},
			{accept: []string{"application/vnd.kubernetes.protobuf"}, query: "limit=2"},
		} {
			f.gzip = true
			one := request(r.path(""), "", f)
			one.pages = strings.HasPrefix(f.query, "limit")
			one.HTTP1 = (i+len(all))%2 == 0
			all = append(all, one)
		}
	}
	p.compareAll(t, all, workers)
	for r := range padded {
		for _, accept := range plain[:2] {
			accept.gzip = true
			resp, err := p.weir.Answer(t.Context(), request(r.path(""), "", accept).Request)
			if err != nil || resp.Status == http.StatusOK && resp.Header.Get("Content-Encoding") != "gzip" { // there are none of custom resources in protobuf
				t.Errorf("%s in %s is not compressed: %v %v", r.path(""), accept.accept, resp.Header, err)
			}
		}
	}
}

// watchedForms are those of watches. The last two are not in the terms of watch lists, and yet are such.
var watchedForms = []struct{ accept, query string }{
	{"application/json", watchList},
	{"application/vnd.kubernetes.protobuf", watchList},
	{"application/json;as=PartialObjectMetadata;v=v1" + meta, watchList},
	{"application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;v=v1" + meta, watchList},
	{"application/json;as=Table;v=v1" + meta, watchList},
	{"application/json;as=Table;v=v1" + meta, watchList + "&includeObject=Object"},
	{"application/cbor", watchList},
	{"application/cbor-seq", watchList},
	{"application/yaml", watchList}, // refused
	{"application/json", watchList + "&labelSelector=app%3Dweb"},
	{"application/vnd.kubernetes.protobuf", watchList + "&labelSelector=app%3Dweb"},
	{"application/json", watchList + "&pretty=true"},
	{"application/json", "resourceVersion=0&allowWatchBookmarks=true"},
	{"application/vnd.kubernetes.protobuf", "allowWatchBookmarks=true"},
}

const watchList = "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"

// seam is what the last event says that is compared.
const seam = "end-of-comparison"

// stream is what a server tells in a watch up to the seam.
type stream struct {
	status int
	header http.Header
	events [][]byte
	err    error
}

// compressedWatches compares watches of a resource from the initial events on to some changes of an
// object, of which the last says so.
func (p *pair) compressedWatches(t *testing.T, r resource, object string) {
	for try := 1; ; try++ {
		p.refresh(t, r.path(""))
		before := p.revision(t)
		diff, written := p.watchedAlike(t, r, object, fmt.Sprintf("%s-%d", seam, try))
		if diff == "" {
			return
		}
		if try == tries || p.revision(t) == before+written {
			t.Error(diff)
			return
		}
	}
}

func (p *pair) watchedAlike(t *testing.T, r resource, object, last string) (diff string, written int64) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), servers.Patience)
	defer cancel()
	streams := make([][2]stream, len(watchedForms))
	var opened, ended sync.WaitGroup
	for i, f := range watchedForms {
		for j, s := range p.both() {
			opened.Add(1)
			ended.Go(func() {
				c := request(r.path(""), "watch=1&"+f.query, form{accept: []string{f.accept}, gzip: true})
				c.HTTP1 = i%3 == 0
				streams[i][j] = follow(ctx, s, c.Request, last, sync.OnceFunc(opened.Done))
			})
		}
	}
	opened.Wait()
	for i, change := range []map[string]any{
		{"annotations": map[string]any{"change": "1"}},
		{"labels": map[string]any{"app": "db"}}, // it leaves the selector
		{"labels": map[string]any{"app": "web"}, "annotations": map[string]any{"change": last}},
	} {
		p.both()[i%2].In(t).Must(http.MethodPatch, object, map[string]any{"metadata": change})
		written++
	}
	ended.Wait()
	for i, f := range watchedForms {
		stock, weir := streams[i][0], streams[i][1]
		if d := differStreams(f.accept, stock, weir); d != "" {
			diff += fmt.Sprintf("%s?%s in %s: %s\n", r.path(""), f.query, f.accept, d)
		}
		if weir.status == http.StatusOK && weir.header.Get("Content-Encoding") != "gzip" {
			diff += fmt.Sprintf("%s?%s in %s is not compressed\n", r.path(""), f.query, f.accept)
		}
	}
	return diff, written
}

// follow reads a watch up to the event that has last in it. opened is called after the initial
// events. Of weir's answer one gzip member is read.
func follow(ctx context.Context, s *servers.Server, r servers.Request, last string, opened func()) (out stream) {
	defer opened()
	resp, err := s.Open(ctx, r)
	if err != nil {
		return stream{err: err}
	}
	defer func() { _ = resp.Body.Close() }()
	out = stream{status: resp.StatusCode, header: resp.Header}
	body := io.Reader(resp.Body)
	switch {
	case resp.Header.Get("Content-Encoding") != "gzip":
	case s.Name == servers.Weir:
		body = servers.NewMember(body)
	default:
		if body, out.err = gzip.NewReader(body); out.err != nil {
			return out
		}
	}
	if resp.StatusCode != http.StatusOK {
		all, err := io.ReadAll(body)
		out.events, out.err = [][]byte{all}, err
		return out
	}
	next := servers.Events(resp.Header.Get("Content-Type"), body)
	for bookmarked := false; ; {
		event, err := next()
		if err != nil {
			out.err = err
			return out
		}
		if bytes.Contains(event, []byte("BOOKMARK")) {
			opened()
			if bookmarked {
				continue // others come as time passes
			}
			bookmarked = true
		}
		if out.events = append(out.events, event); bytes.Contains(event, []byte(last)) {
			return out
		}
	}
}

// columns finds those of a Table: stock repeats them in later events, or not, as it comes.
var columns = regexp.MustCompile(`"columnDefinitions":\[\{.*?\}\],"rows"`)

func differStreams(accept string, stock, weir stream) string {
	if stock.err != nil || weir.err != nil {
		return fmt.Sprintf("after %d events %v, stock after %d %v", len(weir.events), weir.err, len(stock.events), stock.err)
	}
	if stock.status != weir.status {
		return fmt.Sprintf("status %d, stock %d: %.300q", weir.status, stock.status, weir.events)
	}
	a, b := stock.header.Clone(), weir.header.Clone()
	for _, name := range different {
		a.Del(name)
		b.Del(name)
	}
	if diff := cmp.Diff(a, b); diff != "" {
		return "headers differ (-stock +weir):\n" + diff
	}
	if len(stock.events) != len(weir.events) {
		return fmt.Sprintf("%d events, stock %d", len(weir.events), len(stock.events))
	}
	for i, want := range stock.events {
		got, diff := weir.events[i], ""
		switch {
		case strings.Contains(stock.header.Get("Content-Type"), "cbor"):
			diff = compareCBOR(want, got)
		case strings.Contains(accept, "as=Table"):
			for _, event := range []*[]byte{&want, &got} {
				*event = columns.ReplaceAll(ages.ReplaceAll(*event, []byte("${1}AGE")), []byte(`"columnDefinitions":null,"rows"`))
			}
			fallthrough
		default:
			diff = compareBytes(want, got)
		}
		if diff != "" {
			return fmt.Sprintf("event %d of %d: %s", i, len(stock.events), diff)
		}
	}
	return ""
}
