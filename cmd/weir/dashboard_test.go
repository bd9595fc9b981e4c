// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/weir-project/weir/internal/status"
)

// dashboardChild is a `weir dashboard` of a stand-alone server.
type dashboardChild struct {
	t *testing.T
	// address is that of the page.
	address string
	end     func() error
}

func dashboardOf(t *testing.T, dir string, args ...string) *dashboardChild {
	t.Helper()
	cmd := command(t, "weir", append([]string{"dashboard", "--kubeconfig=" + filepath.Join(dir, "admin.kubeconfig")}, args...)...)
	var errs logBuffer
	cmd.Stderr = &errs
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	timer := time.AfterFunc(patience, func() { _ = cmd.Process.Kill() })
	t.Cleanup(func() {
		timer.Stop()
		_ = cmd.Process.Kill()
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	words := strings.Fields(line)
	i := slices.IndexFunc(words, func(word string) bool { return strings.HasPrefix(word, "http://127.0.0.1:") })
	if err != nil || i < 0 {
		t.Fatalf("weir dashboard says %q: %v\n%s", line, err, errs.String())
	}
	return &dashboardChild{t: t, address: words[i], end: func() error {
		_ = cmd.Process.Signal(syscall.SIGINT)
		return cmd.Wait()
	}}
}

// get returns what a file of the page, or the status, is answered with.
func (d *dashboardChild) get(name string) (code int, body string) {
	d.t.Helper()
	resp, err := http.Get(d.address + name)
	if err != nil {
		d.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		d.t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

// sameStatus: what the page is told is what `weir status` tells. agent is a client that asks for nothing meanwhile.
func (d *dashboardChild) sameStatus(dir, agent string) {
	d.t.Helper()
	if code, body := d.get(""); code != http.StatusOK || !strings.Contains(body, "<title>weir: https://127.0.0.1:") {
		d.t.Errorf("the page: %d: %s", code, body)
	}
	code, body := d.get("weir/status")
	got := &status.Report{}
	if err := json.Unmarshal([]byte(body), got); code != http.StatusOK || err != nil {
		d.t.Fatalf("%d, %v: %s", code, err, body)
	}
	want := reportOf(d.t, dir)
	client := func(r *status.Report) status.Client {
		if i := slices.IndexFunc(r.Clients, func(c status.Client) bool { return c.UserAgent == agent }); i >= 0 {
			return r.Clients[i]
		}
		return status.Client{}
	}
	resource := func(r *status.Report) status.Resource {
		if i := slices.IndexFunc(r.Resources, func(r status.Resource) bool { return r.Name == "configmaps" }); i >= 0 {
			one := r.Resources[i]
			return status.Resource{Name: one.Name, Objects: one.Objects, Bytes: one.Bytes}
		}
		return status.Resource{}
	}
	if a, b := client(got), client(want); !reflect.DeepEqual(a, b) || a.Lists == 0 {
		d.t.Errorf("the page is told that %s is %+v, weir status says %+v", agent, a, b)
	}
	if a, b := resource(got), resource(want); a != b || a.Objects == 0 {
		d.t.Errorf("the page is told of %+v, weir status of %+v", a, b)
	}
	if m := got.Memory; m.InUse() < m.Heap || m.Released <= 0 || m.InUse() >= m.Total || m.Live <= 0 {
		d.t.Errorf("memory in use is %d of %+v", m.InUse(), m)
	}
	if i := slices.IndexFunc(got.Clients, func(c status.Client) bool { return strings.HasPrefix(c.UserAgent, "weir") && c.OtherRequests > 0 }); i < 0 {
		d.t.Error("weir status and weir dashboard do not say who they are")
	}
}

// refused: the page of a user without the right is told so, in the server's words.
func (d *dashboardChild) refused() {
	d.t.Helper()
	if code, body := d.get("weir/status"); code != http.StatusForbidden || !strings.Contains(body, `User \"nobody\" cannot get path \"/weir/status\"`) {
		d.t.Errorf("nobody is answered %d: %s", code, body)
	}
}

// gone: the server is, and the dashboard goes on until it is ended.
func (d *dashboardChild) gone() {
	d.t.Helper()
	if code, body := d.get("weir/status"); code != http.StatusBadGateway || !strings.Contains(body, "cannot reach https://127.0.0.1:") {
		d.t.Errorf("of a server that is gone: %d: %s", code, body)
	}
	if err := d.end(); err != nil {
		d.t.Errorf("weir dashboard ends with %v", err)
	}
}

// TestErrorLine: an error is one line, and what a server has said in it does nothing to the terminal.
func TestErrorLine(t *testing.T) {
	t.Parallel()
	got := errorLine(newStatusCommand(), errors.New("forbidden: \x1b[2J\x1b]0;title\x07 a\nb\r\u202e\x9b31m"))
	if want := "status: forbidden: \ufffd[2J\ufffd]0;title\ufffd a b \ufffd\ufffd31m"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}
