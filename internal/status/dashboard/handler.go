// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package dashboard

import (
	"bytes"
	"context"
	"crypto/subtle"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"io/fs"
	"mime"
	"net"
	"net/http"
	"path"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/klog/v2"

	"github.com/weir-project/weir/internal/status"
)

//go:embed page
var page embed.FS

// index is the page itself. It has what the modules cannot ask for.
var index = template.Must(template.ParseFS(page, "page/index.html"))

// policy is the Content-Security-Policy of all answers: what is not the page's own is not loaded, nobody frames it, and the
// browser refuses to make markup of a string.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; " +
	"form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"

// asker is a server that is asked for its status; see source.Source.
type asker interface {
	Raw(context.Context) ([]byte, error)
}

// handler serves the page, and the status of one server. Its fields do not change.
type handler struct {
	server asker
	key    string
	// hosts are names that are accepted beside localhost.
	hosts []string
	// files are the page's by their name, read only.
	files map[string]file
}

type file struct {
	contentType string
	body        []byte
}

// noAnswer is what the page is told when there is no report: the code that goes with it is the server's, or 502.
type noAnswer struct {
	// Reason is "Unreachable" if the server has not answered, and else the server's, which may be "".
	Reason string `json:"reason"`
	// Message is what the server has said, or why it could not be asked.
	Message string `json:"message"`
}

const unreachable = "Unreachable"

// newHandler returns a handler of the page. host is the server's address, which the page shows.
func newHandler(server asker, host, key string, interval time.Duration, acceptHosts []string) (*handler, error) {
	h := &handler{server: server, key: key, hosts: acceptHosts, files: map[string]file{}}
	err := fs.WalkDir(page, "page", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		body, err := page.ReadFile(name)
		if err != nil {
			return err
		}
		short := strings.TrimPrefix(name, "page/")
		h.files[short] = file{contentType(short), body}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("cannot read the page: %w", err)
	}
	var first bytes.Buffer
	if err := index.Execute(&first, map[string]any{"Server": host, "Interval": interval.Milliseconds()}); err != nil {
		return nil, fmt.Errorf("cannot make the page: %w", err)
	}
	delete(h.files, "index.html")
	h.files[""] = file{contentType("index.html"), first.Bytes()}
	return h, nil
}

// contentType returns that of a file of the page. The machine's own list of types is not asked: some are wrong.
func contentType(name string) string {
	types := map[string]string{".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
	if t, ok := types[path.Ext(name)]; ok {
		return mime.FormatMediaType(t, map[string]string{"charset": "utf-8"})
	}
	return "text/plain; charset=utf-8"
}

// ServeHTTP implements http.Handler.
func (h *handler) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	header := w.Header()
	header.Set("Content-Security-Policy", policy)
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("Referrer-Policy", "no-referrer")
	header.Set("Cross-Origin-Resource-Policy", "same-origin")
	header.Set("Cross-Origin-Opener-Policy", "same-origin")
	header.Set("Cache-Control", "no-store")
	if !h.accepts(req.Host) {
		http.Error(w, "this page is not served under that name: use the address that weir dashboard has printed, or --accept-hosts", http.StatusForbidden)
		return
	}
	key, name, ok := strings.Cut(strings.TrimPrefix(req.URL.Path, "/"), "/")
	if subtle.ConstantTimeCompare([]byte(key), []byte(h.key)) != 1 {
		http.Error(w, "the key is missing, or of another run: use the address that weir dashboard has printed", http.StatusForbidden)
		return
	}
	if req.Method != http.MethodGet {
		header.Set("Allow", http.MethodGet)
		http.Error(w, "the page can be read only", http.StatusMethodNotAllowed)
		return
	}
	if !ok { // without it what the page refers to would be sought beside the key
		http.Redirect(w, req, "/"+key+"/", http.StatusMovedPermanently)
		return
	}
	if "/"+name == status.Path {
		h.status(w, req)
		return
	}
	f, ok := h.files[name]
	if !ok {
		http.NotFound(w, req)
		return
	}
	header.Set("Content-Type", f.contentType)
	h.write(w, f.body)
}

// accepts says whether the page may be asked for by a Host header. An address cannot be somebody else's name for this machine;
// a name can.
func (h *handler) accepts(hostPort string) bool {
	host, _, err := net.SplitHostPort(hostPort)
	if err != nil {
		host = strings.TrimSuffix(strings.TrimPrefix(hostPort, "["), "]")
	}
	return net.ParseIP(host) != nil || strings.EqualFold(host, "localhost") ||
		slices.ContainsFunc(h.hosts, func(name string) bool { return strings.EqualFold(name, host) })
}

// status answers with the server's report, or with why there is none.
func (h *handler) status(w http.ResponseWriter, req *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	body, err := h.server.Raw(req.Context())
	if err == nil {
		h.write(w, body)
		return
	}
	code, answer := http.StatusBadGateway, noAnswer{unreachable, err.Error()}
	var said apierrors.APIStatus
	if errors.As(err, &said) && said.Status().Code >= 400 && said.Status().Code < 600 {
		code, answer = int(said.Status().Code), noAnswer{string(said.Status().Reason), said.Status().Message}
	}
	if body, err = json.Marshal(answer); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.WriteHeader(code)
	h.write(w, body)
}

func (h *handler) write(w http.ResponseWriter, body []byte) {
	if _, err := w.Write(body); err != nil {
		klog.V(2).InfoS("The page was not sent", "err", err) // the browser has left
	}
}
