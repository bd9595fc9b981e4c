// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package static

import (
	"bytes"
	stdgzip "compress/gzip"
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

// What a server has sent is sent again, byte for byte and compressed if it was, and nothing else.
func TestStaticSendsWhatWasSent(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	list := append(bytes.Repeat([]byte("x"), 200_000), '}')
	watch := []byte(`{"type":"ADDED","object":{}}` + "\n" + `{"type":"BOOKMARK","object":{"metadata":{"annotations":{"k8s.io/initial-events-end":"true"}}}}` + "\n")
	smallList, smallWatch := compressed(t, list), append(compressed(t, watch[:29]), compressed(t, watch[29:])...)
	real := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		list, watch := list, watch
		if req.Header.Get("Accept-Encoding") == "gzip" {
			w.Header().Set("Content-Encoding", "gzip")
			list, watch = smallList, smallWatch
		}
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
	sent := []struct {
		ask  client.Ask
		body []byte
	}{
		{client.Ask{Path: path + "?resourceVersion=0", Format: client.FormatJSON, Until: client.UntilBody}, list},
		{client.Ask{Path: path + "?watch=1", Format: client.FormatJSON, Until: client.UntilSynced}, watch},
		{client.Ask{Path: path + "?resourceVersion=0", Format: client.FormatJSON, Until: client.UntilBody, Gzip: true}, smallList},
		{client.Ask{Path: path + "?watch=1", Format: client.FormatJSON, Until: client.UntilSynced, Gzip: true}, smallWatch},
		{client.Ask{Path: path + "?resourceVersion=0", Format: client.FormatTable, Until: client.UntilBody}, list},
	}
	for _, s := range sent {
		if err := (Recording{s.ask}).Save(ctx, admin, dir); err != nil {
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
	for _, want := range sent {
		resp, err := client.Open(ctx, s.Admin, want.ask)
		if err != nil {
			t.Fatal(err)
		}
		coding := ""
		if want.ask.Gzip {
			coding = "gzip"
		}
		got := make([]byte, len(want.body))
		if _, err := io.ReadFull(resp.Body, got); err != nil || !bytes.Equal(got, want.body) || resp.Header.Get("Content-Encoding") != coding {
			t.Errorf("%+v: %.100q, %v, headers %v", want.ask, got, err, resp.Header)
		}
		_ = resp.Body.Close()
	}
	// A recording that came uncompressed is sent so, whatever is asked for.
	resp, err := client.Open(ctx, s.Admin, client.Ask{Path: path, Format: client.FormatTable, Until: client.UntilBody, Gzip: true})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(resp.Body); err != nil || !bytes.Equal(got, list) || resp.Header.Get("Content-Encoding") != "" {
		t.Errorf("%.100q, %v, headers %v", got, err, resp.Header)
	}
	_ = resp.Body.Close()
	if _, err := client.Open(ctx, s.Admin, client.Ask{Path: path, Format: client.FormatProtobuf, Until: client.UntilBody}); err == nil {
		t.Error("sent what was not recorded")
	}
	if files, err := os.ReadDir(dir); err != nil || len(files) != len(sent) {
		t.Error(fmt.Sprint(files), err)
	}
}

func compressed(t *testing.T, plain []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w := stdgzip.NewWriter(&out)
	if _, err := w.Write(plain); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}
