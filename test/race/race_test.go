// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

// Package race brings the race detector into the one test command: it runs the tests
// of the packages that know nothing of Kubernetes again, with the detector on. For the
// others it would have to instrument a whole API server.
package race

import (
	"os/exec"
	"testing"
)

func TestRace(t *testing.T) {
	const module = "github.com/weir-project/weir/internal/"
	cmd := exec.CommandContext(t.Context(), "go", "test", "-race",
		module+"eventlog", module+"ledger", module+"snapshot", module+"wire")
	cmd.Env = append(cmd.Environ(), "CGO_ENABLED=1") // the detector is linked by the C compiler
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("go test -race: %v\n%s", err, out)
	}
}
