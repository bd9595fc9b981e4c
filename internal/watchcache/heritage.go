// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package watchcache

import (
	"context"
	"fmt"

	"k8s.io/apimachinery/pkg/watch"

	"github.com/weir-project/weir/internal/frame"
)

// A definition that has changed in more than what is shown of its objects has a follower made anew, whose codec may make something else of
// what is stored. What is stored is known already, if the follower before has taken it as it is: the new one decodes that, and goes on
// from its revision.
//
//	follower of before ──▶ view ──▶ Frame.Stored ──▶ storedCodec of now ──▶ state of now ──▶ etcd's watch, from the view's revision
//
// Nobody sees the state before the watch has come to where etcd was at the beginning. If it fails before, or an object is not known as it is stored, everything is
// read from etcd: the watch tells of objects that are gone, too, which may be of a version that the definition does not have any more, or of another definition that had
// the same name.

// heritage is a state of a resource of which all is known as it is stored.
type heritage struct {
	rev  uint64
	view view
}

// heritage returns what the follower has, nil if it has nothing that could be gone on from, or there is no follower.
func (c *follower) heritage() *heritage {
	if c == nil {
		return nil
	}
	c.mu.RLock()
	defer c.mu.RUnlock()
	if c.gen == nil || c.inconsistent || c.cfg.Leased {
		return nil
	}
	return &heritage{rev: c.gen.rev, view: c.gen.view}
}

// setInherited sets inherited. That the state is complete may have to be asked for: where nothing happens nobody would say so.
func (s *source) setInherited(h *heritage) {
	switch was := s.inherited; {
	case was == nil && h != nil:
		s.cache.progress.Add()
	case was != nil && h == nil:
		s.cache.progress.Remove()
	}
	s.inherited = h
}

// newest returns the revision of what the follower has; it is not ok if it has nothing, or is known not to follow etcd.
func (c *follower) newest() (rev uint64, ok bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if c.gen == nil || c.stopped || c.gen.stalled != nil {
		return 0, false
	}
	return c.gen.rev, true
}

// heed learns what etcd has now. It fails if etcd has been put back to a state before a revision.
func (s *source) heed(ctx context.Context, rev uint64) error {
	now, err := s.cache.cfg.Storage.GetCurrentResourceVersion(ctx)
	if err != nil {
		return fmt.Errorf("asking the storage of %s for its revision: %w", s.cache.cfg.GroupResource, err)
	}
	if now < rev {
		return wentBack(s.cache.cfg.GroupResource, now, rev)
	}
	s.until = now
	return nil
}

// catchingUp tells whether the source goes on from a revision of the past, and is not known to have reached what etcd had when it began. What came in between may be
// of a definition before, and not be decodable by the one that is now, or be compacted: the present state is, whatever the watch says.
func (s *source) catchingUp() bool { return s.rev < s.until }

// inherit makes the state of what is stored of another. It holds as much of it decoded as where it is read in pages.
func (s *source) inherit(ctx context.Context, h *heritage) error {
	defer func() { h.view = view{} }() // not to be kept
	if err := s.heed(ctx, h.rev); err != nil {
		return err
	}
	var frames []*frame.Frame
	page := &storedList{}
	limit := int(pageOf(h.view.bytes, h.view.objects.Len()))
	take := func() error {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := s.cache.convertListed(page); err != nil {
			return err
		}
		for i, f := range frames {
			if err := s.inheritOne(f, &page.Items[i]); err != nil {
				return err
			}
		}
		frames, page = nil, &storedList{}
		return nil
	}
	codec := s.cache.cfg.stored
	for f := range h.view.objects.All() {
		data, ok := f.Stored()
		if !ok {
			return fmt.Errorf("it is not known how %s is stored", f.Key())
		}
		var item stored
		if _, _, err := codec.Decode(data, nil, &item); err != nil {
			return fmt.Errorf("decoding %s as it is stored: %w", f.Key(), err)
		}
		frames, page.Items = append(frames, f), append(page.Items, item)
		if len(frames) == limit {
			if err := take(); err != nil {
				return err
			}
		}
	}
	if err := take(); err != nil {
		return err
	}
	return s.arrive(h.rev)
}

// arrive says that the state is that of a revision, and publishes it if that is late enough.
func (s *source) arrive(rev uint64) error {
	s.rev = max(s.rev, rev)
	if s.rev < s.until {
		return nil
	}
	s.setInherited(nil)
	return s.ready(s.rev)
}

// replay takes an event into a state that nobody has seen yet.
func (s *source) replay(event watch.Event) error {
	c := s.cache
	c.doubts.event()
	f, err := c.frameOf(event.Object)
	if err != nil {
		return err
	}
	prev, _ := s.state.objects.Get(f.Key())
	if err := leadsOn(event, prev, f); err != nil {
		return fmt.Errorf("the watch of the storage of %s does not lead on from what is inherited: %w", c.cfg.GroupResource, err)
	}
	if event.Type == watch.Deleted {
		s.state.delete(f.Key())
	} else {
		s.state.set(f)
	}
	return s.arrive(f.Revision())
}

// inheritOne puts an object of such a list in place.
func (s *source) inheritOne(f *frame.Frame, item *stored) error {
	c := s.cache
	if err := c.cfg.Versioner.UpdateObject(item, f.Revision()); err != nil {
		return err
	}
	obj, err := c.listed(item)
	if err != nil {
		return err
	}
	now, err := c.frameOf(obj)
	if err != nil {
		return err
	}
	if now.Key() != f.Key() {
		return fmt.Errorf("%s would be stored as %s", f.Key(), now.Key())
	}
	s.state.set(now)
	return nil
}
