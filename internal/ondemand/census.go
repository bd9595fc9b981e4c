// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package ondemand

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/registry/generic"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/storagebackend"
	"k8s.io/apiserver/pkg/storage/storagebackend/factory"
	"k8s.io/apiserver/pkg/storage/value"
	"k8s.io/klog/v2"
	"k8s.io/utils/clock"
)

// census counts objects of any resource that one etcd keeps, without looking at them, and knows which revision that was at some
// time ago. It has one client for all.
type census struct {
	slot
	// root is the prefix of all keys.
	root string

	marking sync.Mutex
	// marks are of the past, the oldest first. There is one as soon as the census has been opened.
	marks []mark
}

// mark says that etcd was at a revision at a time, or before.
type mark struct {
	at  time.Time
	rev uint64
}

// mostMarks is how many are kept: with one in 15 s ten minutes, after which etcd is compacted.
const mostMarks = 40

// newCensus returns the census of the etcd that config names. It is nil if config has no prefix of keys: upstream's store cannot
// be had for all keys.
func newCensus(config *storagebackend.ConfigForResource, clock clock.PassiveClock) *census {
	root := path.Join("/", config.Prefix)
	if root == "/" {
		return nil
	}
	all := *config
	all.Prefix, all.Codec, all.Transformer = "", blind{}, untouched{}
	all.GroupResource = schema.GroupResource{Group: "apiextensions.k8s.io", Resource: "customresources"} // what it is called in etcd's metrics
	c := &census{root: root}
	c.clock = clock
	c.open = func() (storage.Interface, factory.DestroyFunc, error) {
		s, destroy, err := generic.NewRawStorage(&all,
			func() runtime.Object { return &metav1.PartialObjectMetadata{} },
			func() runtime.Object { return &metav1.PartialObjectMetadataList{} }, root)
		if err != nil {
			return nil, nil, err
		}
		if err := c.mark(s); err != nil {
			destroy()
			return nil, nil, err
		}
		return s, destroy, nil
	}
	return c
}

// begin opens the census if it is not.
func (c *census) begin() error {
	_, release, err := c.use(context.Background()) // opening ends by itself
	if err == nil {
		release()
	}
	return err
}

// remember adds the present to the marks, if the census is open. If etcd does not answer the next one does.
func (c *census) remember() {
	s, release := c.useOpen()
	if s == nil {
		return
	}
	defer release()
	if err := c.mark(s); err != nil {
		klog.V(2).InfoS("No mark of the storage's revision", "err", err)
	}
}

// mark adds the present to marks.
func (c *census) mark(s storage.Interface) error {
	ctx, cancel := context.WithTimeout(context.Background(), markTimeout)
	defer cancel()
	now := c.clock.Now()
	rev, err := s.GetCurrentResourceVersion(ctx)
	if err != nil {
		return fmt.Errorf("asking etcd for its revision: %w", err)
	}
	c.marking.Lock()
	defer c.marking.Unlock()
	if n := len(c.marks); n > 0 && rev < c.marks[n-1].rev {
		c.marks = nil // etcd has been put back to an earlier state
	}
	if len(c.marks) == mostMarks {
		c.marks = slices.Delete(c.marks, 0, 1)
	}
	c.marks = append(c.marks, mark{now, rev})
	return nil
}

// markTimeout bounds how long etcd may take to say its revision.
const markTimeout = 5 * time.Second

// before returns a revision at which etcd was so long ago, or longer, but not much. It is the oldest that is known if
// none is that old, and 0 if none is known.
func (c *census) before(age time.Duration) uint64 {
	c.marking.Lock()
	defer c.marking.Unlock()
	rev := uint64(0)
	for i, m := range c.marks {
		if i == 0 || c.clock.Since(m.at) >= age {
			rev = m.rev
		}
	}
	return rev
}

// count returns how many objects there are under a key of a resource, and at which revision. It is one read of etcd, of one object.
func (c *census) count(ctx context.Context, key, resourceVersion string) (n int64, revision string, err error) {
	s, release, err := c.use(ctx)
	if err != nil {
		return 0, "", err
	}
	defer release()
	first := storage.Everything
	first.Limit = 1
	var list metav1.PartialObjectMetadataList
	if err := s.GetList(ctx, path.Join(c.root, key)+"/", storage.ListOptions{Predicate: first, Recursive: true, ResourceVersion: resourceVersion}, &list); err != nil {
		return 0, "", err
	}
	n = int64(len(list.Items))
	if list.RemainingItemCount != nil {
		n += *list.RemainingItemCount
	}
	return n, list.ResourceVersion, nil
}

// blind is a codec that sees that something is there.
type blind struct{}

var _ runtime.Codec = blind{}

// Decode implements runtime.Decoder.
func (blind) Decode(_ []byte, _ *schema.GroupVersionKind, into runtime.Object) (runtime.Object, *schema.GroupVersionKind, error) {
	if into == nil {
		into = &metav1.PartialObjectMetadata{}
	}
	return into, &schema.GroupVersionKind{}, nil
}

// Encode implements runtime.Encoder.
func (blind) Encode(runtime.Object, io.Writer) error {
	return errors.New("objects are counted here, not written")
}

// Identifier implements runtime.Encoder.
func (blind) Identifier() runtime.Identifier { return "blind" }

// untouched leaves what is stored as it is: encrypted, if it is.
type untouched struct{}

var _ value.Transformer = untouched{}

// TransformFromStorage implements value.Transformer.
func (untouched) TransformFromStorage(_ context.Context, data []byte, _ value.Context) ([]byte, bool, error) {
	return data, false, nil
}

// TransformToStorage implements value.Transformer.
func (untouched) TransformToStorage(_ context.Context, data []byte, _ value.Context) ([]byte, error) {
	return data, nil
}

// directory returns a key with a slash at its end.
func directory(key string) string { return strings.TrimSuffix(key, "/") + "/" }
