// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package deflate

import (
	"io"
	"runtime"
	"sync"
	"testing"
)

//go:noinline
func deep(n int, f func()) byte {
	var pad [1024]byte
	pad[n] = 1
	if n == 0 {
		f()
	} else {
		pad[0] = deep(n-1, f)
	}
	return pad[0] + pad[n]
}

// An idle watch whose last bookmark was compressed has no larger stack than one that was not.
func TestStackOfIdleStreams(t *testing.T) {
	const streams = 256
	measure := func(write bool) uint64 {
		var ready, done sync.WaitGroup
		end := make(chan struct{})
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		ready.Add(streams)
		for range streams {
			done.Go(func() {
				// As deep as upstream's handler is: 14 KiB, for which a stack has 32.
				deep(14, func() {
					if write {
						m := NewMember(io.Discard)
						_, _ = m.Write(make([]byte, 200))
						_ = m.Flush()
						m.Discard()
					}
					ready.Done()
					<-end
				})
			})
		}
		ready.Wait()
		runtime.ReadMemStats(&after)
		close(end)
		done.Wait()
		return (after.StackInuse - before.StackInuse) / streams
	}
	without := measure(false)
	if with := measure(true); with > without+without/4 {
		t.Errorf("%d bytes of stack for each stream that has compressed 200 bytes, %d for one that has not", with, without)
	}
}
