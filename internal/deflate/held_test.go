// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package deflate

import (
	"math/rand/v2"
	"testing"
)

// capacity is a connection that looks at what is held while it is written to.
type capacity struct{ most int }

func (c *capacity) Write(p []byte) (int, error) {
	c.most = max(c.most, cap(p))
	return len(p), nil
}

// What a member holds while it waits for its client is what is booked for it.
func TestHeldWhileWaiting(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	most := 0
	for range 20 {
		Compress(noise(random, 400_000), true) // of another stream
		var c capacity
		m := NewMember(&c)
		if _, err := m.Write(text(random, 1000)); err != nil {
			t.Fatal(err)
		}
		if err := m.Flush(); err != nil {
			t.Fatal(err)
		}
		m.Discard()
		most = max(most, c.most)
	}
	if most > gatherSize+gatherSize/64 {
		t.Errorf("a member that has 1000 bytes to send holds %d while it waits, of which %d are booked", most, gatherSize)
	}
}
