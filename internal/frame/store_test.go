// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package frame

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"

	kruntime "k8s.io/apimachinery/pkg/runtime"

	"github.com/weir-project/weir/internal/ledger"
	"github.com/weir-project/weir/internal/wire"
)

// storeOf returns a Store with a ledger of its own.
func storeOf(budget int64) *Store { return NewStore(budget, &ledger.Ledger{}) }

func name(i int) encoding { return encoding{id: kruntime.Identifier(fmt.Sprint("e", i))} }

// bytesOf returns a build function that makes n bytes.
func bytesOf(n int) func() (encoded, error) {
	return func() (encoded, error) { return encoded{data: make([]byte, n)}, nil }
}

// sweepAll is a sweep of both shelves.
func (s *Store) sweepAll() {
	s.sweepIdle(&s.kept)
	s.sweepIdle(&s.brief)
}

// check holds the Store's invariants: what is queued is what frames keep, is what is
// booked, and is within the budget.
func (s *Store) check(t *testing.T, frames ...*Frame) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	queued := map[*derived]bool{}
	var booked int64
	for _, shelf := range []*shelf{&s.kept, &s.brief} {
		var onShelf int64
		for _, q := range []*queue{&shelf.single, &shelf.shared} {
			var bytes int64
			n := 0
			var before *derived
			for d := q.first; d != nil; before, d = d, d.behind {
				if d.in != q || d.before != before || d.pending.Load() != nil || queued[d] || s.shelf(d.name) != shelf {
					t.Errorf("%q of %s is in a queue and should not be, or not there", d.name.id, d.frame.key)
				}
				queued[d] = true
				bytes += d.cost()
				n++
			}
			if q.last != before || n != q.len || bytes != q.bytes {
				t.Errorf("a queue has %d encodings of %d bytes and says %d of %d", n, bytes, q.len, q.bytes)
			}
			onShelf += bytes
		}
		if onShelf > shelf.budget {
			t.Errorf("%d bytes are kept and %d allowed", onShelf, shelf.budget)
		}
		if shelf.sweep == nil && onShelf > 0 {
			t.Error("nobody will sweep")
		}
		booked += onShelf
	}
	if booked != s.ledger.Bytes(ledger.Derived) {
		t.Errorf("%d bytes are kept and %d booked", booked, s.ledger.Bytes(ledger.Derived))
	}
	for _, f := range frames {
		for d := f.derived.Load(); d != nil; d = d.next.Load() {
			if f.find(d.name) != d {
				t.Errorf("%s keeps %q twice", f.key, d.name.id)
			}
			if !queued[d] {
				t.Errorf("%s keeps %q, which is not queued", f.key, d.name.id)
			}
			delete(queued, d)
		}
	}
	if len(queued) != 0 {
		t.Errorf("%d encodings are queued that no frame has", len(queued))
	}
}

// askers has n goroutines ask for the same encoding, of whom one builds when all wait.
// It returns what each got.
func askers(s *Store, f *Frame, n int, build func() (encoded, error)) (builds int, got []encoded, errs []error) {
	var mu sync.Mutex
	release := make(chan struct{})
	var all sync.WaitGroup
	for range n {
		all.Go(func() {
			defer func() {
				if r := recover(); r != nil {
					mu.Lock()
					errs = append(errs, fmt.Errorf("panic: %v", r))
					mu.Unlock()
				}
			}()
			e, err := s.get(f, name(0), func() (encoded, error) {
				mu.Lock()
				builds++
				mu.Unlock()
				<-release
				return build()
			})
			mu.Lock()
			defer mu.Unlock()
			got, errs = append(got, e), append(errs, err)
		})
	}
	synctest.Wait() // one builds, the others wait for it
	close(release)
	all.Wait()
	return builds, got, errs
}

// TestOneBuildForAll has many ask at the same time.
func TestOneBuildForAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, f := storeOf(100*unit), &Frame{key: "f"}
		builds, got, errs := askers(s, f, 50, bytesOf(10))
		if builds != 1 {
			t.Errorf("%d builds", builds)
		}
		for i := range got {
			if errs[i] != nil || &got[i].data[0] != &got[0].data[0] {
				t.Errorf("asker %d got other bytes, or %v", i, errs[i])
			}
		}
		s.check(t, f)
		if _, err := s.get(f, name(0), nil); err != nil { // it is there
			t.Error(err)
		}
		// One who looked before it was there, and claims it now, comes too late.
		if d, p := s.claim(f, name(0)); p != nil || d != f.find(name(0)) {
			t.Error("an encoding that is there can be claimed")
		}
	})
}

// TestBuildFails has the build end in each bad way: all who wait are told, nothing is
// left behind, and the next asker starts afresh.
func TestBuildFails(t *testing.T) {
	broken := errors.New("broken")
	for how, build := range map[string]func() (encoded, error){
		"error": func() (encoded, error) { return encoded{data: []byte("half")}, broken },
		"panic": func() (encoded, error) { panic("no such luck") },
		"exit":  func() (encoded, error) { runtime.Goexit(); return encoded{}, nil },
	} {
		t.Run(how, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, f := storeOf(100*unit), &Frame{key: "the frame"}
				builds, _, errs := askers(s, f, 50, build)
				if builds != 1 {
					t.Errorf("%d builds", builds)
				}
				want := 50
				if how == "exit" {
					want = 49 // the one who built is gone
				}
				if len(errs) != want {
					t.Errorf("%d askers were answered, want %d", len(errs), want)
				}
				panics := 0
				for _, err := range errs {
					switch {
					case err == nil:
						t.Error("an asker was told that all is well")
					case strings.HasPrefix(err.Error(), "panic: "):
						panics++
					case how == "error" && !errors.Is(err, broken), how != "error" && !strings.Contains(err.Error(), "the frame"):
						t.Errorf("an asker was told %q", err)
					}
				}
				if (how == "panic") != (panics == 1) {
					t.Errorf("%d panics", panics)
				}
				if f.derived.Load() != nil || s.kept.single.len+s.kept.shared.len != 0 || s.kept.sweep != nil {
					t.Error("something is left behind")
				}
				s.check(t, f)
				if e, err := s.get(f, name(0), bytesOf(7)); err != nil || len(e.data) != 7 {
					t.Errorf("the next asker got %d bytes, %v", len(e.data), err)
				}
				s.check(t, f)
			})
		})
	}
}

// kept returns which of the encodings 0 to n-1 of the frame are kept.
func kept(f *Frame, n int) string {
	var out []byte
	for i := range n {
		if f.find(name(i)) != nil {
			out = fmt.Append(out, i)
		}
	}
	return string(out)
}

// unit is what an encoding of 16 bytes costs.
var unit = (&derived{encoded: encoded{data: make([]byte, 16)}}).cost()

// TestBudget fills a Store: the oldest goes first, unless somebody else than its maker has
// asked for it since it was last considered.
func TestBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, f := storeOf(4*unit), &Frame{key: "f"}
		ask := func(i, n int) {
			t.Helper()
			if e, err := s.get(f, name(i), bytesOf(n)); err != nil || len(e.data) != n {
				t.Fatalf("encoding %d: %d bytes, %v", i, len(e.data), err)
			}
			s.check(t, f)
		}
		is := func(want string) {
			t.Helper()
			if got := kept(f, 10); got != want {
				t.Fatalf("kept are %q, want %q", got, want)
			}
		}
		for i := range 4 {
			ask(i, 16)
		}
		is("0123")
		ask(1, 16)
		ask(4, 16)
		is("1234")
		ask(5, 16) // 1 is shared now, and the others go before it
		is("1345")
		ask(6, 16)
		ask(7, 16)
		is("1567")
		// One that fills the whole budget leaves what is shared, and is not kept itself; nor is
		// one that is larger than the budget.
		ask(8, int(4*unit-ledger.Heap(int(unsafe.Sizeof(derived{})))))
		is("1")
		ask(9, int(4*unit))
		is("1")
		// Where nothing is shared, it is.
		s.sweepAll()
		s.sweepAll()
		is("")
		ask(8, int(4*unit-ledger.Heap(int(unsafe.Sizeof(derived{})))))
		is("8")
		ask(9, int(4*unit))
		is("")
	})
}

// TestScan has clients list, each once, many times what the budget allows, while others share
// encodings that take half of it. What is shared stays.
func TestScan(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const shared, scanned = 50, 1000
		s := storeOf(100 * unit)
		frames := make([]*Frame, scanned)
		for i := range frames {
			frames[i] = &Frame{key: fmt.Sprint("f", i)}
		}
		for range 2 {
			for i := range shared {
				s.get(frames[i], name(0), bytesOf(16))
			}
		}
		for client := 1; client <= 5; client++ {
			for _, f := range frames {
				s.get(f, name(client), bytesOf(16))
			}
			s.check(t, frames...)
		}
		for i := range shared {
			if frames[i].find(name(0)) == nil {
				t.Errorf("encoding %d is gone, which others share", i)
			}
		}
		// Those who list at the same time, one a little behind the other, share as well.
		const behind = 5
		made := 0
		for i := range scanned + behind {
			for _, at := range []int{i, i - behind} {
				if at >= 0 && at < scanned {
					s.get(frames[at], name(6), func() (encoded, error) { made++; return bytesOf(16)() })
				}
			}
		}
		if made != scanned {
			t.Errorf("two lists at the same time made %d encodings of %d objects", made, scanned)
		}
		s.check(t, frames...)
		// The shared ones do not stay for ever: new ones take their place.
		for range 20 {
			for i := range 150 {
				s.get(frames[i], name(7), bytesOf(16))
				s.get(frames[i], name(7), bytesOf(16))
			}
		}
		if frames[149].find(name(7)) == nil || frames[0].find(name(0)) != nil {
			t.Error("what was shared once is never given up")
		}
		s.check(t, frames...)
	})
}

// TestSweepInBatches sweeps more encodings than are looked at in one go, while some are
// dropped and others are moved by those who need room in between: each is kept if, and only
// if, it was made or asked for since the last sweep.
func TestSweepInBatches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 5 * batch
		s := storeOf(n * unit)
		frames := make([]*Frame, n)
		for i := range frames {
			frames[i] = &Frame{key: fmt.Sprint("f", i)}
			s.get(frames[i], name(0), bytesOf(16))
		}
		s.sweepAll()
		s.check(t, frames...)
		for i := 0; i < n; i += 3 {
			s.get(frames[i], name(0), nil)
		}
		s.mu.Lock()
		s.kept.sweeps++
		s.mu.Unlock()
		for round := 0; s.sweepSome(&s.kept); round++ {
			for i := range batch / 2 { // pushes out what has not been asked for
				s.get(frames[i], name(1+round), bytesOf(16))
			}
			s.check(t, frames...)
		}
		for i, f := range frames {
			if (f.find(name(0)) != nil) != (i%3 == 0) {
				t.Errorf("encoding %d is there: %v", i, f.find(name(0)) != nil)
			}
		}
		s.check(t, frames...)
	})
}

// TestIdle lets time pass, the clock of synctest's, for an encoding that is asked for
// and one that is not.
func TestIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, f := storeOf(1000*unit), &Frame{key: "f"}
		began := time.Now()
		for i := range 3 {
			s.get(f, name(i), bytesOf(10))
		}
		for range 10 {
			time.Sleep(idle)
			synctest.Wait()
			s.get(f, name(1), bytesOf(10))
			s.check(t, f)
			if passed := time.Since(began); passed < idle && kept(f, 3) != "012" || passed > 2*idle && kept(f, 3) != "1" {
				t.Errorf("after %v, %q are kept", passed, kept(f, 3))
			}
		}
		time.Sleep(2*idle + 1)
		synctest.Wait()
		s.check(t, f)
		if kept(f, 3) != "" || s.kept.single.len+s.kept.shared.len != 0 || s.kept.sweep != nil {
			t.Errorf("an idle store keeps %q, %d encodings, and a timer: %v", kept(f, 3), s.kept.single.len+s.kept.shared.len, s.kept.sweep != nil)
		}
		// And again from the beginning.
		s.get(f, name(0), bytesOf(10))
		s.check(t, f)
		time.Sleep(2*idle + 1)
		synctest.Wait()
		if s.ledger.Bytes(ledger.Derived) != 0 {
			t.Error("the second time, the store was not swept")
		}
	})
}

// TestPerishable lets time pass, the clock of synctest's, for a Table and for an
// encoding that stays true.
func TestPerishable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, f := storeOf(1000*unit), &Frame{key: "f"}
		table, object := encoding{id: "table", perishable: true}, encoding{id: "object"}
		built := map[encoding]int{}
		ask := func() {
			for _, n := range []encoding{table, object} {
				s.get(f, n, func() (encoded, error) {
					built[n]++
					return encoded{data: make([]byte, 10)}, nil
				})
			}
			s.check(t, f)
		}
		ask()
		ask()
		if built[table] != 1 || built[object] != 1 {
			t.Errorf("within a second, a Table was made %d times and an object %d times, want once", built[table], built[object])
		}
		time.Sleep(fresh + 1)
		ask()
		ask()
		if built[table] != 2 || built[object] != 1 {
			t.Errorf("after a second, a Table was made %d times, want twice, and an object %d times, want once", built[table], built[object])
		}
		time.Sleep(2*idle + 1)
		synctest.Wait()
		s.check(t, f)
	})
}

// TestStoreAtRandom has many goroutines ask for encodings of many frames under a
// budget that is always short, with builds that fail and sweeps in between.
func TestStoreAtRandom(t *testing.T) {
	r := random(t)
	s := storeOf(10 * unit)
	frames := make([]*Frame, 6)
	for i := range frames {
		frames[i] = &Frame{key: fmt.Sprint("f", i)}
	}
	broken := errors.New("broken")
	var all sync.WaitGroup
	for range 8 {
		seeds := make([]uint32, 3000)
		for i := range seeds {
			seeds[i] = r.Uint32()
		}
		all.Go(func() {
			for _, x := range seeds {
				f, i, how := frames[x%6], int(x/6%9), x/64%20
				size := 1 + 13*i
				want := []byte(strings.Repeat(f.key[1:], size))
				e, err := s.get(f, name(i), func() (encoded, error) {
					if how == 0 {
						return encoded{}, broken
					}
					return encoded{data: bytes.Clone(want)}, nil
				})
				if err != nil && !errors.Is(err, broken) || err == nil && !bytes.Equal(e.data, want) {
					t.Errorf("encoding %d of %s: %q, %v", i, f.key, e.data, err)
					return
				}
				if how == 1 {
					s.sweepAll()
				}
			}
		})
	}
	all.Wait()
	s.check(t, frames...)
	s.sweepAll()
	s.sweepAll()
	s.check(t, frames...)
	if n := s.kept.single.len + s.kept.shared.len; n != 0 {
		t.Errorf("an idle store keeps %d encodings", n)
	}
}

// TestEnvelopesAreApart asks for one object encoding in events of two formats.
func TestEnvelopesAreApart(t *testing.T) {
	s, f := storeOf(100*unit), &Frame{key: "f"}
	for _, envelope := range []wire.Format{wire.JSON, wire.Protobuf, wire.JSON} {
		e, err := s.get(f, encoding{id: "id", envelope: envelope}, func() (encoded, error) { return enclose(envelope, []byte("{}")), nil })
		if err != nil || e.format != envelope {
			t.Errorf("asked for %v, got %v, %v", envelope, e.format, err)
		}
	}
	s.sweepAll()
	s.sweepAll()
}

// TestBuildObject holds what an encoder of events has to do, and what happens if one
// day upstream's does not.
func TestBuildObject(t *testing.T) {
	c, _ := core("ConfigMap", "configmaps").codec(t, 1<<20)
	f := frameOf(t, c, configMap)
	v := &variant{envelope: wire.JSON, object: "object"}
	broken := errors.New("broken")
	for what, encode := range map[string]func(kruntime.Object, io.Writer) error{
		"does not ask":     func(kruntime.Object, io.Writer) error { return nil },
		"fails":            func(kruntime.Object, io.Writer) error { return broken },
		"asks for another": asks("other", func(kruntime.Object, io.Writer) error { return nil }),
		"cannot encode":    asks("object", func(kruntime.Object, io.Writer) error { return broken }),
	} {
		_, err := f.buildObject(v, encode)
		if err == nil || strings.Contains(err.Error(), "%!") {
			t.Errorf("an encoder that %s: %v", what, err)
		}
		if (what == "fails" || what == "cannot encode") && !errors.Is(err, broken) {
			t.Errorf("an encoder that %s: %v", what, err)
		}
	}
	e, err := f.buildObject(v, asks("object", func(_ kruntime.Object, w io.Writer) error {
		_, err := io.WriteString(w, "{}\n")
		return err
	}))
	if err != nil || string(e.data) != `{"type":"ADDED","object":{}}`+"\n" {
		t.Errorf("the event is %q, %v", e.data, err)
	}
}

// asks returns an encoder of events that asks the object to encode itself.
func asks(id kruntime.Identifier, encode func(kruntime.Object, io.Writer) error) func(kruntime.Object, io.Writer) error {
	return func(obj kruntime.Object, w io.Writer) error {
		return obj.(kruntime.CacheableObject).CacheEncode(id, encode, w)
	}
}
