// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package watchcache

import (
	"context"
	"errors"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/klog/v2"

	"github.com/weir-project/weir/internal/finalize"
)

// mended is upstream's storage without two faults of it: see package finalize, and resumable.
func mended(raw storage.Interface) storage.Interface { return resumable{finalize.Storage(raw)} }

// resumable is a storage whose pages that cannot be read any more are read anew.
//
// A page of a list whose selector leaves few objects takes several reads of etcd. If etcd is compacted between two of them,
// upstream's store answers 410 with a token for a client that would rather go on from the newest state than begin anew. That
// token is of where the last read began (store.pagedChunks and handleCompactedErrorForPaging of k8s.io/apiserver/pkg/storage/etcd3,
// v1.37.2): what the reads before had found of the page is in no answer. Here it is of where the page begins.
type resumable struct{ storage.Interface }

// GetList implements storage.Interface.
func (s resumable) GetList(ctx context.Context, key string, opts storage.ListOptions, listObj runtime.Object) error {
	err := s.Interface.GetList(ctx, key, opts, listObj)
	var status *apierrors.StatusError
	if opts.Predicate.Continue == "" || !apierrors.IsResourceExpired(err) || !errors.As(err, &status) || status.ErrStatus.ListMeta.Continue == "" {
		return err
	}
	// Tokens have a place below a prefix, which is the same in both.
	const prefix = "/"
	from, _, tokenErr := storage.DecodeContinue(opts.Predicate.Continue, prefix)
	if tokenErr == nil {
		status.ErrStatus.ListMeta.Continue, tokenErr = storage.EncodeContinue(from, prefix, -1)
	}
	if tokenErr != nil {
		klog.ErrorS(tokenErr, "No token to go on from the newest state with", "key", key)
		status.ErrStatus.ListMeta.Continue = ""
	}
	return err
}
