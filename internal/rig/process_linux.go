// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package rig

import (
	"os"
	"os/exec"
	"syscall"
)

// dieWithParent has the kernel end the child when this process dies without having had the time to stop it.
func dieWithParent(cmd *exec.Cmd) {
	// A process group of its own: Ctrl-C on the terminal reaches this process only, which then stops its children in
	// order (the server before its etcd).
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
}

func pause(p *os.Process) error  { return p.Signal(syscall.SIGSTOP) }
func resume(p *os.Process) error { return p.Signal(syscall.SIGCONT) }

// thisProgram is the path of the running executable: of this very one, also when a new build has replaced its file.
func thisProgram() (string, error) { return "/proc/self/exe", nil }
