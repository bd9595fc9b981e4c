// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package browser

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/input"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
)

// patience bounds every wait, so that a failure ends; no test passes or fails by it.
const patience = 3 * time.Minute

// The programs: the browser, "" if there is none, and the command.
var chromium, command string

// browser is the context of the browser that all tests share; each has a tab of its own.
var browser context.Context

func TestMain(m *testing.M) {
	os.Exit(run(m))
}

func run(m *testing.M) int {
	if chromium = find(); chromium == "" {
		return m.Run() // each test says why it is skipped
	}
	dir, err := os.MkdirTemp("", "weir-browser-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	if command = os.Getenv("WEIR_DASHBOARD"); command == "" {
		command = filepath.Join(dir, "dashboard.test")
		build := exec.Command("go", "test", "-c", "-o", command, "./internal/status/dashboard")
		build.Dir = filepath.Join("..", "..")
		build.Stdout, build.Stderr = os.Stderr, os.Stderr
		if err := build.Run(); err != nil {
			fmt.Fprintln(os.Stderr, "building weir dashboard:", err)
			return 1
		}
	}
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(chromium), chromedp.UserDataDir(filepath.Join(dir, "profile")),
		chromedp.WSURLReadTimeout(patience), chromedp.Flag("font-render-hinting", "none"))
	allocated, cancel := chromedp.NewExecAllocator(context.Background(), options...)
	defer cancel()
	started, cancel := chromedp.NewContext(allocated)
	defer cancel()
	if err := chromedp.Do(started); err != nil {
		fmt.Fprintf(os.Stderr, "starting %s: %v\n", chromium, err)
		return 1
	}
	browser = started
	return m.Run()
}

// find returns the program of the browser, "" if there is none.
func find() string {
	if named := os.Getenv("WEIR_CHROMIUM"); named != "" {
		return named
	}
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome", "chrome", "headless-shell"} {
		if program, err := exec.LookPath(name); err == nil {
			return program
		}
	}
	return ""
}

// object is one of JSON.
type object = map[string]any

// server answers /weir/status as a test wants it.
type server struct {
	*httptest.Server
	mu     sync.Mutex
	report object
	change func(n int, report object)
	asked  int
	code   int
	body   string
	gone   bool
	began  time.Time
}

func (s *server) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked++
	switch {
	case s.gone:
		panic(http.ErrAbortHandler) // the connection breaks
	case s.code != 0:
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(s.code)
		_, _ = w.Write([]byte(s.body))
	default:
		s.report["time"] = s.began.Add(time.Duration(s.asked) * time.Second)
		if s.change != nil {
			s.change(s.asked, s.report)
		}
		_ = json.NewEncoder(w).Encode(s.report)
	}
}

// with changes what the server answers from now on.
func (s *server) with(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
}

// page is a tab that shows a dashboard.
type page struct {
	t   *testing.T
	ctx context.Context
	url string
	mu  sync.Mutex
	// faults are what the browser has complained of.
	faults []string
}

// open starts a dashboard of a server and opens it in a tab of the given size.
func open(t *testing.T, s *server, width, height int64) *page {
	t.Helper()
	if chromium == "" {
		t.Skip("there is no Chromium: install it (Debian: apt-get install chromium), or name it by WEIR_CHROMIUM")
	}
	s.began = time.Now()
	s.Server = httptest.NewServer(s)
	t.Cleanup(s.Close)

	cmd := exec.Command(command, "--server="+s.URL, "--interval=1s")
	cmd.Env = append(os.Environ(), "WEIR_TEST_AS_MAIN=1", "KUBECONFIG="+filepath.Join(t.TempDir(), "none"))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(os.Interrupt)
		if err := cmd.Wait(); err != nil {
			t.Errorf("weir dashboard ended badly: %v", err)
		}
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("weir dashboard says %q: %v", line, err)
	}
	p := &page{t: t}
	for _, word := range strings.Fields(line) {
		if strings.HasPrefix(word, "http://127.0.0.1:") && word != s.URL {
			p.url = word
		}
	}

	tab, cancel := chromedp.NewContext(browser, chromedp.WithListener(p.listen))
	t.Cleanup(cancel)
	p.ctx = tab
	p.do(chromedp.EmulateViewport(width, height), p.scheme("light"), chromedp.Navigate(p.url))
	return p
}

// listen takes down what must not happen: exceptions, and what the policy has refused. That an answer was an error, which tests
// want, is none of it.
func (p *page) listen(event any) {
	fault := ""
	switch e := event.(type) {
	case *runtime.EventExceptionThrown:
		fault = e.ExceptionDetails.Text
		if e.ExceptionDetails.Exception != nil {
			fault += " " + e.ExceptionDetails.Exception.Description
		}
	case *runtime.EventConsoleAPICalled:
		fault = fmt.Sprint(e.Type)
		for _, arg := range e.Args {
			fault += fmt.Sprintf(" %s %s", arg.Value, arg.Description)
		}
	case *log.EventEntryAdded:
		if e.Entry.Source == log.EntrySourceNetwork {
			return
		}
		fault = e.Entry.Text
	default:
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.faults = append(p.faults, fault)
}

// end fails the test if the browser has complained of anything.
func (p *page) end() {
	p.t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, fault := range p.faults {
		p.t.Errorf("the browser: %s", fault)
	}
}

// scheme is what the system prefers: dark or light.
func (p *page) scheme(name string) step {
	return chromedp.Func(func(ctx context.Context, tab *chromedp.Target) error {
		_, err := cdp.Call(ctx, tab, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
			Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: name}},
		})
		return err
	})
}

// press presses keys, one after the other. (chromedp.KeyEvent sends what a key types apart from the key: it is typed then even if the page has
// taken the key for itself.)
func press(keys ...string) step {
	return chromedp.Func(func(ctx context.Context, tab *chromedp.Target) error {
		for _, r := range strings.Join(keys, "") {
			events := kb.Encode(r)
			down, up := *events[0], *events[len(events)-1]
			if len(events) == 3 {
				down.Text, down.UnmodifiedText = events[1].Text, events[1].UnmodifiedText
			}
			for _, event := range []input.DispatchKeyEventParams{down, up} {
				if _, err := cdp.Call(ctx, tab, input.DispatchKeyEvent, event); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

type step = chromedp.Action[chromedp.Void]

func (p *page) do(steps ...step) {
	p.t.Helper()
	if err := chromedp.Do(p.ctx, steps...); err != nil {
		p.t.Fatal(err)
	}
}

// eval returns the value of an expression in the page.
func eval[T any](p *page, expression string) T {
	p.t.Helper()
	value, err := chromedp.Run(p.ctx, chromedp.Evaluate[T](expression))
	if err != nil {
		p.t.Fatalf("%s: %v", expression, err)
	}
	return value
}

// eventually waits until an expression is true. (chromedp.Poll would compile it in the page, which the page's policy forbids.)
func (p *page) eventually(expression string) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, patience)
	defer cancel()
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	for {
		if ok, err := chromedp.Run(ctx, chromedp.Evaluate[bool]("Boolean("+expression+")")); err == nil && ok {
			return
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			p.t.Fatalf("never true: %s; the page is\n%s", expression, eval[string](p, "document.body.innerText"))
		}
	}
}

// reports waits for so many more reports.
func (p *page) reports(n int) {
	p.t.Helper()
	shown := eval[int](p, "Number(document.body.dataset.reports ?? 0)")
	p.eventually(fmt.Sprintf("Number(document.body.dataset.reports ?? 0) >= %d", shown+n))
}

// rows returns what a table shows, cell by cell.
func (p *page) rows(table string) [][]string {
	p.t.Helper()
	return eval[[][]string](p, fmt.Sprintf("[...document.querySelectorAll('#%s tbody tr')].map((tr) => [...tr.children].map((c) => c.textContent))", table))
}

// text returns that of an element.
func (p *page) text(id string) string {
	p.t.Helper()
	return eval[string](p, fmt.Sprintf("document.getElementById(%q).textContent", id))
}

// picture leaves one of the whole page, if anybody wants pictures.
func (p *page) picture(name string) {
	p.t.Helper()
	dir := os.Getenv("WEIR_SHOTS")
	if dir == "" {
		return
	}
	png, err := chromedp.Run(p.ctx, chromedp.FullScreenshot(100))
	if err != nil {
		p.t.Fatal(err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		p.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, name+".png"), png, 0o644); err != nil {
		p.t.Fatal(err)
	}
}
