// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package bench

import (
	"errors"
	"os/exec"

	"github.com/spf13/cobra"
)

type limiter struct{}

func newLimiter(int64) (*limiter, error) {
	return nil, errors.New("--memory-limit needs control groups, which only Linux has")
}

func (*limiter) group(string) (*memoryGroup, error) { return nil, errors.ErrUnsupported }

type memoryGroup struct{ limit int64 }

func (*memoryGroup) enter(_ selfExec, cmd *exec.Cmd) *exec.Cmd { return cmd }
func (*memoryGroup) killed() bool                              { return false }
func (*memoryGroup) remove()                                   {}

func newLimitedCommand() *cobra.Command { return &cobra.Command{Use: limitedSubcommand, Hidden: true} }
