// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package buildinfo

import (
	"runtime/debug"
	"testing"
)

func TestOf(t *testing.T) {
	got := of(&debug.BuildInfo{
		Main:     debug.Module{Version: "v1.2.3"},
		Settings: []debug.BuildSetting{{Key: "vcs.revision", Value: "0123"}, {Key: "vcs.modified", Value: "true"}},
	})
	if got.Version != "v1.2.3" || got.Commit != "0123" || !got.Modified || got.Go == "" || got.Platform == "" {
		t.Errorf("%+v", got)
	}
	if got := of(&debug.BuildInfo{}); got.Version != Unknown || got.Commit != Unknown || got.Modified {
		t.Errorf("of a build that says nothing: %+v", got)
	}
	if Get().Go == "" {
		t.Error("this program does not know its Go")
	}
}
