// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package static

import (
	"bytes"
	"context"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"github.com/weir-project/weir/internal/bench/client"
	"github.com/weir-project/weir/internal/rig"
)

// asChild, in the environment, makes the test binary the server.
const asChild = "WEIR_STATIC_TEST"

func TestMain(m *testing.M) {
	if os.Getenv(asChild) == "" {
		os.Exit(m.Run())
	}
	root := &cobra.Command{Use: "test", SilenceUsage: true}
	root.AddCommand(NewCommand())
	if err := root.Execute(); err != nil {
		os.Exit(1)
	}
}

// What a server has sent is sent again, byte for byte, and nothing else.
func TestStaticSendsWhatWasSent(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	list := append(bytes.Repeat([]byte("x"), 200_000), '}')
	watch := []byte(`{"type":"ADDED","object":{}}` + "\n" + `{"type":"BOOKMARK","object":{"metadata":{"annotations":{"k8s.io/initial-events-end":"true"}}}}` + "\n")
	real := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.URL.Query().Get("watch") == "" {
			_, _ = w.Write(list)
			return
		}
		_, _ = w.Write(watch)
		w.(http.Flusher).Flush()
		<-req.Context().Done()
	}))
	real.EnableHTTP2 = true
	real.StartTLS()
	defer real.Close()
	admin, err := rig.NewAdmin(rig.Access{URL: real.URL, CA: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: real.Certificate().Raw})}, "test")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	const path = "/api/v1/pods"
	for _, r := range []Recording{
		{Path: path + "?resourceVersion=0", Format: client.FormatJSON, Until: client.UntilBody},
		{Path: path + "?watch=1", Format: client.FormatJSON, Until: client.UntilSynced},
	} {
		if err := r.Save(ctx, admin, dir); err != nil {
			t.Fatal(err)
		}
	}

	self, err := rig.ThisProgram()
	if err != nil {
		t.Fatal(err)
	}
	self.Env = []string{asChild + "=1"}
	room, err := rig.Open(rig.Options{Dir: t.TempDir(), Self: self})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = room.Close() }() // it ends by SIGTERM
	s, err := Start(room, "static", "", dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.WaitReady(ctx); err != nil {
		t.Fatal(err)
	}
	for _, want := range []struct {
		until client.Until
		query string
		body  []byte
	}{{client.UntilBody, "?resourceVersion=0", list}, {client.UntilSynced, "?watch=1", watch}} {
		resp, err := client.Open(ctx, s.Admin, client.FormatJSON, want.until, path+want.query)
		if err != nil {
			t.Fatal(err)
		}
		got := make([]byte, len(want.body))
		if _, err := io.ReadFull(resp.Body, got); err != nil || !bytes.Equal(got, want.body) {
			t.Errorf("%s: %.100q, %v", want.query, got, err)
		}
		_ = resp.Body.Close()
	}
	if _, err := client.Open(ctx, s.Admin, client.FormatProtobuf, client.UntilBody, path); err == nil {
		t.Error("sent what was not recorded")
	}
	if files, err := os.ReadDir(dir); err != nil || len(files) != 2 {
		t.Error(fmt.Sprint(files), err)
	}
}
