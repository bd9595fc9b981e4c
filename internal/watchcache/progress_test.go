// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package watchcache

import (
	"context"
	"testing"

	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/apis/example"
	"k8s.io/apiserver/pkg/storage"
)

// hasty is a storage whose second watch tells of progress before its events, as etcd has been seen to do.
type hasty struct {
	storage.Interface
	watches int
	// asked gets a value for each request for progress.
	asked chan struct{}
	// end ends the first watch. The second begins with the bookmark from progress, and goes on with its events after events.
	end, events chan struct{}
	progress    chan watch.Event
}

// RequestWatchProgress implements storage.Interface.
func (h *hasty) RequestWatchProgress(ctx context.Context) error {
	select {
	case h.asked <- struct{}{}:
	default: // the test does not wait for it
	}
	return h.Interface.RequestWatchProgress(ctx)
}

// Watch implements storage.Interface. One goroutine calls it.
func (h *hasty) Watch(ctx context.Context, key string, opts storage.ListOptions) (watch.Interface, error) {
	w, err := h.Interface.Watch(ctx, key, opts)
	if err != nil {
		return nil, err
	}
	h.watches++
	out := make(chan watch.Event)
	pass := func(event watch.Event) {
		select {
		case out <- event:
		case <-ctx.Done():
		}
	}
	end := h.end
	if h.watches > 1 {
		end = nil
	}
	go func(second bool) {
		defer close(out)
		defer w.Stop()
		if second {
			select {
			case event := <-h.progress:
				pass(event)
			case <-ctx.Done():
			}
			select {
			case <-h.events:
			case <-ctx.Done():
			}
		}
		for {
			select {
			case event, open := <-w.ResultChan():
				if !open {
					return
				}
				pass(event)
			case <-end:
				return
			case <-ctx.Done():
				return
			}
		}
	}(h.watches == 2)
	return gatedWatch{w, out}, nil
}

// A progress notification that was asked for before the watch of etcd was taken up says nothing about what that watch has
// told: a consistent list that waits for it does not miss what is yet to come.
func TestProgressOfBefore(t *testing.T) {
	h := &hasty{asked: make(chan struct{}), end: make(chan struct{}), events: make(chan struct{}), progress: make(chan watch.Event)}
	s := newSubject(t, func(_ *storeOptions, c *Config) {
		h.Interface = c.Storage
		c.Storage = h
	})
	one := s.put(t, pod("one"))
	waitRevision(t, s.Cache, revision(t, one.ResourceVersion))
	close(h.end)
	eventually(t, "the watch to be taken up again", func() bool {
		s.Cache.doubts.mu.Lock()
		defer s.Cache.doubts.mu.Unlock()
		return s.Cache.doubts.silent
	})
	two := s.put(t, pod("two"))
	type answer struct {
		list *example.PodList
		err  error
	}
	answered := make(chan answer, 1)
	go func() {
		list, err := s.list(t, podPrefix, storage.ListOptions{Recursive: true, Predicate: storage.Everything})
		answered <- answer{list, err}
	}()
	<-h.asked // the list waits
	bookmark := &example.Pod{}
	if err := s.Cache.Versioner().UpdateObject(bookmark, revision(t, two.ResourceVersion)); err != nil {
		t.Fatal(err)
	}
	h.progress <- watch.Event{Type: watch.Bookmark, Object: bookmark}
	for range 2 { // it still does
		select {
		case <-h.asked:
		case a := <-answered:
			t.Fatalf("a list that was asked for at revision %s, before its event, was answered with %d objects at revision %s, %v",
				two.ResourceVersion, len(a.list.Items), a.list.ResourceVersion, a.err)
		}
	}
	close(h.events)
	a := <-answered
	if a.err != nil {
		t.Fatal(a.err)
	}
	if len(a.list.Items) != 2 {
		t.Errorf("%d objects at revision %s", len(a.list.Items), a.list.ResourceVersion)
	}
}

// What is in doubt is what was asked for before anything came, and no more than that.
func TestDoubts(t *testing.T) {
	var d doubts
	trusts := func(want ...bool) {
		t.Helper()
		for i, w := range want {
			if got := d.trusts(); got != w {
				t.Errorf("notification %d is trusted: %t", i+1, got)
			}
		}
	}
	asks := func(calls, want int) {
		t.Helper()
		n := 0
		for range calls {
			if d.asks() {
				n++
			}
		}
		if n != want {
			t.Errorf("%d calls ask %d times, not %d", calls, n, want)
		}
	}
	d.begin()
	trusts(true) // nothing was asked for: etcd tells by itself
	asks(3, 3)
	trusts(true, true, true)

	asks(2, 2) // may be answered on the next RPC
	d.begin()
	asks(9, 4) // 1, 2, 4, 8
	trusts(false)
	asks(5, 5)
	trusts(false, false, false, false, false, true)

	asks(2, 2)
	d.begin()
	asks(2, 2)
	d.event()
	trusts(true)

	// Watches that come to nothing leave no doubts behind but those of the last.
	for range 100 {
		d.begin()
		asks(1, 1)
	}
	d.begin()
	trusts(false, true)

	// A watch whose connection does not answer leaves no doubts behind but that of one who may still be about to ask.
	asks(400, 400)
	d.end()
	d.begin()
	trusts(false, true)

	// While a new one does not, it is asked often enough for readers to be answered soon after it does.
	d.end()
	d.begin()
	asks(400, 53) // 1, 2, 4, 8, 16, 24, ...
	asks(7, 0)
	asks(1, 1)
}
