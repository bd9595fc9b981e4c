// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"github.com/spf13/cobra"

	"github.com/weir-project/weir/internal/status/dashboard"
)

func newDashboardCommand() *cobra.Command { return dashboard.NewCommand() }
