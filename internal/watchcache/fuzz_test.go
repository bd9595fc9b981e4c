// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package watchcache

import (
	"encoding/base64"
	"fmt"
	"net/url"
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"

	metainternalversion "k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metainternalversionscheme "k8s.io/apimachinery/pkg/apis/meta/internalversion/scheme"
	metainternalversionvalidation "k8s.io/apimachinery/pkg/apis/meta/internalversion/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/apis/example"
	"k8s.io/apiserver/pkg/storage"

	"github.com/weir-project/weir/test/etcd"
)

// FuzzList puts lists with any query to upstream's cache and to weir's, over one etcd in
// which nothing happens: equal errors, equal items, equal tokens.
//
//	go test -fuzz=FuzzList ./internal/watchcache
func FuzzList(f *testing.F) {
	client := etcd.Run(f)
	o := storeOptions{prefix: "/registry", still: true}
	store := newStore(f, client, o)
	var last uint64
	var all []string
	for i := range 9 {
		pod := &example.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: namespaces[i%len(namespaces)], Name: fmt.Sprint("p", i), Labels: map[string]string{"app": apps[i%len(apps)]}}}
		pod.Spec.NodeName = nodes[i%len(nodes)]
		var out example.Pod
		if err := store.Create(f.Context(), podKey(pod), pod, &out, 0); err != nil {
			f.Fatal(err)
		}
		last = revision(f, out.ResourceVersion)
		all = append(all, out.ResourceVersion)
	}
	_, stock := startCacher(f, newStore(f, client, o))
	weir := startCache(f, podConfig(newStore(f, client, o), nil))
	waitRevision(f, weir, last)

	token := func(text string, rev any) string {
		return base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, text, rev))
	}
	for _, query := range []string{
		"", "resourceVersion=0", "limit=2", "limit=2&resourceVersion=0", "resourceVersionMatch=Exact&resourceVersion=" + all[4],
		"limit=3&resourceVersion=" + all[6], "resourceVersionMatch=NotOlderThan&resourceVersion=" + all[2], "resourceVersion=x",
		"labelSelector=app%20in%20(web)", "labelSelector=%21%21", "fieldSelector=spec.nodeName%3Dn1&limit=1", "fieldSelector=metadata.name%3Dp1",
		"limit=-1", "limit=9223372036854775807", "resourceVersionMatch=Exact", "continue=x", "continue=x&resourceVersion=1",
		"limit=2&continue=" + token(`{"v":"meta.k8s.io/v1","rv":%v,"start":"`+namespaces[0]+`/p0\u0000"}`, all[5]),
		"limit=2&continue=" + token(`{"v":"meta.k8s.io/v1","rv":%v,"start":"../x"}`, all[5]),
		"continue=" + token(`{"v":"meta.k8s.io/v1","rv":%v,"start":"a"}`, -1),
		"continue=" + token(`{"v":"meta.k8s.io/v9","rv":%v,"start":"a"}`, 0),
	} {
		f.Add(query)
	}
	f.Fuzz(func(t *testing.T, query string) {
		opts, ok := listOptions(query, last)
		if !ok {
			return
		}
		var want, got example.PodList
		stockErr := stock.GetList(t.Context(), podPrefix, opts, &want)
		weirErr := weir.GetList(t.Context(), podPrefix, opts, &got)
		if kindOf(stockErr) != kindOf(weirErr) {
			t.Fatalf("%q: error %v, stock %v", query, weirErr, stockErr)
		}
		if stockErr != nil {
			return
		}
		if diff := cmp.Diff(want.Items, got.Items); diff != "" {
			t.Errorf("%q: items (-stock +weir):\n%s", query, diff)
		}
		if want.Continue != got.Continue || cmp.Diff(want.RemainingItemCount, got.RemainingItemCount) != "" {
			t.Errorf("%q: continue %q, stock %q", query, got.Continue, want.Continue)
		}
	})
}

// listOptions reads a query as upstream's handler does. It is false for what never reaches
// the storage, and for a revision of the future, for which both would wait.
func listOptions(query string, last uint64) (storage.ListOptions, bool) {
	values, err := url.ParseQuery(query)
	if err != nil {
		return storage.ListOptions{}, false
	}
	// What flow control makes of it must be harmless whatever it is.
	var asked metav1.ListOptions
	if metav1.Convert_url_Values_To_v1_ListOptions(&values, &asked, nil) != nil {
		return storage.ListOptions{}, false
	}
	var parsed metainternalversion.ListOptions
	if err := metainternalversionscheme.ParameterCodec.DecodeParameters(values, metav1.SchemeGroupVersion, &parsed); err != nil {
		return storage.ListOptions{}, false
	}
	if len(metainternalversionvalidation.ValidateListOptions(&parsed, true)) > 0 || parsed.ShardSelector != "" {
		return storage.ListOptions{}, false
	}
	if rv, err := strconv.ParseUint(parsed.ResourceVersion, 10, 64); err == nil && rv > last {
		return storage.ListOptions{}, false
	}
	if _, rv, err := storage.DecodeContinue(parsed.Continue, podPrefix); err == nil && rv > int64(last) {
		return storage.ListOptions{}, false
	}
	opts := storage.ListOptions{
		ResourceVersion: parsed.ResourceVersion, ResourceVersionMatch: parsed.ResourceVersionMatch, Recursive: true,
		Predicate: storage.SelectionPredicate{Label: parsed.LabelSelector, Field: parsed.FieldSelector, GetAttrs: podAttrs, Limit: parsed.Limit, Continue: parsed.Continue},
	}
	if opts.Predicate.Label == nil {
		opts.Predicate.Label = storage.Everything.Label
	}
	if opts.Predicate.Field == nil {
		opts.Predicate.Field = storage.Everything.Field
	}
	return opts, true
}
