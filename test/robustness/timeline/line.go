// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

// Package timeline is a run's history as a file, and its drawing: one page for a person, with what was done to the servers,
// when, and around each violation what etcd had, what was due and what came.
package timeline

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/weir-project/weir/test/robustness/check"
	"github.com/weir-project/weir/test/robustness/history"
)

// Line is one of a history's file. One of its fields is set, or none, and beside it those that were found about it.
type Line struct {
	Change     *history.Change   `json:"change,omitempty"` // all, behind all else, if something was found
	Write      *history.Write    `json:"write,omitempty"`
	Read       *history.Read     `json:"read,omitempty"`
	Watch      *history.Watch    `json:"watch,omitempty"`
	List       *history.List     `json:"list,omitempty"`
	Twins      *history.Twins    `json:"twins,omitempty"` // only if something was found
	Fault      *history.Fault    `json:"fault,omitempty"`
	Events     int               `json:"events,omitempty"` // of a watch, whose own are left out if nothing was found
	Violations []check.Violation `json:"violations,omitempty"`
}

// What other files of a history there may be beside its own: the one before, when it has become large, and one with all about
// which something was found.
const (
	Older = "older"
	Found = "found"
)

// Beside is the path of another file of a history, beside its own.
func Beside(path, what string) string {
	return strings.TrimSuffix(path, filepath.Ext(path)) + "-" + what + filepath.Ext(path)
}

// readAll gives each line of a history and of the file before it.
func readAll(path string, each func(*Line)) error {
	if err := read(Beside(path, Older), each); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return read(path, each)
}

// read gives each line of a file. A file that ends inside of a line, because its run did, has no more.
func read(path string, each func(*Line)) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	lines := json.NewDecoder(bufio.NewReaderSize(f, 1<<20))
	for n := 1; ; n++ {
		var l Line
		switch err := lines.Decode(&l); {
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			return nil
		case err != nil:
			return fmt.Errorf("line %d of %s: %w", n, path, err)
		}
		each(&l)
	}
}
