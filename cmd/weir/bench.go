// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"github.com/spf13/cobra"

	"github.com/weir-project/weir/internal/apiserver"
	"github.com/weir-project/weir/internal/bench"
)

// newBenchCommand returns the command that measures servers, this one among them: it starts
// this same program again under the name kube-apiserver.
func newBenchCommand() *cobra.Command {
	return bench.NewCommand(bench.Program{
		ServerName: dropIn,
		Off:        []string{"--feature-gates=" + string(apiserver.EncodedWatchCache) + "=false"},
	})
}
