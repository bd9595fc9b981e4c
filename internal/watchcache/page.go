// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package watchcache

import (
	"context"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/storage"
)

// How much is read from etcd at once by those who go through a whole resource: a page is in memory as etcd has it and decoded,
// so that a page of 10,000 objects of 1 MB is far more than the resource itself.
const (
	pageBytes = 8 << 20
	leastPage = 10
	// firstPage is how many objects are read at once while it is not known how large they are.
	firstPage = 50
)

// pageOf returns how many objects are to be read at once where n objects take bytes.
func pageOf(bytes int64, n int) int64 {
	if n == 0 || bytes <= 0 {
		return firstPage
	}
	return max(leastPage, min(pageSize, pageBytes*int64(n)/bytes))
}

// inPages is the storage as the consistency checker reads it: in smaller pages than the 10,000 objects that it asks
// for.
type inPages struct{ *follower }

// GetList reads a page of the storage.
func (p inPages) GetList(ctx context.Context, key string, opts storage.ListOptions, listObj runtime.Object) error {
	_, _, v, err := p.current()
	if err != nil {
		return err
	}
	opts.Predicate.Limit = min(opts.Predicate.Limit, pageOf(v.bytes, v.objects.Len()))
	return p.cfg.Storage.GetList(ctx, key, opts, listObj)
}
