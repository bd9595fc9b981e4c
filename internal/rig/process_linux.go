// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package rig

import (
	"errors"
	"os"
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"
)

// dieWithParent has the kernel end the child when this process dies without having had the time to stop it.
func dieWithParent(cmd *exec.Cmd) {
	// A process group of its own: Ctrl-C on the terminal reaches this process only, which then stops its children in
	// order (the server before its etcd).
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
}

// pause returns when every thread has stopped: the signal alone is only sent, and a busy machine lets a server answer a few
// more requests after it.
func pause(p *os.Process) error {
	if err := p.Signal(syscall.SIGSTOP); err != nil {
		return err
	}
	for {
		// WNOWAIT: that it stopped stays to be seen, by whoever pauses it once more. Without WEXITED its end is not taken from
		// the one who waits for it; a process that has ended meanwhile is ECHILD here.
		err := unix.Waitid(unix.P_PID, p.Pid, nil, unix.WSTOPPED|unix.WNOWAIT, nil)
		if !errors.Is(err, unix.EINTR) {
			return os.NewSyscallError("waitid", err)
		}
	}
}

func resume(p *os.Process) error { return p.Signal(syscall.SIGCONT) }

// thisProgram is the path of the running executable: of this very one, also when a new build has replaced its file.
func thisProgram() (string, error) { return "/proc/self/exe", nil }
