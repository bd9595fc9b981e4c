// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package budget_test

import (
	"testing"
	"testing/synctest"

	"github.com/weir-project/weir/internal/budget"
)

// TestSmallBesideOneThatIsAlone holds that a large request which is let in because it is alone leaves small ones, and
// watches, their quarter, however large it is.
func TestSmallBesideOneThatIsAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &budget.Budget{}
		b.Resize(100*mib, 112*mib)
		large := ask(t, b, "large", budget.Request{Bytes: 150 * mib, Class: "a"})
		if !large.goes() {
			t.Fatal("the large one waits, and is alone")
		}
		small := ask(t, b, "small", budget.Request{Bytes: 16 << 10, Class: "b"})
		if !small.goes() {
			t.Error("a request of 16 KiB waits for one large one to end")
		}
		watch := ask(t, b, "watch", budget.Request{Bytes: 16 << 10, Kind: budget.Lasting, Class: "b"})
		if !watch.goes() {
			t.Error("a watch of 16 KiB waits for one large one to end")
		}
		large.release()
		for _, a := range []*asked{small, watch} {
			a.release()
		}
	})
}

// TestClassesTakeTurns holds that of two classes that hold equally much, neither goes first every time.
func TestClassesTakeTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &budget.Budget{}
		b.Resize(0, 100*mib) // there is room for one at a time
		first := ask(t, b, "first", budget.Request{Bytes: 20 * mib, Class: "a"})
		other := ask(t, b, "other", budget.Request{Bytes: 20 * mib, Class: "b"})
		// Of class a one comes whenever one goes.
		for range 100 {
			next := ask(t, b, "next", budget.Request{Bytes: 20 * mib, Class: "a"})
			first.release()
			if other.goes() {
				other.release()
				next.release()
				return
			}
			first = next
		}
		t.Error("100 requests of the other class that came later have gone first")
		first.release()
		other.release()
	})
}

// TestWatchesDoNotKeepOneThatIsAlone holds that what ends by itself is let in if no other large one is there, whatever
// watches of its class wait for room that there is not.
func TestWatchesDoNotKeepOneThatIsAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &budget.Budget{}
		b.Resize(-5*mib, 100*mib)
		watch := ask(t, b, "watch", budget.Request{Bytes: 3 * mib, Kind: budget.Lasting, Class: "a"})
		if !watch.waits() {
			t.Fatal("the watch goes, and nothing is left")
		}
		list := ask(t, b, "list", budget.Request{Bytes: 4 * mib, Class: "a"})
		if !list.goes() {
			t.Error("a list waits, and no other large one is there")
		}
		watch.leave()
		synctest.Wait()
		list.release()
	})
}
