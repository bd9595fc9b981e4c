// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package watchcache

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"go.etcd.io/etcd/client/v3/kubernetes"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apiserver/pkg/apis/example"
	"k8s.io/apiserver/pkg/storage"

	"github.com/weir-project/weir/test/etcd"
)

// counted runs something before a read of a list.
type counted struct {
	kubernetes.Interface
	reads  int
	before func(read int)
}

func (c *counted) List(ctx context.Context, prefix string, opts kubernetes.ListOptions) (kubernetes.ListResponse, error) {
	c.reads++
	c.before(c.reads)
	return c.Interface.List(ctx, prefix, opts)
}

// A page that takes several reads of etcd finds it compacted at the second or a later one. Who goes on with the token of that
// answer gets every object that has been there all the time. With upstream's store alone he does not.
func TestPageAfterCompaction(t *testing.T) {
	for _, test := range []struct {
		name string
		of   func(storage.Interface) storage.Interface
		all  bool
	}{
		{"upstream", func(s storage.Interface) storage.Interface { return s }, false},
		{"here", mended, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			client := etcd.Run(t)
			reads := &counted{Interface: client.Kubernetes, before: func(int) {}}
			hooked := *client
			hooked.Kubernetes = reads
			store := newStore(t, &hooked, storeOptions{prefix: "/registry"})
			s := test.of(store)
			var want []string
			for i := range 64 {
				pod := &example.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: fmt.Sprintf("pod-%02d", i)}}
				if i < 4 || i%8 == 0 {
					pod.Labels = map[string]string{"side": "left"}
					want = append(want, pod.Name)
				}
				if err := s.Create(t.Context(), podKey(pod), pod, nil, 0); err != nil {
					t.Fatal(err)
				}
			}
			var got []string
			pred := storage.SelectionPredicate{Label: labels.SelectorFromSet(labels.Set{"side": "left"}), Field: fields.Everything(), GetAttrs: podAttrs, Limit: 4}
			page := func() error {
				var list example.PodList
				err := s.GetList(t.Context(), podPrefix, storage.ListOptions{Predicate: pred, Recursive: true}, &list)
				if err != nil {
					return err
				}
				for _, pod := range list.Items {
					got = append(got, pod.Name)
				}
				pred.Continue = list.Continue
				return nil
			}
			if err := page(); err != nil || pred.Continue == "" {
				t.Fatalf("the first page: %v, token %q, %v", got, pred.Continue, err)
			}
			// Another object, so that the list's revision can be compacted away.
			other := &example.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "other", Name: "one"}}
			var out example.Pod
			if err := s.Create(t.Context(), podKey(other), other, &out, 0); err != nil {
				t.Fatal(err)
			}
			reads.reads = 0
			reads.before = func(read int) {
				if read == 3 {
					compactEtcd(t.Context(), t, client.Client, store, int64(revision(t, out.ResourceVersion)))
				}
			}
			err := page()
			var status *apierrors.StatusError
			if !apierrors.IsResourceExpired(err) || !errors.As(err, &status) || status.ErrStatus.ListMeta.Continue == "" {
				t.Fatalf("the second page takes %d reads and gives %v", reads.reads, err)
			}
			for pred.Continue = status.ErrStatus.ListMeta.Continue; pred.Continue != ""; {
				if err := page(); err != nil {
					t.Fatal(err)
				}
			}
			if all := slices.Equal(got, want); all != test.all {
				t.Errorf("got %v of %v", got, want)
			}
		})
	}
}
