// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package watchcache

import (
	"strings"

	"k8s.io/apimachinery/pkg/runtime"

	"github.com/weir-project/weir/internal/convoy"
	"github.com/weir-project/weir/internal/frame"
	"github.com/weir-project/weir/internal/wire"
)

// window is how much of a resource lies at most between those who read it at the same time, in the same form, if that has to be made:
// in bytes of what is kept. In JSON, which takes up to twice as many, that is half of what the Store keeps for those who have yet to ask.
const window = frame.DefaultBudget / 8

// reading is what those read who are kept together.
type reading struct {
	cache *Cache
	// prefix is that of the keys of all that is read.
	prefix string
	// form names what is made of the objects. Two with an equal one need not, but may, share all that is made.
	form string
}

// join begins a walk over all objects under prefix.
func (c *Cache) join(prefix, form string, done <-chan struct{}) *convoy.Walk {
	return c.cfg.Convoys.Join(reading{c, prefix, form}, done)
}

// joinInitial begins a walk over the initial events; nil if nothing has to be made for them, or if they are a choice of the client's own.
func (w *watcher) joinInitial(selection *selection) *convoy.Walk {
	if w.stream == nil || !w.match.wantsAll() || selection.index >= 0 {
		return nil
	}
	accept := acceptOf(w.stream.Asked())
	if w.rows == nil && selection.kept(w.match.prefix, accept) {
		return nil
	}
	form := "watch as they are, " + accept
	if w.rows != nil {
		form = "watch in compressed rows, " + accept
	}
	return w.cache.join(w.match.prefix, form, w.stop)
}

// kept tells whether objects are kept in the format that is accepted first.
func (s *selection) kept(prefix, accept string) bool {
	format := wire.JSON
	if strings.HasPrefix(accept, runtime.ContentTypeProtobuf) {
		format = wire.Protobuf
	}
	kept := true
	s.ascend(prefix, true, func(f *frame.Frame) bool {
		kept = f.Format() == format
		return false // all of a resource are kept alike
	})
	return kept && !strings.Contains(accept, "as=")
}
