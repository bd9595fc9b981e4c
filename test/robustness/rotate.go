// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package robustness

import (
	"bufio"
	"fmt"
	"os"

	"github.com/weir-project/weir/test/robustness/timeline"
)

// maxHistory is how large a history's file becomes, in bytes, before another is begun. There are two at a time: what is older
// than the older one is gone, but for what was found, which is kept in a third.
const maxHistory = 256 << 20

// turn begins another file, in the place of this one, which becomes the older one. It is called under mu.
func (r *record) turn() error {
	path := r.file.Name()
	if err := r.buf.Flush(); err != nil {
		return fmt.Errorf("write what is left of a history: %w", err)
	}
	if err := r.file.Close(); err != nil {
		return fmt.Errorf("close a history: %w", err)
	}
	if err := os.Rename(path, timeline.Beside(path, timeline.Older)); err != nil {
		return fmt.Errorf("keep a history: %w", err)
	}
	f, err := os.Create(path)
	if err != nil {
		return fmt.Errorf("begin another history: %w", err)
	}
	r.file, r.size = f, 0
	r.buf.Reset(f)
	return nil
}

// keep writes a line about which something was found to the file that stays, as long as that is no larger than the others.
func (r *record) keep(data []byte) error {
	if r.kept >= r.most {
		return nil
	}
	if r.found == nil {
		f, err := os.Create(timeline.Beside(r.file.Name(), timeline.Found))
		if err != nil {
			return fmt.Errorf("keep what was found: %w", err)
		}
		r.foundFile, r.found = f, bufio.NewWriter(f)
	}
	r.kept += int64(len(data))
	if _, err := r.found.Write(data); err != nil {
		return fmt.Errorf("keep what was found: %w", err)
	}
	return nil
}

// closeFound closes the file of what was found, if there is one.
func (r *record) closeFound() error {
	if r.found == nil {
		return nil
	}
	if err := r.found.Flush(); err != nil {
		return fmt.Errorf("keep what was found: %w", err)
	}
	return r.foundFile.Close()
}
