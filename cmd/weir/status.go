// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"github.com/spf13/cobra"

	"github.com/weir-project/weir/internal/status/view"
)

func newStatusCommand() *cobra.Command { return view.NewCommand() }
