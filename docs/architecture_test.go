// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

// Package docs holds the tests that hold the documents against the code.
package docs

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/weir-project/weir/"

// row is a line of the table of packages.
type row struct {
	imports []string
	// generic packages import nothing of k8s.io.
	generic bool
}

func table(t *testing.T) map[string]row {
	t.Helper()
	text, err := os.ReadFile("ARCHITECTURE.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := map[string]row{}
	for _, line := range strings.Split(string(text), "\n") {
		cells := strings.Split(strings.Trim(line, "|"), "|")
		if !strings.HasPrefix(line, "| cmd/") && !strings.HasPrefix(line, "| internal/") || len(cells) != 3 {
			continue
		}
		rows[strings.TrimSpace(cells[0])] = row{
			imports: strings.Fields(cells[2]),
			generic: strings.Contains(cells[1], "imports nothing of k8s.io"),
		}
	}
	return rows
}

// packages returns the imports of every package, test files aside.
func packages(t *testing.T) map[string][]string {
	t.Helper()
	found := map[string][]string{}
	for _, top := range []string{"cmd", "internal"} {
		err := filepath.WalkDir(filepath.Join("..", top), func(file string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(file, ".go") || strings.HasSuffix(file, "_test.go") {
				return err
			}
			f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
			if err != nil {
				return err
			}
			pkg := strings.TrimPrefix(filepath.ToSlash(path.Dir(file)), "../")
			found[pkg] = append(found[pkg], "")
			for _, spec := range f.Imports {
				name, err := strconv.Unquote(spec.Path.Value)
				if err != nil {
					return err
				}
				found[pkg] = append(found[pkg], name)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return found
}

func TestImportsFollowTheTable(t *testing.T) {
	rows, found := table(t), packages(t)
	if len(rows) == 0 || len(found) == 0 {
		t.Fatalf("read %d rows and %d packages", len(rows), len(found))
	}
	for name := range rows {
		if found[name] == nil {
			t.Errorf("the table has %s, the code has not", name)
		}
	}
	for name, imports := range found {
		r, ok := rows[name]
		if !ok {
			t.Errorf("%s is missing from the table", name)
			continue
		}
		var used []string
		for _, i := range imports {
			if ours, ok := strings.CutPrefix(i, module); ok {
				used = append(used, ours)
				if !slices.Contains(r.imports, ours) {
					t.Errorf("%s imports %s, which the table does not allow", name, ours)
				}
			}
			if r.generic && (strings.HasPrefix(i, "k8s.io/") || strings.HasPrefix(i, "sigs.k8s.io/")) {
				t.Errorf("%s imports %s, but is said to import nothing of k8s.io", name, i)
			}
		}
		for _, allowed := range r.imports {
			if !slices.Contains(used, allowed) {
				t.Errorf("the table allows %s to import %s, which it does not", name, allowed)
			}
		}
	}
}
