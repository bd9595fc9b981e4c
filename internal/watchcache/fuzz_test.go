// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package watchcache

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/url"
	"strconv"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	pathvalidation "k8s.io/apimachinery/pkg/api/validation/path"
	metainternalversion "k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metainternalversionscheme "k8s.io/apimachinery/pkg/apis/meta/internalversion/scheme"
	metainternalversionvalidation "k8s.io/apimachinery/pkg/apis/meta/internalversion/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/apis/example"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/cacher"

	"github.com/weir-project/weir/test/etcd"
)

// asked counts the lists that a storage is asked for.
type asked struct {
	storage.Interface
	lists atomic.Int64
}

func (a *asked) GetList(ctx context.Context, key string, opts storage.ListOptions, listObj runtime.Object) error {
	a.lists.Add(1)
	return a.Interface.GetList(ctx, key, opts, listObj)
}

// still is upstream's cache and weir's over one etcd in which nothing happens any more.
type still struct {
	stock *cacher.CacheDelegator
	weir  *Cache
	// etcd is what weir's cache reads from.
	etcd *asked
	// first is the revision at which both caches began, last that of the last write.
	first, last uint64
	// state are the Pods at first, changes what has happened since.
	state   map[string]*example.Pod
	changes []happened
}

// happened is a change of one Pod: from nothing, or to nothing, if it is nil.
type happened struct {
	rev      uint64
	from, to *example.Pod
}

func newStill(f *testing.F) *still {
	f.Helper()
	client := etcd.Run(f)
	o := storeOptions{prefix: "/registry", still: true}
	store := newStore(f, client, o)
	s := &still{state: map[string]*example.Pod{}, etcd: &asked{Interface: newStore(f, client, o)}}
	put := func(i int, app, node, phase string) happened {
		pod := &example.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: namespaces[i%2], Name: fmt.Sprint("p", i)}}
		if app != "" {
			pod.Labels = map[string]string{"app": app}
		}
		pod.Spec.NodeName, pod.Status.Phase = node, example.PodPhase(phase)
		var out example.Pod
		err := store.Create(f.Context(), podKey(pod), pod, &out, 0)
		if storage.IsExist(err) {
			err = store.GuaranteedUpdate(f.Context(), podKey(pod), &out, false, nil,
				storage.SimpleUpdate(func(now runtime.Object) (runtime.Object, error) {
					pod.ObjectMeta.UID = now.(*example.Pod).UID
					return pod, nil
				}), nil)
		}
		if err != nil {
			f.Fatal(err)
		}
		s.last = revision(f, out.ResourceVersion)
		change := happened{rev: s.last, from: s.state[podKey(pod)], to: &out}
		s.state[podKey(pod)] = &out
		return change
	}
	for i := range 9 {
		put(i, apps[i%len(apps)], nodes[i%len(nodes)], phases[0])
	}
	s.first = s.last
	_, s.stock = startCacher(f, newStore(f, client, o))
	s.weir = startCache(f, podConfig(s.etcd, nil))
	waitRevision(f, s.weir, s.last)
	// Pods come, change what selectors look at, stay in theirs and leave them.
	for i, app := range []string{"web", "", "db", "web", "db", "", "web"} {
		s.changes = append(s.changes, put(i+5, app, nodes[(i+2)%len(nodes)], phases[i%2]))
	}
	for _, name := range []string{"/pods/a/p2", "/pods/b/p7"} {
		var out example.Pod
		if err := store.Delete(f.Context(), name, &out, nil, storage.ValidateAllObjectFunc, nil, storage.DeleteOptions{}); err != nil {
			f.Fatal(err)
		}
		s.last = revision(f, out.ResourceVersion)
		s.changes = append(s.changes, happened{rev: s.last, from: s.state[name]})
		delete(s.state, name)
	}
	waitRevision(f, s.weir, s.last)
	return s
}

// place is where a request reads.
type place struct {
	ctx       context.Context
	key       string
	recursive bool
	namespace string
}

// placeOf does what the filters and REST storage do with a request for one namespace or for
// all: what selects one name reads one key.
func placeOf(ctx context.Context, namespace string, pred *storage.SelectionPredicate) place {
	info := &request.RequestInfo{IsResourceRequest: true, Namespace: namespace, Resource: "pods"}
	ctx = request.WithNamespace(ctx, namespace)
	p := place{key: podPrefix, recursive: true, namespace: namespace}
	if namespace != "" {
		p.key += namespace
	}
	if name, ok := pred.Field.RequiresExactMatch("metadata.name"); ok && len(pathvalidation.IsValidPathSegmentName(name)) == 0 {
		info.Name = name
		if namespace != "" && pred.Continue == "" {
			p.key, p.recursive = podPrefix+namespace+"/"+name, false
		}
	}
	p.ctx = request.WithRequestInfo(ctx, info)
	return p
}

// queried are the places that are read, by a number.
var queried = []string{"", "a", "b", "load"}

// FuzzList puts lists with any query to upstream's cache and to weir's, over one etcd in
// which nothing happens: equal errors, equal items, equal tokens. And flow control is told
// what comes true: whether the cache answers.
//
//	go test -fuzz=FuzzList ./internal/watchcache
func FuzzList(f *testing.F) {
	s := newStill(f)
	token := func(text string, rev any) string {
		return base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, text, rev))
	}
	for i, query := range []string{
		"", "resourceVersion=0", "limit=2", "limit=2&resourceVersion=0", fmt.Sprint("resourceVersionMatch=Exact&resourceVersion=", s.changes[2].rev),
		fmt.Sprint("limit=3&resourceVersion=", s.changes[4].rev), fmt.Sprint("resourceVersionMatch=NotOlderThan&resourceVersion=", s.first), "resourceVersion=x",
		fmt.Sprint("resourceVersionMatch=Exact&resourceVersion=", s.first-3), fmt.Sprint("limit=2&resourceVersion=", s.first-3),
		"labelSelector=app%20in%20(web)", "labelSelector=%21%21", "fieldSelector=spec.nodeName%3Dn1&limit=1", "fieldSelector=metadata.name%3Dp1",
		"limit=-1", "limit=9223372036854775807", "resourceVersionMatch=Exact", "continue=x", "continue=x&resourceVersion=1",
		"limit=2&continue=" + token(`{"v":"meta.k8s.io/v1","rv":%v,"start":"`+namespaces[0]+`/p0\u0000"}`, s.changes[3].rev),
		"limit=2&continue=" + token(`{"v":"meta.k8s.io/v1","rv":%v,"start":"../x"}`, s.last),
		"continue=" + token(`{"v":"meta.k8s.io/v1","rv":%v,"start":"a"}`, -1),
		"continue=" + token(`{"v":"meta.k8s.io/v9","rv":%v,"start":"a"}`, 0),
		"fieldSelector=metadata.name%3Dp1%2Cspec.nodeName%21%3D&resourceVersion=0", "fieldSelector=metadata.namespace%3Da%2Cmetadata.name%3Dp4",
	} {
		f.Add(query, byte(0))
		f.Add(query, byte(1+i%3))
	}
	f.Fuzz(func(t *testing.T, query string, where byte) {
		values, err := url.ParseQuery(query)
		if err != nil {
			return
		}
		s.compareList(t, values, queried[int(where)%len(queried)])
	})
}

// FuzzContinue makes continue tokens of any parts.
func FuzzContinue(f *testing.F) {
	s := newStill(f)
	for i, start := range []string{"a/p0\x00", "a/p4\x00", "", "b/", "../x", "a", "/a/p0", "z", "a/p0/../../x"} {
		f.Add("meta.k8s.io/v1", start, int64(s.changes[i%len(s.changes)].rev), int64(i), byte(i), "")
	}
	f.Add("meta.k8s.io/v1", "b/p1\x00", int64(-1), int64(2), byte(0), "labelSelector=app%3Dweb")
	f.Add("meta.k8s.io/v1", "b/p1\x00", int64(s.first), int64(2), byte(2), "fieldSelector=spec.nodeName%3Dn1")
	f.Add("meta.k8s.io/v2", "b/p1\x00", int64(0), int64(-2), byte(2), "resourceVersion=1")
	f.Fuzz(func(t *testing.T, version, start string, rev, limit int64, where byte, query string) {
		values, err := url.ParseQuery(query)
		if err != nil {
			return
		}
		token, err := json.Marshal(map[string]any{"v": version, "rv": rev, "start": start})
		if err != nil {
			t.Fatal(err)
		}
		values.Set("continue", base64.RawURLEncoding.EncodeToString(token))
		values.Set("limit", strconv.FormatInt(limit, 10))
		s.compareList(t, values, queried[int(where)%len(queried)])
	})
}

// compareList puts a list to both caches.
func (s *still) compareList(t *testing.T, query url.Values, namespace string) {
	t.Helper()
	opts, ok := s.options(query, false)
	if !ok {
		return
	}
	p := placeOf(t.Context(), namespace, &opts.Predicate)
	opts.Recursive = p.recursive
	var meta metav1.ListOptions
	if err := metav1.Convert_url_Values_To_v1_ListOptions(&query, &meta, nil); err != nil {
		t.Fatalf("%q: the query is read by the handler, and not by flow control: %v", query, err)
	}
	answers, before := s.weir.Answers(meta), s.etcd.lists.Load()
	var want, got example.PodList
	stockErr := s.stock.GetList(p.ctx, p.key, opts, &want)
	weirErr := s.weir.GetList(p.ctx, p.key, opts, &got)
	if kindOf(stockErr) != kindOf(weirErr) {
		t.Fatalf("%q in %q: error %v, stock %v", query, namespace, weirErr, stockErr)
	}
	// Single objects are nothing that flow control would charge.
	if delegated := s.etcd.lists.Load() != before; p.recursive && stockErr == nil && delegated == answers {
		t.Errorf("%q in %q: the cache says that it answers: %v; etcd was asked: %v", query, namespace, answers, delegated)
	}
	if stockErr != nil {
		return
	}
	if diff := cmp.Diff(want.Items, got.Items); diff != "" {
		t.Errorf("%q in %q: items (-stock +weir):\n%s", query, namespace, diff)
	}
	if want.Continue != got.Continue || cmp.Diff(want.RemainingItemCount, got.RemainingItemCount) != "" {
		t.Errorf("%q in %q: continue %q, stock %q", query, namespace, got.Continue, want.Continue)
	}
	if exact := opts.ResourceVersionMatch == metav1.ResourceVersionMatchExact || opts.Predicate.Continue != ""; exact && want.ResourceVersion != got.ResourceVersion {
		t.Errorf("%q in %q: resourceVersion %s, stock %s", query, namespace, got.ResourceVersion, want.ResourceVersion)
	}
}

// options reads a query as upstream's handler does. It is false for what never reaches
// the storage, and for a revision of the future, for which both would wait.
func (s *still) options(values url.Values, watch bool) (storage.ListOptions, bool) {
	var parsed metainternalversion.ListOptions
	if err := metainternalversionscheme.ParameterCodec.DecodeParameters(values, metav1.SchemeGroupVersion, &parsed); err != nil {
		return storage.ListOptions{}, false
	}
	parsed.Watch = watch
	metainternalversion.SetListOptionsDefaults(&parsed, true)
	if len(metainternalversionvalidation.ValidateListOptions(&parsed, true)) > 0 || parsed.ShardSelector != "" {
		return storage.ListOptions{}, false
	}
	if rv, err := strconv.ParseUint(parsed.ResourceVersion, 10, 64); err == nil && rv > s.last {
		return storage.ListOptions{}, false
	}
	if _, rv, err := storage.DecodeContinue(parsed.Continue, podPrefix); err == nil && rv > int64(s.last) {
		return storage.ListOptions{}, false
	}
	opts := storage.ListOptions{
		ResourceVersion: parsed.ResourceVersion, ResourceVersionMatch: parsed.ResourceVersionMatch, SendInitialEvents: parsed.SendInitialEvents,
		Predicate: storage.SelectionPredicate{
			Label: parsed.LabelSelector, Field: parsed.FieldSelector, GetAttrs: podAttrs, IndexFields: []string{"spec.nodeName"},
			Limit: parsed.Limit, Continue: parsed.Continue, AllowWatchBookmarks: parsed.AllowWatchBookmarks,
		},
	}
	if opts.Predicate.Label == nil {
		opts.Predicate.Label = storage.Everything.Label
	}
	if opts.Predicate.Field == nil {
		opts.Predicate.Field = storage.Everything.Field
	}
	return opts, true
}

// FuzzWatch puts watches with any query to both caches: equal errors, and equal events, as
// many as follow from what has happened.
func FuzzWatch(f *testing.F) {
	s := newStill(f)
	for i, query := range []string{
		"", "resourceVersion=0", fmt.Sprint("resourceVersion=", s.first), fmt.Sprint("resourceVersion=", s.changes[3].rev), fmt.Sprint("resourceVersion=", s.first-2),
		"sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true", "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&resourceVersion=1",
		"sendInitialEvents=false&resourceVersionMatch=NotOlderThan", fmt.Sprint("sendInitialEvents=false&resourceVersionMatch=NotOlderThan&resourceVersion=", s.first),
		"sendInitialEvents=true", "resourceVersionMatch=Exact&resourceVersion=1", "resourceVersion=-1", "resourceVersion=1x", "limit=1&continue=x",
	} {
		for j, selector := range []string{
			"", "labelSelector=app%3Dweb", "labelSelector=app%20notin%20(web)", "fieldSelector=spec.nodeName%3Dn1", "fieldSelector=spec.nodeName%3D,status.phase%21%3DRunning",
			"fieldSelector=metadata.name%3Dp7", "fieldSelector=metadata.namespace%3Da", "fieldSelector=metadata.name%3Dp6,metadata.namespace%3Da", "fieldSelector=metadata.name%3Da%2Fb",
		} {
			f.Add(query+"&"+selector, byte(i+j))
		}
	}
	f.Fuzz(func(t *testing.T, query string, where byte) {
		values, err := url.ParseQuery(query)
		if err != nil {
			return
		}
		opts, ok := s.options(values, true)
		if !ok {
			return
		}
		p := placeOf(t.Context(), queried[int(where)%len(queried)], &opts.Predicate)
		opts.Recursive = p.recursive
		ctx, cancel := context.WithTimeout(p.ctx, patience)
		defer cancel()
		stock, stockErr := s.stock.Watch(ctx, p.key, opts)
		weir, weirErr := s.weir.Watch(ctx, p.key, opts)
		if kindOf(stockErr) != kindOf(weirErr) {
			t.Fatalf("%q at %q: error %v, stock %v", query, p.key, weirErr, stockErr)
		}
		if stockErr != nil {
			return
		}
		n := s.events(&opts, p)
		got, want := heard(ctx, weir, n), heard(ctx, stock, n)
		if diff := cmp.Diff(want, got); diff != "" || len(got) != n && (len(got) != 1 || got[0][:5] != "ERROR") {
			t.Fatalf("%q at %q: %d events, stock %d, want %d (-stock +weir):\n%s", query, p.key, len(got), len(want), n, diff)
		}
	})
}

// events returns how many events a watch has to be told.
func (s *still) events(opts *storage.ListOptions, p place) int {
	selects := func(pod *example.Pod) bool {
		if pod == nil || p.namespace != "" && pod.Namespace != p.namespace {
			return false
		}
		ok, err := opts.Predicate.Matches(pod)
		return err == nil && ok
	}
	rev, err := storage.APIObjectVersioner{}.ParseResourceVersion(opts.ResourceVersion)
	if err != nil {
		return 0
	}
	initial := opts.SendInitialEvents != nil && *opts.SendInitialEvents
	n := 0
	switch {
	case initial || opts.SendInitialEvents == nil && rev == 0:
		for _, pod := range s.state {
			if selects(pod) {
				n++
			}
		}
		if initial && opts.Predicate.AllowWatchBookmarks {
			n++ // the bookmark that ends them
		}
	case rev > 0:
		for _, c := range s.changes {
			if c.rev > rev && (selects(c.from) || selects(c.to)) {
				n++
			}
		}
	}
	return n
}

// heard returns the first n events of a watch, and all that it has told without being asked
// for more when it is stopped.
func heard(ctx context.Context, w watch.Interface, n int) (lines []string) {
	add := func(event watch.Event) {
		if line, _ := lineOf(event); line != "" {
			lines = append(lines, line)
		}
	}
	for len(lines) < n {
		select {
		case event, ok := <-w.ResultChan():
			if !ok {
				return lines
			}
			add(event)
		case <-ctx.Done():
			n = 0
		}
	}
	w.Stop()
	for event := range w.ResultChan() {
		add(event)
	}
	return lines
}
