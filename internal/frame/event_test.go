// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package frame

import (
	"bytes"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/weir-project/weir/internal/ledger"
	"github.com/weir-project/weir/internal/wire"
)

// stalled is a connection that takes nothing until it is told to.
type stalled struct {
	held chan []byte // what is being written
	take chan struct{}
}

func (s *stalled) Write(p []byte) (int, error) {
	s.held <- p
	<-s.take
	return len(p), nil
}

// TestStalledShareAnEvent has many connections hold one event, which they are all sent: they hold it once.
func TestStalledShareAnEvent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _ := core("ConfigMap", "configmaps").codec(t, 0)
		large := configMap.DeepCopy()
		large.Data = map[string]string{"content": strings.Repeat("x", 100_000)}
		f := frameOf(t, c, large)
		small := frameOf(t, c, configMap)
		before := ledger.Process.Bytes(ledger.Streams)
		const writers = 50
		s := &stalled{held: make(chan []byte, 3*writers), take: make(chan struct{})}
		var all sync.WaitGroup
		// Nothing is kept for derived encodings: each get makes a new one, as with a budget of 0.
		var made atomic.Int32
		derived := func() (encoded, error) {
			made.Add(1)
			return enclose(wire.JSON, bytes.Repeat([]byte("x"), 100_000)), nil
		}
		kept := func() (encoded, error) { return f.primary, nil }
		for range writers {
			all.Go(func() { _ = f.writeEvent(encoding{}, "MODIFIED", kept, s) })
			all.Go(func() { _ = f.writeEvent(encoding{id: "json"}, "MODIFIED", derived, s) })
			all.Go(func() { _ = f.writeEvent(encoding{id: "json"}, "ADDED", derived, s) })
		}
		synctest.Wait()
		different := map[*byte]bool{}
		for range 3 * writers {
			different[&(<-s.held)[0]] = true
		}
		if len(different) != 3 || made.Load() != 2 {
			t.Errorf("%d connections hold %d events, which are 3; the encoding was made %d times", 3*writers, len(different), made.Load())
		}
		if booked := ledger.Process.Bytes(ledger.Streams) - before; booked < 200_000 || booked > 300_000 {
			t.Errorf("%d bytes are booked for the two that are no one else's", booked)
		}
		close(s.take)
		all.Wait()
		if n := len(c.store.events.writing); n != 0 || ledger.Process.Bytes(ledger.Streams) != before {
			t.Errorf("nobody writes: %d events are left, and %d bytes booked", n, ledger.Process.Bytes(ledger.Streams)-before)
		}

		broken := errors.New("broken")
		if err := f.writeEvent(encoding{id: "broken"}, "MODIFIED", func() (encoded, error) { return encoded{}, broken }, s); !errors.Is(err, broken) {
			t.Errorf("what cannot be encoded: %v", err)
		}
		var out bytes.Buffer
		for _, g := range []*Frame{f, small} {
			for _, typ := range []string{"ADDED", "MODIFIED", "DELETED"} {
				out.Reset()
				if err := g.writeEvent(encoding{}, typ, func() (encoded, error) { return g.primary, nil }, &out); err != nil ||
					!bytes.Equal(out.Bytes(), wire.AppendEvent(nil, g.primary.format, typ, g.primary.object())) {
					t.Errorf("%s: %v, or other bytes than put together anew", typ, err)
				}
			}
		}
		if n := len(c.store.events.writing); n != 0 {
			t.Errorf("%d events are left", n)
		}
	})
}

// TestPanickingMakerLeavesNothing: an event that could not be made is made anew for the next one who asks.
func TestPanickingMakerLeavesNothing(t *testing.T) {
	c, _ := core("ConfigMap", "configmaps").codec(t, 0)
	large := configMap.DeepCopy()
	large.Data = map[string]string{"content": strings.Repeat("x", 100_000)}
	f := frameOf(t, c, large)
	func() {
		defer func() { _ = recover() }()
		_ = f.writeEvent(encoding{}, "MODIFIED", func() (encoded, error) { panic("an encoder") }, &bytes.Buffer{})
	}()
	if n := len(c.store.events.writing); n != 0 {
		t.Errorf("%d events are left, and nobody writes", n)
	}
	if err := f.writeEvent(encoding{}, "MODIFIED", func() (encoded, error) { return f.primary, nil }, &bytes.Buffer{}); err != nil {
		t.Errorf("the next one: %v", err)
	}
}
