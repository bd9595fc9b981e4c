// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package swap

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weir-project/weir/test/servers"
)

// A stand-alone server that is asked to end, with a thousand watches open, ends every one of them in order, and goes. How long that
// took is said; it is to be 5 s at most on a machine that does nothing else.
func TestShutdown(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a server")
	}
	const watches, connections = 1000, 10 // a connection carries 250 streams at most
	room := servers.Room(t)
	server := servers.StartIn(t, room, servers.Program(servers.Weir, "--data-dir="+filepath.Join(room.Dir(), "data"))).Wait().Rig
	var opened, inOrder atomic.Int64
	var all sync.WaitGroup
	broken := make(chan error, watches)
	for range connections {
		admin, err := server.Behind(strings.TrimPrefix(server.URL, "https://"))
		if err != nil {
			t.Fatal(err)
		}
		for i := range watches / connections {
			all.Go(func() {
				err := watchToTheEnd(t.Context(), admin.HTTP, admin.Base, admin.Authorize, i, func() { opened.Add(1) })
				if err == nil {
					inOrder.Add(1)
				} else {
					broken <- err
				}
			})
		}
	}
	servers.Eventually(t, fmt.Sprintf("%d watches to be open", watches), func() bool {
		return opened.Load() == watches || len(broken) > 0
	})
	begun := time.Now()
	if err := server.Stop(servers.Patience); err != nil {
		t.Error(err)
	}
	t.Logf("with %d watches open it ended in %v", opened.Load(), time.Since(begun).Round(10*time.Millisecond))
	all.Wait()
	close(broken)
	if inOrder.Load() != watches {
		t.Errorf("%d of %d watches ended in order; of the others the first: %v", inOrder.Load(), watches, <-broken)
	}
}

// watchToTheEnd watches ConfigMaps, or their names, and returns nil if the stream ended in order.
func watchToTheEnd(ctx context.Context, client *http.Client, base string, authorize func(*http.Request), i int, opened func()) error {
	path := []string{"/api/v1/configmaps", "/api/v1/namespaces/default/configmaps", "/api/v1/pods"}[i%3]
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, base+path+"?watch=true&allowWatchBookmarks=true", nil)
	if err != nil {
		return err
	}
	authorize(req)
	resp, err := client.Do(req)
	for err != nil && ctx.Err() == nil {
		// A machine with much to do may let a connection's beginning time out. What is to be ended is what was open.
		resp, err = client.Do(req)
	}
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("watch %s: %s", path, resp.Status)
	}
	opened()
	_, err = io.Copy(io.Discard, resp.Body)
	return err
}
