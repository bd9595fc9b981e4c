// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

// Package kubeversion makes the process say which Kubernetes it is.
//
// Upstream's release build writes the version into two packages with -ldflags;
// under `go run` and `go test` nobody does, and /version, --version, the user agent
// and the kubernetes_build_info metric would answer "v0.0.0-master". The version is
// known all the same: a Go binary's build info names the k8s.io/kubernetes module it was
// built from, and where that is left out (tests of packages), so do the source files'
// names. So a bump in go.mod carries over by itself.
//
// Import it for its side effect. It imports next to nothing on purpose: Go
// initialises packages in the order of their import paths as soon as their own
// imports are done, which puts this one before k8s.io/apiserver, where the version
// is turned into the binary version that feature gates and API removal go by.
package kubeversion

import (
	"path/filepath"
	"reflect"
	"runtime"
	"runtime/debug"
	"strings"
	_ "unsafe" // for go:linkname

	_ "k8s.io/client-go/pkg/version" // has to be there to be named below
	baseversion "k8s.io/component-base/version"
	"k8s.io/kubernetes/pkg/capabilities"
)

// module is the module whose version the server announces.
const module = "k8s.io/kubernetes"

// The variables that upstream's own build sets with -ldflags -X. Naming them here
// does the same from inside.
var (
	//go:linkname baseGitVersion k8s.io/component-base/version.gitVersion
	baseGitVersion string
	//go:linkname baseGitMajor k8s.io/component-base/version.gitMajor
	baseGitMajor string
	//go:linkname baseGitMinor k8s.io/component-base/version.gitMinor
	baseGitMinor string
	//go:linkname baseGitCommit k8s.io/component-base/version.gitCommit
	baseGitCommit string

	//go:linkname clientGitVersion k8s.io/client-go/pkg/version.gitVersion
	clientGitVersion string
	//go:linkname clientGitMajor k8s.io/client-go/pkg/version.gitMajor
	clientGitMajor string
	//go:linkname clientGitMinor k8s.io/client-go/pkg/version.gitMinor
	clientGitMinor string
	//go:linkname clientGitCommit k8s.io/client-go/pkg/version.gitCommit
	clientGitCommit string
)

func init() {
	// A build that does set the version knows better.
	if !strings.HasPrefix(baseversion.Get().GitVersion, "v0.0.0-") {
		return
	}
	v := moduleVersion()
	if v == "" {
		v = sourceVersion(sourceFile())
	}
	major, minor, ok := majorMinor(v)
	if !ok {
		return
	}
	baseGitVersion, baseGitMajor, baseGitMinor, baseGitCommit = v, major, minor, ""
	clientGitVersion, clientGitMajor, clientGitMinor, clientGitCommit = v, major, minor, ""
	// The package keeps a copy that may only be set to what the variable holds, which
	// is what the assignment above was for. It cannot fail on that.
	_ = baseversion.SetDynamicVersion(v)
}

// moduleVersion returns the version of k8s.io/kubernetes by the build info, or "".
func moduleVersion() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return ""
	}
	for _, dep := range info.Deps {
		if dep.Path == module {
			if dep.Replace != nil {
				return dep.Replace.Version
			}
			return dep.Version
		}
	}
	return ""
}

// sourceFile is the name of a file of the module, as it was when it was compiled:
// ".../k8s.io/kubernetes@v1.37.2/pkg/...". The package is one that imports nothing else.
func sourceFile() string {
	pc := reflect.ValueOf(capabilities.Get).Pointer()
	file, _ := runtime.FuncForPC(pc).FileLine(pc)
	return file
}

// sourceVersion returns the version in such a name, or "".
func sourceVersion(file string) string {
	_, rest, ok := strings.Cut(filepath.ToSlash(file), module+"@")
	if !ok {
		return ""
	}
	v, _, _ := strings.Cut(rest, "/")
	return v
}

// majorMinor splits "v1.37.2" into "1" and "37".
func majorMinor(v string) (major, minor string, ok bool) {
	parts := strings.SplitN(strings.TrimPrefix(v, "v"), ".", 3)
	if len(parts) != 3 || !strings.HasPrefix(v, "v") {
		return "", "", false
	}
	return parts[0], parts[1], true
}
