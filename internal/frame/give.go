// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package frame

import (
	"sync"
	"weak"

	"k8s.io/apimachinery/pkg/runtime"

	"github.com/weir-project/weir/internal/wire"
)

// given are the objects that a codec's last frames were made of, until somebody wants one of these decoded, or the next
// collection. A built-in type that is kept in JSON (definitions of custom resources are: in v1beta1) has every form that is
// sent made by way of the decoded object, and whoever watches asks for it as soon as there is a frame.
type given struct {
	mu   sync.Mutex
	last [4]struct {
		id  uint64
		obj weak.Pointer[runtime.Object]
	}
	next int
}

// Give has the next who decodes f get obj, which f was made of. It is the codec's from now on.
func (c *Codec) Give(f *Frame, obj runtime.Object) {
	if c.custom || f.primary.format != wire.JSON || f.exact != nil {
		return
	}
	c.given.mu.Lock()
	defer c.given.mu.Unlock()
	at := &c.given.last[c.given.next]
	at.id, at.obj = f.id, weak.Make(&obj)
	c.given.next = (c.given.next + 1) % len(c.given.last)
}

// take returns the object that was given for f, once, or nil.
func (l *given) take(f *Frame) runtime.Object {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range l.last {
		at := &l.last[i]
		if at.id != f.id {
			continue
		}
		at.id = 0
		if obj := at.obj.Value(); obj != nil {
			return *obj
		}
	}
	return nil
}
