// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/weir-project/weir/internal/rig"
)

const (
	stockModule  = "k8s.io/kubernetes"
	stockPackage = stockModule + "/cmd/kube-apiserver"
)

// buildStock builds the upstream kube-apiserver of the version that the Go module in the current directory requires, into
// the user's cache directory, and returns its path. What an earlier run built is used again.
func buildStock(ctx context.Context, say func(string, ...any)) (string, error) {
	const instead = "name a kube-apiserver with --stock-binary, or run in a clone of weir with Go installed"
	goTool, err := exec.LookPath("go")
	if err != nil {
		return "", fmt.Errorf("target stock: no Go to build it with (%w): %s", err, instead)
	}
	version, err := output(ctx, goTool, "list", "-m", "-f", "{{.Version}}", stockModule)
	if err != nil {
		return "", fmt.Errorf("target stock: the current directory is in no module that requires %s: %s: %w", stockModule, instead, err)
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("target stock: no cache directory to build it into: %s: %w", instead, err)
	}
	dir := filepath.Join(cache, "weir", "bench")
	binary := filepath.Join(dir, "kube-apiserver-"+version+"-"+runtime.Version())
	if _, err := os.Stat(binary); err == nil {
		say("target stock: %s, built by an earlier run", binary)
		return binary, nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("target stock: %w", err)
	}
	say("target stock: building %s %s into %s; the first time this takes minutes", stockPackage, version, binary)
	// Under another name until it is whole.
	unfinished := fmt.Sprintf("%s.%d", binary, os.Getpid())
	defer os.Remove(unfinished)
	// Without a version the server would call itself v0.0.0.
	flags := "-X k8s.io/component-base/version.gitVersion=" + version
	if _, err := output(ctx, goTool, "build", "-ldflags", flags, "-o", unfinished, stockPackage); err != nil {
		return "", fmt.Errorf("target stock: build it: %w", err)
	}
	if err := os.Rename(unfinished, binary); err != nil {
		return "", fmt.Errorf("target stock: %w", err)
	}
	return binary, nil
}

// output runs a command until ctx ends and returns what it writes, or an error that has what it complains of.
func output(ctx context.Context, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if ctx.Err() != nil {
		return "", context.Cause(ctx)
	}
	if err != nil {
		return "", errors.Join(err, errors.New(rig.FirstLine(stderr.Bytes())))
	}
	return strings.TrimSpace(string(out)), nil
}
