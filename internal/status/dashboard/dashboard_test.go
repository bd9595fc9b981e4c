// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package dashboard

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"k8s.io/component-base/cli"

	"github.com/weir-project/weir/internal/status"
	"github.com/weir-project/weir/internal/status/source"
)

// asMain, in the environment, makes the test binary be the command: test/browser, which has a browser ask for the page, is a module of
// its own and cannot import it.
const asMain = "WEIR_TEST_AS_MAIN"

func TestMain(m *testing.M) {
	if os.Getenv(asMain) != "" {
		cmd := NewCommand()
		cmd.SilenceErrors = false
		os.Exit(cli.Run(cmd))
	}
	os.Exit(m.Run())
}

const key = "KEY"

// upstream is a server that is asked for its status, and remembers what it was asked.
type upstream struct {
	*httptest.Server
	mu     sync.Mutex
	answer http.HandlerFunc
	asked  []*http.Request
}

func (u *upstream) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	u.mu.Lock()
	u.asked = append(u.asked, req)
	answer := u.answer
	u.mu.Unlock()
	answer(w, req)
}

// requests returns what was asked since the last call.
func (u *upstream) requests() []*http.Request {
	u.mu.Lock()
	defer u.mu.Unlock()
	asked := u.asked
	u.asked = nil
	return asked
}

const sentinel = `{"a report": true}`

func newUpstream(t *testing.T) *upstream {
	t.Helper()
	u := &upstream{answer: func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, sentinel)
	}}
	u.Server = httptest.NewTLSServer(u) // a token is sent to such a server only
	t.Cleanup(u.Close)
	return u
}

// sourceOf returns a server by way of a kubeconfig.
func sourceOf(t *testing.T, u *upstream) *source.Source {
	t.Helper()
	config := clientcmdapi.NewConfig()
	config.Clusters["c"] = &clientcmdapi.Cluster{
		Server: u.URL, CertificateAuthorityData: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: u.Certificate().Raw}),
	}
	config.AuthInfos["u"] = &clientcmdapi.AuthInfo{Token: "the-user's-token"}
	config.Contexts["c"] = &clientcmdapi.Context{Cluster: "c", AuthInfo: "u"}
	config.CurrentContext = "c"
	s, err := source.New(clientcmd.NewDefaultClientConfig(*config, nil))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// proxy returns the address of a dashboard of a server.
func proxy(t *testing.T, u *upstream, acceptHosts ...string) string {
	t.Helper()
	h, err := newHandler(sourceOf(t, u), u.URL, key, 2*time.Second, acceptHosts)
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.URL
}

// do sends a request and returns what came, without following redirects. The target is sent as it is.
func do(t *testing.T, method, base, target string, change func(*http.Request)) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, base, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.URL.Opaque = target
	if change != nil {
		change(req)
	}
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		t.Fatalf("%s %s: %v", method, target, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("%s %s: %v", method, target, err)
	}
	return resp, string(body)
}

// TestOnlyTheStatus: whatever is asked for, the server is asked for its status or for nothing, as the kubeconfig's user and with
// nothing of what the browser has sent.
func TestOnlyTheStatus(t *testing.T) {
	u := newUpstream(t)
	base := proxy(t, u)
	resp, body := do(t, http.MethodGet, base, "/KEY/weir/status?pretty=1", func(req *http.Request) {
		req.Header.Set("Impersonate-User", "somebody")
		req.Header.Set("Authorization", "Bearer mine")
		req.Header.Set("Cookie", "a=b")
	})
	if resp.StatusCode != http.StatusOK || body != sentinel {
		t.Errorf("%s: %s", resp.Status, body)
	}
	asked := u.requests()
	if len(asked) != 1 || asked[0].Method != http.MethodGet || asked[0].URL.Path != status.Path || asked[0].URL.Query().Has("pretty") {
		t.Fatalf("asked %d times, for %+v", len(asked), asked)
	}
	if h := asked[0].Header; h.Get("Authorization") != "Bearer the-user's-token" || h.Get("Impersonate-User") != "" || h.Get("Cookie") != "" {
		t.Errorf("asked with %v", h)
	}
	for _, target := range []string{
		"/KEY/api/v1/secrets", "/KEY/metrics", "/KEY/weir/status/", "/KEY/weir/status/x", "/KEY/weir", "/KEY//weir/status", "/KEY/./weir/status",
		"/KEY/weir/status/../../api", "/KEY/..", "/KEY/../weir/status", "/KEY/%2e%2e/weir/status", "/KEY/weir%2fstatus/..", "/KEY/handler.go", "/KEY/page/main.js",
		"/KEY/index.html", "/KEY/uplot", "/KEY/uplot/", "/KEY/http://example.com/weir/status", "/weir/status", "/", "/api", "/KEY", "/KEYS/weir/status",
		"/key/weir/status", "/KE/weir/status", "//KEY/weir/status", "/%4bEY/../KEY/weir/status",
	} {
		resp, body := do(t, http.MethodGet, base, target, nil)
		if resp.StatusCode == http.StatusOK || strings.Contains(body, "a report") {
			t.Errorf("%s: %s: %s", target, resp.Status, body)
		}
	}
	for _, method := range []string{"HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT2"} {
		for _, target := range []string{"/KEY/weir/status", "/KEY/", "/weir/status"} {
			if resp, _ := do(t, method, base, target, nil); resp.StatusCode != http.StatusMethodNotAllowed && resp.StatusCode != http.StatusForbidden {
				t.Errorf("%s %s: %s", method, target, resp.Status)
			}
		}
	}
	if asked := u.requests(); len(asked) != 0 {
		t.Errorf("the server was asked %d times, first for %s %s", len(asked), asked[0].Method, asked[0].RequestURI)
	}
}

// TestWhoMayAsk: it takes the key, and no name that is not this machine's.
func TestWhoMayAsk(t *testing.T) {
	u := newUpstream(t)
	base := proxy(t, u, "desk.example.com")
	for host, want := range map[string]int{
		"localhost": 200, "LOCALHOST:8001": 200, "127.0.0.1": 200, "127.0.0.1:8001": 200, "[::1]": 200, "[::1]:8001": 200, "10.1.2.3:80": 200, "Desk.example.com:80": 200,
		"evil.example.com": 403, "evil.example.com:8001": 403, "127.0.0.1.evil.example.com": 403, "localhost.evil.example.com:80": 403, "localhost.": 403,
		"xdesk.example.com": 403, "2130706433": 403, "127.1": 403,
	} {
		for _, target := range []string{"/KEY/weir/status", "/KEY/"} {
			if resp, _ := do(t, http.MethodGet, base, target, func(req *http.Request) { req.Host = host }); resp.StatusCode != want {
				t.Errorf("Host %s: %s", host, resp.Status)
			}
		}
	}
	for target, want := range map[string]int{"/KEY/": 200, "/KEY/weir/status": 200, "/KEY": 301, "/": 403, "/weir/status": 403, "/other/weir/status": 403, "/KEY2/": 403} {
		resp, body := do(t, http.MethodGet, base, target, func(req *http.Request) { req.Header.Set("Origin", "http://evil.example.com") })
		if resp.StatusCode != want {
			t.Errorf("%s: %s", target, resp.Status)
		}
		for name := range resp.Header {
			if strings.HasPrefix(name, "Access-Control-") {
				t.Errorf("%s has %s", target, name)
			}
		}
		for name, want := range map[string]string{
			"Content-Security-Policy": "default-src 'none'; script-src 'self'; ", "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer",
			"Cross-Origin-Resource-Policy": "same-origin", "Cache-Control": "no-store",
		} {
			if got := resp.Header.Get(name); !strings.HasPrefix(got, want) {
				t.Errorf("%s: %s is %q", target, name, got)
			}
		}
		if want == 403 && strings.Contains(body, key) {
			t.Errorf("%s tells the key: %s", target, body)
		}
	}
}

func reasonOf(t *testing.T, body string) noAnswer {
	t.Helper()
	var n noAnswer
	if err := json.Unmarshal([]byte(body), &n); err != nil {
		t.Fatalf("%v: %s", err, body)
	}
	return n
}

// TestRefusals: what the server refuses is refused with its code and its words.
func TestRefusals(t *testing.T) {
	u := newUpstream(t)
	base := proxy(t, u)
	for _, test := range []struct {
		code             int
		contentType      string
		body             string
		want             int
		reason, contains string
	}{
		{403, "application/json", `{"kind":"Status","apiVersion":"v1","status":"Failure","message":"forbidden: User \"<b>x</b>\" cannot get path \"/weir/status\"","reason":"Forbidden","code":403}`, 403, "Forbidden", `"<b>x</b>"`},
		{401, "application/json", `{"kind":"Status","apiVersion":"v1","status":"Failure","message":"Unauthorized","reason":"Unauthorized","code":401}`, 401, "Unauthorized", "Unauthorized"},
		{404, "text/plain; charset=utf-8", "404 page not found", 404, "NotFound", ""},
		{404, "", "", 404, "NotFound", ""},
		{429, "application/json", `{"kind":"Status","apiVersion":"v1","status":"Failure","message":"too many requests","reason":"TooManyRequests","code":429}`, 429, "TooManyRequests", "too many"},
		{500, "text/html", "<script>alert(1)</script>", 500, "InternalError", ""},
		{503, "text/plain", "apiserver is shutting down", 503, "ServiceUnavailable", ""},
		{403, "application/json", `{"kind":"Status","apiVersion":"v1","status":"Failure","message":"odd","code":200}`, 502, unreachable, "odd"},
	} {
		u.answer = func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", test.contentType)
			w.Header().Set("Retry-After", "1")
			w.WriteHeader(test.code)
			_, _ = io.WriteString(w, test.body)
		}
		resp, body := do(t, http.MethodGet, base, "/KEY/weir/status", nil)
		got := reasonOf(t, body)
		if resp.StatusCode != test.want || got.Reason != test.reason || !strings.Contains(got.Message, test.contains) || got.Message == "" {
			t.Errorf("%d %s: %s: %+v", test.code, test.body, resp.Status, got)
		}
		if contentType := resp.Header.Get("Content-Type"); contentType != "application/json" {
			t.Errorf("a refusal is %q", contentType)
		}
		if n := len(u.requests()); n != 1 {
			t.Errorf("%d: asked %d times", test.code, n)
		}
	}
}

// TestServerDies: it is said that the server is gone, and where it was; when it is back it is asked again. A server that dies within
// its answer has not answered.
func TestServerDies(t *testing.T) {
	u := newUpstream(t)
	base := proxy(t, u)
	u.answer = func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Content-Length", "1000")
		_, _ = io.WriteString(w, `{"half`)
	}
	resp, body := do(t, http.MethodGet, base, "/KEY/weir/status", nil)
	if n := reasonOf(t, body); resp.StatusCode != http.StatusBadGateway || n.Reason != unreachable {
		t.Errorf("half an answer: %s: %+v", resp.Status, n)
	}
	address := u.Listener.Addr().String()
	u.Close()
	resp, body = do(t, http.MethodGet, base, "/KEY/weir/status", nil)
	if n := reasonOf(t, body); resp.StatusCode != http.StatusBadGateway || n.Reason != unreachable || !strings.Contains(n.Message, "cannot reach "+u.URL) {
		t.Errorf("of a server that is gone: %s: %+v", resp.Status, n)
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		t.Skipf("somebody else has taken the port: %v", err)
	}
	again := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, sentinel) }))
	_ = again.Listener.Close()
	again.Listener = listener
	again.StartTLS()
	defer again.Close()
	resp, body = do(t, http.MethodGet, base, "/KEY/weir/status", nil)
	if resp.StatusCode != http.StatusOK || body != sentinel {
		t.Errorf("of a server that is back: %s: %s", resp.Status, body)
	}
}

// TestCommand: it says where the page is, serves it there, and ends with its context, also while the server takes its time.
func TestCommand(t *testing.T) {
	none := goleak.IgnoreCurrent()
	u := newUpstream(t)
	reached := make(chan struct{})
	u.answer = func(_ http.ResponseWriter, req *http.Request) {
		close(reached)
		<-req.Context().Done()
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	o := options{address: "127.0.0.1", interval: time.Second}
	out, in := io.Pipe()
	ended := make(chan error, 1)
	go func() { ended <- o.run(ctx, in, io.Discard, sourceOf(t, u)) }()
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`^(\S+) is shown at (http://127\.0\.0\.1:\d+/[A-Z2-7]{26,}/) until Ctrl-C\.\n$`).FindStringSubmatch(line)
	if m == nil || m[1] != u.URL {
		t.Fatalf("it says %q", line)
	}
	if resp, body := do(t, http.MethodGet, m[2], "", nil); resp.StatusCode != http.StatusOK || !strings.Contains(body, `content="`+u.URL+`"`) || !strings.Contains(body, `content="1000"`) {
		t.Errorf("the page is %s: %s", resp.Status, body)
	}
	asked := make(chan struct{})
	go func() {
		defer close(asked)
		resp, err := http.Get(m[2] + "weir/status")
		if err == nil {
			_ = resp.Body.Close()
		}
	}()
	<-reached
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("it ends with %v", err)
	}
	<-asked
	http.DefaultTransport.(*http.Transport).CloseIdleConnections()
	u.Close()
	goleak.VerifyNone(t, none)
}

func TestBadFlags(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	_, port, _ := net.SplitHostPort(taken.Addr().String())
	for _, test := range []struct{ args, want string }{
		{"--address=localhost", "--address takes an IP address"},
		{"--interval=1ms", "--interval takes 1s or more"},
		{"--port=70000", "port"},
		{"--kubeconfig=/none", "/none"},
		{"--server=http://127.0.0.1:1 --port=" + port, "give another --address or --port"},
	} {
		cmd := NewCommand()
		cmd.SetArgs(strings.Fields(test.args))
		if err := cmd.ExecuteContext(t.Context()); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("dashboard %s: %v, want %q", test.args, err, test.want)
		}
	}
}

// TestFiles: all that the page refers to is there, as what it is; it has no script or style of its own, which the policy forbids; and
// the server's address, which somebody else may have chosen, is no markup.
func TestFiles(t *testing.T) {
	const hostile = `https://x"><script>alert(1)</script>`
	h, err := newHandler(nil, hostile, key, time.Second, nil)
	if err != nil {
		t.Fatal(err)
	}
	get := func(name string) (*http.Response, string) {
		req := httptest.NewRequest(http.MethodGet, "/KEY/"+name, nil)
		req.Host = "localhost"
		w := httptest.NewRecorder()
		h.ServeHTTP(w, req)
		body, _ := io.ReadAll(w.Result().Body)
		return w.Result(), string(body)
	}
	types := map[string]string{".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8", ".svg": "image/svg+xml; charset=utf-8", "": "text/html; charset=utf-8"}
	resp, first := get("")
	if resp.Header.Get("Content-Type") != types[""] || strings.Contains(first, "<script>") || !strings.Contains(first, "&lt;script&gt;") {
		t.Errorf("the page is %s:\n%s", resp.Header.Get("Content-Type"), first)
	}
	if m := regexp.MustCompile(`<style|\sstyle=|\son\w+=|<script>|javascript:|https?://`).FindString(strings.ReplaceAll(first, "https://x", "")); m != "" {
		t.Errorf("the page has %q", m)
	}
	names := []string{""}
	for _, m := range regexp.MustCompile(`(?:src|href)="([^"]+)"`).FindAllStringSubmatch(first, -1) {
		names = append(names, m[1])
	}
	seen := map[string]bool{}
	for len(names) > 0 {
		name := names[0]
		names = names[1:]
		if seen[name] {
			continue
		}
		seen[name] = true
		resp, body := get(name)
		if resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != types[path.Ext(name)] || body == "" {
			t.Errorf("%s: %s, %s, %d bytes", name, resp.Status, resp.Header.Get("Content-Type"), len(body))
		}
		if path.Ext(name) == ".js" {
			for _, m := range regexp.MustCompile(`(?m)^import .*"\./([^"]+)";$`).FindAllStringSubmatch(body, -1) {
				names = append(names, path.Join(path.Dir(name), m[1]))
			}
		}
	}
	if len(seen) < 10 {
		t.Errorf("the page has only %v", seen)
	}
	for name := range h.files {
		if !seen[name] && !strings.HasPrefix(name, "uplot/") {
			t.Errorf("nobody needs %s", name)
		}
	}
}

// TestCharts: the files of uPlot are the ones that were taken from its package.
func TestCharts(t *testing.T) {
	sums, err := page.ReadFile("page/uplot/SHA256SUMS")
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(sums)), "\n")
	if len(lines) != 3 {
		t.Errorf("%d files", len(lines))
	}
	for _, line := range lines {
		want, name, _ := strings.Cut(line, "  ")
		body, err := page.ReadFile("page/uplot/" + name)
		if err != nil {
			t.Error(err)
			continue
		}
		if sum := sha256.Sum256(body); hex.EncodeToString(sum[:]) != want {
			t.Errorf("%s is not what SHA256SUMS says", name)
		}
	}
}
