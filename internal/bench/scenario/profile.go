// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
)

// profileCPU takes processor profiles of seconds each, one after the other, into dir/name-cpu-N.pprof; "go tool pprof"
// merges several. The returned function has the profile that is under way be the last, and waits for it.
func (s *Server) profileCPU(ctx context.Context, dir, name string, seconds int) (finish func() error) {
	last := make(chan struct{})
	result := make(chan error, 1)
	go func() {
		for i := 0; ; i++ {
			data, err := s.Get(ctx, fmt.Sprintf("/debug/pprof/profile?seconds=%d", seconds))
			if err == nil {
				err = os.WriteFile(filepath.Join(dir, fmt.Sprintf("%s-cpu-%d.pprof", name, i)), data, 0o644)
			}
			if err != nil {
				result <- fmt.Errorf("profile %s: %w", s.Target.Name, err)
				return
			}
			select {
			case <-last:
				result <- nil
				return
			default:
			}
		}
	}()
	return func() error {
		close(last)
		return <-result
	}
}

// profileHeap saves the heap after a collection to dir/name-heap.pprof.
func (s *Server) profileHeap(ctx context.Context, dir, name string) error {
	data, err := s.Get(ctx, "/debug/pprof/heap?gc=1")
	if err != nil {
		return fmt.Errorf("heap profile of %s: %w", s.Target.Name, err)
	}
	return os.WriteFile(filepath.Join(dir, name+"-heap.pprof"), data, 0o644)
}
