// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package bench

import (
	"os"
	"os/exec"
)

func dieWithParent(*exec.Cmd) {}

func thisProgram() (string, error) { return os.Executable() }
