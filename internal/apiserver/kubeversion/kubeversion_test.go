// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package kubeversion

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	clientversion "k8s.io/client-go/pkg/version"
	baseversion "k8s.io/component-base/version"
)

func TestVersionIsTheOneInGoMod(t *testing.T) {
	gomod, err := os.ReadFile(filepath.Join("..", "..", "..", "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	required := regexp.MustCompile(`(?m)^\s+k8s\.io/kubernetes (v(\d+)\.(\d+)\.\S+)`).FindStringSubmatch(string(gomod))
	if required == nil {
		t.Fatal("go.mod does not require k8s.io/kubernetes")
	}
	server, client := baseversion.Get(), clientversion.Get()
	for name, got := range map[string][3]string{
		"component-base": {server.GitVersion, server.Major, server.Minor},
		"client-go":      {client.GitVersion, client.Major, client.Minor},
	} {
		if want := [3]string(required[1:4]); got != want {
			t.Errorf("%s says %v, go.mod %v", name, got, want)
		}
	}
	if strings.Contains(server.GitCommit, "$") {
		t.Errorf("the commit is upstream's placeholder: %q", server.GitCommit)
	}
	if got := sourceVersion(sourceFile()); got != required[1] {
		t.Errorf("by the source files it is %q, go.mod says %s", got, required[1])
	}
}

func TestSourceVersion(t *testing.T) {
	for file, want := range map[string]string{
		"/home/me/go/pkg/mod/k8s.io/kubernetes@v1.37.2/pkg/a.go": "v1.37.2",
		"k8s.io/kubernetes@v1.38.0-rc.1/pkg/a.go":                "v1.38.0-rc.1", // -trimpath
		"/src/weir/vendor/k8s.io/kubernetes/pkg/a.go":            "",
		"": "",
	} {
		if got := sourceVersion(file); got != want {
			t.Errorf("%q: %q, want %q", file, got, want)
		}
	}
}
