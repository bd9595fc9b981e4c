// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

// Package buildinfo says which weir a program is, as far as its build knows: what the go command
// writes into a binary. A build from a checkout has the commit, one by `go run` has not.
package buildinfo

import (
	"runtime"
	"runtime/debug"
)

// Unknown is what stands for what the build does not say.
const Unknown = "unknown"

// Info is a build.
type Info struct {
	// Version is that of the module: the tag of a release, "v0.0.0-20260102150405-0123456789ab" of
	// a commit without one, "(devel)" where the build does not know.
	Version string `json:"version"`
	// Commit is the commit that was built, Modified that files were not as they are in it.
	Commit   string `json:"commit"`
	Modified bool   `json:"modified,omitempty"`
	// Go is the release of Go, Platform the operating system and architecture.
	Go       string `json:"go"`
	Platform string `json:"platform"`
}

// Get returns the build of this program.
func Get() Info {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		info = &debug.BuildInfo{}
	}
	return of(info)
}

func of(info *debug.BuildInfo) Info {
	i := Info{Version: info.Main.Version, Commit: Unknown, Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	if i.Version == "" {
		i.Version = Unknown
	}
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			i.Commit = s.Value
		case "vcs.modified":
			i.Modified = s.Value == "true"
		}
	}
	return i
}
