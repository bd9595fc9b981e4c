// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
)

const (
	// logName is the file of the log in the data directory; what was in it before is in the same name with oldSuffix.
	logName   = "weir.log"
	oldSuffix = ".1"
	// logSize bounds the file: a new one is begun then. early bounds what is kept before there is one.
	logSize = 64 << 20
	early   = 1 << 20
)

// logFile is an io.Writer on the file of the log. Until open is called, which is when the data directory is known to be
// this process's, it keeps what is written. Its methods may be called by any number of goroutines.
type logFile struct {
	mu    sync.Mutex
	path  string // empty until it is open
	file  *os.File
	size  int64
	limit int64
	kept  bytes.Buffer
}

func newLogFile() *logFile { return &logFile{limit: logSize} }

// open begins the file in dir, in which that of the last run is kept under another name.
func (l *logFile) open(dir string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.path = filepath.Join(dir, logName)
	if err := l.begin(); err != nil {
		return err
	}
	_, err := l.write(l.kept.Bytes())
	l.kept = bytes.Buffer{}
	return err
}

func (l *logFile) begin() error {
	if l.file != nil {
		_ = l.file.Close()
		l.file = nil
	}
	if err := os.Rename(l.path, l.path+oldSuffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cannot keep the last log: %w", err)
	}
	file, err := os.OpenFile(l.path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("cannot write the log: %w (with -v=0 it goes to stderr)", err)
	}
	l.file, l.size = file, 0
	return nil
}

// Write implements io.Writer.
func (l *logFile) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.write(p)
}

func (l *logFile) write(p []byte) (int, error) {
	if l.path == "" {
		if l.kept.Len()+len(p) <= early {
			l.kept.Write(p)
		}
		return len(p), nil
	}
	if l.file == nil || l.size > 0 && l.size+int64(len(p)) > l.limit {
		if err := l.begin(); err != nil {
			return 0, err
		}
	}
	n, err := l.file.Write(p)
	l.size += int64(n)
	return n, err
}

// name is where the log is, or "" if it is not in a file yet.
func (l *logFile) name() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.path
}

// quoted returns a path as a shell takes it.
func quoted(path string) string {
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("/._-+:@%,", r)
	}
	if strings.IndexFunc(path, func(r rune) bool { return !plain(r) }) < 0 {
		return path
	}
	return "'" + strings.ReplaceAll(path, "'", `'\''`) + "'"
}
