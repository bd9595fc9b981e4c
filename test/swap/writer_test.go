// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package swap

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"

	"github.com/weir-project/weir/test/acked"
)

const (
	writers = 5
	slots   = 6 // of each writer and kind: so many objects at a time
)

// load is the writers together.
type load struct {
	list []*writer
	// turn is counted up by the test when servers begin to change.
	turn *atomic.Int64
	// acks is how many writes were acknowledged.
	acks atomic.Int64

	stop chan struct{} // closed to have the writers pause
	all  sync.WaitGroup
}

// writer has objects of its own. Its fields are its own while it writes.
type writer struct {
	id   int
	load *load
	rand *rand.Rand
	// clients lead to all servers that serve; each write goes to one of them.
	clients []dynamic.Interface
	slots   []*slot
	ledger  map[*kind]acked.Ledger
	count   int
	// told are the acknowledged writes that made or changed an object.
	told    []told
	unknown int   // writes that were not answered
	failure error // an answer that makes no sense
}

// told is a write that was acknowledged.
type told struct {
	kind           *kind
	name, revision string
	turn           int64
}

// slot is the place of one object after the other.
type slot struct {
	kind *kind
	name string
	// next makes the next name: what a write without an answer may still become is not written any more.
	next int
	// last is the object as it was acknowledged; nil if there is none.
	last *unstructured.Unstructured
}

// newLoad makes writers; the configuration of each for each server is made by configs.
func newLoad(t *testing.T, seed uint64, turn *atomic.Int64, configs ...func(agent string) *rest.Config) *load {
	t.Helper()
	l := &load{turn: turn}
	for i := range writers {
		w := &writer{id: i, load: l, rand: rand.New(rand.NewPCG(seed, uint64(i)+1)), ledger: map[*kind]acked.Ledger{}}
		for _, config := range configs {
			client, err := dynamic.NewForConfig(config(fmt.Sprintf("writer-%d", i)))
			if err != nil {
				t.Fatal(err)
			}
			w.clients = append(w.clients, client)
		}
		for _, k := range kinds {
			w.ledger[k] = acked.Ledger{}
			for s := range slots {
				w.slots = append(w.slots, &slot{kind: k, name: fmt.Sprintf("object-%d-%d", i, s)})
			}
		}
		l.list = append(l.list, w)
	}
	return l
}

// resume has all write until pause.
func (l *load) resume(ctx context.Context) {
	l.stop = make(chan struct{})
	for _, w := range l.list {
		l.all.Go(func() { w.write(ctx, l.stop) })
	}
}

// pause returns when nobody writes any more.
func (l *load) pause(t *testing.T) {
	t.Helper()
	close(l.stop)
	l.all.Wait()
	for _, w := range l.list {
		if w.failure != nil {
			t.Fatalf("writer %d: %v", w.id, w.failure)
		}
	}
}

func (l *load) unknown() (n int) {
	for _, w := range l.list {
		n += w.unknown
	}
	return n
}

func (w *writer) write(ctx context.Context, stop <-chan struct{}) {
	for w.failure == nil && ctx.Err() == nil {
		select {
		case <-stop:
			return
		default:
		}
		if !w.once(ctx) {
			w.answered(ctx)
		}
	}
}

// answered waits until somebody answers again.
func (w *writer) answered(ctx context.Context) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if _, err := w.clients[0].Resource(kinds[0].GroupVersionResource).Namespace(namespace).Get(ctx, "nobody", metav1.GetOptions{}); apierrors.IsNotFound(err) {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// once reports whether the write was answered.
func (w *writer) once(ctx context.Context) bool {
	w.count++
	s := w.slots[w.rand.IntN(len(w.slots))]
	objects := w.at(s.kind)
	mark := fmt.Sprintf("%d-%d", w.id, w.count)
	var made *unstructured.Unstructured
	var err error
	switch choice := w.rand.IntN(10); {
	case s.last == nil:
		made, err = objects.Create(ctx, s.kind.object(s.name, mark), metav1.CreateOptions{})
	case choice < 2:
		mark = acked.Absent
		revision := s.last.GetResourceVersion()
		err = objects.Delete(ctx, s.name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{ResourceVersion: &revision}})
	case choice < 6: // by what the last answer was: anything in between is a conflict
		changed := s.last.DeepCopy()
		changed.SetAnnotations(map[string]string{markKey: mark})
		made, err = objects.Update(ctx, changed, metav1.UpdateOptions{})
	default:
		patch, failed := json.Marshal(map[string]any{"metadata": map[string]any{"annotations": map[string]string{markKey: mark}}})
		if failed != nil {
			w.failure = failed
			return false
		}
		made, err = objects.Patch(ctx, s.name, types.MergePatchType, patch, metav1.PatchOptions{})
	}
	var status apierrors.APIStatus
	switch {
	case err == nil:
		w.load.acks.Add(1)
		w.ledger[s.kind].Acknowledged(s.name, mark)
		if s.last = made; made != nil {
			w.told = append(w.told, told{kind: s.kind, name: s.name, revision: made.GetResourceVersion(), turn: w.load.turn.Load()})
		}
		return w.reads(ctx, s)
	case errors.As(err, &status) && status.Status().Code < 500 && !apierrors.IsTooManyRequests(err):
		// Nobody else writes it, and the last write of it was answered: there is nothing to refuse.
		w.failure = fmt.Errorf("write %s of %s %s: %w", mark, s.kind.Resource, s.name, err)
		return false
	default:
		w.unknown++
		w.ledger[s.kind].Unanswered(s.name, mark)
		s.next++
		s.name, s.last = fmt.Sprintf("object-%d-%d-%d", w.id, w.rand.Int32(), s.next), nil
		return false
	}
}

// at is where objects of k are, at one of the servers.
func (w *writer) at(k *kind) dynamic.ResourceInterface {
	return w.clients[w.rand.IntN(len(w.clients))].Resource(k.GroupVersionResource).Namespace(namespace)
}

// reads looks, once in a while, what any of the servers says of what was acknowledged just now: alone, or in a consistent list. It
// reports whether that was answered.
func (w *writer) reads(ctx context.Context, s *slot) bool {
	want := ""
	if s.last != nil {
		want = s.last.GetResourceVersion()
	}
	got := ""
	switch w.rand.IntN(4) {
	case 0:
		one, err := w.at(s.kind).Get(ctx, s.name, metav1.GetOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			return false
		}
		if err == nil {
			got = one.GetResourceVersion()
		}
	case 1:
		all, err := w.at(s.kind).List(ctx, metav1.ListOptions{})
		if err != nil {
			return false
		}
		for _, one := range all.Items {
			if one.GetName() == s.name {
				got = one.GetResourceVersion()
			}
		}
	default:
		return true
	}
	if got != want {
		w.failure = fmt.Errorf("%s %s was acknowledged at revision %q, and then read at revision %q (empty is absent)", s.kind.Resource, s.name, want, got)
	}
	return true
}

// check holds what is there against what can be, while nobody writes: marks are those of all objects of k.
func (l *load) check(k *kind, marks map[string]string) error {
	var failures []error
	known := 0
	for _, w := range l.list {
		for name := range w.ledger[k] {
			if marks[name] != acked.Absent {
				known++
			}
			if err := w.ledger[k].Sees(name, marks[name]); err != nil {
				failures = append(failures, fmt.Errorf("%s %w", k.Resource, err))
			}
		}
	}
	if known != len(marks) {
		failures = append(failures, fmt.Errorf("there are %d %s, and %d of them were written", len(marks), k.Resource, known))
	}
	return errors.Join(failures...)
}
