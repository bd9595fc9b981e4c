// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package rig

import (
	"errors"
	"os/exec"

	"github.com/spf13/cobra"
)

type limiter struct{}

func newLimiter(string) (*limiter, error) {
	return nil, errors.New("needs control groups, which only Linux has")
}

func (*limiter) group(string, int64) (*memoryGroup, error) { return nil, errors.ErrUnsupported }

type memoryGroup struct{ limit int64 }

func (*memoryGroup) enter(_ Self, cmd *exec.Cmd, _ []string) *exec.Cmd { return cmd }
func (*memoryGroup) setLimit(int64) error                              { return errors.ErrUnsupported }
func (*memoryGroup) killed() bool                                      { return false }
func (*memoryGroup) remove()                                           {}

func newLimitedCommand() *cobra.Command { return &cobra.Command{Use: limitedSubcommand, Hidden: true} }
