// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package rig

import (
	"errors"
	"os"
	"os/exec"
)

func dieWithParent(*exec.Cmd) {}

func pause(*os.Process) error  { return errors.ErrUnsupported }
func resume(*os.Process) error { return errors.ErrUnsupported }

func thisProgram() (string, error) { return os.Executable() }
