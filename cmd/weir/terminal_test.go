// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/creack/pty"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
)

// logLine is a line of klog's.
var logLine = regexp.MustCompile(`(?m)^[IWE]\d{4} \d\d:`)

// terminal runs weir on a terminal of its own. It returns what is on the screen, the keyboard, and what tells how it has ended.
func terminal(t *testing.T, args ...string) (*logBuffer, io.Writer, <-chan error) {
	t.Helper()
	cmd := command(t, "weir", args...)
	screen := &logBuffer{}
	tty, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: 30, Cols: 100})
	if err != nil {
		t.Fatal(err)
	}
	exited := make(chan error, 1)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = io.Copy(screen, tty) // ends with an error when the last process has closed the terminal
		exited <- cmd.Wait()
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-done
		_ = tty.Close()
	})
	return screen, tty, exited
}

// shows waits until the screen has a text.
func shows(t *testing.T, screen *logBuffer, text string) {
	t.Helper()
	err := wait.PollUntilContextTimeout(t.Context(), 20*time.Millisecond, patience, true, func(context.Context) (bool, error) {
		return strings.Contains(screen.String(), text), nil
	})
	if err != nil {
		t.Fatalf("%q is not shown: %v\n%s", text, err, screen)
	}
}

// TestTerminal: a person is shown how the server starts, what to try and what its end waits for; the log is in a file.
func TestTerminal(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "da ta")
	screen, keys, exited := terminal(t, "serve", "--data-dir="+dir, "--secure-port="+freePort(t))
	shows(t, screen, "Ctrl-C ends the server.")
	for _, want := range []string{
		"Kubernetes v1.37.2", "  certificates  in ", "  etcd          3.", "  API           ", "  caches        ",
		"weir serves https://127.0.0.1:", "export KUBECONFIG='" + filepath.Join(dir, "admin.kubeconfig") + "'", "kubectl get ns", filepath.Join(dir, logName),
	} {
		if !strings.Contains(screen.String(), want) {
			t.Errorf("%q is not shown", want)
		}
	}
	if m := regexp.MustCompile(`caches +(\d+) of (\d+)  \d+\.\ds|caches +(\d+) of (\d+)\r\n`).FindStringSubmatch(screen.String()); m == nil || m[1] != m[2] || m[3] != m[4] {
		t.Errorf("not all caches are said to be ready: %q", m)
	}
	if logLine.MatchString(screen.String()) {
		t.Error("the log is on the terminal")
	}
	if log, err := os.ReadFile(filepath.Join(dir, logName)); err != nil || !logLine.Match(log) || !strings.Contains(string(log), `"Ready"`) {
		t.Errorf("the log is not in its file (%v):\n%s", err, log)
	}
	if info, err := os.Stat(filepath.Join(dir, logName)); err == nil && info.Mode().Perm() != 0o600 {
		t.Errorf("the log has mode %v", info.Mode())
	}

	config, err := clientcmd.BuildConfigFromFlags("", filepath.Join(dir, "admin.kubeconfig"))
	if err != nil {
		t.Fatal(err)
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	watch, err := client.CoreV1().ConfigMaps("").Watch(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer watch.Stop()
	if _, err := keys.Write([]byte{3}); err != nil { // Ctrl-C
		t.Fatal(err)
	}
	shows(t, screen, "Stopping: waiting for ")
	select {
	case err := <-exited:
		if err != nil {
			t.Errorf("it ends with %v", err)
		}
	case <-time.After(patience):
		t.Fatal("it does not end")
	}
	if !strings.Contains(screen.String(), "waiting for 1 watch to end") || !strings.Contains(screen.String(), "Stopped after ") {
		t.Error("it does not say what it waited for, or that it has ended")
	}
	if t.Failed() {
		t.Log("\n" + screen.String())
	}
}

// TestTerminalVerbose: with -v the log is where it ever was.
func TestTerminalVerbose(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	screen, keys, exited := terminal(t, "serve", "--data-dir="+dir, "--secure-port="+freePort(t), "-v=0")
	shows(t, screen, "kubectl --kubeconfig")
	if !logLine.MatchString(screen.String()) {
		t.Errorf("there is no log on the terminal:\n%s", screen)
	}
	if _, err := os.Stat(filepath.Join(dir, logName)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("there is a file of the log: %v", err)
	}
	_, _ = keys.Write([]byte{3})
	if err := <-exited; err != nil {
		t.Errorf("it ends with %v", err)
	}
}

// TestTerminalError: what goes wrong is a line of its own.
func TestTerminalError(t *testing.T) {
	t.Parallel()
	screen, _, exited := terminal(t, "serve", "--data-dir="+t.TempDir(), "--secure-port="+freePort(t), "--service-cluster-ip-range=10.0.0.0/33")
	if err := <-exited; err == nil {
		t.Error("it does not fail")
	}
	lines := strings.Split(strings.TrimSpace(screen.String()), "\n")
	if last := lines[len(lines)-1]; !strings.HasPrefix(last, "weir: ") || !strings.Contains(last, "service-cluster-ip-range") || !strings.Contains(last, logName) {
		t.Errorf("the last line is not the error:\n%s", screen)
	}
}

// TestLogFile: what is written before there is a file comes into it, the last run's is kept, and it does not grow without end.
func TestLogFile(t *testing.T) {
	dir := t.TempDir()
	read := func(name string) string {
		text, _ := os.ReadFile(filepath.Join(dir, name))
		return string(text)
	}
	for _, run := range []string{"first", "second"} {
		l := newLogFile()
		l.limit = 40
		if l.name() != "" {
			t.Error("a file has a name that is not there")
		}
		_, _ = l.Write([]byte(run + " early\n"))
		if err := l.open(dir); err != nil {
			t.Fatal(err)
		}
		_, _ = l.Write([]byte(run + " late\n"))
		if got, want := read(logName), run+" early\n"+run+" late\n"; got != want {
			t.Errorf("the log is %q, want %q", got, want)
		}
		if run == "second" {
			if got := read(logName + oldSuffix); !strings.HasPrefix(got, "first early") {
				t.Errorf("the log of the last run is %q", got)
			}
			_, _ = l.Write([]byte(strings.Repeat("x", 39)))
			if got := read(logName); got != strings.Repeat("x", 39) {
				t.Errorf("after the limit the log is %q", got)
			}
			if got := read(logName + oldSuffix); !strings.HasPrefix(got, "second early") {
				t.Errorf("after the limit what was before is %q", got)
			}
		}
		_ = l.file.Close()
	}
}

func TestQuoted(t *testing.T) {
	for path, want := range map[string]string{"/a/b-c_1.x": "/a/b-c_1.x", "/a b": "'/a b'", "/it's": `'/it'\''s'`, "$(x)": "'$(x)'"} {
		if got := quoted(path); got != want {
			t.Errorf("%s: %s, want %s", path, got, want)
		}
	}
}
