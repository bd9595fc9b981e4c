// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package static

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/weir-project/weir/internal/bench/client"
	"github.com/weir-project/weir/internal/rig"
)

const subcommand = "internal-static"

// Recording is one response that the server must be able to give, with the content coding in which it came.
type Recording struct{ client.Ask }

const (
	verbList  = "list"
	verbWatch = "watch"
	gzip      = "gzip"
)

// recordingFile names a recording: the request's path, its verb and format, and the response's content coding say which.
func recordingFile(urlPath, verb string, f client.Format, coding string) string {
	name := strings.ReplaceAll(strings.Trim(urlPath, "/"), "/", "_") + "." + verb + "." + string(f)
	if coding != "" {
		name += "." + coding
	}
	return name
}

// Save writes the response, as a server sends it now, into a file in dir: compressed where the server compresses it.
func (r Recording) Save(ctx context.Context, server *rig.Admin, dir string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	resp, err := client.Open(ctx, server, r.Ask)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	verb := verbWatch
	if r.Until == client.UntilBody {
		verb = verbList
	}
	file, err := os.Create(filepath.Join(dir, recordingFile(resp.Request.URL.Path, verb, r.Format, resp.Header.Get("Content-Encoding"))))
	if err != nil {
		return err
	}
	defer file.Close()
	if verb == verbList {
		if _, err := io.Copy(file, resp.Body); err != nil {
			return fmt.Errorf("record %s: %w", r.Path, err)
		}
		return file.Close()
	}
	// What has come when the initial events are understood to have ended is enough for the next to understand that.
	plain, err := client.Decode(resp, io.TeeReader(resp.Body, file))
	if err != nil {
		return fmt.Errorf("record %s: %w", r.Path, err)
	}
	frames := client.NewFrameReader(r.Format, plain, false)
	for {
		e, err := frames.Next()
		if err != nil {
			return fmt.Errorf("record %s: %w", r.Path, err)
		}
		if e.InitialEnd {
			return file.Close()
		}
	}
}

// Start starts the server in a room, with the recordings in dir. It is this program again, which must have NewCommand's.
func Start(room *rig.Room, name, log, dir string) (*rig.Server, error) {
	cert, key := room.Certificate()
	return room.Serve(name, log, func(port int) *exec.Cmd {
		return room.Self().Command(subcommand, "--dir", dir, fmt.Sprintf("--port=%d", port), "--tls-cert-file="+cert, "--tls-private-key-file="+key)
	})
}

// NewCommand returns the hidden subcommand that is the server.
func NewCommand() *cobra.Command {
	var dir, cert, key string
	var port int
	cmd := &cobra.Command{
		Use:    subcommand,
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return serve(cmd.Context(), dir, fmt.Sprintf("127.0.0.1:%d", port), cert, key)
		},
	}
	cmd.Flags().StringVar(&dir, "dir", "", "directory of the recordings")
	cmd.Flags().StringVar(&cert, "tls-cert-file", "", "serving certificate")
	cmd.Flags().StringVar(&key, "tls-private-key-file", "", "its key")
	cmd.Flags().IntVar(&port, "port", 0, "port on loopback")
	return cmd
}

func serve(ctx context.Context, dir, address, cert, key string) error {
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
		f, verb := formatOf(req.Header.Get("Accept")), verbList
		contentType := f.MediaType()
		if req.URL.Query().Has("watch") {
			verb, contentType = verbWatch, f.Accept()
		}
		var body []byte
		compressed := false
		if strings.Contains(req.Header.Get("Accept-Encoding"), gzip) {
			body, compressed = bodies[recordingFile(req.URL.Path, verb, f, gzip)]
		}
		if compressed {
			w.Header().Set("Content-Encoding", gzip)
			w.Header().Set("Vary", "Accept-Encoding")
		} else {
			var ok bool
			if body, ok = bodies[recordingFile(req.URL.Path, verb, f, "")]; !ok {
				http.Error(w, "not recorded", http.StatusNotFound)
				return
			}
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
		if verb == verbList {
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

// formatOf is the format that a reader's Accept header stands for.
func formatOf(accept string) client.Format {
	switch {
	case accept == client.FormatMetadata.MediaType(), accept == client.FormatMetadata.Accept():
		return client.FormatMetadata
	case strings.HasPrefix(accept, client.FormatProtobuf.MediaType()):
		return client.FormatProtobuf
	case accept == client.FormatTable.MediaType():
		return client.FormatTable
	}
	return client.FormatJSON
}
