// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestDefaultedOnRead holds defaultedOnRead against upstream's registries: whoever assigns a
// Decorator to its store changes what it reads.
func TestDefaultedOnRead(t *testing.T) {
	out, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}", "k8s.io/kubernetes").Output()
	if err != nil {
		t.Fatalf("looking for the source of k8s.io/kubernetes: %v", err)
	}
	var upstream []string
	root := filepath.Join(strings.TrimSpace(string(out)), "pkg", "registry")
	err = filepath.WalkDir(root, func(file string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(file, ".go") || strings.HasSuffix(file, "_test.go") {
			return err
		}
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
		if err != nil {
			return err
		}
		ast.Inspect(f, func(n ast.Node) bool {
			found := false
			switch n := n.(type) {
			case *ast.AssignStmt:
				for _, lhs := range n.Lhs {
					s, ok := lhs.(*ast.SelectorExpr)
					found = found || ok && s.Sel.Name == "Decorator"
				}
			case *ast.KeyValueExpr:
				k, ok := n.Key.(*ast.Ident)
				found = ok && k.Name == "Decorator"
			}
			if found {
				// pkg/registry/core/<singular>/storage/storage.go
				upstream = append(upstream, filepath.Base(filepath.Dir(filepath.Dir(file)))+"s")
			}
			return true
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	var ours []string
	for resource := range defaultedOnRead {
		ours = append(ours, resource.Resource)
	}
	slices.Sort(ours)
	slices.Sort(upstream)
	if !slices.Equal(ours, upstream) {
		t.Errorf("defaultedOnRead has %v, upstream decorates %v", ours, upstream)
	}
}
