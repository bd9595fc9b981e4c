// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package rig

import (
	"fmt"
	"os"
	"os/exec"
	"slices"

	"github.com/spf13/cobra"
)

// The hidden subcommands that a program is started again as.
const (
	etcdSubcommand    = "internal-etcd"
	limitedSubcommand = "internal-limited"
)

// Self says how to start this same program again as one of its hidden subcommands.
type Self struct {
	// Path is the executable.
	Path string
	// Prefix is what stands between the executable and the subcommand, such as "bench".
	Prefix []string
	// Env is added to the environment: a test binary is told by it what it is.
	Env []string
}

// ThisProgram is the program that runs: this very one, also when a new build has replaced its file.
func ThisProgram() (Self, error) {
	path, err := thisProgram()
	if err != nil {
		return Self{}, fmt.Errorf("find this program, to start it again: %w", err)
	}
	return Self{Path: path}, nil
}

// Command makes one of the hidden subcommands.
func (s Self) Command(args ...string) *exec.Cmd {
	cmd := exec.Command(s.Path, append(slices.Clone(s.Prefix), args...)...)
	cmd.Env = append(os.Environ(), s.Env...)
	return cmd
}

// Commands returns the hidden subcommands that a program must have in which rooms are opened, where Self says.
func Commands() []*cobra.Command { return []*cobra.Command{newEtcdCommand(), newLimitedCommand()} }

// Execute runs one of the hidden subcommands, for a program that has no others, such as a test binary.
func Execute(args []string) error {
	root := &cobra.Command{Use: "rig", SilenceUsage: true, SilenceErrors: true}
	root.AddCommand(Commands()...)
	root.SetArgs(args)
	return root.Execute()
}
