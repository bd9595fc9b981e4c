// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package robustness

import (
	"crypto/tls"
	"net"
	"net/http"
	"os/exec"
	"strconv"
	"testing"

	"github.com/weir-project/weir/test/servers"
)

// A server that gives up at its start is started again until it is ready, and one that ends for another reason is not.
func TestRestart(t *testing.T) {
	if testing.Short() {
		t.Skip("starts processes")
	}
	const roles = `F1125 22:43:28.925973    4535 hooks.go:203] PostStartHook "rbac/bootstrap-roles" failed: unable to initialize roles: timed out waiting for the condition`
	const addresses = `F1125 23:25:09.022161   16128 hooks.go:203] PostStartHook "start-service-ip-repair-controllers" failed: unable to perform initial IP and Port allocation check (timeout)`
	for _, c := range []struct {
		name  string
		said  []string // by one run after the other, before it ends; after that it is ready
		again int64
		fails bool
	}{
		{"at once", []string{""}, 0, false},
		{"gives up", []string{"", roles, addresses, roles, roles}, 4, false},
		{"ends otherwise", []string{"", roles, "F1125 22:43:28.925973    4535 main.go:1] something else"}, 1, true},
		{"has given up before", []string{roles, "panic: now"}, 0, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			room := servers.Room(t)
			runs := 0
			child, err := room.Serve("server", "", func(port int) *exec.Cmd {
				if runs++; runs <= len(c.said) {
					return exec.Command("sh", "-c", `echo "$0"; exit 255`, c.said[runs-1])
				}
				cert, key := room.Certificate()
				pair, err := tls.LoadX509KeyPair(cert, key)
				if err != nil {
					t.Error(err)
				}
				l, err := net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(port))
				if err != nil {
					t.Fatal(err)
				}
				ready := &http.Server{Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}), TLSConfig: &tls.Config{Certificates: []tls.Certificate{pair}}}
				go func() { _ = ready.ServeTLS(l, "", "") }()
				t.Cleanup(func() { _ = ready.Close() })
				return exec.Command("sleep", "600")
			})
			if err != nil {
				t.Fatal(err)
			}
			<-child.Done()
			s := &server{name: "a", rig: child}
			if err := s.restart(t.Context()); (err != nil) != c.fails || s.again.Load() != c.again {
				t.Errorf("started again %d times, want %d: %v", s.again.Load(), c.again, err)
			}
			child.Kill()
		})
	}
}
