// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
)

// The static target is the physical floor of lists and watch lists: a Go HTTP/2 server with TLS that writes, from memory, the
// bytes that a real target sent. No server that uses Go's HTTP/2 and TLS can do with less processor time.

// recording is one response that the static target must be able to give.
type recording struct {
	path   string // of the request, with its query
	format format
	until  readUntil // untilSynced for a watch list, untilBody for a list
}

// recordingFile names a recording: the request's path says which.
func recordingFile(urlPath string, f format, watch bool) string {
	verb := "list"
	if watch {
		verb = "watch"
	}
	return strings.ReplaceAll(strings.Trim(urlPath, "/"), "/", "_") + "." + verb + "." + string(f)
}

// recordedScenario is a scenario that can also be measured on the static target.
type recordedScenario interface {
	scenario
	recordings(data map[string]Dataset) []recording
}

// record saves a response as the server sends it.
func (r recording) record(ctx context.Context, s *server, dir string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	run := &readerRun{base: s.url, job: readerJob{Access: s.access, Format: r.format, Until: r.until}}
	resp, err := run.open(ctx, s.http, r.path)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	file, err := os.Create(filepath.Join(dir, recordingFile(resp.Request.URL.Path, r.format, r.until == untilSynced)))
	if err != nil {
		return err
	}
	defer file.Close()
	if r.until == untilBody {
		if _, err := io.Copy(file, resp.Body); err != nil {
			return fmt.Errorf("record %s: %w", r.path, err)
		}
		return file.Close()
	}
	frames := newFrameReader(r.format, io.TeeReader(resp.Body, file), false)
	for {
		e, err := frames.next()
		if err != nil {
			return fmt.Errorf("record %s: %w", r.path, err)
		}
		if e.initialEnd {
			return file.Close()
		}
	}
}

// newStaticCommand is the hidden subcommand that the static target runs.
func newStaticCommand() *cobra.Command {
	var dir, cert, key string
	var port int
	cmd := &cobra.Command{
		Use:    staticSubcommand,
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return serveStatic(cmd.Context(), dir, fmt.Sprintf("127.0.0.1:%d", port), cert, key)
		},
	}
	cmd.Flags().StringVar(&dir, "dir", "", "directory of the recordings")
	cmd.Flags().StringVar(&cert, "tls-cert-file", "", "serving certificate")
	cmd.Flags().StringVar(&key, "tls-private-key-file", "", "its key")
	cmd.Flags().IntVar(&port, "port", 0, "port on loopback")
	return cmd
}

func serveStatic(ctx context.Context, dir, address, cert, key string) error {
	bodies := map[string][]byte{}
	files, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("recordings: %w", err)
	}
	for _, f := range files {
		if bodies[f.Name()], err = os.ReadFile(filepath.Join(dir, f.Name())); err != nil {
			return fmt.Errorf("recordings: %w", err)
		}
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "ok") })
	mux.HandleFunc("GET /version", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"gitVersion":"static"}`) })
	mux.HandleFunc("GET /", func(w http.ResponseWriter, req *http.Request) {
		f := formatJSON
		if strings.HasPrefix(req.Header.Get("Accept"), protobufType) {
			f = formatProtobuf
		}
		watch := req.URL.Query().Has("watch")
		body, ok := bodies[recordingFile(req.URL.Path, f, watch)]
		if !ok {
			http.Error(w, "not recorded", http.StatusNotFound)
			return
		}
		contentType := f.mediaType()
		if watch {
			contentType = f.accept()
		}
		w.Header().Set("Content-Type", contentType)
		// In pieces of 64 KB, as a server would that has the data in many objects.
		for len(body) > 0 {
			n, err := w.Write(body[:min(len(body), 64<<10)])
			if err != nil {
				return
			}
			body = body[n:]
		}
		if !watch {
			return
		}
		w.(http.Flusher).Flush()
		<-req.Context().Done()
	})
	server := &http.Server{Addr: address, Handler: mux}
	go func() {
		<-ctx.Done()
		_ = server.Close()
	}()
	if err := server.ListenAndServeTLS(cert, key); err != http.ErrServerClosed {
		return fmt.Errorf("static target on %s: %w", address, err)
	}
	return nil
}
