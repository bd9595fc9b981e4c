// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/component-base/cli"
	kubectl "k8s.io/kubectl/pkg/cmd"
)

// asKubectl, in the environment, makes the test binary be kubectl.
const asKubectl = "WEIR_TEST_AS_KUBECTL"

func runKubectl() int {
	return cli.Run(kubectl.NewDefaultKubectlCommandWithArgs(kubectl.KubectlOptions{
		Arguments: os.Args,
		IOStreams: genericiooptions.IOStreams{In: os.Stdin, Out: os.Stdout, ErrOut: os.Stderr},
	}))
}

// notRun is how a document says that the block of commands before is not run by this test; why follows.
const notRun = "Not run here: "

// languages are those of blocks that are no commands.
var languages = []string{"yaml", "ini", "json", "go", "text"}

// block is one of commands in a document.
type block struct {
	// where is file:line, in says the text.
	where, text string
	// why it is not run; "" if it is.
	why string
}

// blocks returns the blocks of commands in a document.
func blocks(t *testing.T, file string) []block {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(source(t), file))
	if err != nil {
		t.Fatal(err)
	}
	var found []block
	lines := strings.Split(string(content), "\n")
	for i := 0; i < len(lines); i++ {
		fence := strings.TrimSpace(lines[i])
		language, begins := strings.CutPrefix(fence, "```")
		if !begins {
			continue
		}
		b := block{where: fmt.Sprintf("%s:%d", file, i+1)}
		for i++; i < len(lines) && strings.TrimSpace(lines[i]) != "```"; i++ {
			b.text += lines[i] + "\n"
		}
		if slices.Contains(languages, language) {
			continue
		}
		if language != "sh" {
			t.Errorf("%s: a block in %q; commands are in sh, and what else there is in %v", b.where, language, languages)
		}
		for after := i + 1; after < len(lines); after++ {
			if said := strings.TrimSpace(lines[after]); said != "" {
				b.why, _ = strings.CutPrefix(said, notRun)
				if b.why == said {
					b.why = ""
				}
				break
			}
		}
		found = append(found, b)
	}
	return found
}

// documents are those whose commands are run or marked.
func documents(t *testing.T) []string {
	t.Helper()
	files := []string{"README.md", "docs/operate.md", "docs/clients.md", "docs/metrics.md", "monitoring/README.md"}
	pages, err := filepath.Glob(filepath.Join(source(t), "docs", "adopt", "*.md"))
	if err != nil || len(pages) == 0 {
		t.Fatalf("docs/adopt: %v, %v", pages, err)
	}
	for _, page := range pages {
		files = append(files, "docs/adopt/"+filepath.Base(page))
	}
	return files
}

// TestDocsCommands: the commands in the documents work as they stand there, against a stand-alone server that listens on a port of its
// own; or the document says, below them, that they are not run and why. A block begins where the one before has left off:
// in its directory, and with what it has exported.
func TestDocsCommands(t *testing.T) {
	t.Parallel()
	shell, err := exec.LookPath("sh")
	if err != nil {
		t.Skip("needs sh")
	}
	dir := t.TempDir()
	path := programs(t, dir)
	env := append(os.Environ(), "PATH="+path, "HOME="+dir, "KUBECONFIG="+filepath.Join(dir, "weir-data", "admin.kubeconfig"), "KUBECACHEDIR="+t.TempDir())
	served, ran := false, 0
	for _, file := range documents(t) {
		for _, b := range blocks(t, file) {
			switch text := strings.TrimSpace(b.text); {
			case b.why != "":
				continue
			case text == "go run ./cmd/weir serve" && !served:
				served = true
				standalone(t, filepath.Join(dir, "weir-data"))
			case !served:
				t.Fatalf("%s: the first commands that are run have to be those that start a server", b.where)
			default:
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				cmd := exec.CommandContext(ctx, shell, "-euc", b.text)
				cmd.Dir, cmd.Env = dir, env
				cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
				cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
				out, err := cmd.CombinedOutput()
				cancel()
				if err != nil {
					t.Errorf("%s: %v\n%s\nsays\n%.2000s\nIf it cannot be run here, say so below it: %q", b.where, err, text, out, notRun+"needs …")
				}
				ran++
			}
		}
	}
	if ran < 3 {
		t.Errorf("only %d blocks of commands are run", ran)
	}
}

// programs makes a directory with the programs that documents use, all of them this test's, and returns it as a PATH. The system's programs
// are not on it: a block that somebody forgot to mark must not change the machine of whoever runs the test.
func programs(t *testing.T, dir string) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	bin := filepath.Join(dir, "bin")
	if err := os.Mkdir(bin, 0o755); err != nil {
		t.Fatal(err)
	}
	weir := fmt.Sprintf("export %s=1\nexec '%s' \"$@\"\n", asMain, self)
	shell, err := exec.LookPath("sh")
	if err != nil {
		t.Fatal(err)
	}
	for name, script := range map[string]string{
		"weir":    weir,
		"kubectl": fmt.Sprintf("export %s=1\nexec '%s' \"$@\"\n", asKubectl, self),
		"go":      "[ \"$1 $2\" = 'run ./cmd/weir' ] || { echo \"the test runs no go $*\" >&2; exit 1; }\nshift 2\n" + weir,
	} {
		if err := os.WriteFile(filepath.Join(bin, name), []byte("#!"+shell+"\n"+script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return bin
}
