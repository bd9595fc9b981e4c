// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package watchcache

import (
	"context"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/cacher/delegator"

	"github.com/weir-project/weir/internal/frame"
)

// What the rest of the server asks of a cache, beside storage.Interface.

// Peek returns the object of that name, and namespace unless the resource has none, as
// the cache has it now, or nil.
func (c *Cache) Peek(name string) *frame.Frame {
	_, _, v, err := c.current()
	if err != nil {
		return nil
	}
	f, ok := v.objects.Get(strings.TrimSuffix(c.cfg.ResourcePrefix, "/") + "/" + name)
	if !ok {
		return nil
	}
	return c.as(f)
}

// WatchAll is Watch of the whole resource.
func (c *Cache) WatchAll(ctx context.Context, opts storage.ListOptions) (watch.Interface, error) {
	opts.Recursive = true
	return c.Watch(ctx, c.cfg.ResourcePrefix, opts)
}

// Reaches tells whether the storage has come to a revision that it has told of. It has not if it was put back to an earlier
// state; see storageRevision. It is not asked if the cache has come to that revision.
func (c *Cache) Reaches(ctx context.Context, resourceVersion string) (bool, error) {
	rev, err := c.cfg.Versioner.ParseResourceVersion(resourceVersion)
	if err != nil {
		return false, err
	}
	_, at, _, err := c.current()
	if err != nil || at >= rev {
		return err == nil, err
	}
	now, err := c.storageRevision(ctx)
	return err == nil && now >= rev, err
}

// Frames returns all objects of the resource as the cache has them now. An error says that it has not read them yet.
func (c *Cache) Frames() ([]*frame.Frame, error) {
	_, _, v, err := c.current()
	if err != nil {
		return nil, err
	}
	return slices.Collect(c.served(v.objects.All())), nil
}

// DefaultedOnRead returns how many objects of the cache a list in place has to decode, and how
// many bytes they are. All others go to clients as they are kept. Watches decode the same
// objects, one at a time.
func (c *Cache) DefaultedOnRead() (objects int, bytes int64) {
	_, _, v, err := c.current()
	if err != nil {
		return 0, 0
	}
	return v.defaulted.Len(), v.defaultedBytes
}

// Answers tells whether the cache answers a list with such options now, or has to send it
// to etcd. It is false for options that are not valid.
func (c *Cache) Answers(opts metav1.ListOptions) bool {
	result, err := delegator.ShouldDelegateListMeta(&opts, rules{c.follower})
	return err == nil && !result.ShouldDelegate && (opts.ResourceVersion == "0" || !c.stalled())
}

// Size returns how many objects the cache has, and how many bytes they are.
func (c *Cache) Size() (objects int, bytes int64) {
	_, _, v, err := c.current()
	if err != nil {
		return 0, 0
	}
	return v.objects.Len(), v.bytes
}

// SizeIn is Size of the objects in a namespace. It goes through them.
func (c *Cache) SizeIn(namespace string) (objects int, bytes int64) {
	_, _, v, err := c.current()
	if err != nil {
		return 0, 0
	}
	v.objects.Ascend(strings.TrimSuffix(c.cfg.ResourcePrefix, "/")+"/"+namespace+"/", "", func(_ string, f *frame.Frame) bool {
		objects++
		bytes += f.Size()
		return true
	})
	return objects, bytes
}
