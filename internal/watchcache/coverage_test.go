// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package watchcache

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// notRun are upstream's tests that do not run over the cache, and why. What they
// are about is tested over the cache elsewhere where there is something to test.
var notRun = map[string]string{
	"RunTestWatchError": "expects that a watch reads from etcd an object that became unreadable after it was written; " +
		"the cache, upstream's too, has read it already. An object that the cache cannot read: TestUnreadableObject",
	"RunWatchErrorIsBlockingFurtherEvents": "the same",
	"RunTestTransformationFailure": "a race with a cache: whether it reads the second object before or after the transformer is put back; " +
		"and a cache that cannot read an object answers 429, upstream's too. TestUnreadableObject",
	"RunTestWatchWithUnsafeDelete": "expects the ERROR event of etcd's own watch; behind a cache, upstream's too, the cache gets it, " +
		"ends all watches and reads the resource anew",
	"RunOptionalTestProgressNotify": "optional: ProgressNotify is what the cache asks of its storage; a watch of the cache, of upstream's too, " +
		"has bookmarks by AllowWatchBookmarks, which RunTestWatchDispatchBookmarkEvents tests",
	"RunBenchmarkWriteThroughput": "a benchmark",
	"RunBenchmarkStoreList":       "a benchmark",
	"RunBenchmarkStoreStats":      "a benchmark",
}

// TestConformanceIsComplete fails if upstream has a test that is neither run nor
// listed in notRun, or if notRun names one that is run or that there is not.
func TestConformanceIsComplete(t *testing.T) {
	const path = "k8s.io/apiserver/pkg/storage/testing"
	out, err := exec.CommandContext(t.Context(), "go", "list", "-f", "{{.Dir}}", path).Output()
	if err != nil {
		t.Fatalf("finding the source of %s: %v", path, err)
	}
	dir := strings.TrimSpace(string(out))

	upstream := map[string]bool{}
	for _, file := range parse(t, dir, func(name string) bool { return !strings.HasSuffix(name, "_test.go") }) {
		for _, decl := range file.Decls {
			if f, ok := decl.(*ast.FuncDecl); ok && f.Recv == nil && strings.HasPrefix(f.Name.Name, "Run") {
				upstream[f.Name.Name] = true
			}
		}
	}
	if len(upstream) < 50 {
		t.Fatalf("found %d tests in %s, there must be more", len(upstream), dir)
	}

	run := map[string]bool{}
	for _, file := range parse(t, ".", func(name string) bool { return strings.HasSuffix(name, "_test.go") }) {
		local := ""
		for _, spec := range file.Imports {
			if spec.Path.Value == `"`+path+`"` && spec.Name != nil {
				local = spec.Name.Name
			}
		}
		ast.Inspect(file, func(n ast.Node) bool {
			if sel, ok := n.(*ast.SelectorExpr); ok {
				if x, ok := sel.X.(*ast.Ident); ok && local != "" && x.Name == local {
					run[sel.Sel.Name] = true
				}
			}
			return true
		})
	}

	for name := range upstream {
		switch reason, listed := notRun[name]; {
		case !run[name] && !listed:
			t.Errorf("%s.%s is neither run over the cache nor listed in notRun", path, name)
		case run[name] && listed:
			t.Errorf("%s is run, yet notRun says: %s", name, reason)
		}
	}
	for name := range notRun {
		if !upstream[name] {
			t.Errorf("notRun lists %s, which %s does not have", name, path)
		}
	}
}

// parse returns the Go files in dir that want is true for.
func parse(t *testing.T, dir string, want func(name string) bool) []*ast.File {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var files []*ast.File
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".go") || !want(e.Name()) {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), filepath.Join(dir, e.Name()), nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, file)
	}
	return files
}
