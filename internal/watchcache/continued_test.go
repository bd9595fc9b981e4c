// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package watchcache

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apiserver/pkg/apis/example"
	"k8s.io/apiserver/pkg/storage"
)

// TestPagesOfSelectedNamespace lists a namespace, which a field selector names, in pages, as upstream's registry.Store asks
// for them: the first under the namespace, the others under the whole resource. Upstream's own storage repeats objects, or
// leaves them out, as the names of the namespace and of the objects have it.
func TestPagesOfSelectedNamespace(t *testing.T) {
	s := newSubject(t, withIndexes)
	var last *example.Pod
	for _, namespace := range []string{"a", "m", "z"} {
		for i := range 4 {
			p := pod(fmt.Sprint("m", i))
			p.Namespace = namespace
			last = s.put(t, p)
		}
	}
	waitRevision(t, s.Cache, revision(t, last.ResourceVersion))
	root := strings.TrimSuffix(podPrefix, "/")
	for _, namespace := range []string{"a", "m", "z"} {
		for _, limit := range []int64{1, 3} {
			key := root + "/" + namespace
			opts := storage.ListOptions{Recursive: true, Predicate: storage.Everything}
			opts.Predicate.Limit, opts.Predicate.GetAttrs = limit, podAttrs
			opts.Predicate.Field = fields.OneTermEqualSelector("metadata.namespace", namespace)
			var got []string
			for {
				var list example.PodList
				if err := s.GetList(t.Context(), key, opts, &list); err != nil {
					t.Fatal(err)
				}
				for _, p := range list.Items {
					got = append(got, p.Namespace+"/"+p.Name)
				}
				if list.Continue == "" || len(got) > 12 {
					break
				}
				key, opts.Predicate.Continue = root, list.Continue
			}
			want := []string{namespace + "/m0", namespace + "/m1", namespace + "/m2", namespace + "/m3"}
			if !slices.Equal(got, want) {
				t.Errorf("namespace %s in pages of %d: %v, want %v", namespace, limit, got, want)
			}
		}
	}
	// What upstream has made of a token for a later page has the namespace in it.
	token, err := storage.EncodeContinue("/m/m1\x00", "/", int64(revision(t, last.ResourceVersion)))
	if err != nil {
		t.Fatal(err)
	}
	opts := storage.ListOptions{Recursive: true, Predicate: storage.Everything}
	opts.Predicate.Continue, opts.Predicate.Limit, opts.Predicate.GetAttrs = token, 10, podAttrs
	opts.Predicate.Field = fields.OneTermEqualSelector("metadata.namespace", "m")
	var list example.PodList
	if err := s.GetList(t.Context(), root, opts, &list); err != nil || len(list.Items) != 2 || list.Items[0].Name != "m2" {
		t.Errorf("a token with a namespace in it: %d objects and %v", len(list.Items), err)
	}
}
