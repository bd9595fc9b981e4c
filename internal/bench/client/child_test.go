// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"github.com/weir-project/weir/internal/rig"
)

// asChild, in the environment, makes the test binary a child of clients.
const asChild = "WEIR_CLIENT_TEST"

func TestMain(m *testing.M) {
	if os.Getenv(asChild) == "" {
		os.Exit(m.Run())
	}
	root := &cobra.Command{Use: "test", SilenceUsage: true}
	root.AddCommand(Commands()...)
	if err := root.Execute(); err != nil {
		os.Exit(1)
	}
}

func parent(t *testing.T) Parent {
	t.Helper()
	self, err := rig.ThisProgram()
	if err != nil {
		t.Fatal(err)
	}
	self.Env = []string{asChild + "=1"}
	return Parent{Self: self, Log: filepath.Join(t.TempDir(), "log")}
}

// server gives access to what answers over TLS.
func server(t *testing.T, answer http.HandlerFunc) rig.Access {
	t.Helper()
	s := httptest.NewUnstartedServer(answer)
	s.EnableHTTP2 = true
	s.StartTLS()
	t.Cleanup(s.Close)
	return rig.Access{URL: s.URL, Token: "me", CA: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})}
}

func patience(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

const twoPods = `{"kind":"PodList","metadata":{"resourceVersion":"9"},"items":[{"metadata":{"name":"a"}},{"metadata":{"name":"b"}}]}`

func TestChildReadsLists(t *testing.T) {
	ctx := patience(t)
	var requests, refused atomic.Int64
	access := server(t, func(w http.ResponseWriter, req *http.Request) {
		if req.Header.Get("Authorization") != "Bearer me" || req.ProtoMajor != 2 {
			t.Errorf("request %s by %q", req.Proto, req.Header.Get("Authorization"))
		}
		if requests.Add(1) == 1 { // it comes again
			refused.Add(1)
			w.Header().Set("Retry-After", "0")
			w.WriteHeader(http.StatusTooManyRequests)
			return
		}
		fmt.Fprint(w, twoPods)
	})
	job := Job{Access: access, Paths: []string{"/api/v1/pods"}, Format: FormatJSON, Streams: 3, PerConnection: 2, Until: UntilBody, Expect: 2}
	c, err := parent(t).StartReaders(ctx, job)
	if err != nil {
		t.Fatal(err)
	}
	if n := requests.Load(); n != 0 {
		t.Errorf("%d requests before it was to go", n)
	}
	if err := c.Go(); err != nil {
		t.Fatal(err)
	}
	r, err := c.Hear(ctx, StageDone)
	if err != nil || r.Events != 6 || r.Bytes != int64(3*len(twoPods)) || len(r.Seconds) != 3 || r.Retries != refused.Load() {
		t.Errorf("report %+v, %v", r, err)
	}
	c.End()

	// One object less than there should be is told.
	job.Expect = 3
	if c, err = parent(t).StartReaders(ctx, job); err != nil {
		t.Fatal(err)
	}
	defer c.End()
	if err := c.Go(); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Hear(ctx, StageDone); err == nil || !strings.Contains(err.Error(), "3 streams failed: ") || !strings.Contains(err.Error(), "2 items, want 3") {
		t.Errorf("error %v", err)
	}
}

// idle is a child whose watches never end.
func idle(t *testing.T) *Child {
	t.Helper()
	access := server(t, func(w http.ResponseWriter, req *http.Request) {
		w.(http.Flusher).Flush()
		<-req.Context().Done()
	})
	c, err := parent(t).StartReaders(patience(t), Job{Access: access, Paths: []string{"/w"}, Format: FormatJSON, Streams: 2, PerConnection: 1, Until: UntilEnd})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.End)
	if err := c.Go(); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Hear(patience(t), StageOpen); err != nil {
		t.Fatal(err)
	}
	return c
}

func TestChildFinishes(t *testing.T) {
	c := idle(t)
	c.Finish()
	if r, err := c.Hear(patience(t), StageDone); err != nil || r.Failed != 0 {
		t.Errorf("report %+v, %v", r, err)
	}
}

func TestChildDies(t *testing.T) {
	c := idle(t)
	if err := syscall.Kill(c.process.Pid(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Hear(patience(t), StageDone); err == nil || !strings.Contains(err.Error(), "client child died: signal: killed") {
		t.Errorf("error %v", err)
	}
}

func TestChildIsStoppedWithItsListener(t *testing.T) {
	c := idle(t)
	why := fmt.Errorf("the server died")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(why)
	if _, err := c.Hear(ctx, StageDone); err != why {
		t.Errorf("error %v", err)
	}
	select {
	case <-c.process.Done():
	default:
		t.Error("it is still there")
	}
}

func TestChildRefusesJob(t *testing.T) {
	if _, err := parent(t).StartReaders(patience(t), Job{}); err == nil || !strings.Contains(err.Error(), "each must be at least 1") {
		t.Errorf("error %v", err)
	}
}
