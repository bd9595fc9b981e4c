// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package etcd

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// Lock is the right to use a data directory. It ends with the process, however
// that ends, because the kernel holds it.
type Lock struct{ file *os.File }

// ErrInUse says that another process holds the directory.
var ErrInUse = errors.New("in use")

// LockDir makes dir (mode 0700) if it is missing and takes its lock, or says at once who
// holds it (errors.Is ErrInUse): etcd's own lock would wait in silence.
func LockDir(dir string) (*Lock, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("cannot make the data directory %s: %w (choose another with --data-dir)", dir, err)
	}
	path := filepath.Join(dir, "lock")
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cannot write to the data directory %s: %w (choose another with --data-dir)", dir, err)
	}
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		holder, _ := os.ReadFile(path)
		_ = file.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("the data directory %s is %w by process %s: stop it, or choose another with --data-dir",
				dir, ErrInUse, strings.TrimSpace(string(holder)))
		}
		return nil, fmt.Errorf("cannot lock the data directory %s: %w (it needs a file system with flock)", dir, err)
	}
	// For the reader of the message above only: the lock is the kernel's.
	if err := file.Truncate(0); err == nil {
		_, _ = file.WriteAt([]byte(fmt.Sprintln(os.Getpid())), 0)
	}
	return &Lock{file: file}, nil
}

// Release gives the directory back.
func (l *Lock) Release() { _ = l.file.Close() }
